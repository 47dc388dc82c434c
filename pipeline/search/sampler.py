"""Optuna's samplers, as this project sets them up. All of them read constraints from the trials themselves."""

import warnings
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import optuna
from optuna import samplers
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseGASampler, BaseSampler
from optuna.trial import FrozenTrial

from pipeline.search import attributes
from pipeline.search.history import History

SAMPLERS: Mapping[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True),
    "nsga2": lambda seed: samplers.NSGAIISampler(seed=seed),
    "nsga3": lambda seed: samplers.NSGAIIISampler(seed=seed),
    # A branch's parameters are drawn at random, as its model needs values of all trials: no warning for each of them.
    "gp": lambda seed: samplers.GPSampler(seed=seed, warn_independent_sampling=False),
    "random": lambda seed: samplers.RandomSampler(seed=seed),
}


def make_sampler(kind: str, seed: int) -> BaseSampler:
    """A sampler by the name that a spec gives it."""
    # For good, as a passing filter would not be safe among threads.
    warnings.filterwarnings("ignore", category=ExperimentalWarning)
    return SAMPLERS[kind](seed)


class TrialSampler(BaseSampler):
    """One trial's sampler, which draws the same configuration however often the drawing is cut off and begun again.

    What is drawn together is kept; what is drawn by itself has a random stream of its own for each parameter, so that
    those already drawn do not move the others.
    """

    def __init__(self, kind: str, *words: int, history: History | None = None):
        """Make the sampler that a spec calls `kind`.

        Args:
            kind: One of SAMPLERS.
            words: The seed of the study and the number of the trial.
            history: What the sampler may look at; by default all of the study.
        """
        self._kind, self._words, self._history = kind, words, history
        self._together = self._seeded()
        self._part: optuna.Study | None = None

    def _seeded(self, *more: int) -> BaseSampler:
        return make_sampler(self._kind, int(np.random.SeedSequence([*self._words, *more]).generate_state(1)[0]))

    def _seen(self, study: optuna.Study) -> optuna.Study:
        """What the sampler sees of the study, the same for all parameters of its trial."""
        if self._part is None:
            self._part = study if self._history is None else self._history.part(study)
        return self._part

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """What is drawn together."""
        return self._together.infer_relative_search_space(self._seen(study), trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The values that are drawn together, or that were before the drawing was cut off.

        They are kept, as the Gaussian process would otherwise keep its distance from its own first attempt.
        """
        if attributes.DRAWN_TOGETHER not in trial.user_attrs:
            drawn = self._together.sample_relative(self._seen(study), trial, search_space)
            if drawn:
                study._storage.set_trial_user_attr(trial._trial_id, attributes.DRAWN_TOGETHER, drawn)
            return drawn
        kept: dict[str, Any] = trial.user_attrs[attributes.DRAWN_TOGETHER]
        return {name: value for name, value in kept.items() if name in search_space}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The value of a parameter that is drawn by itself."""
        alone = self._seeded(zlib.crc32(param_name.encode()))
        return alone.sample_independent(self._seen(study), trial, param_name, param_distribution)


def first_generation(kind: str) -> dict[str, Any]:
    """The system attributes by which a genetic sampler knows a trial as one of its first generation.

    Without them it would never look at a trial that it has not proposed itself.
    """
    sampler = make_sampler(kind, 0)
    return {sampler._get_generation_key(): 0} if isinstance(sampler, BaseGASampler) else {}

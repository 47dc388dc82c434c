"""Which configuration is tried next: the search space as Optuna has it, its samplers, and what these see of a study."""

import json
import threading
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import moocore
import numpy as np
import optuna
from optuna import samplers
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from vae_study.config.search_space import Choices, Range, in_branch_order, is_active
from vae_study.config.study import StudyConfig
from vae_study.search import optuna_compat
from vae_study.search.early_stopping import Floats
from vae_study.search.optuna_compat import ENQUEUED, last_generations

Search = Mapping[str, Range | Choices]


def suggest(trial: optuna.Trial, search: Search) -> dict[str, Any]:
    """Suggest a value of every active parameter, conditions first."""
    values: dict[str, Any] = {}
    for name in in_branch_order(search):
        if is_active(search[name], values):
            values[name] = _suggest_one(trial, name, search[name])
    return values


def _suggest_one(trial: optuna.Trial, name: str, parameter: Range | Choices) -> Any:
    if isinstance(parameter, Choices):
        return decoded(trial.suggest_categorical(name, [_encoded(value) for value in parameter.choices]))
    if parameter.type == "int":
        return trial.suggest_int(name, int(parameter.low), int(parameter.high), log=parameter.log)
    return trial.suggest_float(name, parameter.low, parameter.high, log=parameter.log)


def distribution(parameter: Range | Choices) -> BaseDistribution:
    """The distribution that Optuna keeps with a suggested value."""
    if isinstance(parameter, Choices):
        return CategoricalDistribution([_encoded(value) for value in parameter.choices])
    if parameter.type == "int":
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)


def fits(search: Search, values: Mapping[str, Any]) -> bool:
    """Whether a configuration is in the search space: its branches, and each value."""
    active = {name for name, parameter in search.items() if is_active(parameter, values)}
    return active == set(values) and all(search[name].contains(value) for name, value in values.items())


def stored(search: Search, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the search as Optuna keeps them: of the parameter's type, or exactly as the choice is written."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        parameter = search[name]
        if isinstance(parameter, Choices):
            found[name] = _encoded(parameter.meant_by(value))
        else:
            found[name] = int(value) if parameter.type == "int" else float(value)
    return found


# Optuna's stores keep scalars only; a list, such as hidden widths, is kept as its JSON text.
_LIST = "list:"


def _encoded(value: Any) -> Any:
    return _LIST + json.dumps(value) if isinstance(value, tuple) else value


def decoded(value: Any) -> Any:
    """A choice as the config has it, from how Optuna keeps it."""
    return tuple(json.loads(value[len(_LIST) :])) if isinstance(value, str) and value.startswith(_LIST) else value


SAMPLERS: Mapping[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True),
    "nsga2": lambda seed: samplers.NSGAIISampler(seed=seed),
    "nsga3": lambda seed: samplers.NSGAIIISampler(seed=seed),
    # A branch's parameters are drawn at random, as its model needs values of all trials: no warning for each of them.
    "gp": lambda seed: samplers.GPSampler(seed=seed, warn_independent_sampling=False),
    "random": lambda seed: samplers.RandomSampler(seed=seed),
}

# A history of fewer trials is shown whole; of a longer one, the newest of all and the best of those before them.
WHOLE, NEWEST, BEST = 800, 400, 200
# The selection is updated once for every BLOCK trials, not at each `ask`.
BLOCK = 200

# User attributes of a trial: the values that the sampler drew jointly, and the sampler that they came from ("random" if
# the configured one was too slow).
DRAWN_TOGETHER, SAMPLER = "drawn_together", "sampler"
# Of a trial that is a model kept by a sweep: the sweep's number, and the epoch and beta at which it was kept; of one
# that trains such a model again, the model's number in place of the epoch. Samplers do not see such trials: the sweep
# stands for them.
POINT, RETRAINS = "point", "retrains"
# What stands as the sampler of trials that train a model again.
RETRAINED = "retrained"

Memory = Callable[[optuna.Study, Sequence[FrozenTrial]], Sequence[FrozenTrial]]


def make_sampler(kind: str, seed: int) -> BaseSampler:
    """A sampler by the name that a config gives it. All of them read constraints from the trials themselves."""
    # For good, as a passing filter would not be safe among threads.
    warnings.filterwarnings("ignore", category=ExperimentalWarning)
    return SAMPLERS[kind](seed)


def first_generation(kind: str) -> dict[str, Any]:
    """The system attributes that a trial from elsewhere needs, so that the sampler `kind` learns from it."""
    return optuna_compat.first_generation(make_sampler(kind, 0))


class History:
    """The part of a long study that its sampler sees, so that the time of one `ask` stays bounded.

    The time of an `ask` grows with the number of trials, so that of a study grows with its square. Of a long study the
    sampler sees the newest trials and a selection of the earlier ones. The selection depends on the trials only, so a
    restarted driver makes the same one. Thread-safe.
    """

    def __init__(self, kind: str):
        """Begin before the first trial, for the sampler that a config calls `kind`."""
        self._memory = MEMORIES.get(kind)
        self._lock = threading.Lock()
        # All below `_until` is weighed: remembered, still open, or forgotten.
        self._until = 0
        self._remembered: list[int] = []
        self._open: list[int] = []

    def part(self, study: optuna.Study) -> optuna.Study:
        """The study as its sampler is to see it: to read, with some of its trials."""
        if self._memory is None:
            return study
        trials = study.get_trials(deepcopy=False)
        if len(trials) < WHOLE:
            asked = [trial for trial in trials if POINT not in trial.user_attrs]
            return study if len(asked) == len(trials) else optuna_compat.with_trials(study, asked)
        with self._lock:
            while self._until + BLOCK <= len(trials) - NEWEST:
                self._weigh(self._memory, study, trials)
            shown = sorted({*self._remembered, *self._open})
            seen = [*(trials[number] for number in shown), *trials[self._until :]]
            return optuna_compat.with_trials(study, [trial for trial in seen if POINT not in trial.user_attrs])

    def _weigh(self, memory: Memory, study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
        block = range(self._until, self._until + BLOCK)
        numbers = [*self._open, *(number for number in block if POINT not in trials[number].user_attrs)]
        self._until += BLOCK
        self._open = [number for number in numbers if not trials[number].state.is_finished()]
        ended = [trials[number] for number in numbers if trials[number].state == TrialState.COMPLETE]
        kept = memory(study, [*(trials[number] for number in self._remembered), *ended])
        self._remembered = [trial.number for trial in kept]


def best(study: optuna.Study, trials: Sequence[FrozenTrial]) -> Sequence[FrozenTrial]:
    """The best trials, at most BEST: whole non-dominated fronts, then an even selection of the first that does not fit.

    Those that break a constraint come after all others, those that break it least first.
    """
    signs_M = np.array([-1.0 if one == StudyDirection.MAXIMIZE else 1.0 for one in study.directions])
    violation_N = np.array([sum(max(value, 0.0) for value in trial.constraints.values()) for trial in trials])
    kept = [trial for trial, violation in zip(trials, violation_N, strict=True) if violation == 0]
    chosen = _front_by_front(kept, signs_M)
    broken = [trials[place] for place in np.argsort(violation_N, kind="stable") if violation_N[place] > 0]
    return [*chosen, *broken][:BEST]


def _front_by_front(trials: Sequence[FrozenTrial], signs_M: Floats) -> list[FrozenTrial]:
    values_NM = np.array([trial.values for trial in trials]).reshape(len(trials), -1) * signs_M
    rank_N = moocore.pareto_rank(values_NM) if trials else np.empty(0)
    chosen: list[int] = []
    for rank in np.unique(rank_N):
        front, room = np.flatnonzero(rank_N == rank), BEST - len(chosen)
        if len(front) > room:
            along = front[np.argsort(values_NM[front, 0], kind="stable")]
            front = along[np.linspace(0, len(front) - 1, room).round().astype(int)]
        chosen += front.tolist()
    return [trials[place] for place in chosen]


#: What each sampler remembers; random search looks at nothing.
MEMORIES: Mapping[str, Memory] = {
    "tpe": best,
    "gp": best,
    "nsga2": partial(last_generations, samplers.NSGAIISampler),
    "nsga3": partial(last_generations, samplers.NSGAIIISampler),
}


class TrialSampler(BaseSampler):
    """One trial's sampler, which draws the same configuration however often the drawing is cut off and begun again.

    What is drawn together is kept; what is drawn by itself has a random stream of its own for each parameter, so that
    those already drawn do not move the others.
    """

    def __init__(self, kind: str, *words: int, history: History | None = None):
        """Make the sampler that a config calls `kind`.

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
        if DRAWN_TOGETHER not in trial.user_attrs:
            drawn = self._together.sample_relative(self._seen(study), trial, search_space)
            if drawn:
                optuna_compat.keep(study, trial, DRAWN_TOGETHER, drawn)
            return drawn
        kept: dict[str, Any] = trial.user_attrs[DRAWN_TOGETHER]
        return {name: value for name, value in kept.items() if name in search_space}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The value of a parameter that is drawn by itself."""
        alone = self._seeded(zlib.crc32(param_name.encode()))
        return alone.sample_independent(self._seen(study), trial, param_name, param_distribution)


@dataclass(frozen=True)
class Proposal:
    """A configuration to try, under the number that it keeps for good.

    Attributes:
        sampler: Where it came from: the sampler's kind, "random" where that was too slow, or "enqueued".
    """

    number: int
    parameters: Mapping[str, Any]
    sampler: str = ""


class Proposals:
    """Hands out each configuration once, to several threads at a time.

    First come trials that an earlier driver left running, then what the config names, then what the sampler draws.

    Attributes:
        left: The numbers of trials that were begun and that no driver continues.
    """

    def __init__(self, config: StudyConfig, storage: BaseStorage, name: str):
        """Find what an earlier driver left running in the study `name`."""
        self.config, self._storage, self._name = config, storage, name
        self._study_id = storage.get_study_id_from_name(name)
        study = self._study()
        running = study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
        self.left = deque(trial.number for trial in running if POINT not in trial.user_attrs)
        self._history = History(config.sampler.kind)
        self._lock = threading.Lock()
        self._is_enqueued = False

    def _study(self) -> optuna.Study:
        return optuna.load_study(study_name=self._name, storage=self._storage)

    def id_of(self, number: int) -> int:
        """The storage's id of a trial."""
        return self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)

    def ask(self, at_random: bool) -> Proposal:
        """The next configuration; see `StudyStore.ask`."""
        # A study of each call's own, as it is what holds the sampler.
        study = self._study()
        with self._lock:
            trial = self._next_trial(study)
        known = self._known_names(study, trial.number) if at_random else set()
        study.sampler = self._sampler("random" if at_random else self.config.sampler.kind, trial.number)
        parameters = suggest(trial, self.config.search)
        if at_random and not set(parameters) <= known:
            trial.set_user_attr(SAMPLER, "random")
        origin = str(trial.user_attrs.get(SAMPLER, self.config.sampler.kind))
        # Only if the config enqueues any: to read the trial back costs a query of the store.
        if self.config.enqueue and ENQUEUED in self._storage.get_trial(self.id_of(trial.number)).system_attrs:
            origin = "enqueued"
        return Proposal(trial.number, parameters, origin)

    def _next_trial(self, study: optuna.Study) -> optuna.Trial:
        if self.left:
            return optuna.Trial(study, self.id_of(self.left.popleft()))
        if not self._is_enqueued:
            self._enqueue(study)
        return study.ask()

    def _enqueue(self, study: optuna.Study) -> None:
        """Queue what the config names and no driver has queued yet."""
        queued = [trial.system_attrs.get(ENQUEUED) for trial in study.get_trials(deepcopy=False)]
        for configuration in self.config.enqueue:
            fixed = stored(self.config.search, configuration)
            if fixed not in queued:
                study.enqueue_trial(fixed)
                queued.append(fixed)
        self._is_enqueued = True

    def _known_names(self, study: optuna.Study, number: int) -> set[str]:
        trial = study.get_trials(deepcopy=False)[number]
        return {*trial.params, *trial.system_attrs.get(ENQUEUED, {})}

    def _sampler(self, kind: str, number: int) -> BaseSampler:
        """A random stream of each trial's own: one for all would begin again in every driver, and repeat its trials."""
        seed = self.config.seed if self.config.sampler.seed is None else self.config.sampler.seed
        history = self._history if kind == self.config.sampler.kind else None
        return TrialSampler(kind, seed, number, history=history)

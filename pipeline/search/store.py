"""The study store: one persistent Optuna study that holds the truth about every trial."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from pipeline.errors import UserError
from pipeline.search.sampler import make_sampler
from pipeline.search.space import decoded, suggest
from pipeline.spec import StudySpec

STATE_NAMES = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


@dataclass(frozen=True)
class Proposal:
    """A configuration to try, under the number that it keeps for good."""

    number: int
    parameters: Mapping[str, Any]


class StudyStore:
    """Asks the sampler for configurations and records what became of them.

    A trial is COMPLETE only with finite objective values: a diverged or failed trial is recorded as FAIL with the
    reason, so that no half-trained value is ever ranked.
    """

    def __init__(self, spec: StudySpec, name: str, url: str):
        """Open the study `name` in the database at `url`, or make it.

        Raises:
            UserError: The study is there already, with another spec.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.spec = spec
        self.study = optuna.create_study(
            storage=url,
            study_name=name,
            directions=[objective.direction for objective in spec.objectives],
            load_if_exists=True,
        )
        known = self.study.user_attrs.setdefault("spec_sha256", None)
        if known is None:
            self.study.set_user_attr("spec_sha256", spec.sha256())
        elif known != spec.sha256():
            raise UserError(
                f"the study {name!r} exists already, with another spec; expected the same spec, or another --name"
            )
        self._open: dict[int, optuna.Trial] = {}
        self._interrupted = [trial for trial in self._trials(TrialState.RUNNING)]

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states or None)

    def ask(self) -> Proposal:
        """The next configuration: first those that an earlier driver left running, under their old numbers."""
        left = self._interrupted.pop(0) if self._interrupted else None
        self._seed_sampler(len(self._trials()) if left is None else left.number)
        trial = self.study.ask() if left is None else optuna.Trial(self.study, left._trial_id)
        self._open[trial.number] = trial
        return Proposal(trial.number, suggest(trial, self.spec.search))

    def _seed_sampler(self, number: int) -> None:
        """A random stream of each trial's own: one for all would begin again in every driver, and repeat its trials."""
        seed = self.spec.seed if self.spec.sampler.seed is None else self.spec.sampler.seed
        words = np.random.SeedSequence([seed, number]).generate_state(1)
        self.study.sampler = make_sampler(self.spec.sampler.kind, int(words[0]))

    def parameters(self, number: int) -> dict[str, Any]:
        """The configuration of a trial that was asked for earlier."""
        return {name: decoded(value) for name, value in self._trials()[number].params.items()}

    def finish(self, number: int, metrics: Mapping[str, float]) -> bool:
        """Record a finished trial's objective values; False where one is missing or not finite, and it failed."""
        values = [metrics.get(objective.metric, math.nan) for objective in self.spec.objectives]
        if not all(map(math.isfinite, values)):
            self.fail(number, "diverged")
            return False
        self.study.tell(self._open.pop(number), values)
        return True

    def fail(self, number: int, failure: str) -> None:
        """Record a failed trial and why: diverged, out_of_memory, error or preempted."""
        trial = self._open.pop(number)
        trial.set_user_attr("failure", failure)
        self.study.tell(trial, state=TrialState.FAIL)

    def counts(self) -> Counter[str]:
        """Trials by state."""
        return Counter(STATE_NAMES[trial.state] for trial in self._trials())

    def remaining(self) -> int:
        """Configurations still to be handed out until the budget of trials is met."""
        return self.spec.trials - len(self._trials()) + len(self._interrupted)

    def finished_values(self) -> list[list[float]]:
        """Objective values of the finished trials, by number, as the spec's directions have them."""
        return [trial.values for trial in self._trials(TrialState.COMPLETE)]

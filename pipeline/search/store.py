"""The study store: one persistent Optuna study that holds the truth about every trial."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from pipeline.errors import UserError
from pipeline.search import attributes, warm_start
from pipeline.search.attributes import rung_key
from pipeline.search.early_stopping import Floats
from pipeline.search.judgement import compared_metrics, judgement
from pipeline.search.proposals import Proposal, Proposals
from pipeline.search.space import decoded
from pipeline.search.storage import DriverStorage
from pipeline.search.warm_start import is_own
from pipeline.spec import StudySpec
from pipeline.spec.metrics import DIRECTIONS

__all__ = ["Proposal", "StudyStore"]

STATE_NAMES = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "stopped",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
# Characters.
LONGEST_REASON = 500


class StudyStore:
    """Asks the sampler for configurations and records what became of them.

    A trial is COMPLETE only with finite objective values: a diverged or failed trial is recorded as FAIL with the
    reason, and a stopped one as PRUNED, so that no half-trained value is ever ranked. Trials that were taken in from an
    earlier study are known to the sampler only, and counted nowhere.
    """

    def __init__(self, spec: StudySpec, name: str, url: str):
        """Open the study `name` in the database at `url`, or make it.

        Raises:
            UserError: The study is there already, with another spec.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.spec, self._url = spec, url
        self._storage = DriverStorage(url)
        self.study = optuna.create_study(
            storage=self._storage,
            study_name=name,
            directions=[objective.direction for objective in spec.objectives],
            load_if_exists=True,
        )
        self._require(attributes.SPEC_SHA256, spec.sha256(), "with another spec; expected the same spec")
        if attributes.OBJECTIVES not in self.study.user_attrs:
            self.study.set_user_attr(attributes.OBJECTIVES, [objective.metric for objective in spec.objectives])
        self._records: dict[int, Floats] = {}
        self._proposals = Proposals(spec, self._storage, name)

    def _require(self, attribute: str, value: str, otherwise: str) -> None:
        known = self.study.user_attrs.get(attribute)
        if known is None:
            self.study.set_user_attr(attribute, value)
        elif known != value:
            raise UserError(f"the study {self.study.study_name!r} exists already, {otherwise}, or another --name")

    def remember_data(self, sha256: str) -> None:
        """Keep the fingerprint of the study's data.

        Raises:
            UserError: The study is there already, on other data.
        """
        self._require(attributes.DATA_SHA256, sha256, "on other data; expected the same data")

    def learn_from(self, url: str, name: str) -> int:
        """Let the sampler know the finished trials of an earlier study; call `remember_data` and this before any `ask`.

        Returns:
            How many trials of the earlier study are known. Asked again, nothing more is added.

        Raises:
            UserError: There is no such study, it is this one, or it has other objectives or other data.
        """
        if (url, name) == (self._url, self.study.study_name):
            raise UserError(f"warm_start: came {name!r}, which is this study itself; expected an earlier one")
        return warm_start.learn_from(self.study, self.spec, url, name)

    def _own(self, *states: TrialState) -> list[FrozenTrial]:
        return [trial for trial in self.study.get_trials(deepcopy=False, states=states or None) if is_own(trial)]

    def _at(self, number: int) -> FrozenTrial:
        # To read all trials for one would take the driver's loop ever longer.
        return self._storage.get_trial(self._id(number))

    def _note(self, number: int, attribute: str, value: Any) -> None:
        self._storage.set_trial_user_attr(self._id(number), attribute, value)

    def _id(self, number: int) -> int:
        return self._storage.get_trial_id_from_study_id_trial_number(self.study._study_id, number)

    def ask(self, at_random: bool = False) -> Proposal:
        """The next configuration.

        First come those that an earlier driver left running, under their old numbers; then the ones that the spec
        names; then the sampler's. May be called from several threads at once.

        Args:
            at_random: Draw what is still open of it at random, for when the spec's sampler takes too long.
        """
        return self._proposals.ask(at_random)

    def count_preemption(self, number: int) -> int:
        """Count that an unfinished trial lost its worker; how often it has."""
        count = int(self._at(number).user_attrs.get(attributes.PREEMPTIONS, 0)) + 1
        self._note(number, attributes.PREEMPTIONS, count)
        return count

    def parameters(self, number: int) -> dict[str, Any]:
        """The configuration of a trial that was asked for earlier."""
        return {name: decoded(value) for name, value in self._at(number).params.items()}

    def judge(self, number: int, rung: int, metrics: Mapping[str, float], is_late: bool) -> bool:
        """Whether an open trial goes on at a rung, by the spec's rule; asked again, the answer is the same.

        Args:
            number: The trial.
            rung: As `early_stopping.due` gives it.
            metrics: The trial's, after its last epoch.
            is_late: Whether that epoch is later than the rung; then later trials are not compared with this one.
        """
        known = self._at(number).user_attrs.get(rung_key(rung))
        if known is None:
            record_NM = self._record(rung)
            known = judgement(self.spec, record_NM, metrics, is_late)
            self._note(number, rung_key(rung), known)
            if "values" in known:
                self._records[rung] = np.vstack([record_NM, known["values"]])
        return bool(known["goes_on"])

    def _record(self, rung: int) -> Floats:
        """The values of the trials that were judged at a rung, read from the store once; (N, M)."""
        if rung not in self._records:
            judged = [trial.user_attrs.get(rung_key(rung), {}) for trial in self._own()]
            kept = [one["values"] for one in judged if "values" in one]
            self._records[rung] = np.array(kept, dtype=np.float64).reshape(-1, len(compared_metrics(self.spec)))
        return self._records[rung]

    def finish(self, number: int, metrics: Mapping[str, float]) -> bool:
        """Record a finished trial's objective values; False where one is missing or not finite, and it failed."""
        values = [metrics.get(objective.metric, math.nan) for objective in self.spec.objectives]
        if not all(map(math.isfinite, values)):
            self.fail(number, "diverged")
            return False
        self._end(number, metrics, TrialState.COMPLETE, values)
        return True

    def stop(self, number: int, metrics: Mapping[str, float]) -> None:
        """Record a trial that was stopped early, with its last metrics; they are no objective values."""
        self._end(number, metrics, TrialState.PRUNED, None)

    def _end(self, number: int, metrics: Mapping[str, float], state: TrialState, values: list[float] | None) -> None:
        kept = {metric: metrics[metric] for metric in DIRECTIONS if math.isfinite(metrics.get(metric, math.nan))}
        self._note(number, attributes.METRICS, kept)
        if self.spec.constraints:
            trial = optuna.Trial(self.study, self._id(number))
            # A driver that died in between has set some, and each can be set once.
            for one in [one for one in self.spec.constraints if one.name not in trial.constraints]:
                trial.set_constraint(one.name, one.violation(metrics))
        self.study.tell(number, values, state)

    def fail(self, number: int, failure: str, reason: str = "") -> None:
        """Record a failed trial and why: diverged, out_of_memory, error or preempted, and in words."""
        self._note(number, attributes.FAILURE, failure)
        if reason:
            self._note(number, attributes.REASON, reason[:LONGEST_REASON])
        self.study.tell(number, state=TrialState.FAIL)

    def failures(self) -> list[tuple[int, str, str]]:
        """The failed trials by number: each with its kind of failure, and the reason in words."""
        failed = [(trial.number, trial.user_attrs) for trial in self._own(TrialState.FAIL)]
        return [
            (number, attrs.get(attributes.FAILURE, "error"), attrs.get(attributes.REASON, ""))
            for number, attrs in failed
        ]

    def first_numbers(self, count: int) -> list[int]:
        """The numbers of the study's first trials, at most `count`."""
        return [trial.number for trial in self._own() if trial.state != TrialState.WAITING][:count]

    def counts(self) -> Counter[str]:
        """Trials by state."""
        return Counter(STATE_NAMES[trial.state] for trial in self._own())

    def remaining(self) -> int:
        """Configurations still to be handed out until the budget of trials is met."""
        handed_out = sum(trial.state != TrialState.WAITING for trial in self._own())
        return self.spec.trials - handed_out + len(self._proposals.left)

    def finished_values(self) -> list[list[float]]:
        """Objective values of the finished trials, by number, as the spec's directions have them."""
        return [trial.values for trial in self._own(TrialState.COMPLETE)]

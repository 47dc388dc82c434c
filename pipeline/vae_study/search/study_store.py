"""The study store: one persistent Optuna study, the authoritative record of the state of every trial."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from vae_study.config.study import StudyConfig
from vae_study.errors import UserError, opening
from vae_study.metrics import STEERING
from vae_study.search.early_stopping import COMPARED, Floats, compared_metrics, pruning_decision
from vae_study.search.lock import DriverLock
from vae_study.search.optuna_compat import open_storage
from vae_study.search.sampler import (
    POINT,
    RETRAINED,
    RETRAINS,
    SAMPLER,
    Proposal,
    Proposals,
    decoded,
    distribution,
    first_generation,
    fits,
    stored,
)
from vae_study.storage import Owner

STATE_NAMES = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
# What a store raises that is away, full, damaged or locked.
STORE_ERRORS = (optuna.exceptions.StorageInternalError, SQLAlchemyError)
# Characters.
LONGEST_REASON = 500

# User attributes of a study. OBJECTIVES: the metrics, in the order of Optuna's directions. LEARNED_FROM: the earlier
# studies whose trials it has taken in.
CONFIG_SHA256, DATA_SHA256, OBJECTIVES, LEARNED_FROM = "config_sha256", "data_sha256", "objectives", "learned_from"
# FLAT_SINCE: after how many trials the hypervolume was last found to be flat.
FLAT_SINCE = "flat_since"
# OWNER: whose it is, see `storage.Owner`.
OWNER = "owner"
# User attributes of a trial. METRICS: the validation metrics at its end; a later study may set constraints on them.
# WARM_START: the earlier study that it was taken from, and its number there.
FAILURE, REASON, PREEMPTIONS, METRICS = "failure", "reason", "preemptions", "metrics"
WARM_START, WARM_START_NUMBER = "warm_start", "warm_start_number"


class StudyStore:
    """Asks the sampler for configurations and records what became of them.

    A trial is COMPLETE only with finite objective values: a diverged or failed trial is recorded as FAIL with the
    reason, and one that early stopping ended as PRUNED, so that no half-trained value is ever ranked. Trials that were
    taken in from an earlier study are known to the sampler only, and counted nowhere.
    """

    def __init__(self, config: StudyConfig, name: str, url: str, owner: Owner | None = None):
        """Open the study `name` in the database at `url`, or make it.

        Args:
            config: The resolved config.
            name: The study's name.
            url: Of the database.
            owner: Whose the study is; None if nobody else uses the database.

        Raises:
            UserError: The study is there already, with another config, or it is somebody else's.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.config, self._url = config, url
        self._storage = open_storage(url)
        self.study = optuna.create_study(
            storage=self._storage,
            study_name=name,
            directions=[objective.direction for objective in config.objectives],
            load_if_exists=True,
        )
        if owner is not None:
            self._require_own(owner)
        self._require(CONFIG_SHA256, config.sha256(), "with another config; expected the same config")
        if OBJECTIVES not in self.study.user_attrs:
            self.study.set_user_attr(OBJECTIVES, [objective.metric for objective in config.objectives])
        self._records: dict[int, Floats] = {}
        self._proposals = Proposals(config, self._storage, name)

    def _require_own(self, owner: Owner) -> None:
        attributes = self.study.user_attrs
        if not attributes and not self.study.get_trials(deepcopy=False):
            self.study.set_user_attr(OWNER, asdict(owner))
        elif (known := attributes.get(OWNER, {})) != asdict(owner):
            raise UserError(
                f"--study-storage {self._url}: has a study {self.study.study_name!r} already, which this HOME did not "
                f"begin (made by {known.get('made_by', 'another program')}); expected another --name"
            )

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
        self._require(DATA_SHA256, sha256, "on other data; expected the same data")

    def flat_since(self) -> int:
        """After how many trials the study last stopped because its hypervolume was flat; 0 if it never did."""
        return int(self.study.user_attrs.get(FLAT_SINCE, 0))

    def remember_flat(self, trials: int) -> None:
        """Keep after how many trials it stopped, so that whoever resumes it gets as many again."""
        self.study.set_user_attr(FLAT_SINCE, trials)

    def learn_from(self, url: str, name: str) -> int:
        """Let the sampler know the finished trials of an earlier study; call `remember_data` and this before any `ask`.

        Returns:
            How many trials of the earlier study are known. Asked again, nothing more is added.

        Raises:
            UserError: There is no such study, it is this one, or it has other objectives or other data.
        """
        if (url, name) == (self._url, self.study.study_name):
            raise UserError(f"warm_start: got {name!r}, which is this study itself; expected an earlier one")
        learned: list[str] = self.study.user_attrs.get(LEARNED_FROM, [])
        if name not in learned:
            earlier = _opened(url, name)
            _refuse_other_objectives(self.config, earlier)
            if earlier.user_attrs.get(DATA_SHA256) != self.study.user_attrs.get(DATA_SHA256):
                raise UserError(f"warm_start: {name!r} is about other data, expected a study of the same")
            # A driver that died in between has added some.
            done = _learned(self.study, name)
            for trial in earlier.get_trials(deepcopy=False, states=[TrialState.COMPLETE]):
                taken = None if trial.number in done else _taken(trial, earlier, self.config)
                if taken is not None:
                    self.study.add_trial(taken)
            self.study.set_user_attr(LEARNED_FROM, [*learned, name])
        return len(_learned(self.study, name))

    def own_trials(self, *states: TrialState) -> list[FrozenTrial]:
        """The trials that the study itself asked for, by number: in some states, or in any."""
        trials = self.study.get_trials(deepcopy=False, states=states or None)
        return [trial for trial in trials if not {WARM_START, POINT} & {*trial.user_attrs}]

    def points(self) -> list[FrozenTrial]:
        """The trials that are models kept by sweeps, or that train one again, by number; some are still to come."""
        trials = self.study.get_trials(deepcopy=False)
        return [trial for trial in trials if POINT in trial.user_attrs]

    def reserve(self, number: int, kept: Mapping[int, float]) -> list[int]:
        """The numbers of the trials that become of a sweep's kept models; asked again, they are the same.

        Args:
            number: The sweep.
            kept: The epoch after which each model is kept, and its beta.
        """
        there = self._reserved("epoch", number)
        for epoch, beta in kept.items():
            if epoch not in there:
                self._reserve({"trial": number, "epoch": epoch, "beta": beta})
        there = self._reserved("epoch", number)
        return [there[epoch] for epoch in kept]

    def retrain(self, numbers: Sequence[int]) -> list[int]:
        """The numbers of the trials that train models of sweeps again, at their betas; asked again, they are the same.

        Args:
            numbers: Of models that sweeps have kept, and of sweeps, which stand for their last models.
        """
        there = self._reserved(RETRAINS)
        for number in numbers:
            if number not in there:
                own = {"trial": number, "beta": self.parameters(number)["beta"]}
                about = self._at(number).user_attrs.get(POINT, own)
                self._reserve({"trial": about["trial"], "beta": about["beta"], RETRAINS: number}, {SAMPLER: RETRAINED})
        there = self._reserved(RETRAINS)
        return [there[number] for number in numbers]

    def _reserve(self, about: Mapping[str, Any], more: Mapping[str, Any] = MappingProxyType({})) -> None:
        attrs = {POINT: about, **more}
        self.study.add_trial(optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs=attrs))

    def _reserved(self, key: str, sweep: int | None = None) -> dict[int, int]:
        """The numbers of the trials that are reserved for models of a sweep, or of any, by what `key` says of them."""
        abouts = {one.number: one.user_attrs[POINT] for one in self.points()}
        return {
            about[key]: number for number, about in abouts.items() if key in about and sweep in (None, about["trial"])
        }

    def is_open(self, number: int) -> bool:
        """Whether a trial has not ended."""
        return not self._at(number).state.is_finished()

    def origin(self, number: int) -> dict[str, int]:
        """Of a kept model, the number of its `sweep`; of one that is trained again, which one it `retrains`."""
        about = self._at(number).user_attrs.get(POINT, {})
        if RETRAINS in about:
            return {RETRAINS: about[RETRAINS]}
        return {"sweep": about["trial"]} if about else {}

    def _at(self, number: int) -> FrozenTrial:
        # Reading all trials to find one would make the driver's loop slower with each trial.
        return self._storage.get_trial(self._proposals.id_of(number))

    def _note(self, number: int, attribute: str, value: Any) -> None:
        self._storage.set_trial_user_attr(self._proposals.id_of(number), attribute, value)

    def ask(self, at_random: bool = False) -> Proposal:
        """The next configuration.

        First come those that an earlier driver left running, under their old numbers; then the ones that the config
        names; then the sampler's. May be called from several threads at once.

        Args:
            at_random: Draw what is still open of it at random, for when the config's sampler takes too long.
        """
        return self._proposals.ask(at_random)

    def count_preemption(self, number: int) -> int:
        """Count that an unfinished trial lost its worker; how often it has."""
        count = int(self._at(number).user_attrs.get(PREEMPTIONS, 0)) + 1
        self._note(number, PREEMPTIONS, count)
        return count

    def parameters(self, number: int) -> dict[str, Any]:
        """The configuration of a trial that was asked for earlier; of a sweep and its kept models with their betas."""
        trial = self._at(number)
        if (about := trial.user_attrs.get(POINT)) is not None:
            return {**self.parameters(about["trial"]), "objective.kind": "beta", "beta": about["beta"]}
        return with_last_beta(self.config, {name: decoded(value) for name, value in trial.params.items()})

    def should_continue(self, number: int, rung: int, metrics: Mapping[str, float], is_late: bool) -> bool:
        """Whether an open trial continues at a rung, by the config's rule; asked again, the answer is the same.

        Args:
            number: The trial.
            rung: As `early_stopping.due` gives it.
            metrics: The trial's, after its last epoch.
            is_late: Whether that epoch is later than the rung. Such values would raise the bar for all trials that
                follow, and are not kept to compare with.
        """
        known = self._at(number).user_attrs.get(f"rung:{rung}")
        if known is None:
            record_NM = self._record(rung)
            known = pruning_decision(self.config, record_NM, metrics, is_late)
            self._note(number, f"rung:{rung}", known)
            if "values" in known:
                self._records[rung] = np.vstack([record_NM, known["values"]])[-COMPARED:]
        return bool(known["goes_on"])

    def _record(self, rung: int) -> Floats:
        """The values of the newest trials that were compared at a rung, read from the store once; (N, M)."""
        if rung not in self._records:
            decisions = [trial.user_attrs.get(f"rung:{rung}", {}) for trial in self.own_trials()]
            kept = [one["values"] for one in decisions if "values" in one][-COMPARED:]
            self._records[rung] = np.array(kept, dtype=np.float64).reshape(-1, len(compared_metrics(self.config)))
        return self._records[rung]

    def finish(self, number: int, metrics: Mapping[str, float]) -> bool:
        """Record a finished trial's objective values; False where one is missing or not finite, and it failed."""
        values = [metrics.get(objective.metric, math.nan) for objective in self.config.objectives]
        if not all(map(math.isfinite, values)):
            self.fail(number, "diverged")
            return False
        self._end(number, metrics, TrialState.COMPLETE, values)
        return True

    def stop(self, number: int, metrics: Mapping[str, float]) -> None:
        """Record a pruned trial, with its last metrics; they are no objective values."""
        self._end(number, metrics, TrialState.PRUNED, None)

    def _end(self, number: int, metrics: Mapping[str, float], state: TrialState, values: list[float] | None) -> None:
        kept = {metric: metrics[metric] for metric in STEERING if math.isfinite(metrics.get(metric, math.nan))}
        self._note(number, METRICS, kept)
        if self.config.constraints:
            trial = optuna.Trial(self.study, self._proposals.id_of(number))
            # A driver that died in between has set some, and each can be set once.
            for one in [one for one in self.config.constraints if one.name not in trial.constraints]:
                trial.set_constraint(one.name, one.violation(metrics))
        self.study.tell(number, values, state)

    def fail(self, number: int, failure: str, reason: str = "") -> None:
        """Record a failed trial and why: diverged, out_of_memory, error or preempted, and in words."""
        self._note(number, FAILURE, failure)
        if reason:
            self._note(number, REASON, reason[:LONGEST_REASON])
        self.study.tell(number, state=TrialState.FAIL)

    def failures(self) -> list[tuple[int, str, str]]:
        """The failed trials by number: each with its kind of failure, and the reason in words."""
        failed = [(trial.number, trial.user_attrs) for trial in self.own_trials(TrialState.FAIL)]
        return [(number, attrs.get(FAILURE, "error"), attrs.get(REASON, "")) for number, attrs in failed]

    def first_numbers(self, count: int) -> list[int]:
        """The numbers of the study's first trials, at most `count`."""
        return [trial.number for trial in self.own_trials() if trial.state != TrialState.WAITING][:count]

    def counts(self) -> Counter[str]:
        """Trials by state."""
        return Counter(STATE_NAMES[trial.state] for trial in self.own_trials())

    def remaining(self) -> int:
        """Configurations still to be handed out until the budget of trials is met."""
        handed_out = sum(trial.state != TrialState.WAITING for trial in self.own_trials())
        return self.config.trials - handed_out + len(self._proposals.left)

    def finished_values(self) -> list[list[float]]:
        """Objective values of the finished trials, by number, as the config's directions have them."""
        return [trial.values for trial in self.own_trials(TrialState.COMPLETE)]


def with_last_beta(config: StudyConfig, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A sweep's parameters with the beta that its own model has, that of its end; others' as they are."""
    kept = [*config.trial(parameters).kept_betas().values()]
    return {**parameters, "beta": kept[-1]} if kept else dict(parameters)


def _opened(url: str, name: str) -> optuna.Study:
    """An earlier study. Its URL may hold a password, and stays out of every message."""
    missing = UserError(f"warm_start: got {name!r}, expected a study that is there; its study store was not found")
    scheme, _, place = url.partition(":///")
    # SQLite would make an empty database.
    if scheme.startswith("sqlite") and not Path(place.partition("?")[0]).is_file():
        raise missing
    try:
        return optuna.load_study(study_name=name, storage=url)
    except KeyError:
        raise missing from None


def _refuse_other_objectives(config: StudyConfig, earlier: optuna.Study) -> None:
    directions = [direction.name.lower() for direction in earlier.directions]
    theirs = dict(zip(earlier.user_attrs.get(OBJECTIVES) or [], directions, strict=False))
    ours = {objective.metric: objective.direction for objective in config.objectives}
    if theirs != ours:
        got, expected = (
            ", ".join(f"{metric} ({direction})" for metric, direction in objectives.items()) or "no objectives"
            for objectives in (theirs, ours)
        )
        raise UserError(f"warm_start: {earlier.study_name!r} has {got}, expected {expected}")


def _learned(study: optuna.Study, name: str) -> set[int]:
    """The numbers of an earlier study's trials that a study has taken in."""
    taken = [trial.user_attrs for trial in study.get_trials(deepcopy=False)]
    return {attrs[WARM_START_NUMBER] for attrs in taken if attrs.get(WARM_START) == name}


def _taken(trial: FrozenTrial, earlier: optuna.Study, config: StudyConfig) -> FrozenTrial | None:
    """An earlier study's trial as one of this study's.

    None where this study could not have come to it itself, or where it is unknown if it keeps a constraint.
    """
    parameters = {name: decoded(value) for name, value in trial.params.items()}
    values = dict(zip(earlier.user_attrs[OBJECTIVES], trial.values, strict=True))
    metrics = {**trial.user_attrs.get(METRICS, {}), **values}
    if not fits(config.search, parameters) or any(one.metric not in metrics for one in config.constraints):
        return None
    return optuna.trial.create_trial(
        params=stored(config.search, parameters),
        distributions={name: distribution(config.search[name]) for name in parameters},
        values=[values[objective.metric] for objective in config.objectives],
        constraints={one.name: one.violation(metrics) for one in config.constraints},
        user_attrs={WARM_START: earlier.study_name, WARM_START_NUMBER: trial.number, METRICS: metrics},
        system_attrs=first_generation(config.sampler.kind),
    )


def require_at_rest(url: str, name: str) -> None:
    """Raise UserError if a driver runs a study; one that is not in the database at `url` is run by none."""
    with opening("--study-storage", "the study's database"):
        if name in optuna.get_all_study_names(url):
            lock = DriverLock(optuna.load_study(study_name=name, storage=url))
            lock.acquire()
            lock.release()


def delete_trials(url: str, name: str) -> None:
    """Delete a study from the database at `url`; no error if it is not there."""
    with suppress(KeyError):
        optuna.delete_study(study_name=name, storage=url)

"""Which configuration is tried next: what was left behind, what the spec names, and then what the sampler draws."""

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from pipeline.search import attributes
from pipeline.search.history import History
from pipeline.search.sampler import TrialSampler
from pipeline.search.space import stored, suggest
from pipeline.spec import StudySpec


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

    Attributes:
        left: The numbers of trials that were begun and have nobody to go on with them.
    """

    def __init__(self, spec: StudySpec, storage: BaseStorage, name: str):
        """Find what an earlier driver left running in the study `name`."""
        self.spec, self._storage, self._name = spec, storage, name
        study = self._study()
        self.left = deque(trial.number for trial in study.get_trials(deepcopy=False, states=[TrialState.RUNNING]))
        self._history = History(spec.sampler.kind)
        self._lock = threading.Lock()
        self._is_enqueued = False

    def _study(self) -> optuna.Study:
        return optuna.load_study(study_name=self._name, storage=self._storage)

    def ask(self, at_random: bool) -> Proposal:
        """The next configuration; see `StudyStore.ask`."""
        # A study of each call's own, as it is what holds the sampler.
        study = self._study()
        with self._lock:
            trial = self._next_trial(study)
        known = self._known_names(study, trial.number) if at_random else set()
        study.sampler = self._sampler("random" if at_random else self.spec.sampler.kind, trial.number)
        parameters = suggest(trial, self.spec.search)
        if at_random and not set(parameters) <= known:
            trial.set_user_attr(attributes.SAMPLER, "random")
        return Proposal(trial.number, parameters, self._origin(trial))

    def _origin(self, trial: optuna.Trial) -> str:
        # To read it back costs a query of the store.
        if self.spec.enqueue and "fixed_params" in self._storage.get_trial(trial._trial_id).system_attrs:
            return "enqueued"
        return str(trial.user_attrs.get(attributes.SAMPLER, self.spec.sampler.kind))

    def _next_trial(self, study: optuna.Study) -> optuna.Trial:
        if self.left:
            return optuna.Trial(study, study.get_trials(deepcopy=False)[self.left.popleft()]._trial_id)
        if not self._is_enqueued:
            self._enqueue(study)
        return study.ask()

    def _enqueue(self, study: optuna.Study) -> None:
        """Queue what the spec names and no driver has queued yet."""
        queued = [trial.system_attrs.get("fixed_params") for trial in study.get_trials(deepcopy=False)]
        for configuration in self.spec.enqueue:
            fixed = stored(self.spec.search, configuration)
            if fixed not in queued:
                study.enqueue_trial(fixed)
                queued.append(fixed)
        self._is_enqueued = True

    def _known_names(self, study: optuna.Study, number: int) -> set[str]:
        trial = study.get_trials(deepcopy=False)[number]
        return {*trial.params, *trial.system_attrs.get("fixed_params", {})}

    def _sampler(self, kind: str, number: int) -> optuna.samplers.BaseSampler:
        """A random stream of each trial's own: one for all would begin again in every driver, and repeat its trials."""
        seed = self.spec.seed if self.spec.sampler.seed is None else self.spec.sampler.seed
        history = self._history if kind == self.spec.sampler.kind else None
        return TrialSampler(kind, seed, number, history=history)

"""The database of a study that one driver writes: read once, and known from what is written from then on."""

import copy
import json
from collections import defaultdict
from collections.abc import Container, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution

# Optuna gives it no public name; it is what `get_storage` makes of a database's address.
from optuna.storages._cached_storage import _CachedStorage
from optuna.trial import FrozenTrial, TrialState

ENDED = tuple(state for state in TrialState if state.is_finished())


class DriverStorage(_CachedStorage):
    """Trials as the one driver of their study knows them.

    Optuna's own cache asks the database for all running trials at every look, as another process may have changed them:
    with 256 at once 10 to 30 ms, several times an ask. The lock on a study (`DriverLock`) says that there is no other.
    Everything is written to the database before it is known here.
    """

    def __init__(self, url: str):
        """Open the database at `url`; what others write to its studies after they were read here is not seen."""
        super().__init__(optuna.storages.RDBStorage(url))
        self._known_studies: set[int] = set()
        self._under_way: defaultdict[int, set[int]] = defaultdict(set)

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Set a parameter."""
        super().set_trial_param(trial_id, param_name, param_value_internal, distribution)
        value = distribution.to_external_repr(param_value_internal)
        self._add(trial_id, params={param_name: value}, distributions={param_name: distribution})

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set an attribute of ours."""
        super().set_trial_user_attr(trial_id, key, value)
        self._add(trial_id, user_attrs={key: _as_stored(value)})

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set an attribute of Optuna's."""
        super().set_trial_system_attr(trial_id, key, value)
        self._add(trial_id, system_attrs={key: _as_stored(value)})

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Set a value under way."""
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)
        self._add(trial_id, intermediate_values={step: intermediate_value})

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Change the state of a trial, which is then read back with its times."""
        is_set = super().set_trial_state_values(trial_id, state, values)
        self._put(self._backend.get_trial(trial_id))
        return is_set

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """A trial; who asked for it may change it, as `optuna.Trial` does."""
        with self._lock:
            place = self._trial_id_to_study_id_and_number.get(trial_id)
            if place is not None:
                study_id, number = place
                return _copied(self._studies[study_id].trials[number])
        return super().get_trial(trial_id)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """The trials by number; those that have not ended are found without a look at the others, for each ask."""
        if states is None or any(state in states for state in ENDED):
            return super().get_all_trials(study_id, deepcopy, states)
        self._read_trials_from_remote_storage(study_id)
        with self._lock:
            under_way = [self._studies[study_id].trials[number] for number in sorted(self._under_way[study_id])]
            found = [trial for trial in under_way if trial.state in states]
        return copy.deepcopy(found) if deepcopy else found

    def _read_trials_from_remote_storage(self, study_id: int) -> None:
        if study_id not in self._known_studies:
            super()._read_trials_from_remote_storage(study_id)
            self._known_studies.add(study_id)

    def _add(self, trial_id: int, **more: dict[Any, Any]) -> None:
        """Put a changed copy in a trial's place: others may be looking at the trial as it was."""
        with self._lock:
            study_id, number = self._trial_id_to_study_id_and_number[trial_id]
            changed = copy.copy(self._studies[study_id].trials[number])
            for part, added in more.items():
                setattr(changed, part, {**getattr(changed, part), **added})
            self._studies[study_id].trials[number] = changed

    def _put(self, trial: FrozenTrial) -> None:
        with self._lock:
            self._add_trials_to_cache(self._trial_id_to_study_id_and_number[trial._trial_id][0], [trial])

    def _add_trials_to_cache(self, study_id: int, trials: list[FrozenTrial]) -> None:
        super()._add_trials_to_cache(study_id, trials)
        for trial in trials:
            change = set.discard if trial.state.is_finished() else set.add
            change(self._under_way[study_id], trial.number)


def _copied(trial: FrozenTrial) -> FrozenTrial:
    copied = copy.copy(trial)
    for part in ("params", "distributions", "user_attrs", "system_attrs", "intermediate_values"):
        setattr(copied, part, dict(getattr(trial, part)))
    return copied


def _as_stored(value: Any) -> Any:
    """A value as it would be read back."""
    return json.loads(json.dumps(value))

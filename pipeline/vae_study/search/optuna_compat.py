"""All that this project uses of Optuna's private parts, each with a fallback on its public API.

A private part may change its name with any release of Optuna. Then nothing breaks, but something is lost:

- `_cached_storage` and its parts in `CACHE_PARTS`: `open_storage` gives a storage that asks the database for every
  running trial at every look. A study with many trials at once becomes slower.
- `Study._get_trials`, `_get_generation_key`, `_get_parent_cache_key_prefix`, `_trial_id`: a sampler is shown the whole
  of a long study, and takes longer and longer. Without `_get_generation_key`, genetic samplers do not learn from the
  trials of an earlier study, either.
- `Study._storage`, `Study._study_id`: the same for genetic samplers. A trial whose drawing was cut off may get another
  configuration when its drawing begins again.
"""

import copy
import json
from collections import defaultdict
from collections.abc import Container, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseGASampler
from optuna.storages import BaseStorage, RDBStorage, get_storage
from optuna.trial import FrozenTrial, TrialState

try:
    # It is what `get_storage` makes of a database's URL.
    from optuna.storages._cached_storage import _CachedStorage
except ImportError:
    _CachedStorage = BaseStorage  # type: ignore[misc, assignment]

ENDED = tuple(state for state in TrialState if state.is_finished())
CACHE_PARTS = (
    "_add_trials_to_cache",
    "_backend",
    "_lock",
    "_read_trials_from_remote_storage",
    "_studies",
    "_trial_id_to_study_id_and_number",
)
#: The attribute of a trial in which Optuna keeps the values that it was enqueued with.
ENQUEUED = "fixed_params"


def private(owner: object, name: str) -> Any:
    """A private part of Optuna, or None where this release does not have it."""
    return getattr(owner, name, None)


def open_storage(url: str) -> BaseStorage:
    """The storage of the one driver of a study, by the URL of its database."""
    if private(optuna.storages, "_cached_storage") is None:
        return get_storage(url)
    storage = DriverStorage(url)
    return storage if all(private(storage, name) is not None for name in CACHE_PARTS) else get_storage(url)


def with_trials(study: optuna.Study, trials: Sequence[FrozenTrial]) -> optuna.Study:
    """The study with some of its trials only, to read; by the fallback, with all of them."""
    return study if private(study, "_get_trials") is None else _Part(study, trials)


def first_generation(sampler: optuna.samplers.BaseSampler) -> dict[str, Any]:
    """The system attributes by which a genetic sampler knows a trial as one of its first generation.

    Without them, it ignores trials that it has not proposed itself. Empty for other samplers.
    """
    key = private(sampler, "_get_generation_key") if isinstance(sampler, BaseGASampler) else None
    return {key(): 0} if key is not None else {}


def last_generations(
    sampler: type[BaseGASampler], study: optuna.Study, trials: Sequence[FrozenTrial]
) -> Sequence[FrozenTrial]:
    """Those of `trials` that a genetic sampler may still use: its last two generations and their parents."""
    key, prefix = private(sampler, "_get_generation_key"), private(sampler, "_get_parent_cache_key_prefix")
    storage, study_id = private(study, "_storage"), private(study, "_study_id")
    ids = [private(trial, "_trial_id") for trial in trials]
    if None in (key, prefix, storage, study_id, *ids):
        return trials
    generations = [int(trial.system_attrs.get(key(), -1)) for trial in trials]
    last = max(generations, default=0)
    parents = {
        trial_id
        for name, trial_ids in storage.get_study_system_attrs(study_id).items()
        if name.startswith(prefix()) and int(name.removeprefix(prefix())) >= last - 1
        for trial_id in trial_ids
    }
    weighed = zip(trials, generations, ids, strict=True)
    return [trial for trial, generation, trial_id in weighed if generation >= last - 1 or trial_id in parents]


def keep(study: optuna.Study, trial: FrozenTrial, attribute: str, value: Any) -> None:
    """Keep a user attribute of a trial from inside a sampler, which is given no trial to write to."""
    storage, trial_id = private(study, "_storage"), private(trial, "_trial_id")
    if storage is not None and trial_id is not None:
        storage.set_trial_user_attr(trial_id, attribute, value)


class _Part(optuna.Study):
    """A study with some of its trials only."""

    def __init__(self, study: optuna.Study, trials: Sequence[FrozenTrial]):
        # To open it again would cost queries of the database.
        self.__dict__ |= study.__dict__
        self._shown = trials

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return [trial for trial in self._shown if states is None or trial.state in states]


class DriverStorage(_CachedStorage):
    """The database of a study that one driver writes: read once, and known from what is written from then on.

    Optuna's own cache asks the database for all running trials at every look, as another process may have changed them:
    with 256 at once 10 to 30 ms, several times an ask. The lock on a study (`DriverLock`) says that there is no other.
    Everything is written to the database before it is known here.
    """

    def __init__(self, url: str):
        """Open the database at `url`; what others write to its studies after they were read here is not seen."""
        super().__init__(RDBStorage(url))
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
        """Set a value of a running trial."""
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)
        self._add(trial_id, intermediate_values={step: intermediate_value})

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Change the state of a trial, which is then read back with its times."""
        is_set = super().set_trial_state_values(trial_id, state, values)
        changed = self._backend.get_trial(trial_id)
        with self._lock:
            self._add_trials_to_cache(self._trial_id_to_study_id_and_number[trial_id][0], [changed])
        return is_set

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """A copy of a trial: `optuna.Trial` changes what it is given."""
        with self._lock:
            place = self._trial_id_to_study_id_and_number.get(trial_id)
            if place is not None:
                study_id, number = place
                return _copied(self._studies[study_id].trials[number])
        return super().get_trial(trial_id)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """The trials by number; those that have not ended are found without a look at the others.

        Optuna's own cache sorts all of them at every look: 20 ms of an ask after 100,000 trials.
        """
        self._read_trials_from_remote_storage(study_id)
        with self._lock:
            trials = self._studies[study_id].trials
            if states is None:
                found = list(trials.values())
            elif any(state in states for state in ENDED):
                found = [trial for trial in trials.values() if trial.state in states]
            else:
                under_way = [trials[number] for number in sorted(self._under_way[study_id])]
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

    def _add_trials_to_cache(self, study_id: int, trials: list[FrozenTrial]) -> None:
        known = self._studies[study_id].trials
        last, fresh = next(reversed(known), -1), [trial.number for trial in trials if trial.number not in known]
        super()._add_trials_to_cache(study_id, trials)
        # Of two threads that make a trial each, the one with the later trial may be here first.
        if fresh != sorted(fresh) or (fresh and fresh[0] < last):
            self._studies[study_id].trials = dict(sorted(known.items()))
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

"""How much of a long study a sampler looks at, so that asking it does not take longer and longer.

A sampler's time grows with the trials that it looks at, and a study's with the square of them. So each is shown a part
of a long history: the newest trials, and what is worth remembering of those before them.
"""

import threading
from collections.abc import Callable, Container, Mapping, Sequence

import moocore
import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.samplers import BaseGASampler, NSGAIIISampler, NSGAIISampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

#: Trials of a history that is shown whole.
WHOLE = 800
# Of a longer one, the newest of all, and the best of those before them.
NEWEST, BEST = 400, 200
# What is remembered is chosen anew after so many trials: each trial is weighed once, and not at each ask.
BLOCK = 200

Floats = NDArray[np.float64]
Memory = Callable[[optuna.Study, Sequence[FrozenTrial]], Sequence[FrozenTrial]]


class History:
    """What one sampler has been shown of a study; to be asked about the same study as it grows, by any thread.

    Which part that is depends on the trials alone: a later driver, which begins anew, shows the same.
    """

    def __init__(self, kind: str):
        """Begin before the first trial, for the sampler that a spec calls `kind`."""
        self._memory = MEMORIES.get(kind)
        self._lock = threading.Lock()
        # All below `_until` is weighed: remembered, still open, or forgotten.
        self._until = 0
        self._remembered: list[int] = []
        self._open: list[int] = []

    def part(self, study: optuna.Study) -> optuna.Study:
        """The study as its sampler is to see it: to read, with some of its trials."""
        if self._memory is None or len(trials := study.get_trials(deepcopy=False)) < WHOLE:
            return study
        with self._lock:
            while self._until + BLOCK <= len(trials) - NEWEST:
                self._weigh(self._memory, study, trials)
            shown = sorted({*self._remembered, *self._open})
            return _Part(study, [*(trials[number] for number in shown), *trials[self._until :]])

    def _weigh(self, memory: Memory, study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
        numbers = [*self._open, *range(self._until, self._until + BLOCK)]
        self._until += BLOCK
        self._open = [number for number in numbers if not trials[number].state.is_finished()]
        ended = [trials[number] for number in numbers if trials[number].state == TrialState.COMPLETE]
        kept = memory(study, [*(trials[number] for number in self._remembered), *ended])
        self._remembered = [trial.number for trial in kept]


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


def best(study: optuna.Study, trials: Sequence[FrozenTrial]) -> Sequence[FrozenTrial]:
    """The BEST of some finished trials: front by front, the last front that has room from one of its ends to the other.

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


def _last_generations(sampler: type[BaseGASampler]) -> Memory:
    """All that a genetic sampler may still look at: its last two generations, and their parents."""
    key, prefix = sampler._get_generation_key(), sampler._get_parent_cache_key_prefix()

    def memory(study: optuna.Study, trials: Sequence[FrozenTrial]) -> Sequence[FrozenTrial]:
        last = max((_generation(trial, key) for trial in trials), default=0)
        listed = study._storage.get_study_system_attrs(study._study_id)
        parents = {
            number
            for name, numbers in listed.items()
            if name.startswith(prefix) and int(name.removeprefix(prefix)) >= last - 1
            for number in numbers
        }
        return [trial for trial in trials if _generation(trial, key) >= last - 1 or trial._trial_id in parents]

    return memory


def _generation(trial: FrozenTrial, key: str) -> int:
    return int(trial.system_attrs.get(key, -1))


#: What each sampler remembers; random search looks at nothing.
MEMORIES: Mapping[str, Memory] = {
    "tpe": best,
    "gp": best,
    "nsga2": _last_generations(NSGAIISampler),
    "nsga3": _last_generations(NSGAIIISampler),
}

"""How a study gets on, trial by trial, and parameters on the scale that they are searched on."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.search.pareto import hypervolume, non_dominated
from pipeline.spec import Choices, Range
from pipeline.tracking.layout import LOG10

Floats = NDArray[np.float64]
ENDED = ("finished", "stopped", "failed")


class StudyCurves:
    """The frontier of the trials that have ended so far; each further one is compared with that frontier alone.

    Attributes:
        step: How many trials have ended.
    """

    def __init__(self, reference: Mapping[str, float], signs: Sequence[float]):
        """Begin before the first trial.

        Args:
            reference: The hypervolume's reference point, by objective.
            signs: 1 for each objective that is minimized, -1 for each that is maximized.
        """
        self.metrics, self.signs_M = tuple(reference), np.asarray(signs, dtype=np.float64)
        self.reference_M: Floats = self.signs_M * np.array(list(reference.values()), dtype=np.float64)
        self.front_NM: Floats = np.empty((0, len(self.metrics)))
        self.counts: Counter[str] = Counter()
        self.volume = 0.0

    @property
    def step(self) -> int:
        """How many trials have ended."""
        return self.counts.total()

    def add(self, state: str, metrics: Mapping[str, float], is_feasible: bool = True) -> dict[str, float]:
        """Count a trial that has ended.

        Args:
            state: `finished`, `stopped` or `failed`.
            metrics: The trial's; only a finished one's are looked at.
            is_feasible: Whether it keeps the study's constraints.

        Returns:
            The study's metrics, for the step that `step` is now: `study/hypervolume` (the product of the objectives'
            units), `study/frontier_size`, `study/finished`, `study/stopped`, `study/failed`.
        """
        self.counts[state] += 1
        if state == "finished" and is_feasible:
            self._place(self.signs_M * [metrics.get(name, math.nan) for name in self.metrics])
        counts = {f"study/{name}": float(self.counts[name]) for name in ENDED}
        return {"study/hypervolume": self.volume, "study/frontier_size": float(len(self.front_NM)), **counts}

    def _place(self, value_M: Floats) -> None:
        candidate_NM = np.vstack([self.front_NM, value_M])
        kept_N = non_dominated(candidate_NM)
        if kept_N[-1]:
            self.volume += self._gain(value_M)
            self.front_NM = candidate_NM[kept_N]

    def _gain(self, value_M: Floats) -> float:
        """What a point adds to the hypervolume: its own box, less the part that the frontier has covered.

        Clipped to the box, most of the frontier is dominated by the rest, so that this is far less work than the whole
        volume (While, Bradstreet and Barone 2012).
        """
        if not (value_M < self.reference_M).all():
            return 0.0
        clipped_NM = np.maximum(self.front_NM, value_M)
        covered = hypervolume(clipped_NM[non_dominated(clipped_NM)], self.reference_M.tolist())
        return max(float(np.prod(self.reference_M - value_M)) - covered, 0.0)


def log10_parameters(search: Mapping[str, Range | Choices], parameters: Mapping[str, Any]) -> dict[str, float]:
    """The logarithms of a trial's log-scaled parameters as metrics, since MLflow's parallel coordinates are linear."""
    return {
        f"{LOG10}{name}": math.log10(value)
        for name, value in parameters.items()
        if isinstance(parameter := search.get(name), Range) and parameter.log
    }

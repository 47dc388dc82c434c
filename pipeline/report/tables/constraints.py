"""Which constraints the study sets, and who violates them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from pipeline.report.tables.frames import numbers, trial_numbers, with_state
from pipeline.search.pareto import feasible
from pipeline.tracking.record import StudyRecord

Bound = Literal["at_least", "at_most"]
BOUNDS: tuple[Bound, ...] = ("at_least", "at_most")


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """One bound of one metric.

    Attributes:
        metric: What is bounded.
        bound: From below or from above.
        limit: The last value that is allowed, in the metric's unit.
        violating: The infeasible finished trials that are beyond it, or did not measure it.
    """

    metric: str
    bound: Bound
    limit: float
    violating: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """The study's constraints.

    Attributes:
        bounds: Each of them, as in the spec.
        violating: Finished trials that violate one at least.
        finished: How many trials have finished.
    """

    bounds: tuple[Constraint, ...]
    violating: tuple[int, ...]
    finished: int

    @property
    def none_kept(self) -> bool:
        """Whether trials have finished, but none keeps the constraints."""
        return 0 < self.finished == len(self.violating)


def constraints(record: StudyRecord) -> Constraints:
    """Which finished trials violate which constraint; a study of an earlier version has no constraints."""
    finished = with_state(record, "finished")
    violating = finished.drop(feasible(finished).index)
    return Constraints(
        bounds=tuple(_bounds(record.spec.get("constraints") or (), violating)),
        violating=trial_numbers(violating),
        finished=len(finished),
    )


def _bounds(given: Any, violating: pd.DataFrame) -> Iterator[Constraint]:
    for constraint in given:
        for bound in BOUNDS:
            if constraint.get(bound) is not None:
                yield _bound(constraint, bound, violating)


def _bound(constraint: Mapping[str, Any], bound: Bound, violating: pd.DataFrame) -> Constraint:
    metric, limit = str(constraint["metric"]), float(constraint[bound])
    values = numbers(violating, metric)
    kept = values >= limit if bound == "at_least" else values <= limit
    return Constraint(metric=metric, bound=bound, limit=limit, violating=trial_numbers(violating[~kept]))

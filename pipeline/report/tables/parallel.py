"""Every finished trial as a line over its parameters and what came of them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.report.tables.coordinates import Coordinate, coordinates, targets
from pipeline.report.tables.frames import Floats, Missing, finite, numbers, with_state
from pipeline.report.tables.frontier import frontier
from pipeline.report.tables.scored import auroc_metric
from pipeline.tracking.record import StudyRecord


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One upright axis.

    Attributes:
        name: The parameter's column, or the metric.
        is_log: Whether it was searched on a log scale.
        choices: The choices of a categorical parameter as text, in the order of the spec; None of a number.
        low, high: The ends of the finished trials' values; of choices, 0 and their last place.
    """

    name: str
    is_log: bool
    choices: tuple[str, ...] | None
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """Parallel coordinates (Inselberg 1985): a line a finished trial.

    Attributes:
        axes: The searched parameters, then the objectives, then the AUROC where it is known.
        values_NA: A row a trial; the place of its choice for a categorical axis; NaN where a branch does not have the
            parameter, or where it was not measured.
        trial_N: The trials' numbers.
        frontier_N: Whether each is on the frontier.
        colour_N: The AUROC, else the first objective; NaN where unknown.
        colour_metric: Which of the two.
    """

    axes: tuple[Axis, ...]
    values_NA: Floats
    trial_N: NDArray[np.int64]
    frontier_N: NDArray[np.bool_]
    colour_N: Floats
    colour_metric: str


def parallel(record: StudyRecord) -> Parallel | Missing:
    """The finished trials over all axes that any of them has a value on."""
    finished, metrics = with_state(record, "finished"), targets(record)
    found = [*_of_parameters(coordinates(record, finished)), *_of_metrics(finished, metrics)]
    if not found:
        return Missing("No finished trial has measured an objective, so there are no parallel coordinates.")
    auroc = auroc_metric(record, "val")
    colour = auroc if auroc in metrics else metrics[0]
    return Parallel(
        axes=tuple(axis for axis, _ in found),
        values_NA=np.column_stack([value_N for _, value_N in found]),
        trial_N=finished["trial"].to_numpy(np.int64),
        frontier_N=finished["trial"].isin(frontier(record)["trial"]).to_numpy(bool),
        colour_N=finite(numbers(finished, colour)),
        colour_metric=colour,
    )


def _of_parameters(found: Iterable[Coordinate]) -> Iterator[tuple[Axis, Floats]]:
    for c in found:
        low, high = (c.low, c.high) if c.choices else _ends(c.value_N)
        yield Axis(name=c.name, is_log=c.is_log, choices=c.choices, low=low, high=high), c.value_N


def _of_metrics(finished: pd.DataFrame, metrics: Iterable[str]) -> Iterator[tuple[Axis, Floats]]:
    for metric in metrics:
        value_N = finite(numbers(finished, metric))
        if np.isfinite(value_N).any():
            low, high = _ends(value_N)
            yield Axis(name=metric, is_log=False, choices=None, low=low, high=high), value_N


def _ends(value_N: Floats) -> tuple[float, float]:
    return float(np.nanmin(value_N)), float(np.nanmax(value_N))

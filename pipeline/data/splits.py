"""Three splits that share no row nor an equal one: train sees normal rows only; anomalies wait in the other two."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.clusters import Clusters, Ids, equal_rows, joined
from pipeline.data.shares import TRAIN, by_chance, by_time, earliest, periods
from pipeline.data.table import Table
from pipeline.errors import UserError
from pipeline.spec.data import SplitSpec

SPLIT_NAMES = ("train", "validation", "test")
Flags = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Division:
    """Which rows are in which split.

    Attributes:
        rows: The row numbers of each split, ascending.
        notes: What was moved, and how many rows that are.
    """

    rows: Mapping[str, NDArray[np.int64]]
    notes: tuple[str, ...]


def split_rows(table: Table, is_anomaly_N: Flags, spec: SplitSpec) -> Division:
    """Divide a table, deterministic from its rows and the spec's seed.

    Raises:
        UserError: A split would have no normal row, or the table lacks what the spec splits by.
    """
    equal_N = equal_rows(table)
    notes = [*_notes_of_equals(equal_N)]
    if spec.by == "time":
        period_N = periods(_column(table, spec), spec)
        clusters = Clusters.of(equal_N, is_anomaly_N)
        place_C = by_time(clusters, period_N)
        notes += _notes_of_time(clusters, period_N)
    else:
        cluster_N = joined(equal_N, _column(table, spec)) if spec.by == "group" else equal_N
        clusters = Clusters.of(cluster_N, is_anomaly_N)
        place_C = by_chance(clusters, _strata(clusters, table, spec), spec)
        notes += _notes_of_chance(clusters, spec)
    place_N = place_C[clusters.cluster_N]
    rows = {name: np.flatnonzero(place_N == place) for place, name in enumerate(SPLIT_NAMES)}
    _require_normal_rows(rows, is_anomaly_N, spec, notes)
    return Division(rows=rows, notes=tuple(notes))


def _column(table: Table, spec: SplitSpec) -> NDArray[Any]:
    if table.split_N is None:
        raise UserError(f"data.split.by: came {spec.by!r}, but {table.where} came without data.split.column")
    return table.split_N


def _strata(clusters: Clusters, table: Table, spec: SplitSpec) -> list[NDArray[np.int64]]:
    """The clusters of each label, that of their first rows; all clusters where labels do not matter."""
    every_C = np.arange(len(clusters.first_C))
    if spec.by != "stratified":
        return [every_C]
    if table.label_N is None:
        raise UserError(f"data.split.by: came 'stratified', which needs labels, and {table.where} has none")
    label_C = table.label_N[clusters.first_C]
    order_C = np.argsort(label_C, kind="stable")
    return np.split(every_C[order_C], np.flatnonzero(np.diff(label_C[order_C])) + 1)


def _notes_of_equals(equal_N: Ids) -> Iterator[str]:
    repeats = len(equal_N) - int(equal_N.max()) - 1
    if repeats:
        yield f"rows that repeat an earlier one in every feature, and share its split: {repeats:,}"


def _notes_of_chance(clusters: Clusters, spec: SplitSpec) -> Iterator[str]:
    if spec.by == "group":
        yield f"sets of rows that share neither a group nor an equal row: {len(clusters.first_C):,}"
    moved = int(clusters.normals_C[clusters.anomalies_C > 0].sum())
    if moved:
        alike = "equal an anomaly" + (" or are of its group" if spec.by == "group" else "")
        yield f"normal rows that {alike}, and went to validation or test with it: {moved:,}"


def _notes_of_time(clusters: Clusters, period_N: NDArray[np.int8]) -> Iterator[str]:
    begins_C = earliest(clusters, period_N)
    late = int((period_N != begins_C[clusters.cluster_N]).sum())
    if late:
        yield f"rows that equal one of an earlier period, and went where that one is: {late:,}"
    is_moved_C = (begins_C == TRAIN) & (clusters.anomalies_C > 0)
    anomalies, normals = (int(count_C[is_moved_C].sum()) for count_C in (clusters.anomalies_C, clusters.normals_C))
    if anomalies:
        yield f"anomalies of the training period, which went to validation: {anomalies:,}"
    if normals:
        yield f"normal rows that equal an anomaly of the training period, and went with it: {normals:,}"


def _require_normal_rows(
    rows: Mapping[str, NDArray[np.int64]], is_anomaly_N: Flags, spec: SplitSpec, notes: list[str]
) -> None:
    for name in SPLIT_NAMES:
        if is_anomaly_N[rows[name]].all():
            share = getattr(spec, name)
            reasons = "".join(f"; {note}" for note in notes)
            raise UserError(f"data.split.{name}: came {share:g}, which leaves it no normal row{reasons}")

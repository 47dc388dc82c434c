"""From rows in batches to a Table: one array of numbers, filled as the batches come."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.sources.categories import Categories
from pipeline.data.sources.groups_and_times import Groups, Times
from pipeline.data.sources.kinds import is_text
from pipeline.data.sources.labels import Labels
from pipeline.data.sources.numbers import Numbers
from pipeline.data.sources.roles import Chosen, chosen, kinds_of, require_target_types
from pipeline.data.sources.rows import Rows
from pipeline.data.sources.settling import settled
from pipeline.data.table import Label, Table
from pipeline.errors import UserError
from pipeline.spec.data import DataSpec


def build(rows: Rows, spec: DataSpec) -> Table:
    """Read a table's chosen columns into arrays.

    Raises:
        UserError: A column, a type or a value is not as it must be.
    """
    columns = chosen(rows, spec)
    rows = _settled(rows, columns, spec)
    require_target_types(rows, columns)
    filling = _Filling(rows, columns, spec)
    filling.read(rows, columns.names)
    return filling.table(columns.notes)


def _settled(rows: Rows, columns: Chosen, spec: DataSpec) -> Rows:
    """Declared text is taken at its word where it is a label, a group or a category."""
    if not rows.is_typed:
        return settled(rows, columns.names)
    times = (columns.split,) if columns.split is not None and spec.split.by == "time" else ()
    features = (name for name in columns.features if name not in spec.categories.columns)
    as_declared = {*columns.names} - {*times, *features}
    return settled(rows, columns.names, as_declared)


class _Filling:
    """The arrays of a table, and what fills them."""

    def __init__(self, rows: Rows, columns: Chosen, spec: DataSpec) -> None:
        where, count, forced = rows.where, rows.count or 0, spec.categories.columns
        self._where, self._count = where, count
        self._number_names, self._category_names = kinds_of(rows, columns.features, forced)
        self._numbers = Numbers(where, self._number_names, count)
        self._code_NC: NDArray[np.int32] = np.empty((count, len(self._category_names)), np.int32)
        self._categories = []
        for place, name in enumerate(self._category_names):
            may_be_numbers = is_text(rows.schema.field(name).type) and name not in forced
            code_N = self._code_NC[:, place]
            self._categories.append(Categories(where, name, code_N, may_be_numbers=may_be_numbers))
        self._label_name = columns.label
        self._labels = None if columns.label is None else Labels(where, columns.label, count)
        self._split = None if columns.split is None else _split(rows, columns.split, spec)

    def read(self, rows: Rows, names: tuple[str, ...]) -> None:
        """Fill the arrays with all rows."""
        start = 0
        for batch in rows.batches(names):
            if start + batch.num_rows <= self._count:
                self._add(start, batch)
            start += batch.num_rows
        if start != self._count:
            raise UserError(f"{self._where}: holds {start:,} rows, expected {self._count:,}; is it torn, or changing?")

    def _add(self, start: int, batch: Any) -> None:
        self._numbers.add(start, batch)
        for categories in self._categories:
            categories.add(start, batch)
        if self._labels is not None:
            self._labels.add(start, batch.column(self._label_name))
        if self._split is not None:
            self._split.add(start, batch)

    def table(self, notes: tuple[str, ...]) -> Table:
        """The table, once all rows are in."""
        self._numbers.require_finite()
        categories = tuple(column.finish() for column in self._categories)
        label_N: NDArray[np.int32] | None = None
        labels: tuple[Label, ...] = ()
        if self._labels is not None:
            label_N, labels = self._labels.finish()
        return Table(
            x_ND=self._numbers.x_ND,
            feature_names=self._number_names,
            code_NC=self._code_NC if categories else np.zeros((0, 0), np.int32),
            category_names=self._category_names,
            categories=categories,
            label_N=label_N,
            labels=labels,
            split_N=None if self._split is None else self._split.finish(),
            has_binary_labels=True,
            where=self._where,
            notes=notes,
        )


def _split(rows: Rows, name: str, spec: DataSpec) -> Groups | Times:
    kind = Times if spec.split.by == "time" else Groups
    return kind(rows.where, name, rows.schema.field(name).type, rows.count or 0)

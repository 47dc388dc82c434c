"""All columns of a table together: fitted, applied, undone, and as plain values to keep with a model."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, count
from typing import Any, Literal, Self

import numpy as np
import pandas as pd

from pipeline.data.preprocessing.categories import CategoryColumn
from pipeline.data.preprocessing.encoders import Rows, column_encoders, encoded, pixel_encoder
from pipeline.data.preprocessing.missing import IN_IMAGES, missing_counts, refuse_missing, require_complete
from pipeline.data.preprocessing.numbers import NumberColumn
from pipeline.data.preprocessing.pixels import Pixels
from pipeline.data.preprocessing.scales import Floats
from pipeline.data.table import Table
from pipeline.errors import UserError
from pipeline.spec.data import DataSpec


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What the training rows say of how a table becomes features. It is kept with a model, and can be undone.

    Attributes:
        missing: `refuse`, or `median`.
        numbers, categories: The columns of a table; none for images.
        pixels: Of images; None for a table.
    """

    missing: Literal["refuse", "median"]
    numbers: tuple[NumberColumn, ...] = ()
    categories: tuple[CategoryColumn, ...] = ()
    pixels: Pixels | None = None

    @classmethod
    def fit(cls, table: Table, rows_N: Rows, spec: DataSpec) -> Self:
        """Look at the N training rows.

        Raises:
            UserError: Values are missing and refused, or no column varies.
        """
        require_complete(table, spec, rows_N)
        if table.image_shape is not None:
            pixels = Pixels.fit(table.feature_names, table.image_shape, table.x_ND, rows_N, spec)
            return cls(missing="refuse", pixels=pixels)
        fitted = cls._of_columns(table, rows_N, spec)
        if not fitted.feature_names:
            raise UserError(f"{table.where}: no feature is left to train on: {'; '.join(fitted.notes)}")
        return fitted

    @classmethod
    def _of_columns(cls, table: Table, rows_N: Rows, spec: DataSpec) -> Self:
        numbers = [
            NumberColumn.fit(name, table.x_ND[rows_N, place], spec) for place, name in enumerate(table.feature_names)
        ]
        categories = [
            CategoryColumn.fit(name, table.code_NC[rows_N, place], table.categories[place], spec)
            for place, name in enumerate(table.category_names)
        ]
        return cls(missing=spec.missing, numbers=tuple(numbers), categories=tuple(categories))

    @property
    def columns(self) -> tuple[NumberColumn | CategoryColumn, ...]:
        """Those of a table, in the order of their features."""
        return (*self.numbers, *self.categories)

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the D features; no two are the same."""
        if self.pixels is not None:
            return self.pixels.features
        return _distinct(name for column in self.columns for name in column.features)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know: columns left out, and what stands in for missing values."""
        return tuple(note for note in (column.note() for column in self.columns) if note)

    def _require_complete(self, table: Table, rows_N: Rows | None = None) -> None:
        """Nothing where missing values are welcome.

        Raises:
            UserError: Some of the rows, by default of all, have no value in a column, which is named with their number.
        """
        if self.missing == "median":
            return
        counts = missing_counts(table, rows_N)
        if self.pixels is not None:
            refuse_missing(table.where, counts, IN_IMAGES)
        used = {column.name for column in self.columns if column.features}
        refuse_missing(table.where, {name: count for name, count in counts.items() if name in used})

    def transform(self, table: Table, rows_N: Rows | None = None) -> Floats:
        """The features of some rows, computed some at a time.

        Args:
            table: The table that this was fitted on, or another one with its columns in any order.
            rows_N: N row numbers; by default all.

        Returns:
            x_ND. Categories that train has not shown are in the bucket of the rare ones.

        Raises:
            UserError: A column is not there or is of another kind, or a value is missing and that is refused.
        """
        if self.pixels is not None:
            encoders = [pixel_encoder(self.pixels, table)]
        else:
            encoders = list(column_encoders(self.numbers, self.categories, table))
        self._require_complete(table, rows_N)
        rows_N = np.arange(len(table.x_ND)) if rows_N is None else rows_N
        return encoded(encoders, rows_N, len(self.feature_names))

    def unfamiliar(self, table: Table, rows_N: Rows) -> tuple[str, ...]:
        """What some rows lack that no training row lacked, as notes."""
        if self.missing == "refuse":
            return ()
        counts = missing_counts(table, rows_N)
        return tuple(
            f"rows without {column.name!r}, which every training row has: {counts[column.name]:,}; {column.stand_in()}"
            for column in self.columns
            if column.features and not column.missing and column.name in counts
        )

    def inverse(self, x_ND: Floats) -> pd.DataFrame:
        """The rows that features stand for, in the user's columns and units.

        Returns:
            A column for each of the table's, also those that are no feature: numbers as float32, NaN where an indicator
            says that the value is missing; categories as text, `(rare)` for the bucket; raw pixels for images.
        """
        if self.pixels is not None:
            return pd.DataFrame(self.pixels.decode(x_ND), columns=list(self.pixels.features))
        decoded, first = {}, 0
        for column in self.columns:
            width = len(column.features)
            decoded[column.name] = column.decode(x_ND[:, first : first + width])
            first += width
        return pd.DataFrame(decoded)

    def facts(self) -> dict[str, Any]:
        """What to remember of each column, for people: plain values."""
        kept = self.pixels.features if self.pixels else [column.name for column in self.columns if column.features]
        return {
            "columns": list(kept),
            "dropped": [column.name for column in self.columns if not column.features],
            "missing": {column.name: column.missing for column in self.columns if column.missing},
            "categories": {column.name: column.shown() for column in self.categories},
        }

    def plain(self) -> dict[str, Any]:
        """Dictionaries, lists, numbers and text, for JSON and `from_plain`."""
        return {
            "missing": self.missing,
            "numbers": [column.plain() for column in self.numbers],
            "categories": [column.plain() for column in self.categories],
            "pixels": self.pixels.plain() if self.pixels else None,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """What `plain` was made from, bit for bit."""
        return cls(
            missing=plain["missing"],
            numbers=tuple(map(NumberColumn.from_plain, plain["numbers"])),
            categories=tuple(map(CategoryColumn.from_plain, plain["categories"])),
            pixels=Pixels.from_plain(plain["pixels"]) if plain["pixels"] else None,
        )


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    """The same names, numbered where one comes again: a user's column may be called like a feature of another."""
    distinct: dict[str, None] = {}
    for name in names:
        numbered = (f"{name} ({number})" for number in count(2))
        distinct[next(free for free in chain([name], numbered) if free not in distinct)] = None
    return tuple(distinct)

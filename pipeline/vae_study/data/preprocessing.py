"""Preprocessing: how a table becomes features, fitted on the training rows only, and how features become a table."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import chain, count
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vae_study.config.data import DataConfig, Missing
from vae_study.data.feature_columns import CategoryColumn, NumberColumn, Pixels, sensor_scale
from vae_study.data.pixels import VALUES, PixelBytes
from vae_study.data.scales import Floats
from vae_study.data.table import Table, chunk_slices
from vae_study.data.windows import SequenceInput
from vae_study.errors import UserError

Rows = NDArray[np.int64]
# Gives the features of some rows, (N, F).
Encoder = Callable[[Rows], Floats]
# A message names no more columns than these.
COLUMNS_SHOWN = 5
# The columns that there are notes on, in this order.
NOTED = ("that are left out", "with one value in all training rows", "with missing values")


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a table becomes features, and the way back; it is saved with a model.

    Attributes:
        missing: `refuse`, `median` or `mask`.
        numbers, categories: The columns of a table; none for images.
        pixels: Of images; None for a table.
        reading: The settings of `data` that scoring must read with, as JSON.
        sequence: How the rows become windows; None if each row is an example.
    """

    missing: Missing
    numbers: tuple[NumberColumn, ...] = ()
    categories: tuple[CategoryColumn, ...] = ()
    pixels: Pixels | None = None
    reading: str = "{}"
    sequence: SequenceInput | None = None

    @classmethod
    def fit(cls, table: Table, rows_N: Rows, config: DataConfig, sequence: SequenceInput | None = None) -> Self:
        """Fit to the training rows `rows_N`: of windows, to the rows that those of train cover.

        Raise UserError if values are missing and refused, or if no column varies.
        """
        require_complete(table, config, rows_N)
        reading = json.dumps(dict(table.reading))
        if table.image_shape is not None:
            pixels = Pixels.fit(table, rows_N, config)
            return cls(missing="refuse", pixels=pixels, reading=reading)
        numbers = [
            NumberColumn.fit(name, table.x_ND[rows_N, column], config, table.origin(column))
            for column, name in enumerate(table.feature_names)
        ]
        if table.sensors:
            scales = [sensor_scale(table.x_ND[:, one :: table.sensors], rows_N, config) for one in range(table.sensors)]
            numbers = [
                # Masked, each step has the same features, also one at which train has no value.
                column
                if column.fill is None and config.missing != "mask"
                else replace(column, scale=scales[index % table.sensors])
                for index, column in enumerate(numbers)
            ]
        categories = [
            CategoryColumn.fit(
                name, table.code_NC[rows_N, column], table.categories[column], config, table.category_kind(column)
            )
            for column, name in enumerate(table.category_names)
        ]
        fitted = cls(
            missing=config.missing,
            numbers=tuple(numbers),
            categories=tuple(categories),
            reading=reading,
            sequence=sequence,
        )
        if not any(column.varies for column in fitted.columns):
            raise UserError(f"{table.where}: no column has several values to train on: {'; '.join(fitted.notes)}")
        return fitted

    @property
    def columns(self) -> tuple[NumberColumn | CategoryColumn, ...]:
        """Those of a table, in the order of their features."""
        return (*self.numbers, *self.categories)

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the D features; no two are the same. Of windows, step by step: `heat[t-1]`, `heat[t]`.

        Of whole series `heat[1]`, `heat[2]`.
        """
        if self.sequence is None:
            return self.row_features
        steps = range(self.sequence.steps)
        if self.sequence.is_whole:
            return tuple(f"{name}[{step + 1}]" for step in steps for name in self.row_features)
        before = [f"-{step}" if step else "" for step in reversed(steps)]
        return tuple(f"{name}[t{step}]" for step in before for name in self.row_features)

    @cached_property
    def row_features(self) -> tuple[str, ...]:
        """The names of the features of one row; of windows, those of a step."""
        if self.pixels is not None:
            return self.pixels.features
        return _distinct(name for column in self.columns for name in column.features)

    @property
    def read_names(self) -> tuple[str, ...]:
        """The names of the columns that scoring reads: those that are features, and those that order the rows."""
        ordering = () if self.sequence is None else self.sequence.columns
        return tuple(dict.fromkeys((*self.column_names, *ordering)))

    @property
    def column_names(self) -> tuple[str, ...]:
        """The names of the table's columns, or the pixels, that are features."""
        return self.pixels.features if self.pixels else tuple(column.name for column in self.columns if column.features)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know: columns left out or constant, and what replaces missing values, in few lines."""
        found: list[str] = []
        of_kinds: dict[str, list[str]] = {kind: [] for kind in NOTED}
        for column in self.columns:
            if note := column.note():
                of_kinds[NOTED[0 if not column.features else 2 if column.varies else 1]].append(note)
        for what, notes in of_kinds.items():
            more = f"{len(notes) - COLUMNS_SHOWN} more columns {what}: see vae-study check --columns"
            found += [*notes[:COLUMNS_SHOWN], more] if len(notes) > COLUMNS_SHOWN + 1 else notes
        return tuple(found)

    def transform(self, table: Table, rows_N: Rows | None = None) -> Floats:
        """The features of some rows, x_ND, computed in chunks; of windows, those of their rows.

        Categories unseen in training are in the bucket of rare ones. Raise UserError if a column is not there or is of
        another kind, or if a value is missing and that is refused.

        Args:
            table: The table of the fit, or another one with its columns in any order.
            rows_N: N row numbers; by default all.
        """
        if self.pixels is not None:
            encode = _pixel_encoder(self.pixels, table)
            encoders = [self.numbers_of(table.x_ND).__getitem__ if table.is_bytes else encode]
        else:
            encoders = [*_column_encoders(self.numbers, self.categories, table)]
        if self.missing == "refuse":
            counts = missing_counts(table, rows_N)
            if self.pixels is not None:
                _refuse_missing(table.where, counts, "none in an image")
            used = {*self.column_names}
            refused = {name: n for name, n in counts.items() if name in used}
            _refuse_missing(table.where, refused, "none, as in the training data (data.missing: refuse)")
        rows_N = np.arange(len(table.x_ND)) if rows_N is None else rows_N
        x_ND = np.empty((len(rows_N), len(self.row_features)), np.float32)
        for chunk in chunk_slices(len(rows_N), x_ND.shape[1]):
            np.concatenate([encode(rows_N[chunk]) for encode in encoders], axis=1, out=x_ND[chunk])
        return x_ND

    def numbers_of(self, byte_ND: NDArray[np.uint8]) -> PixelBytes:
        """The features of images of 8 bits a value, all of whose pixels have one scale: views of their bytes."""
        assert self.pixels is not None
        return PixelBytes(byte_ND, self.pixels.scale(np.arange(VALUES, dtype=np.float32)))

    def notes_on_new_gaps(self, table: Table, rows_N: Rows) -> tuple[str, ...]:
        """Notes on columns in which some rows have no value although every training row has one."""
        if self.missing == "refuse":
            return ()
        counts = missing_counts(table, rows_N)
        return tuple(
            f"rows without {column.name!r}, which every training row has: {counts[column.name]:,}; "
            f"{column.replacement()}"
            for column in self.columns
            if column.features and not column.missing and column.name in counts
        )

    def inverse(self, x_ND: Floats) -> pd.DataFrame:
        """The rows of some features, in the user's columns and units.

        Columns that are no feature are there too. Numbers are float64, NaN where an indicator says that the value is
        missing or where it is masked; categories are text, None for a missing one, `(rare)` for the bucket; images are
        raw pixels. A window has T rows.
        """
        x_ND = x_ND.reshape(-1, len(self.row_features))
        if self.pixels is not None:
            return pd.DataFrame(self.pixels.scale.inverse(x_ND), columns=list(self.pixels.features))
        decoded, first = {}, 0
        for column in self.columns:
            width = len(column.features)
            decoded[column.name] = column.decode(x_ND[:, first : first + width])
            first += width
        return pd.DataFrame(decoded)

    def summary(self) -> dict[str, Any]:
        """What to remember about each column, for people to read: plain values."""
        return {
            "columns": list(self.column_names),
            "dropped": [column.name for column in self.columns if not column.features],
            "missing": {column.name: column.missing for column in self.columns if column.missing},
            "categories": {column.name: column.display_names() for column in self.categories},
        }

    def plain(self) -> dict[str, Any]:
        """Dictionaries, tuples, numbers and text, for JSON and `from_plain`."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """The preprocessing that `plain` was made from, bit for bit."""
        return cls(
            missing=plain["missing"],
            numbers=tuple(map(NumberColumn.from_plain, plain["numbers"])),
            categories=tuple(map(CategoryColumn.from_plain, plain["categories"])),
            pixels=Pixels.from_plain(plain["pixels"]) if plain["pixels"] else None,
            reading=plain["reading"],
            sequence=None if plain["sequence"] is None else SequenceInput(**plain["sequence"]),
        )


def require_complete(table: Table, config: DataConfig, rows_N: Rows | None = None) -> None:
    """Raise UserError if any of the rows, by default all, lacks a value and data.missing, or an image, forbids it."""
    if table.image_shape is not None:
        _refuse_missing(table.where, missing_counts(table, rows_N), "none in an image")
    elif config.missing == "refuse":
        ways = "mask" if config.sequence else "median or mask"
        _refuse_missing(table.where, missing_counts(table, rows_N), f"none, or data.missing: {ways}")


def missing_counts(table: Table, rows_N: Rows | None = None) -> dict[str, int]:
    """How many of some rows, by default all, lack a value, for each column in which any does."""
    rows_N = np.arange(len(table.x_ND)) if rows_N is None else rows_N
    counts_D = np.zeros(len(table.feature_names), np.int64)
    counts_C = np.zeros(len(table.category_names), np.int64)
    if table.is_bytes:
        return {}
    for chunk in chunk_slices(len(rows_N), len(table.feature_names)):
        counts_D += np.isnan(table.x_ND[rows_N[chunk]]).sum(axis=0)
        if table.category_names:
            counts_C += (table.code_NC[rows_N[chunk]] < 0).sum(axis=0)
    names = (*table.feature_names, *table.category_names)
    counts = zip(names, [*counts_D.tolist(), *counts_C.tolist()], strict=True)
    return {name: count for name, count in counts if count}


def _refuse_missing(where: str, counts: Mapping[str, int], expected: str) -> None:
    if counts:
        named = [f"column {name!r} {count:,}" for name, count in list(counts.items())[:COLUMNS_SHOWN]]
        more = f" and {len(counts) - COLUMNS_SHOWN} columns more" if len(counts) > COLUMNS_SHOWN else ""
        raise UserError(f"{where}: missing values in {', '.join(named)}{more}; expected {expected}")


def _pixel_encoder(pixels: Pixels, table: Table) -> Encoder:
    """Raise UserError if the table has no images, or some of another size or depth."""

    def size(image_shape: tuple[int, ...]) -> str:
        return "x".join(map(str, image_shape))

    if table.image_shape != pixels.image_shape:
        got = "no images" if table.image_shape is None else f"images of {size(table.image_shape)}"
        raise UserError(f"{table.where}: got {got}, expected images of {size(pixels.image_shape)} pixels")
    if table.depth and pixels.depth and table.depth != pixels.depth:
        raise UserError(f"{table.where}: got images of {table.depth}, expected {pixels.depth}, as in training")
    return lambda rows_N: pixels.scale(table.x_ND[rows_N])


def _column_encoders(
    numbers: Sequence[NumberColumn], categories: Sequence[CategoryColumn], table: Table
) -> Iterator[Encoder]:
    """An encoder for each column that is a feature, found in the table by its name.

    Raise UserError if a column is not in the table, or is of the other kind there.
    """
    number_at = {name: column for column, name in enumerate(table.feature_names)}
    category_at = {name: column for column, name in enumerate(table.category_names)}
    used_numbers = [column for column in numbers if column.features]
    used_categories = [column for column in categories if column.features]
    wrong = [
        *_absent([column.name for column in used_numbers], number_at, category_at, "categories, expected numbers"),
        *_absent([column.name for column in used_categories], category_at, number_at, "numbers, expected categories"),
    ]
    if wrong:
        raise UserError(f"{table.where}: {', '.join(wrong)}; expected every column that the model was trained on")
    yield from (_number_encoder(column, table, number_at[column.name]) for column in used_numbers)
    yield from (_category_encoder(column, table, category_at[column.name]) for column in used_categories)


def _absent(names: Sequence[str], found: Mapping[str, int], other: Mapping[str, int], as_other: str) -> Iterator[str]:
    for name in names:
        if name not in found:
            yield f"column {name!r} holds {as_other}" if name in other else f"no column {name!r}"


def _number_encoder(column: NumberColumn, table: Table, index: int) -> Encoder:
    return lambda rows_N: column.encode(table.x_ND[rows_N, index], table.origin(index))


def _category_encoder(column: CategoryColumn, table: Table, index: int) -> Encoder:
    index_V = column.indices(table.categories[index])
    return lambda rows_N: column.encode(index_V[table.code_NC[rows_N, index]])


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    """The same names, numbered where one is repeated: a user's column may have the name of another's feature."""
    distinct: dict[str, None] = {}
    for name in names:
        numbered = (f"{name} ({number})" for number in count(2))
        distinct[next(free for free in chain([name], numbered) if free not in distinct)] = None
    return tuple(distinct)

"""Differences: in what scored rows differ from the training rows of a model, counted while they are scored."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from vae_study.data.feature_columns import CategoryColumn, NumberColumn, Pixels
from vae_study.data.inspection import folded
from vae_study.data.preprocessing import Preprocessing
from vae_study.data.table import Table

# Notes name no more columns, and no more examples of a column's values, than these.
COLUMNS_SHOWN = 5
# If all scored images use a smaller share of training's range of values, they are of another scale.
SMALLEST_SHARE = 1 / 16


class Differences:
    """Counts missing values, values and categories that training rows never have, and pixels beyond their range."""

    def __init__(self, preprocessing: Preprocessing, notes: Sequence[str] = ()) -> None:
        """Begin.

        Args:
            preprocessing: The model's. Columns that are no feature are not looked at.
            notes: What is known before the rows are read.
        """
        self._columns = {column.name: column for column in preprocessing.columns if column.features}
        self._pixels, self._given = preprocessing.pixels, dict.fromkeys(notes)
        self._near = {
            name: {folded(value): value for value in column.kept if value is not None}
            for name, column in self._columns.items()
            if isinstance(column, CategoryColumn)
        }
        self.clear()

    def clear(self) -> None:
        """Forget all rows."""
        self._rows = self._beyond = 0
        self._low, self._high = np.inf, -np.inf
        self._missing: Counter[str] = Counter()
        self._changed: Counter[str] = Counter()
        self._unknown: dict[tuple[str, bool], Counter[str]] = {}
        self._said = dict(self._given)

    def add(self, table: Table) -> None:
        """Take the rows of a table, and its notes."""
        self._rows += len(table.x_ND)
        self.say(table.notes)
        if self._pixels is not None:
            self._add_pixels(self._pixels, table.x_ND)
            return
        for index, name in enumerate(table.feature_names):
            self._add_missing(name, np.isnan(table.x_ND[:, index]))
            column = self._columns.get(name)
            if isinstance(column, NumberColumn) and column.is_constant:
                self._changed[name] += int((column.encode(table.x_ND[:, index], table.origin(index))[:, 0] > 0).sum())
        for index, name in enumerate(table.category_names):
            if name in self._near:
                self._add_missing(name, table.code_NC[:, index] < 0)
                self._add_unknown(name, table.categories[index], table.code_NC[:, index])

    def say(self, notes: Sequence[str]) -> None:
        """Take notes that are known only once the rows are read."""
        self._said |= dict.fromkeys(notes)

    def _add_missing(self, name: str, is_missing_N: NDArray[np.bool_]) -> None:
        if name in self._columns and (count := int(is_missing_N.sum())):
            self._missing[name] += count

    def _add_unknown(self, name: str, values: Sequence[str], code_N: NDArray[np.int32]) -> None:
        column = self._columns[name]
        assert isinstance(column, CategoryColumn)
        kept = {*column.kept}
        unknown = [place for place, value in enumerate(values) if value not in kept]
        if not unknown:
            return
        count_V = np.bincount(code_N + 1, minlength=len(values) + 1)[1:]
        for place in unknown:
            value = values[place]
            is_near = folded(value) in self._near[name] or not value.strip()
            found = self._unknown.setdefault((name, is_near), Counter())
            # Of many values, the first ones serve as examples.
            found[value if value in found or len(found) < COLUMNS_SHOWN else ""] += int(count_V[place])

    def _add_pixels(self, pixels: Pixels, x_ND: NDArray[np.floating]) -> None:
        low_N, high_N = x_ND.min(axis=1), x_ND.max(axis=1)
        width = pixels.high - pixels.low
        self._beyond += int(((low_N < pixels.low - width) | (high_N > pixels.high + width)).sum())
        self._low, self._high = min(self._low, float(low_N.min())), max(self._high, float(high_N.max()))

    def notes(self) -> Iterator[str]:
        """What a user should know about the rows."""
        yield from self._said
        yield from self._on_missing()
        yield from self._on_changed()
        yield from self._on_unknown()
        if self._pixels is not None and self._rows:
            yield from self._on_pixels(self._pixels)

    def _on_missing(self) -> Iterator[str]:
        for name, count in [*self._missing.items()][:COLUMNS_SHOWN]:
            column = self._columns[name]
            is_known = isinstance(column, CategoryColumn) and None in column.kept
            instead = "" if is_known else f"; {column.replacement()}"
            yield f"{count:,} of {self._rows:,} values of {name!r} are missing{instead}"
        others = [*self._missing.values()][COLUMNS_SHOWN:]
        if others:
            yield f"{sum(others):,} values are missing in {len(others):,} columns more"

    def _on_changed(self) -> Iterator[str]:
        found = [(name, count) for name, count in self._changed.items() if count]
        for name, count in found[:COLUMNS_SHOWN]:
            said = f"warning: {count:,} of {self._rows:,} rows have another value of {name!r} than all training rows"
            yield f"{said}, which counts as far off; if it means nothing, train without the column (data.exclude)"
        if len(found) > COLUMNS_SHOWN:
            yield f"warning: so have rows in {len(found) - COLUMNS_SHOWN:,} columns more"

    def _on_unknown(self) -> Iterator[str]:
        for (name, is_near), found in self._unknown.items():
            count, example = found.total(), next(iter(found))
            column = self._columns[name]
            said = f"warning: {count:,} of {self._rows:,} rows have a value of {name!r}"
            if is_near:
                known = self._near[name].get(folded(example))
                how = "is blank" if known is None else f"differs from {known!r} only in blanks, case or unicode form"
                yield f"{said} such as {example!r}, which {how}; they count as rare: mend the file"
            elif isinstance(column, CategoryColumn) and (not column.has_rare or 2 * count > self._rows):
                # Otherwise they may be those that were rare in training.
                yield f"{said} that is none of the model's categories, such as {example!r}; they count as rare"

    def _on_pixels(self, pixels: Pixels) -> Iterator[str]:
        trained = f"those of training are {pixels.low:g} to {pixels.high:g}; mend the scored images"
        if self._beyond:
            yield (
                f"warning: {self._beyond:,} of {self._rows:,} images have values far outside of training's: the scored "
                f"values are {self._low:g} to {self._high:g}, {trained}"
            )
        elif self._high - self._low < SMALLEST_SHARE * (pixels.high - pixels.low):
            yield (
                f"warning: the values of all {self._rows:,} images are {self._low:g} to {self._high:g}, of another "
                f"scale than training's: {trained}"
            )

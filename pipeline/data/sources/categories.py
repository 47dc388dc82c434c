"""The categorical features of a table, gathered batch by batch."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.sources.problems import column_error, of_values
from pipeline.data.sources.settling import MISSING_WORDS
from pipeline.data.sources.vocabulary import Vocabulary, encoded, plain_text

CATEGORY_LIMIT = 10_000
_ROWS_SHOWN = 3
_EXAMPLE_LENGTH = 40


class Categories:
    """One categorical feature.

    Attributes:
        vocabulary: Its distinct values, as text.
    """

    def __init__(self, where: str, name: str, code_N: NDArray[np.int32], *, may_be_numbers: bool) -> None:
        """Gather a feature.

        Args:
            where: The file.
            name: The column.
            code_N: Where the codes go.
            may_be_numbers: Whether a column in which numbers prevail is a mistake, rather than meant as categories.
        """
        self.vocabulary = Vocabulary(plain_text, CATEGORY_LIMIT)
        self._where, self._name, self._code_N = where, name, code_N
        self._may_be_numbers = may_be_numbers
        self._numbers = self._texts = 0
        self._example = ""
        self._text_rows: list[int] = []

    def add(self, start: int, batch: Any) -> None:
        """Put a batch at the rows from `start` on."""
        values, local_N = encoded(batch.column(self._name))
        self._code_N[start : start + len(local_N)] = self.vocabulary.codes(values, local_N)
        if self._may_be_numbers:
            self._count_numbers(start, values, local_N)

    def _count_numbers(self, start: int, values: list[Any], local_N: NDArray[np.int32]) -> None:
        count_V = np.bincount(local_N[local_N >= 0], minlength=len(values))
        is_number_V = np.array([reads_as_number(value) for value in values], bool)
        # The last entry answers for the missing, whose place is -1.
        is_text_V = np.array([*(not reads_as_number(value) and not _is_missing(value) for value in values), False])
        self._numbers += int(count_V[is_number_V].sum())
        self._texts += int(count_V[is_text_V[:-1]].sum())
        if len(self._text_rows) < _ROWS_SHOWN and is_text_V.any():
            places_N = np.flatnonzero(is_text_V[local_N])[: _ROWS_SHOWN - len(self._text_rows)]
            self._example = self._example or next((values[local_N[place]] for place in places_N), "")
            self._text_rows += (places_N + start + 1).tolist()

    def finish(self) -> tuple[str, ...]:
        """The sorted categories, once all batches are in; the codes become places among them.

        Raises:
            UserError: There are too many, or the column seems to be one of numbers.
        """
        if self._texts and self._numbers >= self._texts:
            raise column_error(self._where, self._name, self._mixed())
        if self.vocabulary.is_full:
            said = f"more than {CATEGORY_LIMIT:,} distinct values in {len(self._code_N):,} rows"
            raise column_error(self._where, self._name, f"{said}; an identifier? leave it out through data.columns")
        self._code_N[:] = self.vocabulary.ranks()[self._code_N]
        return tuple(self.vocabulary.sorted_values())

    def _mixed(self) -> str:
        rows = ", ".join(f"{row:,}" for row in self._text_rows) + ", ..." * (self._texts > len(self._text_rows))
        said = of_values(self._texts, len(self._code_N), f"text such as {self._example[:_EXAMPLE_LENGTH]!r}")
        place = f"row{'s' * (self._texts > 1)} {rows}"
        return f"{said} ({place}); expected numbers, or the column in data.categories.columns"


def reads_as_number(value: str) -> bool:
    """Whether a text reads as a number."""
    if value is None or "_" in value or _is_missing(value):
        return False
    try:
        float(value)
    except ValueError:
        return False
    return True


def _is_missing(value: str | None) -> bool:
    return value is None or value.strip() in MISSING_WORDS

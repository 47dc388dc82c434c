"""What text stands for: the type of a column that came as text, and how a category that reads as a number is written.

Training reads a whole column before it decides on a type. Scoring sees one batch at a time and goes by what training
decided, which is saved with the model.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vae_study.data.sources.category_index import plain_text
from vae_study.data.sources.files import ROWS_SHOWN, column_error, of_values
from vae_study.data.sources.source import Rows, is_text
from vae_study.data.sources.spelling import (
    MISSING_WORDS,
    is_missing_word,
    number_remedies,
    plain_numbers,
    reads_as_number,
)
from vae_study.data.table import CategoryKind

TEXT = pa.string()
INTEGER, REAL, TRUTH = pa.int64(), pa.float64(), pa.bool_()
_CANDIDATES = (INTEGER, REAL, TRUTH, pa.timestamp("ns"), pa.timestamp("ns", "UTC"))
_REMEMBERED = 65_536
# A message shows no more of a text than this.
EXAMPLE_LENGTH = 40


def infer_types(
    rows: Rows,
    names: Sequence[str],
    as_declared: Collection[str] = (),
    as_spelled: Collection[str] = (),
    as_text: Collection[str] = (),
    as_numbers: Collection[str] = (),
) -> Rows:
    """The same rows with a count and only the named columns; text columns have the type that all their values read as.

    Args:
        rows: Read once through, if a type or the count is not known.
        names: The columns to keep.
        as_declared: Those of them that stay text if they are text.
        as_spelled: Those whose values are compared as they are spelled. Text that reads as numbers loses spaces around
            and missing words, and becomes numbers only if they are written back as the same text: 0123 and 1.10 stay
            text.
        as_text: Those of as_spelled that stay text although their numbers would be written back as they were.
        as_numbers: Those whose numbers are written as rows.numbers_as says.
    """
    open_names = [name for name in names if name not in as_declared and is_text(rows.schema.field(name).type)]
    if rows.count is not None and not open_names:
        return replace(rows, schema=pa.schema([rows.schema.field(name) for name in names]))
    inferred = {
        name: _Inference(
            tests_spelling=name in as_spelled,
            may_convert=name not in as_text,
            numbers_as=rows.numbers_as if name in as_numbers else {},
        )
        for name in open_names
    }
    count = 0
    for batch in rows.batches(open_names):
        count += batch.num_rows
        for name, one in inferred.items():
            one.add(batch.column(name))
        if rows.count is not None and all(one.dtype == TEXT for one in inferred.values()):
            break
    dtypes = {name: one.final for name, one in inferred.items()}
    fields = [(name, dtypes.get(name, rows.schema.field(name).type)) for name in names]
    spelled = frozenset(name for name, one in inferred.items() if one.reads_as_number and one.final == TEXT)
    changed = {name: dtype for name, dtype in dtypes.items() if dtype != TEXT or name in spelled}

    def batches(wanted: Sequence[str]) -> Iterator[Any]:
        for batch in rows.batches(wanted):
            yield _converted_batch(rows.where, batch, changed, {name: inferred[name].numbers_as for name in changed})

    return replace(
        rows,
        schema=pa.schema(fields),
        count=count if rows.count is None else rows.count,
        batches=batches,
        spelled=spelled,
    )


class _Inference:
    """What the values of one column of text read as, batch by batch.

    Attributes:
        dtype: The narrowest type so far; None if all values are missing.
        numbers_as: How its numbers are written, as Rows has it.
    """

    def __init__(self, *, tests_spelling: bool, may_convert: bool, numbers_as: Mapping[str, Any]) -> None:
        self.dtype: Any = None
        self.numbers_as = numbers_as
        self._tests_spelling = tests_spelling
        self._is_faithful = may_convert
        self._whole_forms: set[bool] = set()

    def add(self, column: Any) -> None:
        """Take a batch, a pyarrow array of text."""
        self.dtype = narrowest_type(plain_numbers(column, self.numbers_as), self.dtype)
        if self._tests_spelling and self._is_faithful and self.dtype in (INTEGER, REAL):
            self._is_faithful = self._keeps_spelling(column)

    def _keeps_spelling(self, column: Any) -> bool:
        """Whether numbers are written back as the same text, and whole ones all with .0 or all without."""
        text = _without_missing_words(column.cast(TEXT)).drop_null().unique()
        written = text.cast(REAL).cast(TEXT) if self.dtype == REAL else text.cast(INTEGER).cast(TEXT)
        whole = pc.match_substring_regex(text, r"\.0$")
        bare = pc.replace_substring_regex(text, r"\.0$", "")
        same = pc.equal(bare, pc.replace_substring_regex(written, r"\.0$", ""))
        has_point = pc.match_substring_regex(text, r"[.eE]")
        self._whole_forms |= {True} if pc.any(whole).as_py() else set()
        self._whole_forms |= {False} if not pc.all(has_point, min_count=0).as_py() else set()
        return pc.all(same, min_count=0).as_py() and len(self._whole_forms) < 2

    @property
    def reads_as_number(self) -> bool:
        """Whether all values are numbers, or truth values."""
        return self.dtype in (INTEGER, REAL, TRUTH)

    @property
    def final(self) -> Any:
        """The type of the column; one without a single value is one of missing numbers."""
        if self.dtype is None:
            return REAL
        return self.dtype if self._is_faithful else TEXT


def narrowest_type(column: Any, so_far: Any = None) -> Any:
    """The first type that the values of a batch, and all before them, read as; None if all are missing.

    Args:
        column: A pyarrow array of text.
        so_far: The type of the values before it; None if all were missing.
    """
    if so_far == TEXT:
        return TEXT
    column = column.cast(TEXT)
    if so_far is None:
        column = _without_missing_words(column)
        if column.null_count == len(column):
            return None
    candidates = _CANDIDATES if so_far is None else (INTEGER, REAL) if so_far == INTEGER else (so_far,)
    return next((dtype for dtype in candidates if converted(column, dtype) is not None), TEXT)


def converted(column: Any, dtype: Any) -> Any:
    """A text column as another type, missing words as nulls; None if a value does not read as that type."""
    column = column.cast(TEXT)
    if dtype == TEXT:
        return _without_missing_words(column)
    if dtype == TRUTH:
        return _truths(_without_missing_words(column))
    try:
        return column.cast(dtype)
    except pa.ArrowInvalid:
        pass
    try:
        return _without_missing_words(column).cast(dtype)
    except pa.ArrowInvalid:
        return None


def _converted_batch(
    where: str, batch: Any, dtypes: Mapping[str, Any], numbers_as: Mapping[str, Mapping[str, Any]]
) -> Any:
    names = batch.schema.names
    columns = []
    for name in names:
        column = batch.column(name)
        if name in dtypes:
            column = converted(plain_numbers(column, numbers_as[name]), dtypes[name])
        if column is None:
            raise column_error(where, name, "changed while it was being read; expected a file that stays as it is")
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, names)


def _without_missing_words(column: Any) -> Any:
    trimmed = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.is_in(trimmed, value_set=pa.array(MISSING_WORDS, TEXT)), pa.scalar(None, TEXT), trimmed)


def _truths(column: Any) -> Any:
    """Truth values of the words true and false; Arrow's own cast would take 0 and 1 too, which are numbers."""
    lower = pc.utf8_lower(column)
    known = pc.all(pc.is_in(lower.drop_null(), value_set=pa.array(["true", "false"])), min_count=0).as_py()
    return pc.equal(lower, "true") if known else None


class MixedColumn:
    """Counts the numbers and the words in a column of text: numbers with a few words in it are a mistake."""

    def __init__(self, where: str, name: str, count: int, numbers_as: Mapping[str, Any]) -> None:
        self._where, self._name, self._count, self._numbers_as = where, name, count, numbers_as
        self._numbers = self._texts = 0
        self._example = ""
        self._text_rows: list[int] = []

    def add(self, first: int, values: Sequence[str], local_N: NDArray[np.int32]) -> None:
        """Take a batch: its distinct values, and the index of each row's value among them, -1 for a missing one."""
        count_V = np.bincount(local_N[local_N >= 0], minlength=len(values))
        plain = plain_numbers(pa.array(values, TEXT), self._numbers_as).to_pylist()
        is_number_V = np.array([reads_as_number(value) for value in plain], bool)
        # The last entry is for missing values.
        is_text_V = np.array([*(not reads_as_number(value) and not is_missing_word(value) for value in plain), False])
        self._numbers += int(count_V[is_number_V].sum())
        self._texts += int(count_V[is_text_V[:-1]].sum())
        if len(self._text_rows) < ROWS_SHOWN and is_text_V.any():
            rows_N = np.flatnonzero(is_text_V[local_N])[: ROWS_SHOWN - len(self._text_rows)]
            self._example = self._example or next((values[local_N[row]] for row in rows_N), "")
            self._text_rows += (rows_N + first + 1).tolist()

    def require_text(self) -> None:
        """Raise UserError if at least half of the values that are not missing are numbers, and some are words."""
        if not self._texts or self._numbers < self._texts:
            return
        rows = ", ".join(f"{row:,}" for row in self._text_rows) + ", ..." * (self._texts > len(self._text_rows))
        said = of_values(self._texts, self._count, f"text such as {self._example[:EXAMPLE_LENGTH]!r}")
        said = f"{said} (row{'s' * (self._texts > 1)} {rows})"
        others = "the column in data.categories.columns, or the text in data.missing_values"
        expected = "; ".join([f"expected numbers, or {others}", *number_remedies([self._example])])
        raise column_error(self._where, self._name, f"{said}; {expected}")


class CategoryNormalizer:
    """Finds the category of one column that a scored value stands for.

    Text is compared as it is spelled: 07 is not 7. Only where training or the scored table has numbers, which have no
    spelling, are they compared as numbers.

    Attributes:
        are_numbers: Whether some of the model's categories read as numbers or truth values.
        normalize: Gives the category that a value stands for, None for a missing one; the value as text if the model
            does not know the category.
    """

    def __init__(self, kept: Sequence[str | None], kind: CategoryKind) -> None:
        """Look at the model's categories, and at what they were in training; None is the missing value."""
        self._kept = frozenset(value for value in kept if value is not None)
        self._kind = kind
        by_number: dict[str, list[str]] = {}
        for value in self._kept:
            if (number := _number_text(value)) is not None:
                by_number.setdefault(number, []).append(value)
        # Of two spellings of one number, neither is meant.
        self._by_number = {number: found[0] for number, found in by_number.items() if len(found) == 1}
        self.are_numbers = not self._kept or kind != "text" or bool(by_number)
        self.normalize = lru_cache(_REMEMBERED)(self._normalize)

    def of_source(self, *, is_untyped: bool, is_number: bool) -> Callable[[Any], str | None]:
        """The function for the values of a column: text of a file without types, numbers, or declared text."""
        if is_number:
            return lambda value: self._of_number(plain_text(value))
        return self.normalize if is_untyped else plain_text

    def _normalize(self, text: str) -> str | None:
        if self._kind == "text" or text in self._kept:
            return text
        if is_missing_word(text):
            return None
        trimmed = text.strip()
        return trimmed if self._kind == "spelled" else self._of_number(trimmed)

    def _of_number(self, text: str | None) -> str | None:
        if text is None or text in self._kept:
            return text
        return self._by_number.get(_number_text(text) or "", text)


@lru_cache(_REMEMBERED)
def _number_text(text: str) -> str | None:
    """The one way to write the number or truth value that a text stands for; None if it stands for none."""
    rewritten = (_rewritten(text, dtype) for dtype in (INTEGER, REAL, TRUTH))
    return next((one for one in rewritten if one is not None), None)


def _rewritten(text: str, dtype: Any) -> str | None:
    """A text after training read it as a type and wrote it as a category; None if it does not read as that type."""
    values = converted(pa.array([text], TEXT), dtype)
    return None if values is None else plain_text(values[0].as_py())

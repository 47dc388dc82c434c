"""A table that is read in batches: what parquet, csv and data frames have in common."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

# Batches hold about this many values, so that a wide table's take no more memory than a narrow one's.
_VALUES = 2_000_000


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Rows that can be read again and again, in batches of pyarrow.

    Attributes:
        where: The file, as the user gave it.
        schema: The pyarrow schema of all columns.
        count: How many rows; None where only reading tells.
        batches: Gives record batches of some of the columns. The files of one table may differ in a column's width,
            such as int32 and int64.
        is_typed: Whether types were declared; the csv format has text only.
        index: The columns that pandas wrote as an index.
        folder_keys: The columns that only the names of folders hold (year=2024).
    """

    where: str
    schema: Any
    count: int | None
    batches: Callable[[Sequence[str]], Iterator[Any]]
    is_typed: bool = True
    index: tuple[str, ...] = ()
    folder_keys: tuple[str, ...] = ()


def batch_rows(columns: int) -> int:
    """How many rows a batch of so many columns should have."""
    return min(max(_VALUES // max(columns, 1), 256), 65_536)

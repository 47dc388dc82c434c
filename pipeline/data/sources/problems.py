"""What is wrong with a source, in words: the file, the column, the count, what came and what was expected."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa

from pipeline.errors import UserError
from pipeline.spec.problems import nearest

# A file of a thousand columns would bury the message under their names.
_NAMES_SHOWN = 20


# What Arrow and Python's own readers raise on damaged bytes.
_DAMAGE = (pa.ArrowException, OSError, ValueError, EOFError)


@contextmanager
def reading(where: str, kind: str, damage: tuple[type[Exception], ...] = _DAMAGE) -> Iterator[None]:
    """Turn what a reader raises on a damaged file into a UserError that names the file.

    Args:
        where: The file, as the user would call it.
        kind: What it was read as, such as "Parquet".
        damage: The exceptions that mean damage.
    """
    try:
        yield
    except UserError:
        raise
    except damage as error:
        lines = str(error).splitlines() or [type(error).__name__]
        raise UserError(f"{where}: cannot be read as {kind}; is it torn, or of another kind? ({lines[0]})") from error


def of_values(count: int, total: int, what: str) -> str:
    """A share of values in words: "3 of 5,000 values are missing"."""
    return f"{count:,} of {total:,} values {'is' if count == 1 else 'are'} {what}"


def column_error(where: str, column: str, what: str) -> UserError:
    """An error that names file and column first."""
    return UserError(f"{where}: column {column!r}: {what}")


def no_such(where: str, what: str, name: str, valid: Sequence[str]) -> UserError:
    """An error for a name that does not exist, with those that do and the nearest of them.

    Args:
        where: The file.
        what: What the name was to be, such as "column".
        name: The name that came.
        valid: The names that exist.
    """
    more = f" and {len(valid) - _NAMES_SHOWN} more" if len(valid) > _NAMES_SHOWN else ""
    expected = f"expected one of {', '.join(valid[:_NAMES_SHOWN])}{more}" if valid else "there is none at all"
    return UserError("; ".join([f"{where}: no {what} {name!r}", expected, *nearest(name, valid)]))


def require_none_missing(where: str, column: str, missing: int, count: int, what: str) -> None:
    """Nothing, where a column has a value in every row.

    Args:
        where: The file.
        column: The column.
        missing: In how many rows it has none.
        count: The number of rows.
        what: What was expected there, such as "a label".

    Raises:
        UserError: It has not.
    """
    if missing:
        raise column_error(where, column, f"{of_values(missing, count, 'missing')}; expected {what} in every row")

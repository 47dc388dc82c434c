"""How a CSV file is written: encoding, separator, comment lines, names, decimal commas; found from its first lines."""

import codecs
import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from vae_study.config.data import SEPARATORS, DataConfig
from vae_study.data.sources.spelling import reads_as_number
from vae_study.errors import UserError

HEAD_BYTES, HEAD_LINES = 1 << 18, 100
_BOMS = ((codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"), (codecs.BOM_UTF8, "utf-8-sig"))
# What is behind the first bytes of files that are named .csv by mistake.
_OTHER_KINDS = {
    b"\x1f\x8b": "compressed with gzip and its name does not end with .gz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd and its name does not end with .zst",
    b"BZh": "compressed with bzip2 and its name does not end with .bz2",
    b"PK\x03\x04": "a zip archive or a spreadsheet",
    b"PAR1": "a Parquet file (data.source: parquet)",
    b"SQLite format 3": "an SQLite database",
}
_COMMENT = "#"
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,(\d{1,2}|\d{4,})|[-+]?0,\d+|[-+]?\d{1,3}(\.\d{3})+,\d+")
_THOUSANDS_POINT = re.compile(r"[-+]?\d{1,3}(\.\d{3})+,\d+")
_DECIMAL_POINT = re.compile(r"[-+]?\d*\.(\d{1,2}|\d{4,})")
_SHOWN = 40


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How to read a CSV file.

    Attributes:
        encoding: As Python calls it.
        separator: Between values.
        comment: What lines that are skipped begin with; None if there are none.
        skipped: The number of lines before the first one with names or values.
        names: The names of the columns, without spaces around them.
        has_header: Whether the names are in the file.
        decimal, thousands: If found in the values; None for a decimal point and nothing.
        notes: What was found and not declared.
    """

    encoding: str
    separator: str
    comment: str | None
    skipped: int
    names: tuple[str, ...]
    has_header: bool
    decimal: str | None
    thousands: str | None
    notes: tuple[str, ...]


def find_dialect(where: str, head: bytes, config: DataConfig) -> Dialect:
    """The dialect of a file; what the config declares is not guessed.

    Raise UserError if the file is empty or cannot be decoded, or if its first line holds values where names should be.

    Args:
        where: What messages call the file.
        head: Its first HEAD_BYTES.
        config: The data section.
    """
    if kind := next((kind for magic, kind in _OTHER_KINDS.items() if head.startswith(magic)), None):
        raise UserError(f"{where}: is {kind}, expected text")
    encoding = config.encoding or _encoding(head)
    # Names in another encoding are refused later, with their line.
    text = codecs.getincrementaldecoder(encoding)("replace").decode(head)
    lines = text.splitlines(keepends=True)
    lines = lines if len(head) < HEAD_BYTES or len(lines) < 2 else lines[:-1]
    notes = [] if encoding.startswith("utf-8") or config.encoding else [f"read as {encoding} (data.encoding)"]
    skipped, separator, is_declared = 0, config.separator, config.separator is not None
    while lines and not lines[0].strip("\ufeff\r\n\t "):
        skipped, lines = skipped + 1, lines[1:]
    if lines and (found := re.fullmatch(r'\ufeff?"?sep=(.)"?\s*', lines[0])):
        separator, is_declared = separator or found[1], True
        skipped, lines = skipped + 1, lines[1:]
        notes.append(f"the first line declares the separator {found[1]!r} (data.separator)")
    comment = config.comment
    separator = separator or _separator([line for line in lines if not line.startswith(comment or _COMMENT)])
    leading = _leading_comments(lines, comment or _COMMENT, separator)
    if leading and comment is None:
        comment = _COMMENT
        notes.append(f"lines that begin with {comment!r} are left out as comments (data.comment)")
    skipped, lines = skipped + leading, lines[leading:]
    if separator != "," and not is_declared:
        notes.append(f"read with the separator {separator!r} (data.separator)")
    rows = [*_rows([line for line in lines[:HEAD_LINES] if not (comment and line.startswith(comment))], separator)]
    if not rows:
        raise UserError(f"{where}: holds no line; expected the columns' names in the first one")
    first, values = rows[0], rows[1:]
    if config.header:
        names = tuple(cell.strip().strip("\ufeff") for cell in first)
        notes += _header_notes(where, names, values, skipped + 1)
    else:
        names, values = tuple(f"column {number}" for number in range(1, len(first) + 1)), rows
    decimal, thousands = _numbers_as(values, separator, config)
    if decimal and config.decimal is None:
        notes.append("numbers such as 0,5 are read with a decimal comma (data.decimal)")
    return Dialect(
        encoding=encoding,
        separator=separator,
        comment=comment,
        skipped=skipped,
        names=names,
        has_header=config.header,
        decimal=decimal,
        thousands=thousands,
        notes=tuple(notes),
    )


def _encoding(head: bytes) -> str:
    for bom, name in _BOMS:
        if head.startswith(bom):
            return name
    # Without a byte order mark, every second byte of mostly Latin text is zero.
    even, odd = head[0:400:2].count(0), head[1:400:2].count(0)
    half = len(head[:400]) // 4
    if len(head) >= 4 and max(even, odd) > half and min(even, odd) == 0:
        return "utf-16-le" if odd else "utf-16-be"
    return "utf-8"


def _rows(lines: Sequence[str], separator: str) -> Iterator[list[str]]:
    try:
        yield from (row for row in csv.reader(lines, delimiter=separator) if row)
    except csv.Error:
        return


def _separator(lines: Sequence[str]) -> str:
    """The separator that divides the lines evenly, by preference into numbers; a comma if none divides them."""
    best, chosen = (0.0, 0.0, 0), ","
    for separator in SEPARATORS:
        rows = [*_rows(lines[:HEAD_LINES], separator)]
        if not rows or len(rows[0]) < 2:
            continue
        even = sum(len(row) == len(rows[0]) for row in rows) / len(rows)
        cells = [cell for row in rows[1:] for cell in row] or rows[0]
        numbers = sum(_is_number(cell) for cell in cells) / len(cells)
        if (score := (even, round(numbers, 3), len(rows[0]))) > best:
            best, chosen = score, separator
    return chosen


def _is_number(cell: str) -> bool:
    return reads_as_number(cell.strip()) or _DECIMAL_COMMA.fullmatch(cell.strip()) is not None


def _leading_comments(lines: Sequence[str], comment: str, separator: str) -> int:
    """How many lines come before the names; the names may begin with the sign of a comment themselves."""
    count = 0
    while count < len(lines) and (lines[count].startswith(comment) or not lines[count].strip()):
        count += 1
    if count and count < len(lines):
        last, following = (next(_rows([line], separator), []) for line in (lines[count - 1], lines[count]))
        is_header = len(last) == len(following) > 1 and sum(map(_is_number, following)) > sum(map(_is_number, last))
        return count - 1 if is_header else count
    return count if count < len(lines) else 0


def _header_notes(where: str, names: Sequence[str], values: Sequence[Sequence[str]], line: int) -> Iterator[str]:
    """Notes on names that look like values.

    Raise UserError if half of them are numbers, unless these ascend as the years or numbers of columns do.
    """
    numbers = [name for name in names if _is_number(name)]
    whole = [int(name) for name in numbers if name.isdigit()]
    ascends = len(whole) == len(numbers) and all(low < high for low, high in pairwise(whole))
    remedy = "data.header: false reads it as a row"
    shown = ", ".join(names[:5])[:_SHOWN]
    if numbers and 2 * len(numbers) >= len(names) and not ascends:
        raise UserError(
            f"{where}:{line}: the first line holds values ({shown}, ...), expected the columns' names; {remedy}"
        )
    recurs = [any(name == row[index].strip() for row in values if index < len(row)) for index, name in enumerate(names)]
    if len(values) > 1 and (all(recurs) or (numbers and not ascends)):
        yield f"warning: the first line ({shown}, ...) looks like values and is read as the columns' names; {remedy}"


def _numbers_as(values: Sequence[Sequence[str]], separator: str, config: DataConfig) -> tuple[str | None, str | None]:
    """The signs for decimals and thousands: as declared, or as a comma that can be nothing else."""
    if config.decimal is not None or config.thousands is not None:
        return config.decimal, config.thousands
    if separator == ",":
        return None, None
    signs = "".join(config.signs)
    cells = [cell.strip().strip(signs).strip() for row in values for cell in row]
    commas = sum(_DECIMAL_COMMA.fullmatch(cell) is not None for cell in cells)
    if not commas or any(_DECIMAL_POINT.fullmatch(cell) for cell in cells):
        return None, None
    return ",", "." if any(_THOUSANDS_POINT.fullmatch(cell) for cell in cells) else None


def wrong_row(lines: Iterable[str], dialect: Dialect) -> tuple[int, int, list[str]] | None:
    """The first row that has another number of values than the names: the numbers of its first and last line, and it.

    Args:
        lines: All decoded lines of the file.
        dialect: How it is read.
    """
    found = _numbered_rows(lines, dialect, is_strict=False)
    return next(((first, last, row) for first, last, row in found if row and len(row) != len(dialect.names)), None)


def open_quote(lines: Iterable[str], dialect: Dialect) -> int | None:
    """The line in which the first row begins that has a quote which is not closed; None if there is none.

    Args:
        lines: All decoded lines of the file.
        dialect: How it is read.
    """
    return next((first for first, _, row in _numbered_rows(lines, dialect, is_strict=True) if row is None), None)


def _numbered_rows(
    lines: Iterable[str], dialect: Dialect, *, is_strict: bool
) -> Iterator[tuple[int, int, list[str] | None]]:
    """The numbers of the first and last line of each row, and the row; None instead of one that cannot be read."""
    csv.field_size_limit(1 << 30)
    first = last = 0

    def counted() -> Iterator[str]:
        nonlocal first, last
        for last, line in enumerate(lines, 1):
            if last > dialect.skipped and not (dialect.comment and line.startswith(dialect.comment)):
                first = first or last
                yield line

    rows = csv.reader(counted(), delimiter=dialect.separator, strict=is_strict)
    while True:
        first = 0
        try:
            row = next(rows, None)
        except csv.Error:
            yield first, last, None
            return
        if row is None:
            return
        yield first, last, row

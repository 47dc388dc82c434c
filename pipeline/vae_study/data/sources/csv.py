"""CSV files, compressed or not, on this machine or behind s3://."""

import codecs
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from vae_study.config.data import DataConfig
from vae_study.data.sources.dialect import HEAD_BYTES, Dialect, find_dialect, open_quote, wrong_row
from vae_study.data.sources.files import DAMAGE, located_file, reading, require_growth
from vae_study.data.sources.source import CSV_SETTINGS, FILE, TABLE_SETTINGS, URI, ModelInput, Rows, Source
from vae_study.errors import UserError

_KIND = "CSV"
# A block must hold the longest line, and several are in memory at a time. Threads would cost a message its row number.
_READ = csv.ReadOptions(block_size=2 << 20, use_threads=False)
# Where a line is longer, the block grows by this factor, up to the largest.
_GROWTH, _LARGEST_BLOCK = 8, 1 << 27
_TOO_LONG = "straddling"
_VALUE_SHOWN = 40


def open_csv(config: DataConfig, model: ModelInput | None) -> Rows:
    """The rows of a CSV file, all of them text.

    Raise UserError if there is no such file, or if its first line does not hold the columns' names although it should.
    """
    given = str(config.path)
    return csv_rows(given, *located_file(given), config)


def csv_rows(given: str, system: Any, path: str, config: DataConfig) -> Rows:
    """The rows of CSV text, wherever it comes from.

    Raise UserError if its first line does not hold the columns' names although it should.

    Args:
        given: What messages call it.
        system: Opens it by its path, as often as it is read.
        path: Its suffix says how it is compressed.
        config: The data section.
    """
    with reading(given, _KIND), system.open_input_stream(path) as stream:
        dialect = find_dialect(given, stream.read(HEAD_BYTES), config)
    index_of: dict[str, int] = {}
    for index, name in enumerate(dialect.names):
        index_of.setdefault(name, index)

    def batches(wanted: Sequence[str]) -> Iterator[Any]:
        yield from _batches(given, system, path, dialect, {name: index_of[name] for name in wanted})

    # The table reader refuses a name that occurs twice among those that it uses.
    schema = pa.schema([(name, pa.string()) for name in dialect.names])
    unnamed = ("",) if dialect.names[0] == "" and dialect.has_header else ()
    found = {"decimal": dialect.decimal, "thousands": dialect.thousands}
    return Rows(
        where=given,
        schema=schema,
        count=None,
        batches=batches,
        is_typed=False,
        index=unnamed,
        numbers_as={key: value for key, value in found.items() if value is not None},
        notes=dialect.notes,
    )


def _batches(given: str, system: Any, path: str, dialect: Dialect, wanted: Mapping[str, int]) -> Iterator[Any]:
    """Batches of the wanted columns; if a line is longer than a block, what follows is read in larger blocks."""
    size, done = _READ.block_size, 0
    while True:
        try:
            first = 0
            for batch in _blocks(given, system, path, dialect, wanted, size):
                if first + batch.num_rows > done:
                    yield batch.slice(max(done - first, 0))
                first += batch.num_rows
                done = max(done, first)
            return
        except DAMAGE as error:
            if _TOO_LONG not in str(error) or size >= _LARGEST_BLOCK:
                raise _explained(given, system, path, dialect, error) from error
            size *= _GROWTH


def _blocks(
    given: str, system: Any, path: str, dialect: Dialect, wanted: Mapping[str, int], size: int
) -> Iterator[Any]:
    # Columns are called by their index, so that names may occur twice. Everything is read as text: Arrow infers types
    # from the first block only, and fails if a later one differs. An empty text in quotes is a text, without quotes it
    # is missing.
    comment = dialect.comment
    indices = [*wanted.values(), *([0] if comment and 0 not in wanted.values() else [])]
    read = csv.ReadOptions(
        block_size=size,
        use_threads=False,
        encoding=dialect.encoding if not dialect.encoding.startswith("utf-8") else "utf8",
        skip_rows=dialect.skipped,
        column_names=[str(index) for index in range(len(dialect.names))],
        skip_rows_after_names=int(dialect.has_header),
    )
    parse = csv.ParseOptions(
        delimiter=dialect.separator,
        newlines_in_values=True,
        # None without comments: Arrow decodes the row for it.
        invalid_row_handler=(lambda row: "skip" if row.text.startswith(comment) else "error") if comment else None,
    )
    convert = csv.ConvertOptions(
        column_types=dict.fromkeys(map(str, indices), pa.string()),
        include_columns=[*map(str, indices)],
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    with _opened(given, system, path) as stream:
        if comment:
            # Before Arrow decodes a row for the handler, and prints what it cannot raise there.
            stream.decoder = codecs.getincrementaldecoder(dialect.encoding)()
        with csv.open_csv(pa.PythonFile(stream, "r"), read, parse, convert) as reader:
            for batch in reader:
                if comment:
                    is_comment = pc.starts_with(batch.column(indices.index(0)), comment).fill_null(False)
                    batch = batch.filter(pc.invert(is_comment))
                yield pa.RecordBatch.from_arrays(batch.columns[: len(wanted)], list(wanted))
    # Arrow takes all that follows an open quote for one value.
    if stream.quotes % 2:
        _require_closed_quotes(given, system, path, dialect)


class _Counted(io.RawIOBase):
    """A file whose bytes are counted as they are read.

    Attributes:
        count: Those that were read so far.
    """

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self.count = 0
        self._stream = stream

    def readable(self) -> bool:
        """It is."""
        return True

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        data: bytes = self._stream.read(size)
        self.count += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        """As `read`, into memory that is there."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Text(_Counted):
    """A file without its compression, whose quotes are counted, too.

    Attributes:
        quotes: Those that were read so far.
        decoder: Raises UnicodeError for bytes that it cannot decode; None looks for none.
    """

    def __init__(self, given: str, stream: Any, stored: _Counted) -> None:
        super().__init__(stream)
        self.quotes = 0
        self.decoder: codecs.IncrementalDecoder | None = None
        self._given, self._stored = given, stored

    def read(self, size: int = -1) -> bytes:
        """The next bytes; raise UserError if far too many come from what was read of the file."""
        data = super().read(size)
        self.quotes += data.count(b'"')
        require_growth(self._given, self.count, self._stored.count)
        if self.decoder is not None:
            self.decoder.decode(data)
        return data


@contextmanager
def _opened(given: str, system: Any, path: str) -> Iterator[_Text]:
    with system.open_input_stream(path, compression=None) as file:
        stored = _Counted(file)
        try:
            codec = pa.Codec.detect(path)
        except (TypeError, ValueError):
            yield _Text(given, stored, stored)
            return
        with pa.CompressedInputStream(pa.PythonFile(stored, "r"), codec.name) as stream:
            yield _Text(given, stream, stored)


def _lines(stream: _Text, encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedReader(stream), encoding, newline="")


def _require_closed_quotes(given: str, system: Any, path: str, dialect: Dialect) -> None:
    """Raise UserError if a quote is not closed; quotes within values without quotes may be odd in number."""
    with _opened(given, system, path) as stream:
        line = open_quote(_lines(stream, dialect.encoding), dialect)
    if line is not None:
        raise UserError(f"{given}:{line}: a quote is not closed, or text follows it; expected every quote closed")


def _explained(given: str, system: Any, path: str, dialect: Dialect, error: Exception) -> UserError:
    """The true reason why a file cannot be read, with the number of the line."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    if _TOO_LONG in reason:
        return UserError(
            f"{given}: a line does not end within {_LARGEST_BLOCK >> 20} MiB; expected text with every quote closed"
        )
    found, is_decodable = None, "UTF8" not in reason and not isinstance(error, UnicodeError)
    with suppress(*DAMAGE):
        try:
            if is_decodable:
                with _opened(given, system, path) as stream:
                    found = wrong_row(_lines(stream, dialect.encoding), dialect)
        except UnicodeError:
            is_decodable = False
        if not is_decodable:
            line = _undecodable_line(given, system, path, dialect.encoding)
            got = f"{given}:{line}" if line else given
            expected = "data.encoding names another, such as cp1252, latin-1 or utf-16"
            return UserError(f"{got}: holds bytes that are not {dialect.encoding}; {expected}")
    if found is None:
        return UserError(f"{given}: cannot be read as {_KIND}: {reason}")
    line, last, row = found
    values = f"{len(row)} value{'s' * (len(row) != 1)}"
    got = f"{given}:{line}: got {values} ({dialect.separator.join(row)[:_VALUE_SHOWN]!r})"
    declared = "as the first line has" if dialect.has_header else "as the first row has"
    spans = f"; a value goes on to line {last}: is a quote not closed?" if last > line else ""
    hint = f"; data.comment: '{row[0][0]}' leaves comments out" if row[0][:1] in ("#", "%") else ""
    return UserError(f"{got}, expected {len(dialect.names)}, {declared}{spans}{hint}")


def _undecodable_line(given: str, system: Any, path: str, encoding: str) -> int | None:
    with _opened(given, system, path) as stream:
        for number, line in enumerate(io.BufferedReader(stream), 1):
            try:
                line.decode(encoding)
            except UnicodeError:
                return number
    return None


SOURCES = (
    Source(
        name="csv",
        open=open_csv,
        settings=(*TABLE_SETTINGS, *CSV_SETTINGS),
        paths=(FILE, URI),
        files=r".*\.(csv|tsv|txt|data)(\.(gz|bz2|zst))?",
    ),
)

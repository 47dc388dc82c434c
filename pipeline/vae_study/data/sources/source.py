"""What a source of data is (Source), and the two forms in which it gives its examples (Rows and Examples)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

from pyarrow import types

from vae_study.config.data import DataConfig
from vae_study.data.table import Table
from vae_study.errors import UserError

#: The settings that choose among the columns of a table.
TABLE_SETTINGS = (
    "columns", "exclude", "label", "categories", "split.column", "sequence", "missing_values", "decimal", "thousands",
    "signs", "factors",
)  # fmt: skip
#: Those that say how a CSV file is written, and what arrays are.
CSV_SETTINGS = ("header", "separator", "comment", "encoding")
ARRAY_SETTINGS = ("label", "missing_values", "arrays", "layout", "factors")
#: Those that scoring reads with as training did; they are saved with the model.
READING_SETTINGS = ("missing_values", "decimal", "thousands", "signs", *CSV_SETTINGS, "arrays", "layout")
_ALL_SETTINGS = tuple(dict.fromkeys((*TABLE_SETTINGS, *CSV_SETTINGS, *ARRAY_SETTINGS)))
# What data.path may be.
FILE, FOLDER, URI = "a file", "a folder", "s3://..."
# Batches hold about this many values, so that a wide table's need no more memory than a narrow one's.
VALUES_PER_BATCH = 2_000_000
_DEFAULTS = DataConfig(source="digits")


@dataclass(frozen=True, kw_only=True)
class ModelInput:
    """What scoring needs from a source.

    Attributes:
        columns: The names of the columns to read: features and keys.
        image_shape: If the model was trained on images: height and width, preceded by the number of channels.
        origins: Of its numeric columns, as in Table, by name.
    """

    columns: tuple[str, ...]
    image_shape: tuple[int, ...] | None
    origins: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A table with named columns, which can be read many times in batches of pyarrow.

    Attributes:
        where: The file, as the user gave it.
        schema: The pyarrow schema of all columns.
        count: The number of rows; None if unknown before reading.
        batches: Gives record batches of the named columns. The files of one table may differ in a column's width, such
            as int32 and int64.
        is_typed: Whether the types were declared; a CSV file has text only.
        index: The columns that pandas wrote as an index.
        folder_keys: The columns that only the names of folders hold (year=2024).
        spelled: Columns of text that read as numbers and stay text, since the numbers would be spelled otherwise.
        numbers_as: The settings `decimal`, `thousands` and `signs` that numbers in text are read with, if they are not
            at their defaults.
        notes: What a user should know about the reading.
    """

    where: str
    schema: Any
    count: int | None
    batches: Callable[[Sequence[str]], Iterator[Any]]
    is_typed: bool = True
    index: tuple[str, ...] = ()
    folder_keys: tuple[str, ...] = ()
    spelled: frozenset[str] = frozenset()
    numbers_as: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def batch_rows(columns: int) -> int:
    """How many rows a batch of this many columns should have."""
    return min(max(VALUES_PER_BATCH // max(columns, 1), 256), 65_536)


def is_text(dtype: Any) -> bool:
    """Whether a pyarrow type holds strings, however they are stored."""
    return bool(types.is_string(dtype) or types.is_large_string(dtype) or types.is_string_view(dtype))


def is_category(dtype: Any) -> bool:
    """Whether a pyarrow type holds text, or declared categories."""
    return is_text(dtype) or bool(types.is_dictionary(dtype))


def is_number(dtype: Any) -> bool:
    """Whether a pyarrow type holds numbers or truth values; a column of nulls holds missing numbers."""
    tests = (types.is_integer, types.is_floating, types.is_decimal, types.is_boolean, types.is_null)
    return any(test(dtype) for test in tests)


def is_time(dtype: Any) -> bool:
    """Whether a pyarrow type holds moments, days, times of day or durations."""
    tests = (types.is_timestamp, types.is_date, types.is_time, types.is_duration)
    return any(test(dtype) for test in tests)


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Arrays or images: examples without named columns, of which some can be read.

    Attributes:
        where: The file, as the user gave it.
        shape: (N, ...), the number of examples and the shape of one.
        table: Gives the examples of a slice; labels only if it is the slice of all.
    """

    where: str
    shape: tuple[int, ...]
    table: Callable[[slice], Table]


def examples_of(table: Table) -> Examples:
    """The examples of a table that is in memory."""

    def part(rows: slice) -> Table:
        if rows == slice(None):
            return table
        code_NC = table.code_NC[rows] if table.categories else table.code_NC
        return replace(
            table,
            x_ND=table.x_ND[rows],
            code_NC=code_NC,
            label_N=None,
            labels=(),
            split_N=None,
            factors=(),
            files=table.files[rows],
        )

    return Examples(where=table.where, shape=table.x_ND.shape, table=part)


@dataclass(frozen=True, kw_only=True)
class Source:
    """One source of data: all that the rest of the package needs to know about it.

    Attributes:
        name: As `data.source` and `--source` give it.
        open: Gives the examples for a config. The ModelInput is None for training; for scoring, labels and columns that
            it does not name must not be read, since they may hold anything.
        settings: Those of TABLE_SETTINGS, CSV_SETTINGS and ARRAY_SETTINGS that it uses.
        paths: What its path may be, of FILE, FOLDER and URI; empty if it has no path.
        files: A regular expression for the names of its files, in lower case, by which scoring recognizes them.
        label_is_file: Whether `data.label` is the path of a file, rather than a column or an array.
    """

    name: str
    open: Callable[[DataConfig, ModelInput | None], Rows | Examples]
    settings: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    files: str | None = None
    label_is_file: bool = False

    def check_settings(self, config: DataConfig) -> None:
        """Raise UserError if the path is missing, or if a setting is given that the source would ignore."""
        if self.paths and not config.path:
            expected = " or ".join(filter(None, [", ".join(self.paths[:-1]), self.paths[-1]]))
            raise UserError(f"data.path: missing, expected {expected} for source {config.source}")
        for setting in ("path", *_ALL_SETTINGS):
            if not (self.paths if setting == "path" else setting in self.settings):
                forbid_setting(config, setting, f"source {config.source}")


def reading_settings(config: DataConfig) -> dict[str, Any]:
    """Those of READING_SETTINGS that are not at their defaults, as plain values."""
    plain = config.model_dump(mode="json", include={*READING_SETTINGS}, exclude_defaults=True)
    return {key: plain[key] for key in READING_SETTINGS if key in plain}


def forbid_setting(config: DataConfig, setting: str, reader: str) -> None:
    """Raise UserError if a setting is not at its default.

    Args:
        config: The data section.
        setting: The key, such as "split.column".
        reader: What would ignore it, for the message.
    """
    got = attrgetter(setting)(config)
    if got != attrgetter(setting)(_DEFAULTS):
        shown = "a section" if setting == "sequence" else repr(list(got) if isinstance(got, tuple) else got)
        raise UserError(f"data.{setting}: got {shown}, which has no meaning for {reader}; leave it out")

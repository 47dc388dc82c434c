"""Table: the examples of a source as they came, before they are split and preprocessed; its anomalies and checks."""

import difflib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vae_study.errors import UserError

Label = bool | int | float | str
CategoryKind = Literal["text", "spelled", "numbers"]
# Few enough to stay in a processor's cache, many enough to keep Python out of the time.
ROWS_PER_CHUNK = 16_384
# In float64, 32 MB.
VALUES_PER_CHUNK = 2**22
# A message lists no more labels than these.
LABELS_SHOWN = 10
# Binary labels, as text: numbers, or true and false.
NORMAL_LABELS, ANOMALOUS_LABELS = {"0", "False"}, {"1", "True"}


def _no_codes() -> NDArray[np.int32]:
    return np.zeros((0, 0), np.int32)


@dataclass(frozen=True, kw_only=True)
class Factor:
    """A known factor of variation of N examples, such as the angle of a shape; it is no feature.

    Attributes:
        name: As `data.factors` names it.
        code_N: Indices into `values`, int32.
        values: The distinct values, ascending: numbers, or text if they are categories.
    """

    name: str
    code_N: NDArray[np.int32]
    values: tuple[float, ...] | tuple[str, ...]

    @property
    def is_number(self) -> bool:
        """Whether the values are numbers."""
        return not any(isinstance(value, str) for value in self.values)

    def taken(self, row_M: NDArray[np.int64]) -> "Factor":
        """The same factor of some rows, by their numbers."""
        return replace(self, code_N=self.code_N[row_M])


@dataclass(frozen=True, kw_only=True)
class Masks:
    """Which pixels of pictures are anomalous.

    Attributes:
        sha256: Of all masks.
        count: How many pictures have one.
        of: Gives, for a row of the table, which of its H * W pixels are anomalous; none where it has no mask.
    """

    sha256: str
    count: int
    of: Callable[[int], NDArray[np.bool_]]


@dataclass(frozen=True, kw_only=True)
class Table:
    """N examples: numbers, categories, labels, and what splits them.

    Attributes:
        x_ND: The D numeric features, NaN where a value is missing; never infinite. Float32 if all are exact in it,
            else float64; of images of 8 bits uint8, which may be read-only.
        feature_names: D names.
        origins: D whole numbers, of which the features are given less; () if all are 0. Others are for whole numbers
            that float64 would round.
        code_NC: The C categorical features as indices into `categories`, int32, -1 where a value is missing; (0, 0)
            if there are none.
        category_names: C names.
        categories: The distinct values of each categorical feature, as text, sorted.
        category_kinds: What the values of each categorical feature were: `text`; `spelled`, text that reads as numbers,
            kept as it is spelled; `numbers`, also truth values, written as text. () if all are `text`.
        label_N: Indices into `labels`, int32; None if there are no labels.
        labels: The distinct labels, sorted.
        factors: The known factors of variation that the config names.
        split_N: The split column: group numbers (int64) or times (int64 or float64, ascending in time); None if the
            config names no column. Of pictures in the layout mvtec, 0 in train and 1 in test.
        time_N, series_N: Of rows that are points in time: when (nanoseconds, or the column's own numbers), and a number
            for the series; None if the config names no such columns.
        series: The name of each series, of which series_N are the indices; () where series_N are the names.
        is_moment: Whether time_N are nanoseconds.
        row_N: Of rows that were resampled, the row of the source that stands for each; else None.
        image_shape: Height and width, preceded by the number of channels if there are several, if the features are
            pixels, channel by channel and row by row; else None.
        sensors: Of series of T steps of F sensors, step by step: F. The features of one sensor share a scale.
        depth: Of pixels: what their values are, such as "8 bits a value"; empty if any number could be one.
        files: Of a folder of images: each one's path within the folder; else ().
        masks: Of pictures with masks of their flaws; else None.
        normal_label: Where all other labels are anomalous unless the config says otherwise; else None.
        has_binary_labels: Whether label 1 means anomalous (files), or labels are classes.
        where: What messages call the source, such as "transactions.parquet".
        notes: What a user should know about the reading, such as ignored columns.
        read_as: Name and type, as read, of each column of a file, used or not.
        reading: The settings that scoring must read with.
    """

    x_ND: NDArray[Any]
    feature_names: tuple[str, ...]
    origins: tuple[int, ...] = ()
    code_NC: NDArray[np.int32] = field(default_factory=_no_codes)
    category_names: tuple[str, ...] = ()
    categories: tuple[tuple[str, ...], ...] = ()
    category_kinds: tuple[CategoryKind, ...] = ()
    label_N: NDArray[np.int32] | None = None
    labels: tuple[Label, ...] = ()
    factors: tuple[Factor, ...] = ()
    split_N: NDArray[np.int64] | NDArray[np.float64] | None = None
    time_N: NDArray[np.int64] | NDArray[np.float64] | None = None
    series_N: NDArray[np.int64] | None = None
    series: tuple[str, ...] = ()
    is_moment: bool = False
    row_N: NDArray[np.int64] | None = None
    image_shape: tuple[int, ...] | None = None
    sensors: int | None = None
    depth: str = ""
    files: tuple[str, ...] = ()
    masks: Masks | None = None
    normal_label: Label | None = None
    has_binary_labels: bool = False
    where: str
    notes: tuple[str, ...] = ()
    read_as: tuple[tuple[str, str], ...] = ()
    reading: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_bytes(self) -> bool:
        """Whether the features are bytes, of which none is missing."""
        return bool(self.x_ND.dtype == np.uint8)

    def origin(self, index: int) -> int:
        """The whole number that the values of a numeric feature are given less of."""
        return self.origins[index] if self.origins else 0

    def times_of(self, row_R: NDArray[np.int64]) -> Any:
        """When some rows of time series are: a pyarrow table of `row`, `time` and, if there are several, `series`."""
        assert self.time_N is not None
        in_source_R = row_R if self.row_N is None else self.row_N[row_R]
        columns: dict[str, Any] = {"row": in_source_R, "time": self.time_N[row_R]}
        if self.series_N is not None:
            number_U, code_R = np.unique(self.series_N[row_R], return_inverse=True)
            names = [self.series[number] if self.series else str(number) for number in number_U]
            columns["series"] = pa.DictionaryArray.from_arrays(pa.array(code_R, pa.int32()), pa.array(names))
        return pa.table(columns)

    def category_kind(self, index: int) -> CategoryKind:
        """What the values of a categorical feature were."""
        return self.category_kinds[index] if self.category_kinds else "text"


def chunk_slices(count: int, width: int = 1) -> Iterator[slice]:
    """`count` rows of `width` values in slices, so that what is computed for each stays small."""
    rows = min(ROWS_PER_CHUNK, max(VALUES_PER_CHUNK // max(width, 1), 1))
    return (slice(start, start + rows) for start in range(0, count, rows))


def fingerprint(table: Table) -> str:
    """The sha256 of a table's content: names, types, values, categories, labels and split column, not its location."""
    arrays = {"x": table.x_ND, "codes": table.code_NC, "labels": table.label_N, "split": table.split_N}
    schema: dict[str, Any] = {
        "features": table.feature_names,
        "categories": [table.category_names, table.categories],
        # With its type: the number 1 and the text "1" are different labels.
        "labels": [[type(label).__name__, str(label)] for label in table.labels],
        "image_shape": table.image_shape,
        "has_binary_labels": table.has_binary_labels,
        "arrays": {name: None if a is None else [a.dtype.str, a.shape] for name, a in arrays.items()},
    }
    # Only where they say something: the fingerprint of other tables does not depend on them.
    if any(table.origins):
        schema["origins"] = table.origins
    if any(kind != "text" for kind in table.category_kinds):
        schema["category_kinds"] = table.category_kinds
    if table.time_N is not None:
        arrays |= {"time": table.time_N, "series": table.series_N}
        schema["is_moment"] = table.is_moment
    if table.sensors:
        schema["sensors"] = table.sensors
    if table.files:
        # Reports and scores name the files.
        schema["files"] = table.files
    if table.masks is not None:
        schema["masks"] = table.masks.sha256
    if table.factors:
        schema["factors"] = [[factor.name, factor.values] for factor in table.factors]
        arrays |= {f"factor {factor.name}": factor.code_N for factor in table.factors}
    digest = hashlib.sha256(json.dumps(schema, sort_keys=True).encode())
    present: list[NDArray[Any]] = [array for array in arrays.values() if array is not None]
    for array_N in present:
        for rows in chunk_slices(len(array_N)):
            digest.update(np.ascontiguousarray(array_N[rows]).data)
    return digest.hexdigest()


def find_anomalies(table: Table, anomaly_labels: tuple[Label, ...] | None) -> NDArray[np.bool_]:
    """Which of N rows are anomalous, (N,).

    Raise UserError if a label does not occur, if there are no labels, or if every row would be anomalous.

    Args:
        table: Its labels decide.
        anomaly_labels: The labels that mean anomalous. None: all but the table's `normal_label` if it has one, label 1
            if the labels are binary, else none.
    """
    chosen = label_codes(table, anomaly_labels or (), "data.anomaly_labels")
    if table.label_N is None:
        return np.zeros(len(table.x_ND), bool)
    anomalous = _anomalous_by_default(table) if anomaly_labels is None else chosen
    is_anomaly_N = np.isin(table.label_N, anomalous)
    if is_anomaly_N.all():
        raise UserError(f"data.anomaly_labels: all {len(is_anomaly_N):,} rows of {table.where} are anomalous")
    return is_anomaly_N


def label_codes(table: Table, labels: Sequence[Label], key: str) -> list[int]:
    """The codes of some labels; raise UserError if one does not occur, or if there are none.

    Args:
        table: Has the labels.
        labels: As the key of the config has them.
        key: Such as data.anomaly_labels.
    """
    if labels and table.label_N is None:
        got = f"{key}: got {_listed(tuple(labels))}, but {table.where} has no labels"
        raise UserError(f"{got}; data.label says where they are")
    return [_label_index(label, table, key) for label in labels]


def _label_index(label: Label, table: Table, key: str) -> int:
    for index, known in enumerate(table.labels):
        # In Python, True equals 1.
        if label == known and isinstance(label, bool) == isinstance(known, bool):
            return index
    known_by_text = {str(one): one for one in table.labels}
    close = difflib.get_close_matches(str(label), known_by_text, n=1, cutoff=0.5)
    # As Python writes it, so that the text '8' differs from the number.
    suggestion = f"; did you mean {known_by_text[close[0]]!r}?" if close else ""
    got = f"{key}: got {label!r}, which does not occur in {table.where}"
    raise UserError(f"{got}; expected some of {_listed(table.labels)}{suggestion}")


def _anomalous_by_default(table: Table) -> list[int]:
    """The indices of the labels that are anomalous unless the config names others."""
    if table.normal_label is not None:
        return [index for index, label in enumerate(table.labels) if label != table.normal_label]
    if not table.has_binary_labels:
        return []
    if not {str(label) for label in table.labels} <= NORMAL_LABELS | ANOMALOUS_LABELS:
        assert table.label_N is not None
        counts = np.bincount(table.label_N, minlength=len(table.labels))
        found = [f"{label} ({count:,} rows)" for label, count in zip(table.labels, counts, strict=True)]
        raise UserError(f"{table.where}: labels not 0/1 and no data.anomaly_labels; got {_listed(tuple(found))}")
    return [index for index, label in enumerate(table.labels) if str(label) in ANOMALOUS_LABELS]


def _listed(labels: tuple[Label, ...]) -> str:
    shown = ", ".join(map(str, labels[:LABELS_SHOWN]))
    return f"{shown} and {len(labels) - LABELS_SHOWN:,} more" if len(labels) > LABELS_SHOWN else shown


def validate_table(table: Table) -> Table:
    """Return a table that a user's function made, after checking that its parts fit together.

    Raise UserError if they do not; the message names the first part that is wrong.
    """
    try:
        broken = next((rule for is_met, rule in _rules(table) if not is_met), None)
    except (AttributeError, TypeError) as error:
        broken = f"arrays of numpy and tuples in it ({error})"
    if broken is not None:
        raise UserError(f"{table.where}: returned a Table, expected {broken}")
    return table


def _rules(table: Table) -> Iterator[tuple[Any, str]]:
    is_float = isinstance(table.x_ND, np.ndarray) and table.x_ND.dtype in (np.float32, np.float64)
    yield is_float, "x_ND of float32 or float64"
    yield table.x_ND.ndim == 2, "x_ND of shape (N, D)"
    count, features = table.x_ND.shape
    yield len(table.feature_names) == features, "a name in feature_names for each column of x_ND"
    yield not np.isinf(table.x_ND).any(), "finite numbers or NaN in x_ND"
    yield len(table.origins) in (0, features), "a whole number in origins for each column of x_ND, or none"
    yield len(table.category_kinds) in (0, len(table.categories)), "a kind for each of categories, or none"
    yield len(table.categories) == len(table.category_names), "a name in category_names for each of categories"
    if table.categories:
        yield table.code_NC.dtype == np.int32, "code_NC of int32"
        yield table.code_NC.shape == (count, len(table.categories)), "code_NC of shape (N, C)"
        sizes_C = np.array([len(values) for values in table.categories])
        yield ((table.code_NC >= -1) & (table.code_NC < sizes_C)).all(), "code_NC of indices into categories, or -1"
    if table.label_N is not None:
        yield table.label_N.shape == (count,) and table.label_N.dtype == np.int32, "label_N of shape (N,) and int32"
        yield ((table.label_N >= 0) & (table.label_N < len(table.labels))).all(), "label_N of indices into labels"
    for factor in table.factors:
        code_N = factor.code_N
        yield code_N.shape == (count,) and code_N.dtype == np.int32, "code_N of shape (N,) and int32 in factors"
        yield ((code_N >= 0) & (code_N < len(factor.values))).all(), "code_N of indices into values in factors"
    yield len(table.files) in (0, count), "a path in files for each row, or none"
    yield table.split_N is None or table.split_N.shape == (count,), "split_N of shape (N,)"
    yield not table.sensors or features % table.sensors == 0, "D a multiple of sensors"
    yield table.image_shape is None or int(np.prod(table.image_shape)) == features, "image_shape of D values"

"""The data section of a study file."""

import codecs
import math
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from vae_study.config.base import ConfigPart, Fraction, FromList, Positive, Seed

BUNDLED_SOURCES = ("digits", "breast_cancer", "mnist_sample")
FILE_SOURCES = ("parquet", "csv", "npz", "idx", "images")
# Of data.signs: how numbers below 0 are written without a minus before them.
NEGATIVE_BRACKETS, NEGATIVE_END = "()", "-"
SEPARATORS = (",", ";", "\t", "|")
PYTHON_SOURCE = r"python:\s*[\w.]+:\w+"
#: Of data.sequence.window: each series is one example, as long as it is.
WHOLE = "whole"
# What becomes of missing values.
Missing = Literal["refuse", "median", "mask"]
# Sources whose labels are classes: none is an anomaly unless anomaly_labels says so.
CLASS_SOURCES = (*BUNDLED_SOURCES, "idx", "images")


def _source(given: str) -> str:
    if given in (*BUNDLED_SOURCES, *FILE_SOURCES) or re.fullmatch(PYTHON_SOURCE, given):
        return given
    # One message for all sources: each member of a union would report an error of its own.
    expected = ", ".join((*BUNDLED_SOURCES, *FILE_SOURCES, "python:package.module:function"))
    raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": expected})


def _label(given: Any) -> Any:
    if not isinstance(given, bool | int | float | str) or (isinstance(given, float) and not math.isfinite(given)):
        raise ValueError("a finite number, a word, true or false")
    return given


# A plain validator: in a union, 1 might become true, and each member would report an error of its own.
Label = Annotated[Any, PlainValidator(_label)]


def _sign(given: Any) -> Any:
    if not isinstance(given, str) or len(given) != 1:
        raise ValueError("one character")
    return given


def _encoding(given: str) -> str:
    try:
        return codecs.lookup(given).name
    except LookupError:
        raise ValueError("an encoding such as utf-8, utf-16, cp1252 or latin-1") from None


def _number_sign(given: Any) -> Any:
    if not isinstance(given, str) or not given.strip() or re.search(r"[\d.,]", given):
        raise ValueError("signs beside numbers, such as $, %, EUR, () or -")
    return given.strip()


NumberSign = Annotated[Any, PlainValidator(_number_sign)]
Sign = Annotated[Any, PlainValidator(_sign)]


class ArraysConfig(ConfigPart):
    """The names of the arrays in an npz file.

    Attributes:
        x: The features; by default X, x, or the only array of two or more dimensions.
        y: The labels; by default y.
    """

    x: str | None = None
    y: str | None = None


class SplitConfig(ConfigPart):
    """How rows are split into train, validation and test.

    For every kind: rows that are equal in every feature go to the same split; train has normal rows only; anomalies go
    to validation and test, in the proportion of those two.

    Attributes:
        by: `random`; `stratified`, which keeps each label's share; `group`, which keeps the rows of one group together;
            `time`: the earliest rows are for training, the latest for test; `folder`, with data.layout mvtec: the
            pictures in test are for test, and train and validation share those in train.
        column: The column with the groups or times.
        train, validation, test: Fractions of the normal rows (of all rows for `time`).
        seed: Of the shuffle.
        conflicts: What becomes of an anomalous row that equals 100 normal ones or more, which may be a wrong label:
            `move`, all of them go to validation or test; `leave_out`, it is in no split and they stay normal rows.
    """

    by: Literal["random", "stratified", "group", "time", "folder"] = "random"
    column: str | None = None
    train: Fraction = 0.6
    validation: Fraction = 0.2
    test: Fraction = 0.2
    seed: Seed = 0
    conflicts: Literal["move", "leave_out"] = "move"


def _duration(given: Any) -> Any:
    if isinstance(given, str) and re.fullmatch(r"\d+(\.\d+)? ?(us|ms|s|min|h|d)", given) and re.search("[1-9]", given):
        return given
    if isinstance(given, int | float) and not isinstance(given, bool) and 0 < given < math.inf:
        return given
    raise ValueError("a duration such as 500ms, 5s, 10min, 1h or 1d, or where times are numbers a number above 0")


Duration = Annotated[
    Any, PlainValidator(_duration), WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "number"}]})
]


def _window(given: Any) -> Any:
    if given == WHOLE or (isinstance(given, int) and not isinstance(given, bool) and given >= 2):
        return given
    raise ValueError(f"the rows of a window, 2 or more, or {WHOLE}: each series is one example")


Window = Annotated[
    Any, PlainValidator(_window), WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 2}, {"enum": [WHOLE]}]})
]


class SequenceConfig(ConfigPart):
    """A table whose rows are points in time of one or several series; its windows, or its series, are the examples.

    Attributes:
        time: The column with the times, which ascend within a series.
        series: The column that names the series; without it, the table is one.
        window: The number of rows of a window; or `whole`, each series is one example.
        longest: With window `whole`, the most rows of a series, also of one to be scored; by default those of the
            longest series of the table.
        stride: A window starts every so many rows.
        max_gap: A series is cut where two times are further apart, such as 5s; without it, 1.5 times the usual step
            apart is an error.
        resample: Rows are brought to steps of this length, such as 1s: the mean of each step's numbers, the last of its
            categories. Steps without a row cut a series as max_gap says, or with data.missing `mask` are filled in.
    """

    time: str
    series: str | None = None
    window: Window
    longest: Annotated[int, Field(ge=2)] | None = None
    stride: Annotated[int, Field(ge=1)] = 1
    max_gap: Duration | None = None
    resample: Duration | None = None


class CategoriesConfig(ConfigPart):
    """How categories become numbers. Columns of text are categories.

    Attributes:
        columns: Columns of numbers that are categories as well, such as a merchant's number.
        encode: `one_hot`, a feature a category, or `ordinal`, the category's place from the commonest to the rarest.
        rare: Categories below this share of the training rows share one bucket, with those unseen in training.
    """

    columns: Annotated[tuple[str, ...], FromList] = ()
    encode: Literal["one_hot", "ordinal"] = "one_hot"
    rare: Annotated[float, Field(ge=0, lt=1)] = 0.01


class DataConfig(ConfigPart):
    """The data of a study: source, labels, preprocessing and split.

    Attributes:
        source: `digits` and `breast_cancer` (bundled), `mnist_sample` (the extra `mnist`), a kind of file, or
            `python:package.module:function`.
        path: Where the files are: a file, a folder (`parquet`, `images`), or s3://... (`parquet`, `csv`).
        columns: The features of a table, by default every column that is not used otherwise.
        exclude: Columns that are left out of the features.
        label: The column, or the array of an npz (default y), or the file of an idx, with the labels.
        factors: Columns, arrays of an npz, or parts such as shape=heart of the names of sub-folders and images: known
            factors of variation. They are no features; the code's disentanglement is measured against them.
        unlabelled: Labels that mean that a row's label is not known, such as unknown: it counts as normal, and no model
            is told it.
        anomaly_labels: The labels that count as anomalous; by default 1 where a file's labels are 0 and 1, and none
            of a bundled set's or of an image folder's classes.
        scale: `unit` maps train's range to [0, 1], `standard` to mean 0 and variance 1, `robust` to median 0 and
            interquartile range 1, `quantile` to even ranks in [0, 1]; `none` leaves the values. The pixels of images
            share one scale.
        clip: Scaled values are cut off at plus and minus this many units; by default there is no limit, but beyond
            train's range `unit` and `quantile` stay at 0 and 1.
        missing_values: What stands for a missing value in the features, such as "?" or -9999, besides empty fields, NA,
            NaN and NULL.
        decimal, thousands: How numbers in text are written, such as "," and "." for 1.234,5; by default a decimal
            point, and in a CSV file that is not separated by commas also a decimal comma if it can be nothing else.
        signs: What stands beside numbers in text: `$`, `EUR` or a unit is left out, `%` and `‰` divide by 100 and
            1,000, `()` reads (5) and `-` reads 5- as -5.
        header: Whether the first line of a CSV file holds the columns' names; else they are `column 1`, `column 2`...
        separator, comment, encoding: Of a CSV file: what stands between values, what a line to leave out begins with,
            and the encoding as Python calls it; by default found from the first lines.
        arrays: The names of an npz file's arrays.
        layout: What arrays of three dimensions are: `images` (N, H, W), whose pixels share one scale, or `series`
            (N, T, F), F sensors with one scale each for all steps; by default found from the values. Of a folder of
            images, `mvtec` means the folders train/good, test/good, test/KIND of each flaw, and ground_truth/KIND
            with masks; all labels but good are anomalous.
        sequence: Of a table of time series: the columns of times and series, and how windows are cut from them.
        missing: `refuse`; `median`, which adds an indicator feature, and a missing category is a category of its own;
            or `mask`: a missing value stays missing, and costs the model nothing.
        contamination: The share of the training rows that are left out because they may be anomalies of which nobody
            knows: those that an isolation forest finds rarest.
    """

    source: Annotated[str, AfterValidator(_source)]
    path: str | None = None
    columns: Annotated[tuple[str, ...] | None, FromList] = None
    exclude: Annotated[tuple[str, ...], FromList] = ()
    label: str | None = None
    factors: Annotated[tuple[str, ...], FromList] = ()
    unlabelled: Annotated[tuple[Label, ...], FromList] = ()
    anomaly_labels: Annotated[tuple[Label, ...] | None, FromList] = None
    scale: Literal["unit", "standard", "robust", "quantile", "none"] = "unit"
    clip: Positive | None = None
    missing: Missing = "refuse"
    contamination: Annotated[float, Field(ge=0, le=0.5)] = 0
    missing_values: Annotated[tuple[Label, ...], FromList] = ()
    decimal: Literal[".", ","] | None = None
    thousands: Literal[",", ".", " ", "'"] | None = None
    signs: Annotated[tuple[NumberSign, ...], FromList] = ()
    header: bool = True
    separator: Sign | None = None
    comment: Sign | None = None
    encoding: Annotated[str, AfterValidator(_encoding)] | None = None
    arrays: ArraysConfig = ArraysConfig()
    layout: Literal["images", "series", "mvtec"] | None = None
    categories: CategoriesConfig = CategoriesConfig()
    split: SplitConfig = SplitConfig()
    sequence: SequenceConfig | None = None

    @property
    def has_binary_labels(self) -> bool:
        """Whether label 1 means anomalous unless anomaly_labels says otherwise; else labels are classes."""
        return self.source not in CLASS_SOURCES

    @property
    def may_have_anomalies(self) -> bool:
        """Whether there may be labelled anomalies; the labels of a file are known only once it is read."""
        by_default = self.anomaly_labels is None and (self.has_binary_labels or self.layout == "mvtec")
        return bool(self.anomaly_labels) or by_default

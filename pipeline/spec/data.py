"""The data section of a study file."""

import math
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PlainValidator
from pydantic_core import PydanticCustomError

from pipeline.spec.base import Fraction, FromList, Positive, Seed, SpecPart

BUNDLED_SOURCES = ("digits", "breast_cancer", "mnist_sample")
FILE_SOURCES = ("parquet", "csv", "npz", "idx", "images")
PYTHON_SOURCE = r"python:\s*[\w.]+:\w+"
# Where labels are classes, none of which is anomalous by itself.
CLASS_SOURCES = (*BUNDLED_SOURCES, "idx", "images")


def _source(given: str) -> str:
    if given in (*BUNDLED_SOURCES, *FILE_SOURCES) or re.fullmatch(PYTHON_SOURCE, given):
        return given
    # The words of a literal, which speak of all sources at once, where a union would speak of each kind by itself.
    expected = ", ".join((*BUNDLED_SOURCES, *FILE_SOURCES, "python:package.module:function"))
    raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": expected})


def _label(given: Any) -> Any:
    if not isinstance(given, bool | int | float | str) or (isinstance(given, float) and not math.isfinite(given)):
        raise ValueError("a finite number, a word, true or false")
    return given


# A plain validator, as in a union 1 might become true, and every member would report an error of its own.
Label = Annotated[Any, PlainValidator(_label)]


class SplitSpec(SpecPart):
    """Which rows train, which choose, which judge.

    Whatever the kind, rows that are equal in every feature stay together, train has normal rows only, and anomalies
    are shared out between validation and test in the proportion of those two.

    Attributes:
        by: `random`; `stratified`, which keeps each label's share; `group`, which keeps the rows of one group together;
            `time`, where the earliest rows train and the latest judge.
        column: The column with the groups or times.
        train, validation, test: Fractions of the normal rows (of all rows for `time`).
        seed: Of the shuffle.
    """

    by: Literal["random", "stratified", "group", "time"] = "random"
    column: str | None = None
    train: Fraction = 0.6
    validation: Fraction = 0.2
    test: Fraction = 0.2
    seed: Seed = 0


class CategoriesSpec(SpecPart):
    """How columns of text, and those named here, become numbers.

    Attributes:
        columns: Columns of numbers that are categories too, such as a merchant's number.
        encode: `one_hot`, a feature a category, or `ordinal`, the category's place from the commonest to the rarest.
        rare: Categories below this share of the training rows share one bucket, with those unseen in training.
    """

    columns: Annotated[tuple[str, ...], FromList] = ()
    encode: Literal["one_hot", "ordinal"] = "one_hot"
    rare: Annotated[float, Field(ge=0, lt=1)] = 0.01


class DataSpec(SpecPart):
    """Which examples, which of them are anomalies, and how they are prepared and split.

    Attributes:
        source: `digits` and `breast_cancer` (bundled), `mnist_sample` (the extra `mnist`), a kind of file, or
            `python:package.module:function`.
        path: Where the files are: a file, a folder (`parquet`, `images`), or s3://... (`parquet`, `csv`).
        columns: The features of a table, by default every column that is not used otherwise.
        label: The column, or the array of an npz (default y), or the file of an idx, with the labels.
        anomaly_labels: The labels that count as anomalous; by default 1 where a file's labels are 0 and 1, and none
            of a bundled set's or of an image folder's classes.
        scale: `unit` maps train's range to [0, 1], `standard` to mean 0 and variance 1, `robust` to median 0 and
            interquartile range 1, `quantile` to even ranks in [0, 1]; `none` leaves the values. The pixels of images
            share one scale.
        clip: Scaled values are cut off at plus and minus this many units; by default there is no limit, but beyond
            train's range `unit` and `quantile` stay at 0 and 1.
        missing: `refuse`, or `median` with a feature beside it that says where; a missing category is one of its own.
    """

    source: Annotated[str, AfterValidator(_source)]
    path: str | None = None
    columns: Annotated[tuple[str, ...] | None, FromList] = None
    label: str | None = None
    anomaly_labels: Annotated[tuple[Label, ...] | None, FromList] = None
    scale: Literal["unit", "standard", "robust", "quantile", "none"] = "unit"
    clip: Positive | None = None
    missing: Literal["refuse", "median"] = "refuse"
    categories: CategoriesSpec = CategoriesSpec()
    split: SplitSpec = SplitSpec()

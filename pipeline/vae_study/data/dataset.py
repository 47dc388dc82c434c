"""Dataset: three preprocessed splits and what to know about them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vae_study.data.pixels import VALUES_AT_ONCE, VALUES_OF_ROWS, part_of, slices_of
from vae_study.data.preprocessing import Preprocessing
from vae_study.data.table import Factor
from vae_study.data.windows import Windows

# A line lists no more columns than these.
COLUMNS_SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class Split:
    """The preprocessed examples of one split.

    Attributes:
        x_ND: Float32 features; of windows `Windows`, of images of 8 bits `PixelBytes`, which are indexed as an array.
        is_anomaly_N: Which rows are anomalous; none in train.
        row_N: Each example's row in the source; of windows, the last anomalous row, or the last one.
        label_code_N: Each example's index into `labels`; None if the source has no labels.
        labels: The source's distinct labels as text.
        factors: The known factors of variation of the examples.
        file_N: Each example's path within the source's folder, a pyarrow array; None if examples are no files.
        start_N: Of windows, the place of each one's first row among the R rows of the split; else None.
        length_N: Of whole series, the rows of each; else None.
        is_anomaly_R: Of windows, which of these rows are anomalous; else None.
        is_anomaly_NP: Of pictures of test with masks, which of their H * W pixels are anomalous; else None.
        rows_R: Of the windows of test, a pyarrow table of these rows: `row` (in the source), `time` (nanoseconds, or
            the column's own numbers) and, where a column names it, `series`; else None.
    """

    x_ND: Any
    is_anomaly_N: NDArray[np.bool_]
    row_N: NDArray[np.int64]
    label_code_N: NDArray[np.int32] | None = None
    labels: tuple[str, ...] = ()
    factors: tuple[Factor, ...] = ()
    file_N: Any = None
    start_N: NDArray[np.int64] | None = None
    length_N: NDArray[np.int64] | None = None
    is_anomaly_R: NDArray[np.bool_] | None = None
    is_anomaly_NP: NDArray[np.bool_] | None = None
    rows_R: Any = None

    def with_features(self, x_ND: NDArray[Any], info: "DatasetInfo") -> "Split":
        """The split with its features: of windows, from those of their rows, (R, F); of images, maybe from bytes."""
        if x_ND.dtype == np.uint8:
            return replace(self, x_ND=info.preprocessing.numbers_of(x_ND))
        if self.start_N is None or info.sequence_shape is None:
            return replace(self, x_ND=x_ND)
        return replace(self, x_ND=Windows(x_ND, self.start_N, info.sequence_shape[0], self.length_N))

    @cached_property
    def values_N(self) -> NDArray[np.float64]:
        """How many values of each example are there, 1 at least."""
        if not isinstance(self.x_ND, Windows) or self.x_ND.length_N is None:
            there = [(~np.isnan(self.x_ND[rows])).sum(axis=1) for rows in slices_of(self.x_ND)]
            return np.asarray(np.maximum(np.concatenate(there), 1), np.float64)
        rows_RF = self.x_ND.rows_RF
        there_R = np.concatenate([(~np.isnan(rows_RF[rows])).sum(axis=1) for rows in slices_of(rows_RF)])
        before_R, start_N = np.append(0, np.cumsum(there_R)), self.x_ND.start_N
        return np.asarray(np.maximum(before_R[start_N + self.x_ND.length_N] - before_R[start_N], 1), np.float64)

    @property
    def label_N(self) -> NDArray[np.str_]:
        """Each example's label as text; empty text if the source has no labels."""
        # Computed each time: the codes need a fraction of its memory.
        text_L, code_N = np.array(self.labels or ("",)), self.label_code_N
        return text_L[np.zeros(len(self.row_N), np.int32) if code_N is None else code_N]

    def about(self, name: str) -> dict[str, Any]:
        """What a table of scores says of each example beside its scores, by column; `name` is the split's."""
        about = {"split": name, "row": self.row_N, "label": self.label_N, "anomaly": self.is_anomaly_N}
        return about if self.file_N is None else {**about, "file": self.file_N.to_numpy(zero_copy_only=False)}

    def normal_sample(self) -> NDArray[np.float32]:
        """The features of the normal rows; evenly spaced ones if they have more than VALUES_OF_ROWS values, as copies.

        Of windows, more than VALUES_AT_ONCE.
        """
        normal_ND = self.normal_ND
        most = VALUES_AT_ONCE if isinstance(normal_ND, Windows) else VALUES_OF_ROWS
        return np.asarray(normal_ND[:: max(-(-len(normal_ND) * normal_ND.shape[1] // most), 1)])

    @property
    def normal_ND(self) -> Any:
        """The features of the normal rows."""
        return part_of(self.x_ND, ~self.is_anomaly_N) if self.is_anomaly_N.any() else self.x_ND


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """What to know about a data set besides its rows.

    Attributes:
        source: What to call the data: the name of a file or folder, else the config's source.
        image_shape: Height and width, preceded by the number of channels if there are several, if the features are
            pixels; else None.
        classes: The known labels that occur among the training rows, as text; none if the source has no labels.
        sha256: Fingerprint of the source's content: names, values, categories, labels, split column.
        preprocessing: How the source's columns became features, and the way back.
        notes: What a user should know, such as columns left out and rows moved.
        columns: What is known of each column of a table, as text, for COLUMN_HEADS; none for images.
        sequence_shape: Of windows of a time series: T steps of F features, step by step, so that a window is
            x_ND[n].reshape(T, F), NaN where a value was not observed or the series has ended; else None.
    """

    source: str
    image_shape: tuple[int, ...] | None
    classes: tuple[str, ...]
    sha256: str
    preprocessing: Preprocessing
    notes: tuple[str, ...]
    columns: tuple[tuple[str, ...], ...] = ()
    sequence_shape: tuple[int, int] | None = None

    @property
    def has_ends(self) -> bool:
        """Whether examples are series that differ in length: whole ones of a table, or those of an array."""
        sequence, is_masked = self.preprocessing.sequence, self.preprocessing.missing == "mask"
        is_array = self.sequence_shape is not None and sequence is None
        return is_masked and (is_array or (sequence is not None and sequence.is_whole))

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the D features, after preprocessing."""
        return self.preprocessing.feature_names

    def frame(self, x_ND: NDArray[np.float32]) -> pd.DataFrame:
        """The rows of some features, in the user's columns, units and types.

        Text, and float64 numbers. A window gives T rows, with times and series that are examples, and a whole series
        those before its end.
        Where no value may be missing, whole numbers are int64 and truth values bool.
        """
        found = self.preprocessing.inverse(x_ND)
        for name, read_as, role, *_ in self.columns:
            if role == "number" and (read_as == "bool" or "int" in read_as):
                # Without the sign of a zero.
                whole = found[name].round() + 0
                dtype = np.dtype(np.bool_ if read_as == "bool" else np.int64)
                found[name] = whole.astype(dtype) if self.preprocessing.missing == "refuse" else whole
        sequence = self.preprocessing.sequence
        if sequence is not None:
            found[sequence.time] = np.arange(len(found)) % sequence.steps * sequence.step
            if sequence.is_moment:
                found[sequence.time] = pd.to_datetime(found[sequence.time].astype(np.int64))
            if sequence.series is not None:
                found[sequence.series] = (np.arange(len(found)) // sequence.steps).astype(str)
            if sequence.is_whole:
                # Up to the last step of each series with a value.
                is_there_XF = ~np.isnan(x_ND).reshape(len(found), -1)
                is_there_NT = is_there_XF.any(axis=1).reshape(-1, sequence.steps)
                is_before_end_NT = np.asarray(np.logical_or.accumulate(is_there_NT[:, ::-1], axis=1))[:, ::-1]
                found = found[is_before_end_NT.ravel()].reset_index(drop=True)
        return found

    def lines(self) -> Iterator[str]:
        """Which columns are features, and the notes, for people to read; images have no columns."""
        fitted = self.preprocessing
        for kind, columns in (("number", fitted.numbers), ("categorical column", fitted.categories)):
            used = [column.name for column in columns if column.features]
            if used:
                more = f" and {len(used) - COLUMNS_SHOWN} more" if len(used) > COLUMNS_SHOWN else ""
                yield f"{len(used)} {kind}{'s' * (len(used) > 1)}: {', '.join(used[:COLUMNS_SHOWN])}{more}"
        yield from self.notes

    def plain(self) -> dict[str, Any]:
        """Dictionaries, lists, numbers and text, for JSON and `info_from_plain`."""
        return {
            "source": self.source,
            "image_shape": self.image_shape,
            "classes": self.classes,
            "sha256": self.sha256,
            "preprocessing": self.preprocessing.plain(),
            "notes": self.notes,
            "columns": self.columns,
            "sequence_shape": self.sequence_shape,
        }


def info_from_plain(plain: Mapping[str, Any]) -> DatasetInfo:
    """The DatasetInfo that `plain` was made from, also if JSON made lists of its tuples."""
    return DatasetInfo(
        source=plain["source"],
        image_shape=None if plain["image_shape"] is None else tuple(plain["image_shape"]),
        classes=tuple(plain["classes"]),
        sha256=plain["sha256"],
        preprocessing=Preprocessing.from_plain(plain["preprocessing"]),
        notes=tuple(plain["notes"]),
        columns=tuple(map(tuple, plain["columns"])),
        sequence_shape=None if plain["sequence_shape"] is None else tuple(plain["sequence_shape"]),
    )


@dataclass(frozen=True, kw_only=True)
class Dataset(DatasetInfo):
    """A data set ready for training.

    Attributes:
        splits: `train` (normal rows only), `validation` and `test`; the preprocessing was fitted on train.
    """

    splits: Mapping[str, Split]

    @property
    def has_anomalies(self) -> bool:
        """Whether validation and test both have anomalies, so that detection can be measured."""
        return all(self.splits[name].is_anomaly_N.any() for name in ("validation", "test"))

    def condition(self, name: str) -> NDArray[np.float32]:
        """The labels of a split as indicators of `classes`, (N, C); all 0 for a label unseen in training."""
        split = self.splits[name]
        if split.label_code_N is None:
            return np.zeros((len(split.row_N), 0), np.float32)
        indicator_LC = (np.array(split.labels)[:, None] == np.array(self.classes)).astype(np.float32)
        indicator_NC: NDArray[np.float32] = indicator_LC[split.label_code_N]
        return indicator_NC

    def summary(self) -> dict[str, Any]:
        """What the tracking store keeps about the data: plain values only."""
        counts = {
            name: {"rows": len(split.row_N), "anomalies": int(split.is_anomaly_N.sum())}
            for name, split in self.splits.items()
        }
        return {
            "source": self.source,
            "sha256": self.sha256,
            "features": len(self.feature_names),
            "feature_names": list(self.feature_names),
            "image_shape": list(self.image_shape) if self.image_shape else None,
            "sequence_shape": list(self.sequence_shape) if self.sequence_shape else None,
            "splits": counts,
            "columns": self.preprocessing.summary(),
            "notes": list(self.notes),
        }

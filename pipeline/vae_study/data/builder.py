"""DatasetBuilder: makes a data set from a table, split by split."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vae_study.config.data import DataConfig
from vae_study.data.dataset import Dataset, DatasetInfo, Split
from vae_study.data.inspection import column_lines, warnings_on
from vae_study.data.preprocessing import Preprocessing, require_complete
from vae_study.data.resampling import resample
from vae_study.data.splits import SPLIT_NAMES, assign_splits, without_suspects
from vae_study.data.table import Table, chunk_slices, find_anomalies, label_codes
from vae_study.data.window_splits import WindowSplit, assign_windows
from vae_study.data.windows import SequenceInput


@dataclass(frozen=True, kw_only=True)
class DatasetBuilder:
    """Preprocesses one split at a time, so that no second copy of all rows is in memory.

    Attributes:
        table: Examples as they came.
        rows: The row numbers of each split; of windows, of the rows that they cover, in time.
        is_anomaly_N: Of all rows.
        info: What to know besides the rows.
        windows: Of each split, if the examples are windows.
    """

    table: Table
    rows: Mapping[str, NDArray[np.int64]]
    is_anomaly_N: NDArray[np.bool_]
    info: DatasetInfo
    windows: Mapping[str, WindowSplit] = field(default_factory=dict)

    @classmethod
    def from_table(cls, table: Table, config: DataConfig, sha256: str) -> Self:
        """Find the anomalies, assign the splits, and fit the preprocessing on the training rows.

        Raise UserError if the table cannot be prepared as the config says.

        Args:
            table: Examples as they came.
            config: How to prepare them.
            sha256: The table's fingerprint.
        """
        is_anomaly_N = find_anomalies(table, config.anomaly_labels)
        unlabelled = label_codes(table, config.unlabelled, "data.unlabelled")
        require_complete(table, config)
        as_read, warnings = table, warnings_on(table, config, is_anomaly_N)
        windows: Mapping[str, WindowSplit] = {}
        sequence = None
        if config.sequence is None:
            assignment = assign_splits(table, is_anomaly_N, config.split)
        else:
            sequence = SequenceInput.of(table, config.sequence, fills=config.missing == "mask")
            if sequence.resample is not None:
                made = resample(table, sequence, is_anomaly_N)
                table, is_anomaly_N = made.table, made.is_anomaly_R
            sequence = sequence.fitted(table)
            assignment, windows = assign_windows(table, is_anomaly_N, sequence, config.sequence.stride, config.split)
        train_N = assignment.rows["train"]
        preprocessing = Preprocessing.fit(table, train_N, config, sequence)
        if config.contamination:
            with_all, all_N = preprocessing, train_N
            assignment = without_suspects(
                assignment,
                lambda: (
                    with_all.transform(table, all_N[rows]) for rows in chunk_slices(len(all_N), table.x_ND.shape[1])
                ),
                table.row_N,
                config.contamination,
                config.split.seed,
            )
            train_N = assignment.rows["train"]
            preprocessing = Preprocessing.fit(table, train_N, config)
        rest_N = np.concatenate([assignment.rows[name] for name in SPLIT_NAMES[1:]])
        codes = () if table.label_N is None else np.setdiff1d(table.label_N[train_N], unlabelled)
        info = DatasetInfo(
            # Without the folders above the file.
            source=config.source if config.path is None else PurePath(config.path).name,
            image_shape=table.image_shape,
            sequence_shape=_sequence_shape(table, preprocessing),
            classes=tuple(sorted({str(table.labels[code]) for code in codes})),
            sha256=sha256,
            preprocessing=preprocessing,
            columns=column_lines(as_read, config, preprocessing),
            notes=(
                *table.notes,
                *_notes_on_factors(table),
                *_notes_on_unlabelled(table, unlabelled),
                *assignment.notes,
                *preprocessing.notes,
                *preprocessing.notes_on_new_gaps(table, rest_N),
                *warnings,
            ),
        )
        return cls(table=table, rows=assignment.rows, is_anomaly_N=is_anomaly_N, info=info, windows=windows)

    def split(self, name: str) -> Split:
        """Preprocess the rows of a split.

        Raise UserError if a value is missing and data.missing is `refuse`.
        """
        row_N, preprocessing = self.rows[name], self.info.preprocessing
        masks, bare = [*self.masks(name)], self.bare_split(name)
        bare = replace(bare, is_anomaly_NP=np.stack(masks)) if masks else bare
        if self.table.is_bytes:
            return replace(bare, x_ND=preprocessing.numbers_of(self.table.x_ND).only(row_N))
        return bare.with_features(preprocessing.transform(self.table, row_N), self.info)

    def features(self, name: str) -> Iterator[NDArray[Any]]:
        """The features of a split's rows in chunks, of windows those of the rows, of images of 8 bits their bytes.

        Raise UserError as `split` does.
        """
        row_N, table = self.rows[name], self.table
        chunks = (row_N[rows] for rows in chunk_slices(len(row_N), table.x_ND.shape[1]))
        if table.is_bytes:
            return (table.x_ND[row_n] for row_n in chunks)
        return (self.info.preprocessing.transform(table, row_n) for row_n in chunks)

    def masks(self, name: str) -> Iterator[NDArray[np.bool_]]:
        """Which pixels of each picture of test are anomalous, each (H * W,); nothing where no picture has a mask."""
        if self.table.masks is not None and name == "test":
            # Others are nowhere measured pixel by pixel.
            yield from map(self.table.masks.of, self.rows[name].tolist())

    def bare_split(self, name: str) -> Split:
        """A split without its features, x_ND is (N, 0), and without masks."""
        window = self.windows.get(name)
        row_N = self.rows[name] if window is None else window.shown_N
        return Split(
            x_ND=np.empty((len(row_N), 0), np.float32),
            is_anomaly_N=self.is_anomaly_N[row_N],
            row_N=row_N if self.table.row_N is None else self.table.row_N[row_N],
            start_N=None if window is None else window.start_N,
            length_N=None if window is None else window.length_N,
            is_anomaly_R=None if window is None else self.is_anomaly_N[window.rows_R],
            # Of the others, nobody asks when they were.
            rows_R=None if window is None or name != "test" else self.table.times_of(window.rows_R),
            label_code_N=None if self.table.label_N is None else self.table.label_N[row_N],
            labels=tuple(map(str, self.table.labels)),
            factors=tuple(factor.taken(row_N) for factor in self.table.factors),
            file_N=pa.array(self.table.files).take(pa.array(row_N)) if self.table.files else None,
        )

    def build(self) -> Dataset:
        """The data set with all its splits in memory."""
        return Dataset(**vars(self.info), splits={name: self.split(name) for name in SPLIT_NAMES})


def _notes_on_unlabelled(table: Table, unlabelled: list[int]) -> Iterator[str]:
    if table.label_N is not None and unlabelled:
        count = int(np.isin(table.label_N, unlabelled).sum())
        yield f"rows whose label is not known (data.unlabelled), and that count as normal: {count:,}"


def _notes_on_factors(table: Table) -> Iterator[str]:
    if table.factors:
        named = (f"{one.name} ({len(one.values):,} value{'s' * (len(one.values) != 1)})" for one in table.factors)
        yield f"factors of variation, which are no features: {', '.join(named)}"


def _sequence_shape(table: Table, preprocessing: Preprocessing) -> tuple[int, int] | None:
    """The T steps and F features of windows, or of an array of series if each step has the same features."""
    if preprocessing.sequence is not None:
        return preprocessing.sequence.steps, len(preprocessing.row_features)
    if not table.sensors:
        return None
    steps, widths = len(table.feature_names) // table.sensors, [len(one.features) for one in preprocessing.numbers]
    first_F = widths[: table.sensors]
    return (steps, sum(first_F)) if widths == first_F * steps else None

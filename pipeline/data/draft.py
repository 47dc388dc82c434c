"""From a table to a data set, one split at a time, so that no two copies of the rows need room."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
from numpy.typing import NDArray

from pipeline.data.anomalies import anomalies
from pipeline.data.dataset import Dataset, Facts, Split
from pipeline.data.preprocessing import Preprocessing, require_complete
from pipeline.data.splits import SPLIT_NAMES, split_rows
from pipeline.data.table import Table
from pipeline.spec.data import DataSpec


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A data set whose splits are made when they are asked for.

    Attributes:
        table: Examples as they came.
        rows: The row numbers of each split.
        is_anomaly_N: Of all rows.
        facts: What there is to know beside the rows.
    """

    table: Table
    rows: Mapping[str, NDArray[np.int64]]
    is_anomaly_N: NDArray[np.bool_]
    facts: Facts

    def split(self, name: str) -> Split:
        """Preprocess the rows of a split.

        Raises:
            UserError: A value is missing, and that is refused.
        """
        row_N = self.rows[name]
        return Split(
            x_ND=self.facts.preprocessing.transform(self.table, row_N),
            is_anomaly_N=self.is_anomaly_N[row_N],
            row_N=row_N,
            label_code_N=None if self.table.label_N is None else self.table.label_N[row_N],
            labels=tuple(map(str, self.table.labels)),
        )

    def dataset(self) -> Dataset:
        """The data set with all its splits in memory."""
        return Dataset(**vars(self.facts), splits={name: self.split(name) for name in SPLIT_NAMES})


def draft_of(table: Table, spec: DataSpec, sha256: str) -> Draft:
    """Find anomalies, split, and fit what the training rows say.

    Args:
        table: Examples as they came.
        spec: What to do with them.
        sha256: The table's fingerprint.

    Raises:
        UserError: The table cannot be prepared as the spec says.
    """
    is_anomaly_N = anomalies(table, spec.anomaly_labels)
    require_complete(table, spec)
    division = split_rows(table, is_anomaly_N, spec.split)
    train_N = division.rows["train"]
    preprocessing = Preprocessing.fit(table, train_N, spec)
    rest_N = np.concatenate([division.rows[name] for name in SPLIT_NAMES[1:]])
    facts = Facts(
        source=_name(spec),
        image_shape=table.image_shape,
        classes=_classes(table, train_N),
        sha256=sha256,
        preprocessing=preprocessing,
        notes=(*table.notes, *division.notes, *preprocessing.notes, *preprocessing.unfamiliar(table, rest_N)),
    )
    return Draft(table=table, rows=division.rows, is_anomaly_N=is_anomaly_N, facts=facts)


def _name(spec: DataSpec) -> str:
    """What to call the data: the file's or folder's own name, without the folders above it, or the source."""
    return spec.source if spec.path is None else PurePath(spec.path).name


def _classes(table: Table, train_N: NDArray[np.int64]) -> tuple[str, ...]:
    if table.label_N is None:
        return ()
    return tuple(sorted({str(table.labels[code]) for code in np.unique(table.label_N[train_N])}))

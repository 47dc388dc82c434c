"""Examples in, three leak-free splits out."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.scaling import SCALES
from pipeline.data.sources import SOURCES, Table
from pipeline.data.splits import SPLIT_NAMES, Split, split_rows
from pipeline.errors import UserError
from pipeline.spec.schema import DataSpec

__all__ = ["SPLIT_NAMES", "Dataset", "Split", "prepare"]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set ready for training, and what to remember of it.

    Attributes:
        splits: `train` (normal rows only), `validation` and `test`, all scaled by what train showed.
        feature_names: D names.
        image_shape: Height and width, with the channels before them if there are any, where the features are pixels;
            else None.
        classes: The labels that occur among the training rows, as text.
        sha256: Fingerprint of the source's values, labels and feature names.
    """

    source: str
    splits: Mapping[str, Split]
    feature_names: tuple[str, ...]
    image_shape: tuple[int, ...] | None
    classes: tuple[str, ...]
    sha256: str

    def condition(self, name: str) -> NDArray[np.float32]:
        """The labels of a split as indicators of `classes`, (N, C); a label unseen in training has none."""
        label_N = self.splits[name].label_N
        indicator_NC: NDArray[np.float32] = (label_N[:, None] == np.array(self.classes)).astype(np.float32)
        return indicator_NC

    def summary(self) -> dict[str, Any]:
        """What the tracking store keeps of the data: plain values only."""
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
            "splits": counts,
        }


@lru_cache(maxsize=2)
def _prepare(spec_json: str) -> Dataset:
    spec = DataSpec.model_validate_json(spec_json)
    table = SOURCES[spec.source]()
    is_anomaly_N = _anomalies(spec, table)
    rows = split_rows(is_anomaly_N, spec.split)
    for name in SPLIT_NAMES:
        if is_anomaly_N[rows[name]].all():
            raise UserError(f"data.split.{name}: came {getattr(spec.split, name):g}, which leaves it no normal row")
    scale = SCALES[spec.scale](table.x_ND[rows["train"]], table.image_shape is not None)
    splits = {
        name: Split(
            x_ND=scale(table.x_ND[rows[name]]),
            is_anomaly_N=is_anomaly_N[rows[name]],
            row_N=rows[name],
            label_N=table.label_N[rows[name]].astype(str),
        )
        for name in SPLIT_NAMES
    }
    return Dataset(
        source=spec.source,
        splits=splits,
        feature_names=table.feature_names,
        image_shape=table.image_shape,
        classes=tuple(np.unique(splits["train"].label_N).tolist()),
        sha256=_fingerprint(table),
    )


def prepare(spec: DataSpec) -> Dataset:
    """Load, split and scale a data set; the same spec gives the same rows, and a process loads it once.

    Raises:
        UserError: An anomaly label does not occur, or a split would have no normal row.
    """
    return _prepare(spec.model_dump_json())


def _anomalies(spec: DataSpec, table: Table) -> NDArray[np.bool_]:
    known = np.unique(table.label_N).tolist()
    for label in spec.anomaly_labels:
        if label not in known:
            raise UserError(
                f"data.anomaly_labels: came {label!r}, which does not occur in {spec.source}; "
                f"expected some of {', '.join(map(str, known))}"
            )
    is_anomaly_N: NDArray[np.bool_] = np.isin(table.label_N, np.array(spec.anomaly_labels))
    if is_anomaly_N.all():
        raise UserError(f"data.anomaly_labels: all {len(is_anomaly_N)} rows of {spec.source} are anomalous")
    return is_anomaly_N


def _fingerprint(table: Table) -> str:
    digest = hashlib.sha256("\n".join(table.feature_names).encode())
    digest.update(np.ascontiguousarray(table.x_ND).tobytes())
    digest.update("\n".join(map(str, table.label_N.tolist())).encode())
    return digest.hexdigest()

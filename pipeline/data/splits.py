"""Three splits that share no row: train sees normal rows only; anomalies wait in validation and test."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.spec.schema import SplitSpec

SPLIT_NAMES = ("train", "validation", "test")


def split_rows(is_anomaly_N: NDArray[np.bool_], spec: SplitSpec) -> Mapping[str, NDArray[np.int64]]:
    """The row numbers of each split, deterministic from the spec's seed.

    Normal rows are shared out by the spec's fractions; anomalous ones between validation and test in the
    proportion of those two.
    """
    random = np.random.default_rng(spec.seed)
    normal_N = random.permutation(np.flatnonzero(~is_anomaly_N))
    anomalous_N = random.permutation(np.flatnonzero(is_anomaly_N))
    cuts = np.round(np.cumsum([spec.train, spec.validation]) * len(normal_N)).astype(int)
    train, validation, test = np.split(normal_N, cuts)
    half = round(len(anomalous_N) * spec.validation / (spec.validation + spec.test))
    return {
        "train": np.sort(train),
        "validation": np.sort(np.concatenate([validation, anomalous_N[:half]])),
        "test": np.sort(np.concatenate([test, anomalous_N[half:]])),
    }


@dataclass(frozen=True, kw_only=True)
class Split:
    """Scaled examples of one split.

    Attributes:
        x_ND: Float32 features.
        is_anomaly_N: Which rows are anomalous; none in train.
        row_N: Each example's row in the source.
        label_N: Each example's label as text.
    """

    x_ND: NDArray[np.float32]
    is_anomaly_N: NDArray[np.bool_]
    row_N: NDArray[np.int64]
    label_N: NDArray[np.str_]

    @property
    def normal_ND(self) -> NDArray[np.float32]:
        """The features of the normal rows."""
        return self.x_ND[~self.is_anomaly_N]

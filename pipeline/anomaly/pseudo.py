"""Pseudo-anomalies: normal rows spoiled on purpose, to tell good detectors from bad ones where no label is."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float32]
SWAPPED_SHARE, NOISE_DEVIATIONS, STRETCH = 0.3, 0.5, 1.5


def _column_swap(x_ND: Rows, random: np.random.Generator) -> Rows:
    """About 30 % of each row's features, one at least, from another row: each value is usual, their company is not."""
    swapped_ND = random.random(x_ND.shape) < SWAPPED_SHARE
    swapped_ND[np.arange(len(x_ND)), random.integers(0, x_ND.shape[1], len(x_ND))] = True
    return np.where(swapped_ND, x_ND[random.permutation(len(x_ND))], x_ND)


def _noise(x_ND: Rows, random: np.random.Generator) -> Rows:
    """Gaussian noise of half of each feature's standard deviation."""
    noise_ND = random.standard_normal(x_ND.shape, np.float32)
    return np.asarray(x_ND + NOISE_DEVIATIONS * x_ND.std(axis=0) * noise_ND, np.float32)


def _stretch(x_ND: Rows, random: np.random.Generator) -> Rows:
    """Each row half as far again from the mean."""
    mean_D = x_ND.mean(axis=0)
    return np.asarray(mean_D + STRETCH * (x_ND - mean_D), np.float32)


KINDS: Mapping[str, Callable[[Rows, np.random.Generator], Rows]] = {
    "column_swap": _column_swap,
    "noise": _noise,
    "stretch": _stretch,
}


def pseudo_anomalies(normal_ND: Rows, seed: int) -> dict[str, Rows]:
    """Each kind of pseudo-anomaly, a row of it for each normal row.

    Args:
        normal_ND: Normal validation rows, scaled.
        seed: The same for every trial of a study, so that all are judged on the same rows.

    Returns:
        By kind, rows of the same shape.
    """
    return {
        kind: make(normal_ND, np.random.default_rng([seed, place])) for place, (kind, make) in enumerate(KINDS.items())
    }

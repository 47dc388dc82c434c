"""The corner that hypervolumes are measured from: fixed by the data, the same for all studies of it."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.data import Dataset
from pipeline.spec.trial import ModelSpec
from pipeline.vae.likelihoods import make_likelihood

ROWS_PER_PASS = 65_536


def trade_off_reference(data: Dataset, models: Sequence[ModelSpec]) -> dict[str, float]:
    """The largest reconstruction and KL that a model worth having can show on the validation split's normal rows.

    Let R0 be the reconstruction of the best decoder that ignores z, and R1 that of one that returns x itself. A model
    with a better ELBO than the first has reconstruction + KL < R0 and reconstruction >= R1, so that it lies inside
    reconstruction < R0 and KL < R0 - R1. What lies outside is worse than no latent code at all.

    Args:
        data: The study's data set.
        models: The models that a study may train, as far as their likelihoods differ; the largest box counts.

    Returns:
        `val/reconstruction` and `val/kl`, nats per example.
    """
    boxes = [_box(data, model) for model in models]
    return {
        "val/reconstruction": max(reconstruction for reconstruction, _ in boxes),
        "val/kl": max(kl for _, kl in boxes),
    }


@torch.no_grad()
def _box(data: Dataset, model: ModelSpec) -> tuple[float, float]:
    likelihood = make_likelihood([model], len(data.feature_names)).double()
    mean_D, variance_D = (torch.as_tensor(moment_D) for moment_D in _moments(data.splits["train"].x_ND))
    normal_ND = data.splits["validation"].normal_ND
    costs = []
    for start in range(0, len(normal_ND), ROWS_PER_PASS):
        x_ND = torch.as_tensor(normal_ND[start : start + ROWS_PER_PASS]).double()
        without, perfect = likelihood.without_code(mean_D, variance_D, x_ND), likelihood.perfect(x_ND)
        costs.append([float(without.sum()), float(perfect.sum())])
    reconstruction, smallest = np.sum(costs, axis=0) / len(normal_ND)
    return float(reconstruction), float(reconstruction - smallest)


def _moments(x_ND: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance of each feature, in float64 without a copy of all rows in it."""
    mean_D = x_ND.mean(axis=0, dtype=np.float64)
    parts = (x_ND[start : start + ROWS_PER_PASS] - mean_D for start in range(0, len(x_ND), ROWS_PER_PASS))
    return mean_D, np.asarray(sum((part_ND**2).sum(axis=0) for part_ND in parts) / len(x_ND))

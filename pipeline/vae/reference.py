"""The corner that hypervolumes are measured from: fixed by the data, the same for all studies of it."""

from collections.abc import Sequence

import torch

from pipeline.data import Dataset
from pipeline.spec.trial import ModelSpec
from pipeline.vae.likelihoods import make_likelihood


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
    train_ND = torch.as_tensor(data.splits["train"].x_ND).double()
    x_ND = torch.as_tensor(data.splits["validation"].normal_ND).double()
    reconstruction = float(likelihood.without_code(train_ND, x_ND).sum(dim=1).mean())
    return reconstruction, reconstruction - float(likelihood.perfect(x_ND).sum(dim=1).mean())

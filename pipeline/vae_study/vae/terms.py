"""What some kinds of objective add to the penalty beside the KL: a number about the aggregate posterior q(z).

q(z) is the mean of q(z|x) over the training rows. A training step knows the rows of its minibatch only.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vae_study.config.model import ObjectiveConfig
from vae_study.vae.families.base import Posteriors

# exp(-60) is less than the rounding of 1, also in float64.
NOTHING_BESIDE = 60.0


class TotalCorrelation(torch.autograd.Function):
    """As `total_correlation`; value and gradients are computed together, by hand: half of the passes of autograd."""

    @staticmethod
    def forward(
        ctx: Any, z_KBZ: Tensor, mean_KBZ: Tensor, log_variance_KBZ: Tensor, mask_KZ: Tensor, rows: int
    ) -> Tensor:
        """Give (K,). In tensors (K, Z, B, B) the draws come first, then the rows whose densities are taken there."""
        codes = (value.mT.contiguous() for value in (z_KBZ, mean_KBZ, log_variance_KBZ))
        z_KZB1, mean_KZ1B, log_variance_KZ1B = (code.unsqueeze(dim) for code, dim in zip(codes, (3, 2, 2), strict=True))
        precision_KZ1B = (-0.5 * log_variance_KZ1B).exp()
        scaled_KZBB = (z_KZB1 - mean_KZ1B).mul_(precision_KZ1B)
        square_KZBB = scaled_KZBB.square()
        # Without the constants of the densities, which cancel.
        log_KZBB = torch.add(square_KZBB, log_variance_KZ1B).mul_(-0.5)
        log_share_BB = _log_shares(log_KZBB, rows)
        joint_KBB = _raised(log_KZBB.sum(dim=1).add_(log_share_BB))
        _raised(log_KZBB.add_(log_share_BB))
        responsible_KZBB = log_KZBB.log_softmax(dim=3)
        # The log of a sum is any summand's log less that of its share: here the draw's own.
        each_KZB = (log_KZBB - responsible_KZBB).diagonal(dim1=2, dim2=3) * mask_KZ[..., None]
        value_K = (joint_KBB.logsumexp(dim=2) - each_KZB.sum(dim=1)).mean(dim=1)
        # The gradient of each log density, and from there.
        pull_KZBB = joint_KBB.softmax(dim=2)[:, None] - responsible_KZBB.exp_()
        spread_KZB = square_KZBB.sub_(1).mul_(pull_KZBB).sum(dim=2)
        slope_KZBB = pull_KZBB.mul_(scaled_KZBB).mul_(precision_KZ1B)
        by_z_KZB, by_mean_KZB = -slope_KZBB.sum(dim=3), slope_KZBB.sum(dim=2)
        gradients = (by_z_KZB, by_mean_KZB, 0.5 * spread_KZB)
        ctx.save_for_backward(*(one.mT / z_KBZ.shape[1] for one in gradients))
        return value_K

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_K: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of the draws, means and log variances."""
        return *(gradient_K[:, None, None] * one for one in ctx.saved_tensors), None, None


def total_correlation(posteriors: Posteriors, mask_KZ: Tensor, rows: int) -> Tensor:
    """KL(q(z) || prod_j q(z_j)) of the aggregate posterior q(z), estimated from a minibatch (Chen et al. 2018).

    The mean over the draws of log q(z) - sum_j log q(z_j), with q(z) by minibatch stratified sampling (appendix C.2):
    the row that z was drawn from stands for itself, and the B - 1 others of the minibatch for the N - 1 other rows.

    Args:
        posteriors: Of a minibatch of B rows.
        mask_KZ: 1 where a model has the dimension, else 0.
        rows: Rows that minibatches are drawn from, N.

    Returns:
        Nats, (K,). Like any estimate, it can be negative.
    """
    found_K: Tensor = TotalCorrelation.apply(*posteriors, mask_KZ, rows)  # type: ignore[no-untyped-call]
    return found_K


def _log_shares(like: Tensor, rows: int) -> Tensor:
    """The log of each row's share in the q(z) at each draw, (B, B): 1 / N of its own row, (N - 1) / (N (B - 1)) else.

    The paper gives one of the other rows another share than the rest; this is their mean. As rows are drawn without
    replacement, it is unbiased for q(z), and exact where a minibatch has all rows.
    """
    batch = like.shape[-1]
    log_other = math.log((rows - 1) / (rows * (batch - 1))) if batch > 1 else 0.0
    return like.new_full((batch, batch), log_other).fill_diagonal_(-math.log(rows))


def _raised(log_BB: Tensor) -> Tensor:
    """Raise in place what is nothing beside a draw's own row, (..., B, B): a CPU is slow with numbers below 1e-38."""
    own_B1 = log_BB.diagonal(dim1=-2, dim2=-1)[..., None]
    return torch.maximum(log_BB, own_B1 - NOTHING_BESIDE, out=log_BB)


def covariance_distance(posteriors: Posteriors, mask_KZ: Tensor, rows: int) -> Tensor:
    """The squared distance of the covariance of q(z) from the identity (Kumar et al. 2018, DIP-VAE-II, equation 7).

    The covariance of the aggregate posterior is that of the means plus the mean of the variances (equation 5), both
    over a minibatch. A dimension that is not used has variance 1, and costs nothing.

    Args:
        posteriors: Of a minibatch.
        mask_KZ: Not needed: where a model has no dimension, mean and log variance are 0.
        rows: Not needed.

    Returns:
        The sum of squares of all elements of Cov - I, (K,).
    """
    centred_KBZ = posteriors.mean_KBZ - posteriors.mean_KBZ.mean(dim=1, keepdim=True)
    between_KZZ = centred_KBZ.mT @ centred_KBZ / centred_KBZ.shape[1]
    excess_KZ = torch.expm1(posteriors.log_variance_KBZ).mean(dim=1)
    return (between_KZZ + torch.diag_embed(excess_KZ)).square().sum(dim=(1, 2))


class Term(NamedTuple):
    """The term of a kind of objective.

    Attributes:
        metric: Its name among the metrics of an epoch.
        value: The number, (K,), from posteriors, mask_KZ and the count of training rows.
        weight: What it is multiplied by, as the KL is by beta.
    """

    metric: str
    value: Callable[[Posteriors, Tensor, int], Tensor]
    weight: Callable[[ObjectiveConfig], float]


#: By kind. What is left of the KL in `beta_tc` keeps the weight beta (Chen et al. 2018, equation 4).
TERMS: Mapping[str, Term] = {
    "beta_tc": Term("train/total_correlation", total_correlation, lambda config: config.tc_weight - config.beta),
    "dip": Term("train/covariance_distance", covariance_distance, lambda config: config.dip_weight),
}

"""What a trained model says of each example, and the metrics that summarize it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.anomaly import auroc, scores_of
from pipeline.data import Split
from pipeline.vae.families.vae import VAE

Floats = NDArray[np.float64]
ROWS_PER_PASS = 1024
# Burda et al. 2016, section 5: a dimension is used if its posterior mean varies over the data by more than this.
ACTIVE_VARIANCE = 0.01


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One member's parts per example on one split.

    Attributes:
        sampled_reconstruction_N: -log p(x|z) at one draw z from q(z|x), nats: an unbiased estimate of the distortion.
        reconstruction_N: -log p(x|z) at the posterior mean, nats: deterministic, so that a score can be repeated.
        kl_NZ: KL of each latent dimension, nats.
        squared_error_N: Sum over features of (x - E[x|posterior mean])^2.
        mean_NZ: Posterior means.
        is_anomaly_N: Which examples are anomalous.
    """

    sampled_reconstruction_N: Floats
    reconstruction_N: Floats
    kl_NZ: Floats
    squared_error_N: Floats
    mean_NZ: Floats
    is_anomaly_N: NDArray[np.bool_]

    def scores(self) -> dict[str, Floats]:
        """Every anomaly score, by name; higher is more anomalous."""
        return scores_of(
            reconstruction_N=self.reconstruction_N, kl_N=self.kl_NZ.sum(axis=1), squared_error_N=self.squared_error_N
        )


@torch.no_grad()
def split_measurement(
    model: VAE, split: Split, generators_K: Sequence[torch.Generator], like: Tensor
) -> list[Measurement]:
    """Each member's Measurement of a split; the draws come from the members' generators."""
    model.eval()
    passes = []
    for start in range(0, len(split.x_ND), ROWS_PER_PASS):
        x_BD = torch.as_tensor(split.x_ND[start : start + ROWS_PER_PASS]).to(like)
        passes.append(_parts(model, x_BD, draw_noise(model, len(x_BD), generators_K)))
    joined = [torch.cat(part, dim=1).double().cpu().numpy() for part in zip(*passes, strict=True)]
    latent_K = model.latent_mask_KZ.sum(dim=1).int().tolist()
    return [
        Measurement(
            sampled_reconstruction_N=joined[0][k],
            reconstruction_N=joined[1][k],
            kl_NZ=joined[2][k, :, :latent],
            squared_error_N=joined[3][k],
            mean_NZ=joined[4][k, :, :latent],
            is_anomaly_N=split.is_anomaly_N,
        )
        for k, latent in enumerate(latent_K)
    ]


def _parts(model: VAE, x_BD: Tensor, noise_KBZ: Tensor) -> tuple[Tensor, ...]:
    posterior = model.encode(x_BD.expand(len(noise_KBZ), -1, -1))
    sampled_KB = model.likelihood.negative_log(model.decode(posterior.sample(noise_KBZ)), x_BD).sum(dim=2)
    decoded_KBD = model.decode(posterior.mean_KBZ)
    at_mean_KB = model.likelihood.negative_log(decoded_KBD, x_BD).sum(dim=2)
    squared_error_KB = (x_BD - model.likelihood.mean(decoded_KBD)).square().sum(dim=2)
    return sampled_KB, at_mean_KB, posterior.kl(), squared_error_KB, posterior.mean_KBZ


def draw_noise(model: VAE, rows: int, generators_K: Sequence[torch.Generator]) -> Tensor:
    """Standard normal noise (K, B, Z), 0 in dimensions that a member does not have."""
    mask_KZ = model.latent_mask_KZ
    noise_KBZ = mask_KZ.new_zeros(len(mask_KZ), rows, mask_KZ.shape[1])
    for k, generator in enumerate(generators_K):
        latent = int(mask_KZ[k].sum())
        noise_KBZ[k, :, :latent] = torch.randn(
            (rows, latent), generator=generator, device=mask_KZ.device, dtype=mask_KZ.dtype
        )
    return noise_KBZ


def metrics_of(measured: Measurement, prefix: str, score: str) -> dict[str, float]:
    """A split's metrics, `prefix/...`: of the normal rows, and the AUROC of one score where both classes occur."""
    normal_N = ~measured.is_anomaly_N
    reconstruction = float(measured.sampled_reconstruction_N[normal_N].mean())
    kl = float(measured.kl_NZ[normal_N].sum(axis=1).mean())
    active = measured.mean_NZ[normal_N].var(axis=0) > ACTIVE_VARIANCE
    metrics = {
        "reconstruction": reconstruction,
        "kl": kl,
        "elbo": -(reconstruction + kl),
        "squared_error": float(measured.squared_error_N[normal_N].mean()),
        "active_units": float(active.sum()),
    }
    area = auroc(measured.is_anomaly_N, measured.scores()[score])
    if not math.isnan(area):
        metrics["auroc"] = area
    return {f"{prefix}/{name}": value for name, value in metrics.items()}


@torch.no_grad()
def iwae_nats(model: VAE, x_ND: Tensor, generators_K: Sequence[torch.Generator], draws: int = 64) -> Tensor:
    """The importance-weighted bound on log p(x) (Burda et al. 2016, equation 8), nats per example, shape (K,).

    The draws are streamed: each row is encoded once and memory does not grow with `draws`.
    """
    model.eval()
    total_K = x_ND.new_zeros(len(model.latent_mask_KZ))
    for start in range(0, len(x_ND), ROWS_PER_PASS):
        total_K += _iwae_sum(model, x_ND[start : start + ROWS_PER_PASS], generators_K, draws)
    return total_K / len(x_ND)


def _iwae_sum(model: VAE, x_BD: Tensor, generators_K: Sequence[torch.Generator], draws: int) -> Tensor:
    posterior = model.encode(x_BD.expand(len(generators_K), -1, -1))
    bound_KB = torch.full_like(posterior.mean_KBZ[..., 0], -math.inf)
    for _ in range(draws):
        noise_KBZ = draw_noise(model, len(x_BD), generators_K)
        z_KBZ = posterior.sample(noise_KBZ)
        log_likelihood_KB = -model.likelihood.negative_log(model.decode(z_KBZ), x_BD).sum(dim=2)
        # log p(z) - log q(z|x); both have the same constant.
        log_ratio_KBZ = 0.5 * (noise_KBZ.square() + posterior.log_variance_KBZ - z_KBZ.square())
        bound_KB = torch.logaddexp(bound_KB, log_likelihood_KB + log_ratio_KBZ.sum(dim=2))
    return (bound_KB - math.log(draws)).sum(dim=1)

"""What a trained model says of each example, and the metrics that summarize it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.anomaly import auroc, scores_of
from pipeline.vae.families import Family

Floats = NDArray[np.float64]
# More rows a pass fall out of the cache of a CPU when a pack of convolutional members is measured.
ROWS_PER_PASS = 256
# Burda et al. 2016, section 5: a dimension is used if its posterior mean varies over the data by more than this.
ACTIVE_VARIANCE = 0.01
# Nats per example; below this a code says nothing.
COLLAPSED_KL = 0.05


class Examples(NamedTuple):
    """Rows on the device: features, and the labels' indicators for a conditional family."""

    x_ND: Tensor
    condition_NC: Tensor | None

    def at(self, rows_KB: Tensor) -> tuple[Tensor, Tensor | None]:
        """Each member's own rows: (K, B, D) and (K, B, C)."""
        return self.x_ND[rows_KB], None if self.condition_NC is None else self.condition_NC[rows_KB]

    def passes(self, members: int) -> Iterator[tuple[Tensor, Tensor | None]]:
        """All rows in order, some at a time and the same for each of K members, without a copy."""
        for start in range(0, len(self.x_ND), ROWS_PER_PASS):
            cut = slice(start, start + ROWS_PER_PASS)
            condition = None if self.condition_NC is None else self.condition_NC[cut].expand(members, -1, -1)
            yield self.x_ND[cut].expand(members, -1, -1), condition


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One member's parts per example on one split.

    Attributes:
        sampled_reconstruction_N: -log p(x|z) at one draw z from q(z|x), nats: an unbiased estimate of the distortion.
        sampled_kl_N: KL at that draw, nats: the same as the sum of kl_NR unless one level's prior depends on another.
        reconstruction_N: -log p(x|z) at the posterior mean, nats: deterministic, so that a score can be repeated.
        kl_NR: KL of each latent dimension, or the rate of each discrete code, nats; None for a family without a rate.
        squared_error_N: Sum over features of (x - E[x|posterior mean])^2.
        mean_NZ: Posterior means.
        is_anomaly_N: Which examples are anomalous.
        own: Metrics that only this family has.
    """

    sampled_reconstruction_N: Floats
    sampled_kl_N: Floats
    reconstruction_N: Floats
    kl_NR: Floats | None
    squared_error_N: Floats
    mean_NZ: Floats
    is_anomaly_N: NDArray[np.bool_]
    own: dict[str, float] = field(default_factory=dict)

    @property
    def kl_N(self) -> Floats:
        """KL of each example, nats; 0 for a family without a rate."""
        return np.zeros_like(self.reconstruction_N) if self.kl_NR is None else self.kl_NR.sum(axis=1)

    def scores(self) -> dict[str, Floats]:
        """Every anomaly score, by name; higher is more anomalous."""
        return scores_of(reconstruction_N=self.reconstruction_N, kl_N=self.kl_N, squared_error_N=self.squared_error_N)


@torch.no_grad()
def measure(
    model: Family, examples: Examples, is_anomaly_N: NDArray[np.bool_], generators_K: Sequence[torch.Generator]
) -> list[Measurement]:
    """Each member's Measurement of some examples; the draws come from the members' generators."""
    model.eval()
    members = len(generators_K)
    passes = [_parts(model, x_KBD, c_KBC, generators_K) for x_KBD, c_KBC in examples.passes(members)]
    sampled, sampled_kl, reconstruction, rate, error, mean = (
        torch.cat(part, dim=1).double().cpu().numpy() for part in zip(*passes, strict=True)
    )
    codes = [mean[k][:, mask_Z] for k, mask_Z in enumerate(model.code_mask_KZ.bool().cpu().numpy())]
    rate_masks = model.rate_mask_KR.bool().cpu().numpy()
    return [
        Measurement(
            sampled_reconstruction_N=sampled[k],
            sampled_kl_N=sampled_kl[k],
            reconstruction_N=reconstruction[k],
            kl_NR=rate[k][:, rate_masks[k]] if model.has_rate else None,
            squared_error_N=error[k],
            mean_NZ=codes[k],
            is_anomaly_N=is_anomaly_N,
            own=model.split_metrics(k, codes[k][~is_anomaly_N]),
        )
        for k in range(members)
    ]


def _parts(
    model: Family, x_KBD: Tensor, condition_KBC: Tensor | None, generators_K: Sequence[torch.Generator]
) -> tuple[Tensor, ...]:
    drawn = model.code(x_KBD, condition_KBC, model.noise(1, x_KBD.shape[1], generators_K)[0])
    sampled_KBE = model.decode(drawn.z_KBZ, condition_KBC)
    sampled_KB = model.likelihood.negative_log(sampled_KBE, x_KBD).sum(dim=2)
    likely = _likely if condition_KBC is None else _likely_label
    return sampled_KB, drawn.rate_KBR.sum(dim=2), *likely(model, x_KBD, condition_KBC)


def _likely(model: Family, x_KBD: Tensor, condition_KBC: Tensor | None) -> tuple[Tensor, ...]:
    """Reconstruction (K, B), rate (K, B, R), squared error (K, B) and code (K, B, Z) at the most likely code."""
    code = model.code(x_KBD, condition_KBC, None)
    decoded_KBE = model.decode(code.z_KBZ, condition_KBC)
    reconstruction_KB = model.likelihood.negative_log(decoded_KBE, x_KBD).sum(dim=2)
    error_KB = (x_KBD - model.likelihood.mean(decoded_KBE)).square().sum(dim=2)
    return reconstruction_KB, code.rate_KBR, error_KB, code.z_KBZ


def _likely_label(model: Family, x_KBD: Tensor, condition_KBC: Tensor | None) -> tuple[Tensor, ...]:
    """The same under the label that explains each example best.

    Scores must not see an example's own label: where labels say what is anomalous, it would give the anomalies away.
    """
    labels_CC = torch.eye(model.shape.classes, dtype=x_KBD.dtype, device=x_KBD.device)
    every = [_likely(model, x_KBD, label_C.expand(*x_KBD.shape[:2], -1)) for label_C in labels_CC]
    best_KB = torch.stack([one[0] + one[1].sum(dim=2) for one in every]).argmin(dim=0)
    return tuple(_picked(torch.stack(parts), best_KB) for parts in zip(*every, strict=True))


def _picked(parts_CKB: Tensor, best_KB: Tensor) -> Tensor:
    """Of C versions of (K, B) or (K, B, ...), each example's own."""
    index = best_KB.view(1, *best_KB.shape, *[1] * (parts_CKB.dim() - 3))
    return torch.gather(parts_CKB, 0, index.expand(1, *parts_CKB.shape[1:]))[0]


def metrics_of(measured: Measurement, prefix: str, score: str) -> dict[str, float]:
    """A split's metrics, `prefix/...`: of the normal rows, and the AUROC of one score where both classes occur."""
    normal_N = ~measured.is_anomaly_N
    reconstruction = float(measured.sampled_reconstruction_N[normal_N].mean())
    active = int((measured.mean_NZ[normal_N].var(axis=0) > ACTIVE_VARIANCE).sum())
    metrics = {
        "reconstruction": reconstruction,
        "squared_error": float(measured.squared_error_N[normal_N].mean()),
        "active_units": float(active),
        **measured.own,
    }
    kl = math.inf
    if measured.kl_NR is not None:
        kl = float(measured.sampled_kl_N[normal_N].mean())
        metrics |= {"kl": kl, "elbo": -(reconstruction + kl)}
    metrics["collapsed"] = float(active == 0 or kl < COLLAPSED_KL)
    area = auroc(measured.is_anomaly_N, measured.scores()[score])
    if not math.isnan(area):
        metrics["auroc"] = area
    return {f"{prefix}/{name}": value for name, value in metrics.items()}


@torch.no_grad()
def iwae_nats(model: Family, examples: Examples, generators_K: Sequence[torch.Generator], draws: int = 64) -> Tensor:
    """The importance-weighted bound on log p(x) (Burda et al. 2016, equation 8), nats per example, shape (K,).

    The draws are streamed, so that memory does not grow with their number.
    """
    model.eval()
    total_K = model.code_mask_KZ.new_zeros(len(generators_K))
    for x_KBD, condition_KBC in examples.passes(len(generators_K)):
        bound_KB = torch.full_like(x_KBD[..., 0], -math.inf)
        for _ in range(draws):
            code = model.code(x_KBD, condition_KBC, model.noise(1, x_KBD.shape[1], generators_K)[0])
            decoded_KBE = model.decode(code.z_KBZ, condition_KBC)
            log_likelihood_KB = -model.likelihood.negative_log(decoded_KBE, x_KBD).sum(dim=2)
            bound_KB = torch.logaddexp(bound_KB, log_likelihood_KB + code.log_ratio_KB)
        total_K += (bound_KB - math.log(draws)).sum(dim=1)
    return total_K / len(examples.x_ND)

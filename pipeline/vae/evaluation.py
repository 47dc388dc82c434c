"""What a trained model says of each example, and the metrics that summarize it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.anomaly import SIMPLE_SCORES, auroc
from pipeline.anomaly.scores import simple_scores
from pipeline.vae.families import Draw, Family
from pipeline.vae.passes import Examples, rows_per_pass, whole_blocks

Floats = NDArray[np.float64]
# Burda et al. 2016, section 5: a dimension is used if its posterior mean varies over the data by more than this.
ACTIVE_VARIANCE = 0.01
# Nats per example; below this a code says nothing.
COLLAPSED_KL = 0.05


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
        """The anomaly scores that need nothing but these parts, by name; higher is more anomalous."""
        return simple_scores(
            reconstruction_N=self.reconstruction_N, kl_N=self.kl_N, squared_error_N=self.squared_error_N
        )


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
    rows = x_KBD.shape[1]
    noise_KBZ = whole_blocks(model.noise(1, rows, generators_K)[0])
    x_KBD, condition_KBC = whole_blocks(x_KBD), None if condition_KBC is None else whole_blocks(condition_KBC)
    draw = model.encode(x_KBD, condition_KBC)
    drawn = draw(noise_KBZ)
    sampled_KBE = model.decode(drawn.z_KBZ, condition_KBC)
    sampled_KB = model.likelihood.negative_log(sampled_KBE, x_KBD).sum(dim=2)
    likely = _likely(model, x_KBD, None, draw) if condition_KBC is None else likely_parts(model, x_KBD, condition_KBC)
    reconstruction_KB = likely.negative_log_KBD.sum(dim=2)
    error_KB = likely.residual_KBD.square().sum(dim=2)
    parts = (sampled_KB, drawn.rate_KBR.sum(dim=2), reconstruction_KB, likely.rate_KBR, error_KB, likely.code_KBZ)
    return tuple(part[:, :rows] for part in parts)


class Likely(NamedTuple):
    """What K models say of B examples at the most likely code.

    Attributes:
        negative_log_KBD: -log p(x_d|z), nats.
        rate_KBR: KL of each latent dimension or code, nats.
        residual_KBD: x - E[x|z].
        code_KBZ: The code.
        condition_KBC: The label's indicator that was used, for a conditional family.
    """

    negative_log_KBD: Tensor
    rate_KBR: Tensor
    residual_KBD: Tensor
    code_KBZ: Tensor
    condition_KBC: Tensor | None = None


def likely_parts(model: Family, x_KBD: Tensor, condition_KBC: Tensor | None) -> Likely:
    """The parts of each example, for a conditional family under the label that explains the example best.

    Scores must not see an example's own label: where labels say what is anomalous, it would give the anomalies away.
    """
    if condition_KBC is None:
        return _likely(model, x_KBD, None, model.encode(x_KBD, None))
    labels_CC = torch.eye(model.shape.classes, dtype=x_KBD.dtype, device=x_KBD.device)
    labels = [label_C.expand(*x_KBD.shape[:2], -1) for label_C in labels_CC]
    every = [_likely(model, x_KBD, label_KBC, model.encode(x_KBD, label_KBC)) for label_KBC in labels]
    cost_CKB = torch.stack([one.negative_log_KBD.sum(dim=2) + one.rate_KBR.sum(dim=2) for one in every])
    best_KB = cost_CKB.argmin(dim=0)
    parts = zip(*(one[:4] for one in every), strict=True)
    return Likely._make([*(_picked(torch.stack(part), best_KB) for part in parts), labels_CC[best_KB]])


def _likely(model: Family, x_KBD: Tensor, condition_KBC: Tensor | None, draw: Draw) -> Likely:
    code = draw(None)
    decoded_KBE = model.decode(code.z_KBZ, condition_KBC)
    negative_log_KBD = model.likelihood.negative_log(decoded_KBE, x_KBD)
    return Likely(negative_log_KBD, code.rate_KBR, x_KBD - model.likelihood.mean(decoded_KBE), code.z_KBZ)


def _picked(parts_CKB: Tensor, best_KB: Tensor) -> Tensor:
    """Of C versions of (K, B, ...), each example's own."""
    index = best_KB.view(1, *best_KB.shape, *[1] * (parts_CKB.dim() - 3))
    return torch.gather(parts_CKB, 0, index.expand(1, *parts_CKB.shape[1:]))[0]


def defined(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics that are numbers: one class alone gives NaN, which no store takes."""
    return {name: value for name, value in metrics.items() if not math.isnan(value)}


def metrics_of(measured: Measurement, prefix: str, score: str) -> dict[str, float]:
    """A split's metrics, `prefix/...`: of the normal rows, and one score's AUROC where both classes occur.

    A score that has to be fitted first has none yet.
    """
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
    if score in SIMPLE_SCORES:
        metrics |= defined({"auroc": auroc(measured.is_anomaly_N, measured.scores()[score])})
    return {f"{prefix}/{name}": value for name, value in metrics.items()}


@torch.no_grad()
def iwae_nats(model: Family, examples: Examples, generators_K: Sequence[torch.Generator], draws: int = 64) -> Tensor:
    """The importance-weighted bound on log p(x) (Burda et al. 2016, equation 8), nats per example, shape (K,).

    The draws are streamed, so that memory does not grow with their number.
    """
    model.eval()
    total_K = model.code_mask_KZ.new_zeros(len(generators_K))
    for x_KBD, condition_KBC in examples.passes(len(generators_K), rows_per_pass(model)):
        rows = x_KBD.shape[1]
        x_KBD, condition_KBC = whole_blocks(x_KBD), None if condition_KBC is None else whole_blocks(condition_KBC)
        bound_KB = torch.full_like(x_KBD[..., 0], -math.inf)
        draw = model.encode(x_KBD, condition_KBC)
        for _ in range(draws):
            code = draw(whole_blocks(model.noise(1, rows, generators_K)[0]))
            decoded_KBE = model.decode(code.z_KBZ, condition_KBC)
            assert code.log_ratio_KB is not None, "a draw has its ratio"
            log_likelihood_KB = -model.likelihood.negative_log(decoded_KBE, x_KBD).sum(dim=2)
            bound_KB = torch.logaddexp(bound_KB, log_likelihood_KB + code.log_ratio_KB)
        total_K += (bound_KB[:, :rows] - math.log(draws)).sum(dim=1)
    return total_K / len(examples.x_ND)

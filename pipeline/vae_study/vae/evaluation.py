"""Measure trained models: reconstruction and KL of each example, metrics of a split, the reference of hypervolumes."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vae_study.anomaly.detection import auroc
from vae_study.anomaly.scores import per_value, simple_scores
from vae_study.config.model import ModelConfig
from vae_study.data import Dataset, Split
from vae_study.data.pixels import slices_of
from vae_study.metrics import ACTIVE_VARIANCE, COLLAPSED_KL, SIMPLE_SCORES
from vae_study.vae.families.base import Family
from vae_study.vae.inference import (
    Examples,
    fewer_if_wide,
    mode_of,
    posterior_mode,
    rows_per_minibatch,
    whole_blocks,
)
from vae_study.vae.likelihoods import make_likelihood

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One model's reconstruction, KL, error and code of each example of one split.

    Attributes:
        sampled_reconstruction_N: -log p(x|z) at one draw z from q(z|x), nats: an unbiased estimate of the distortion.
        sampled_kl_N: KL at that draw, nats: the same as the sum of kl_NR unless one level's prior depends on another.
        reconstruction_N: -log p(x|z) at the posterior mean, nats: deterministic, so that a score can be repeated.
        kl_NR: KL of each latent dimension, or the rate of each discrete code, nats; None for a family without a rate.
        squared_error_N: Sum over features of (x - E[x|posterior mean])^2.
        mean_NZ: Posterior means.
        is_anomaly_N: Which examples are anomalous.
        values_N: Of series of different length, how many values of each are there; else None.
        own: Metrics that only its family has.
    """

    sampled_reconstruction_N: Floats
    sampled_kl_N: Floats
    reconstruction_N: Floats
    kl_NR: Floats | None
    squared_error_N: Floats
    mean_NZ: Floats
    is_anomaly_N: NDArray[np.bool_]
    values_N: Floats | None = None
    own: dict[str, float] = field(default_factory=dict)

    @property
    def kl_N(self) -> Floats:
        """KL of each example, nats; 0 for a family without a rate."""
        return np.zeros_like(self.reconstruction_N) if self.kl_NR is None else self.kl_NR.sum(axis=1)

    def scores(self) -> dict[str, Floats]:
        """The anomaly scores that need nothing but these parts, by name; higher is more anomalous."""
        found = simple_scores(
            reconstruction_N=self.reconstruction_N, kl_N=self.kl_N, squared_error_N=self.squared_error_N
        )
        return per_value(found, self.values_N)


class RawMeasurement(NamedTuple):
    """What K models' Measurements of N examples are made of, on the device or on the host."""

    sampled_KN: Tensor
    sampled_kl_KN: Tensor
    reconstruction_KN: Tensor
    rate_KNR: Tensor
    error_KN: Tensor
    mean_KNZ: Tensor
    code_mask_KZ: Tensor
    rate_mask_KR: Tensor
    parameters: Tensor


@torch.no_grad()
def measure(model: Family, examples: Examples, generators_K: Sequence[torch.Generator]) -> RawMeasurement:
    """Measure some examples; the draws come from the models' generators, and nothing waits for the device."""
    model.eval()
    models = len(generators_K)
    rows = fewer_if_wide(model) if examples.x_ND.device.type == "cpu" else rows_per_minibatch(model)
    minibatches = [_parts(model, x_KBD, c_KBC, generators_K) for x_KBD, c_KBC in examples.minibatches(models, rows)]
    parts = [torch.cat(part, dim=1) for part in zip(*minibatches, strict=True)]
    return RawMeasurement._make([*parts, model.code_mask_KZ, model.rate_mask_KR, model.parameters_to_measure()])


def measurements(model: Family, raw: RawMeasurement, split: Split) -> list[Measurement]:
    """Each model's Measurement, from what was measured and is on the host."""
    sampled, sampled_kl, reconstruction, rate, error, mean, code_mask, rate_mask, own = (
        part.double().numpy() for part in raw
    )
    codes = [mean[k][:, mask_Z] for k, mask_Z in enumerate(code_mask.astype(bool))]
    rate_masks = rate_mask.astype(bool)
    return [
        Measurement(
            sampled_reconstruction_N=sampled[k],
            sampled_kl_N=sampled_kl[k],
            reconstruction_N=reconstruction[k],
            kl_NR=rate[k][:, rate_masks[k]] if model.has_rate else None,
            squared_error_N=error[k],
            mean_NZ=codes[k],
            is_anomaly_N=split.is_anomaly_N,
            values_N=split.values_N if model.shape.has_ends else None,
            own=model.split_metrics(codes[k][~split.is_anomaly_N], own[k]),
        )
        for k in range(len(codes))
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
    is_plain = condition_KBC is None
    mode = mode_of(model, x_KBD, None, draw) if is_plain else posterior_mode(model, x_KBD, condition_KBC)
    reconstruction_KB = mode.negative_log_KBD.sum(dim=2)
    error_KB = mode.residual_KBD.square().sum(dim=2)
    parts = (sampled_KB, drawn.rate_KBR.sum(dim=2), reconstruction_KB, mode.rate_KBR, error_KB, mode.code_KBZ)
    return tuple(part[:, :rows] for part in parts)


def defined(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics without those that are NaN, such as an AUROC where only one class occurs."""
    return {name: value for name, value in metrics.items() if not math.isnan(value)}


def metrics_of(measured: Measurement, prefix: str, score: str) -> dict[str, float]:
    """A split's metrics by name, `prefix/...`: of the normal rows, and one score's AUROC.

    There is no AUROC where only one class occurs, or of a score that has to be fitted first.
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
    for x_KBD, condition_KBC in examples.minibatches(len(generators_K), rows_per_minibatch(model)):
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


def trade_off_reference(data: Dataset, models: Sequence[ModelConfig]) -> dict[str, float]:
    """The reference point of hypervolumes: the largest reconstruction and KL of a useful model.

    It depends on the data and on the likelihoods only, so that studies of one data set can be compared.

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
def _box(data: Dataset, model: ModelConfig) -> tuple[float, float]:
    likelihood = make_likelihood([model], len(data.feature_names)).double()
    mean_D, variance_D = (torch.as_tensor(moment_D) for moment_D in moments(data.splits["train"].x_ND))
    normal_ND = data.splits["validation"].normal_ND
    costs = []
    for rows_ND in _some_at_once(normal_ND):
        x_ND = torch.as_tensor(rows_ND).double()
        without, perfect = likelihood.without_code(mean_D, variance_D, x_ND), likelihood.perfect(x_ND)
        # What is missing costs nothing.
        total = torch.nansum if x_ND.isnan().any() else torch.sum
        costs.append([float(total(without)), float(total(perfect))])
    reconstruction, smallest = np.sum(costs, axis=0) / len(normal_ND)
    return float(reconstruction), float(reconstruction - smallest)


def moments(x_ND: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and variance of each feature, in float64 without a copy of all rows in it, of the values that are there.

    A feature that is always missing has 0 and 1.
    """
    count_D = np.sum([(~np.isnan(part_ND)).sum(axis=0) for part_ND in _some_at_once(x_ND)], axis=0)
    sums = [np.nansum(part_ND, axis=0, dtype=np.float64) for part_ND in _some_at_once(x_ND)]
    mean_D = np.sum(sums, axis=0) / np.maximum(count_D, 1)
    squares_D = np.sum([np.nansum((part_ND - mean_D) ** 2, axis=0) for part_ND in _some_at_once(x_ND)], axis=0)
    return mean_D, np.where(count_D > 0, squares_D / np.maximum(count_D, 1), 1.0)


def _some_at_once(x_ND: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    return (x_ND[rows] for rows in slices_of(x_ND))

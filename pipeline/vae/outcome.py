"""What a trial leaves behind: final metrics, scores per example, pictures, weights. Test rows are seen here only."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.anomaly import average_precision, interval
from pipeline.data import Split
from pipeline.vae.evaluation import Measurement, iwae_nats, metrics_of
from pipeline.vae.population import Population

PICTURES_PER_CLASS = 8
PRIOR_SAMPLES = 16


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One member's results.

    Attributes:
        metrics: `test/...` by name; information quantities in nats per example.
        scores: A row a validation or test example: split, row, label, anomaly, and each anomaly score.
        inputs_ND, reconstructions_ND, samples_MD: Some test examples, their reconstructions and draws from the prior,
            in the scaled data's units.
        input_is_anomaly_N: Which of those examples are anomalous.
        weights: The member's own parameters, by name, without padding's leading dimension of members.
    """

    metrics: dict[str, float]
    scores: pd.DataFrame
    inputs_ND: NDArray[np.float32]
    reconstructions_ND: NDArray[np.float32]
    input_is_anomaly_N: NDArray[np.bool_]
    samples_MD: NDArray[np.float32]
    weights: dict[str, Tensor]


def outcome_of(population: Population, member: int = 0) -> Outcome:
    """Measure one trained member on validation and test."""
    splits = population.data.splits
    measured = {name: population.measure(name)[member] for name in ("validation", "test")}
    rows = _example_rows(splits["test"])
    inputs_ND = splits["test"].x_ND[rows]
    return Outcome(
        metrics=_test_metrics(population, member, measured["test"]),
        scores=pd.concat([_scores(name, splits[name], measured[name]) for name in measured], ignore_index=True),
        inputs_ND=inputs_ND,
        reconstructions_ND=_reconstruct(population, member, inputs_ND),
        input_is_anomaly_N=splits["test"].is_anomaly_N[rows],
        samples_MD=_prior_samples(population, member),
        weights={name: value[member].detach().clone() for name, value in population.model.state_dict().items()},
    )


def _test_metrics(population: Population, member: int, measured: Measurement) -> dict[str, float]:
    metrics = metrics_of(measured, "test", population.score)
    normal_ND = population.tensor(population.data.splits["test"].normal_ND)
    generators = [other.generator("evaluation", population.device) for other in population.members]
    metrics["test/iwae"] = float(iwae_nats(population.model, normal_ND, generators)[member])
    if "test/auroc" in metrics:
        score_N = measured.scores()[population.score]
        low, high = interval("auroc", measured.is_anomaly_N, score_N)
        metrics |= {"test/auroc_low": low, "test/auroc_high": high}
        metrics["test/auprc"] = average_precision(measured.is_anomaly_N, score_N)
    return metrics


def _scores(name: str, split: Split, measured: Measurement) -> pd.DataFrame:
    about = {"split": name, "row": split.row_N, "label": split.label_N, "anomaly": split.is_anomaly_N}
    return pd.DataFrame({**about, **measured.scores()})


def _example_rows(split: Split) -> NDArray[np.intp]:
    normal, anomalous = np.flatnonzero(~split.is_anomaly_N), np.flatnonzero(split.is_anomaly_N)
    return np.concatenate([normal[:PICTURES_PER_CLASS], anomalous[:PICTURES_PER_CLASS]])


@torch.no_grad()
def _reconstruct(population: Population, member: int, x_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    model = population.model
    x_KND = population.tensor(x_ND).expand(len(population.members), -1, -1)
    decoded_KND = model.decode(model.encode(x_KND).mean_KBZ)
    return model.likelihood.mean(decoded_KND)[member].float().cpu().numpy()


@torch.no_grad()
def _prior_samples(population: Population, member: int) -> NDArray[np.float32]:
    model = population.model
    mask_K1Z = model.latent_mask_KZ[:, None]
    generator = population.members[member].generator("samples", population.device)
    shape = (PRIOR_SAMPLES, mask_K1Z.shape[2])
    z_MZ = torch.randn(shape, generator=generator, device=population.device, dtype=population.dtype)
    return model.likelihood.mean(model.decode(z_MZ * mask_K1Z))[member].float().cpu().numpy()

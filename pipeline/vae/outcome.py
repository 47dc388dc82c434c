"""What a trial leaves behind: final metrics, scores per example, pictures, weights. Test rows are seen here only."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from pipeline.anomaly import average_precision, interval
from pipeline.data import Split
from pipeline.spec.schema import DiagnosticsSpec
from pipeline.vae.diagnostics import finalist_arrays
from pipeline.vae.evaluation import Examples, Measurement, iwae_nats, metrics_of
from pipeline.vae.population import Population
from pipeline.vae.probe import probe_accuracy


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One member's results.

    Attributes:
        metrics: `test/...` by name; information quantities in nats per example.
        scores: A row a validation or test example: split, row, label, anomaly, and each anomaly score.
        arrays: Pictures and codes of some test examples, by the names in `diagnostics`.
        weights: The member's own parameters, by name, without the leading dimension of members.
    """

    metrics: dict[str, float]
    scores: pd.DataFrame
    arrays: Mapping[str, NDArray[Any]]
    weights: dict[str, Tensor]


def outcome_of(population: Population, diagnostics: DiagnosticsSpec, member: int = 0) -> Outcome:
    """Measure one trained member on validation and test."""
    splits = population.data.splits
    measured = {name: population.measure(name)[member] for name in ("validation", "test")}
    test = measured["test"]
    return Outcome(
        metrics={
            **metrics_of(test, "test", population.score),
            **_bound(population, member),
            **_anomaly_metrics(population, test),
            **_probe(population, member, test, diagnostics.probe_labels),
        },
        scores=pd.concat([_scores(name, splits[name], measured[name]) for name in measured], ignore_index=True),
        arrays=finalist_arrays(population, member, test, diagnostics.latent_map),
        weights={name: value[member].detach().clone() for name, value in population.model.state_dict().items()},
    )


def _bound(population: Population, member: int) -> dict[str, float]:
    if not population.model.has_rate:
        return {}
    normal_N = ~population.data.splits["test"].is_anomaly_N
    every = population.examples["test"]
    condition_NC = None if every.condition_NC is None else every.condition_NC[normal_N]
    examples = Examples(every.x_ND[normal_N], condition_NC)
    return {"test/iwae": float(iwae_nats(population.model, examples, population.generators("evaluation"))[member])}


def _anomaly_metrics(population: Population, measured: Measurement) -> dict[str, float]:
    score_N = measured.scores()[population.score]
    low, high = interval("auroc", measured.is_anomaly_N, score_N)
    if math.isnan(low):
        return {}
    precision = average_precision(measured.is_anomaly_N, score_N)
    return {"test/auroc_low": low, "test/auroc_high": high, "test/auprc": precision}


def _probe(population: Population, member: int, test: Measurement, share: float) -> dict[str, float]:
    train, tested = population.data.splits["train"], population.data.splits["test"]
    normal_N = ~tested.is_anomaly_N
    accuracy = probe_accuracy(
        population.measure("train")[member].mean_NZ,
        train.label_N,
        test.mean_NZ[normal_N],
        tested.label_N[normal_N],
        share,
        population.members[member].seed % 2**32,
    )
    return {} if math.isnan(accuracy) else {"test/probe_accuracy": accuracy}


def _scores(name: str, split: Split, measured: Measurement) -> pd.DataFrame:
    about = {"split": name, "row": split.row_N, "label": split.label_N, "anomaly": split.is_anomaly_N}
    return pd.DataFrame({**about, **measured.scores()})

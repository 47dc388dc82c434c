"""What a trial leaves behind: final metrics, scores per example, pictures, weights. Test rows are seen here only."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.anomaly import SCORES, auroc, interval, operating_points, pseudo_anomalies
from pipeline.data import Split
from pipeline.spec.schema import DiagnosticsSpec
from pipeline.vae.diagnostics import finalist_arrays
from pipeline.vae.evaluation import Measurement, defined, iwae_nats, metrics_of
from pipeline.vae.explanation import explained_arrays, usual_cost
from pipeline.vae.families import Family
from pipeline.vae.population import Population
from pipeline.vae.probe import probe_accuracy
from pipeline.vae.scoring import PopulationScorer
from pipeline.vae.snapshot import member_state

HELD_OUT = ("validation", "test")
ScoresBySplit = Mapping[str, Mapping[str, NDArray[np.float64]]]
#: The files of the weights, and of what scores take beside them.
WEIGHTS_FILE, SCORER_FILE = "model.safetensors", "scorer.safetensors"
# Of what is kept for scores: the mean cost of each feature in training rows (D,), the draws' noise (L, Z).
USUAL_COST, NOISE = "usual_cost", "probability_noise"
# All trials of all studies spoil the same rows in the same way.
PSEUDO_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One member's results.

    Attributes:
        metrics: `test/...` by name, information quantities in nats per example; and for each anomaly score
            `val_auroc/...`, `test_auroc/...`, and `pseudo_auroc/...` against pseudo-anomalies.
        scores: A row a validation or test example: split, row, label, anomaly, and each anomaly score.
        arrays: Pictures, codes and explanations of some test examples, by name.
        weights: The member's own parameters, by name, without the leading dimension of members and without padding.
        scorer: What its scores take beside the weights, by name: the arrays of its `Scorer`, USUAL_COST and NOISE.
    """

    metrics: dict[str, float]
    scores: pd.DataFrame
    arrays: Mapping[str, NDArray[Any]]
    weights: dict[str, Tensor]
    scorer: dict[str, Tensor]


def outcomes_of(population: Population, diagnostics: DiagnosticsSpec) -> list[Outcome]:
    """Measure every trained member on validation and test."""
    # All at once, convolutional nets would fill the cache many times over; others gain from company.
    if population.model.network.kind == "conv" and len(population.slices) > 1:
        return [outcome_of(population, member, diagnostics) for member in range(len(population.members))]
    examination = _Examination(population, diagnostics)
    return [examination.outcome(member) for member in range(len(population.members))]


def outcome_of(population: Population, member: int, diagnostics: DiagnosticsSpec) -> Outcome:
    """Measure one trained member of a pack, whose others cost nothing."""
    return outcomes_of(population.alone(member), diagnostics)[0]


class _Examination:
    """What is measured of all members at once."""

    def __init__(self, population: Population, diagnostics: DiagnosticsSpec):
        self.population, self.diagnostics = population, diagnostics
        self.splits = population.data.splits
        self.scorer = PopulationScorer(population)
        self.scores = {split: self.scorer.scores(population.examples[split].x_ND) for split in HELD_OUT}
        self.pseudo = {kind: self.scorer.of_rows(rows_ND) for kind, rows_ND in _pseudo(population).items()}
        self.usual_KD = usual_cost(population)
        self.train, self.test = population.measure("train"), population.measure("test")
        self.bounds = _bounds(population, self.scorer.rows.model, diagnostics.iwae_draws)

    def outcome(self, member: int) -> Outcome:
        scores = {split: every[member] for split, every in self.scores.items()}
        return Outcome(
            metrics=self._metrics(member, scores),
            scores=pd.concat([_frame(name, self.splits[name], scores[name]) for name in HELD_OUT], ignore_index=True),
            arrays={
                **finalist_arrays(self.population, member, self.test[member], self.diagnostics.latent_map),
                **explained_arrays(self.population, member, self.usual_KD[member], scores["test"]),
            },
            weights=_weights(self.population, member),
            scorer=self._scorer(member),
        )

    def _scorer(self, member: int) -> dict[str, Tensor]:
        fitted = self.scorer.rows.scorers_K[member].arrays()
        return {
            **{name: torch.as_tensor(array) for name, array in fitted.items()},
            USUAL_COST: torch.as_tensor(self.usual_KD[member]),
            NOISE: self.scorer.noise(member),
        }

    def _metrics(self, member: int, scores: ScoresBySplit) -> dict[str, float]:
        population, splits = self.population, self.splits
        is_anomaly = {name: splits[name].is_anomaly_N for name in HELD_OUT}
        pseudo = {kind: every[member] for kind, every in self.pseudo.items()}
        return {
            **metrics_of(self.test[member], "test", population.score),
            **self.bounds[member],
            **_detection(population.score, is_anomaly, scores),
            **_pseudo_metrics(scores["validation"], ~is_anomaly["validation"], pseudo),
            **_probe(population, member, self.train[member], self.test[member], self.diagnostics.probe_labels),
        }


def _weights(population: Population, member: int) -> dict[str, Tensor]:
    of_model = "model/"
    state = member_state(population, member)
    return {name.removeprefix(of_model): value for name, value in state.items() if name.startswith(of_model)}


def _pseudo(population: Population) -> dict[str, NDArray[np.float32]]:
    return pseudo_anomalies(population.data.splits["validation"].normal_ND, PSEUDO_SEED)


def _bounds(population: Population, model: Family, draws: int) -> list[dict[str, float]]:
    """The importance-weighted bound of each member on test's normal rows, by the members' models."""
    if not model.has_rate or not draws:
        return [{} for _ in population.members]
    normal_N = population.index(~population.data.splits["test"].is_anomaly_N)
    examples = population.examples["test"].rows(normal_N)
    nats_K = iwae_nats(model, examples, population.generators("evaluation"), draws)
    return [{"test/iwae": float(nats)} for nats in nats_K]


def _detection(asked: str, is_anomaly: Mapping[str, NDArray[np.bool_]], scores: ScoresBySplit) -> dict[str, float]:
    """Every score's AUROC on both splits, and all of test's metrics of the score that was asked for."""
    short = {"validation": "val", "test": "test"}
    areas = {
        f"{short[split]}_auroc/{score}": auroc(is_anomaly[split], scores[split][score])
        for split in HELD_OUT
        for score in SCORES
    }
    of_test = is_anomaly["test"], scores["test"][asked]
    low, high = interval("auroc", *of_test)
    points = operating_points(*of_test)
    return defined(
        {
            **areas,
            "val/auroc": areas[f"val_auroc/{asked}"],
            "test/auroc": areas[f"test_auroc/{asked}"],
            "test/auroc_low": low,
            "test/auroc_high": high,
            "test/auprc": points["average_precision"],
        }
    )


def _pseudo_metrics(
    validation: Mapping[str, NDArray[np.float64]], is_normal_N: NDArray[np.bool_], pseudo: ScoresBySplit
) -> dict[str, float]:
    """Each score's AUROC of validation's normal rows against their spoiled twins, the mean over the kinds."""
    names = next(iter(pseudo.values()))
    return {
        f"pseudo_auroc/{score}": float(
            np.mean([_against(validation[score][is_normal_N], scores[score]) for scores in pseudo.values()])
        )
        for score in names
    }


def _against(normal_N: NDArray[np.float64], anomalous_M: NDArray[np.float64]) -> float:
    is_anomaly = np.arange(len(normal_N) + len(anomalous_M)) >= len(normal_N)
    return auroc(is_anomaly, np.concatenate([normal_N, anomalous_M]))


def _probe(
    population: Population, member: int, train: Measurement, test: Measurement, share: float
) -> dict[str, float]:
    splits = population.data.splits
    normal_N = ~splits["test"].is_anomaly_N
    accuracy = probe_accuracy(
        train.mean_NZ,
        splits["train"].label_N,
        test.mean_NZ[normal_N],
        splits["test"].label_N[normal_N],
        share,
        population.members[member].seed % 2**32,
    )
    return defined({"test/probe_accuracy": accuracy})


def _frame(name: str, split: Split, scores: Mapping[str, NDArray[np.float64]]) -> pd.DataFrame:
    about = {"split": name, "row": split.row_N, "label": split.label_N, "anomaly": split.is_anomaly_N}
    return pd.DataFrame({**about, **scores})

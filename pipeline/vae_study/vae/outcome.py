"""What a trial leaves: final metrics, scores of each example, pictures, weights. Only here are test rows looked at."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from vae_study.anomaly import detection
from vae_study.anomaly.detection import area, auroc, interval, operating_points, pseudo_anomalies
from vae_study.anomaly.maps import FlawedPixels, pixel_metrics
from vae_study.anomaly.ranges import covered, point_metrics
from vae_study.anomaly.scores import FITTED, FULL_COVARIANCE, Moments, Parts, Scorer, reference_rows
from vae_study.config.study import DiagnosticsConfig
from vae_study.data import Split
from vae_study.data.pixels import part_of
from vae_study.data.windows import Windows
from vae_study.metrics import AREAS, SCORES, need
from vae_study.vae.device import on_host
from vae_study.vae.diagnostics import (
    Illustrator,
    code_arrays,
    explained_arrays,
    picture_metrics,
    probe_accuracy,
    usual_cost,
    usual_input,
)
from vae_study.vae.disentanglement import FactorValues, compared_code, measure_factors, total_correlation
from vae_study.vae.evaluation import defined, iwae_nats, metrics_of
from vae_study.vae.families.base import Family
from vae_study.vae.gpu.device_scorer import DeviceScorer, bounded, brought_to_host
from vae_study.vae.inference import (
    NOISE,
    USUAL_COST,
    USUAL_INPUT,
    RowScorer,
    inference_model,
    own_code,
    parts_of,
    rows_per_minibatch,
    score_outputs,
    whole_blocks,
)
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.stacking import ModelSetup, even_chunks

Floats = NDArray[np.float64]
HELD_OUT = ("validation", "test")
ScoresBySplit = Mapping[str, Mapping[str, Floats]]
# Draws of z for the reconstruction probability (An and Cho 2015 call it L).
DRAWS = 10
Weights = Mapping[str, Tensor]
Outputs = Iterator[tuple[list[Tensor], int]]
# So many weights of kept models are measured at once: a batch holds each of them four times.
NUMBERS = 2**24


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One model's results.

    Attributes:
        metrics: `test/...` by name, information quantities in nats per example; and for each anomaly score
            `val_auroc/...`, `val_auprc/...`, `test_auroc/...`, `test_auprc/...`, and `pseudo_auroc/...` against
            pseudo-anomalies.
        scores: A row a validation or test example: split, row, label, anomaly, of images file, and each anomaly score.
        arrays: Pictures, codes and explanations of some test examples, by name.
        weights: The model's own parameters, by name, without the leading dimension of models and without padding.
        code: What compares its code with that of other seeds, see `disentanglement.compared_code`.
        scorer: What its scores take beside the weights, by name: the arrays of its `Scorer`, USUAL_COST,
            USUAL_INPUT and NOISE.
    """

    metrics: dict[str, float]
    scores: pd.DataFrame
    arrays: Mapping[str, NDArray[Any]]
    weights: dict[str, Tensor]
    scorer: dict[str, Tensor]
    code: Mapping[str, NDArray[np.float32]]


def fit_scorer(model_batch: ModelBatch) -> RowScorer:
    """The scorers of all models of a batch, fitted to the reference rows of train."""
    model, noise_LKZ = inference_model(model_batch.model), draw_noise(model_batch, DRAWS)
    outputs = _reference_outputs(model, _reference_inputs(model_batch))
    residuals_K: Sequence[Moments | None] = [None] * len(model_batch.setups)
    if model.shape.features > FULL_COVARIANCE:
        residuals_K = moments_K = [Moments() for _ in model_batch.setups]
        outputs = _without_residuals(outputs, moments_K)
    if model_batch.device.type == "cpu":
        parts, sizes = zip(*((parts_of(model, tensors), rows) for tensors, rows in outputs), strict=True)
        own_K = zip(zip(*parts, strict=True), residuals_K, strict=True)
        scorers_K = [Scorer.fit(_side_by_side(own, sizes), model.shape.image, moments) for own, moments in own_K]
        return RowScorer(model=model, scorers_K=scorers_K, noise_LKZ=noise_LKZ)
    residuals_and_codes = zip(*([part[:, :rows] for part in tensors[3:5]] for tensors, rows in outputs), strict=True)
    residual_KRD, code_KRZ = (torch.cat(parts, dim=1) for parts in residuals_and_codes)
    models = range(len(model_batch.setups))
    image = model.shape.image
    fitted_K = [DeviceScorer.fit(residual_KRD[k], own_code(model, code_KRZ, k), image, residuals_K[k]) for k in models]
    return RowScorer(model=model, scorers_K=brought_to_host(fitted_K), noise_LKZ=noise_LKZ, device_scorers_K=fitted_K)


def _without_residuals(outputs: Outputs, moments_K: Sequence[Moments]) -> Outputs:
    """The same outputs without the residuals of wide data, which would not fit into memory; their moments are kept."""
    for tensors, rows in outputs:
        for moments, residual_BD in zip(moments_K, tensors[3], strict=True):
            values_BD = bounded(residual_BD[:rows])
            moments.add(values_BD.numpy() if values_BD.device.type == "cpu" else values_BD)
        yield [*tensors[:3], tensors[3][..., :0], *tensors[4:]], rows


def _reference_inputs(model_batch: ModelBatch) -> Any:
    train_ND = model_batch.examples["train"].x_ND
    return part_of(train_ND, model_batch.index(reference_rows(len(train_ND))))


def draw_noise(model_batch: ModelBatch, draws: int) -> Tensor:
    """Each model's noise for the draws of the reconstruction probability, (L, K, Z)."""
    return model_batch.model.noise(draws, 1, model_batch.generators("probability"))[:, :, 0]


def _reference_outputs(model: Family, x_RD: Any) -> Outputs:
    """What scorers are fitted to, computed for the reference rows: each minibatch's `score_outputs`, and its rows."""
    rows = rows_per_minibatch(model)
    minibatches = [x_RD[start : start + rows] for start in range(0, len(x_RD), rows)]
    none_0KZ = model.code_mask_KZ.new_zeros(0, *model.code_mask_KZ.shape)
    return ((score_outputs(model, whole_blocks(x_BD), none_0KZ, FITTED), len(x_BD)) for x_BD in minibatches)


def _side_by_side(parts: Sequence[Parts], sizes: Sequence[int]) -> Parts:
    """The parts of several minibatches, concatenated without their padding."""

    def joined(name: str) -> Floats:
        return np.concatenate([getattr(one, name)[:size] for one, size in zip(parts, sizes, strict=True)])

    names = ("reconstruction_N", "kl_N", "squared_error_N", "residual_ND", "mean_NZ")
    return Parts(reconstruction_probability_N=None, **{name: joined(name) for name in names})


def outcomes_of(model_batch: ModelBatch, diagnostics: DiagnosticsConfig) -> list[Outcome]:
    """Measure every trained model on validation and test."""
    # All at once, convolutional nets would fill the cache many times over; others gain from being measured together.
    if model_batch.model.network.kind in ("conv", "residual") and len(model_batch.chunks) > 1:
        return [outcome_of(model_batch, k, diagnostics) for k in range(len(model_batch.setups))]
    examination = _Examination(model_batch, diagnostics)
    return [examination.outcome(k) for k in range(len(model_batch.setups))]


def outcome_of(model_batch: ModelBatch, k: int, diagnostics: DiagnosticsConfig) -> Outcome:
    """Measure one trained model of a batch, whose others cost nothing."""
    return outcomes_of(model_batch.alone(k), diagnostics)[0]


def weights_of(state: Weights) -> dict[str, Tensor]:
    """The parameters and running statistics in a model's state, as `ModelBatch.state` returns it."""
    return {name: value for name, value in state.items() if name.startswith("model/")}


def outcomes_of_kept(
    beside: ModelBatch, setup: ModelSetup, kept: Sequence[tuple[float, Weights]], diagnostics: DiagnosticsConfig
) -> Iterator[Outcome]:
    """Measure the models that one trial has kept, several at a time.

    Args:
        beside: A batch on the same data and device.
        setup: The trial's.
        kept: Each model's beta, and what `weights_of` returned after the epoch in which training had come to it.
        diagnostics: As for any trial.

    Returns:
        Each model's outcome; its metrics have those of validation, too, which other trials have in their last epoch.
    """
    if not kept:
        return
    largest = max(1, NUMBERS // sum(value.numel() for value in kept[0][1].values()))
    for part in even_chunks(len(kept), largest):
        batch = _kept_batch(beside, setup, kept[part])
        measured = [metrics_of(one, "val", batch.score) for one in batch.measure("validation")]
        for outcome, metrics in zip(outcomes_of(batch, diagnostics), measured, strict=True):
            yield replace(outcome, metrics={**metrics, **outcome.metrics})


def _kept_batch(beside: ModelBatch, setup: ModelSetup, kept: Sequence[tuple[float, Weights]]) -> ModelBatch:
    """The models as a batch of their own."""
    setups = [replace(setup, config=setup.config.with_beta(beta)) for beta, _ in kept]
    about = beside.data, beside.score, beside.device, beside.dtype, beside.latent_capacity, beside
    batch = ModelBatch(setups, *about)
    for k, (_, weights) in enumerate(kept):
        batch.restore(k, {**batch.state(k), **weights})
    return batch


class _Examination:
    """What is measured of all models of a batch at once."""

    def __init__(self, model_batch: ModelBatch, diagnostics: DiagnosticsConfig):
        self.model_batch, self.diagnostics = model_batch, diagnostics
        self.splits = splits = model_batch.data.splits
        self.scorer = fit_scorer(model_batch)
        [self.noise_LKZ] = on_host([self.scorer.noise_LKZ])
        self.scores = {name: self.scorer.scores(model_batch.examples[name].x_ND) for name in HELD_OUT}
        # The draws of the reconstruction probability cost too much for rows that are in no split.
        without_draws = [name for name in SCORES if not need([name], "draws")]
        self.pseudo = {
            kind: self.scorer.scores(model_batch.tensor(x_ND), without_draws)
            for kind, x_ND in pseudo_anomalies(splits["validation"].normal_sample()).items()
        }
        self.usual_KD = usual_cost(model_batch)
        self.usual_input_D = usual_input(model_batch).cpu()
        self.train, self.test = model_batch.measure("train"), model_batch.measure("test")
        self.bounds = self._bounds()
        is_images = model_batch.data.image_shape is not None
        self.pictures = picture_metrics(model_batch, self.scorer.model) if is_images else [{}] * len(self.test)
        self.pixels = self._pixels()
        self.factors = self._factors()

    def _bounds(self) -> list[dict[str, float]]:
        """The importance-weighted bound of each model on test's normal rows."""
        batch, model, draws = self.model_batch, self.scorer.model, self.diagnostics.iwae_draws
        if not model.has_rate or not draws:
            return [{} for _ in batch.setups]
        normal = batch.examples["test"].rows(batch.index(~self.splits["test"].is_anomaly_N))
        nats_K = iwae_nats(model, normal, batch.generators("evaluation"), draws)
        return [{"test/iwae": nats} for nats in nats_K.tolist()]

    def _pixels(self) -> list[dict[str, float]]:
        """How well each model's anomaly maps find the anomalous pixels of test, where masks say which they are."""
        batch, model, masks_NP = self.model_batch, self.scorer.model, self.splits["test"].is_anomaly_NP
        if masks_NP is None or model.shape.image is None:
            return [{} for _ in batch.setups]
        flawed, rows = FlawedPixels.of(masks_NP, model.shape.image[1:]), rows_per_minibatch(model)
        found_K: list[list[tuple[Floats, Floats]]] = [[] for _ in batch.setups]
        for start in range(0, len(masks_NP), rows):
            maps_K = self.scorer.maps(batch.examples["test"].x_ND[start : start + rows])
            for found, maps_BHW in zip(found_K, maps_K, strict=True):
                found += [flawed.picked(start + place, map_HW) for place, map_HW in enumerate(maps_BHW)]
        every = [pixel_metrics(flawed, *(np.concatenate(part) for part in zip(*one, strict=True))) for one in found_K]
        return [defined({f"test/{name}": value for name, value in one.items()}) for one in every]

    def _factors(self) -> tuple[FactorValues, FactorValues] | None:
        """The known factors of the training rows, and of test's normal rows; None if there are none."""
        train, test = self.splits["train"], self.splits["test"]
        if not test.factors:
            return None
        normal = np.flatnonzero(~test.is_anomaly_N)
        return FactorValues.of(train.factors), FactorValues.of([factor.taken(normal) for factor in test.factors])

    def _disentanglement(self, k: int) -> tuple[dict[str, float], dict[str, NDArray[Any]]]:
        """How one model's code follows the factors, as metrics and arrays, and how its dimensions depend."""
        code_NZ = self.test[k].mean_NZ[~self.splits["test"].is_anomaly_N]
        metrics = {"test/total_correlation": total_correlation(code_NZ)}
        if self.factors is None:
            return defined(metrics), {}
        train, test = self.factors
        seed = self.model_batch.setups[k].seed % 2**32
        found = measure_factors(self.train[k].mean_NZ, train, code_NZ, test, seed)
        metrics |= {f"test/{name}": value for name, value in found.metrics.items()}
        arrays = {
            "factor_names": np.array([factor.name for factor in self.splits["test"].factors]),
            "factor_information": found.information_ZF,
            "factor_entropy": found.entropy_F,
        }
        return defined(metrics), arrays

    def outcome(self, k: int) -> Outcome:
        """The outcome of one of the models."""
        scores = {name: every_K[k] for name, every_K in self.scores.items()}
        state = self.model_batch.state(k)
        disentanglement, factor_arrays = self._disentanglement(k)
        return Outcome(
            metrics={**self._metrics(k, scores), **disentanglement},
            scores=pd.concat([_frame(name, self.splits[name], scores[name]) for name in HELD_OUT], ignore_index=True),
            arrays={
                **code_arrays(self.test[k], self.diagnostics.latent_map),
                **factor_arrays,
                **Illustrator(self.model_batch, k, "test").arrays(self.test[k]),
                **explained_arrays(self.model_batch, k, self.usual_KD[k], scores["test"], self.scorer.scorers_K[k]),
            },
            weights={name.removeprefix("model/"): value for name, value in state.items() if name.startswith("model/")},
            scorer=self._scorer(k),
            code=self._code(k),
        )

    def _code(self, k: int) -> Mapping[str, NDArray[np.float32]]:
        test, normal_N = self.test[k], ~self.splits["test"].is_anomaly_N
        kl_Z = None if test.kl_NR is None else test.kl_NR[normal_N].mean(axis=0)
        return compared_code(test.mean_NZ[normal_N], kl_Z)

    def _scorer(self, k: int) -> dict[str, Tensor]:
        noise_LZ = [self.noise_LKZ[:, k, part] for part in self.model_batch.model.code_parts_K[k]]
        return {
            **{name: torch.as_tensor(array) for name, array in self.scorer.scorers_K[k].arrays().items()},
            USUAL_COST: torch.as_tensor(self.usual_KD[k]),
            USUAL_INPUT: self.usual_input_D,
            NOISE: torch.cat(noise_LZ, dim=1),
        }

    def _metrics(self, k: int, scores: ScoresBySplit) -> dict[str, float]:
        asked, is_anomaly = self.model_batch.score, {name: self.splits[name].is_anomaly_N for name in HELD_OUT}
        pseudo = {kind: every_K[k] for kind, every_K in self.pseudo.items()}
        return {
            **metrics_of(self.test[k], "test", asked),
            **self.bounds[k],
            **self.pictures[k],
            **self.pixels[k],
            **_detection(asked, is_anomaly, scores),
            **_of_points(self.splits["test"], scores["test"][asked]),
            **_pseudo_metrics(scores["validation"], ~is_anomaly["validation"], pseudo),
            **self._probe(k),
            **self._label_accuracy(k),
        }

    def _probe(self, k: int) -> dict[str, float]:
        train_N, test_N = self._labelled("train"), self._labelled("test")
        accuracy = probe_accuracy(
            self.train[k].mean_NZ[train_N],
            self.splits["train"].label_N[train_N],
            self.test[k].mean_NZ[test_N],
            self.splits["test"].label_N[test_N],
            self.diagnostics.probe_labels,
            self.model_batch.setups[k].seed % 2**32,
        )
        return defined({"test/probe_accuracy": accuracy})

    def _label_accuracy(self, k: int) -> dict[str, float]:
        """The share of test's labelled rows whose label the code says."""
        rows_N, parts = self._labelled("test"), self.model_batch.model.label_parts
        if not parts or not rows_N.any():
            return {}
        said_N = np.array(self.model_batch.data.classes)[self.test[k].mean_NZ[rows_N, :parts].argmax(axis=1)]
        return {"test/label_accuracy": float((said_N == self.splits["test"].label_N[rows_N]).mean())}

    def _labelled(self, name: str) -> NDArray[np.bool_]:
        """Which rows of a split are normal and have a label that is known and occurs in train."""
        split = self.splits[name]
        return ~split.is_anomaly_N & np.isin(split.label_N, self.model_batch.data.classes)


def _detection(asked: str, is_anomaly: Mapping[str, NDArray[np.bool_]], scores: ScoresBySplit) -> dict[str, float]:
    """Every score's areas on both splits, and all of test's metrics of the score that was asked for."""
    areas = {
        f"{short}_{name}/{score}": area(metric, is_anomaly[split], scores[split][score])
        for short, split in (("val", "validation"), ("test", "test"))
        for name, metric in zip(AREAS, detection.AREAS, strict=True)
        for score in scores["test"]
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
            "val/auprc": areas[f"val_auprc/{asked}"],
            "test/auprc": areas[f"test_auprc/{asked}"],
            "test/precision_at_n": points["precision_at_n"],
        }
    )


def _of_points(split: Split, score_N: Floats) -> dict[str, float]:
    """The metrics of a split's time points, each with the mean score of its windows.

    None where rows are examples, or whole series: that has no score of its own for each of its points.
    """
    windows = split.x_ND
    if not isinstance(windows, Windows) or windows.has_ends or split.is_anomaly_R is None:
        return {}
    score_R = covered(score_N, windows.start_N, windows.steps, len(split.is_anomaly_R))
    found = point_metrics(split.is_anomaly_R, score_R, largest_buffer=windows.steps)
    return defined({f"test/{name}": value for name, value in found.items()})


def _pseudo_metrics(
    validation: Mapping[str, Floats], is_normal_N: NDArray[np.bool_], pseudo: ScoresBySplit
) -> dict[str, float]:
    """Each score's AUROC of validation's normal rows against pseudo-anomalies made from them, the mean of all kinds."""

    def area(normal_N: Floats, anomalous_M: Floats) -> float:
        is_anomaly = np.arange(len(normal_N) + len(anomalous_M)) >= len(normal_N)
        return auroc(is_anomaly, np.concatenate([normal_N, anomalous_M]))

    return {
        f"pseudo_auroc/{score}": float(
            np.mean([area(validation[score][is_normal_N], scores[score]) for scores in pseudo.values()])
        )
        for score in next(iter(pseudo.values()))
    }


def _frame(name: str, split: Split, scores: Mapping[str, Floats]) -> pd.DataFrame:
    return pd.DataFrame({**split.about(name), **scores})

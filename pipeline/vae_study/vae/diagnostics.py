"""Diagnostics of a trained model for the report: its code, pictures, unexpected features, a probe of the labels."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vae_study.anomaly.scores import FULL_COVARIANCE, Scorer, reference_rows
from vae_study.data import Split
from vae_study.data.pixels import part_of, slices_of
from vae_study.vae.device import on_host
from vae_study.vae.evaluation import Measurement, defined
from vae_study.vae.families.base import Family
from vae_study.vae.inference import (
    Examples,
    feature_costs,
    fewer_if_wide,
    posterior_mode,
    rows_per_minibatch,
    whole_blocks,
)
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.pictures import detail, ms_ssim, patch_distance

Floats = NDArray[np.float64]
Labels = NDArray[np.str_]
Pictures = NDArray[np.float32]
PICTURES_PER_CLASS, PRIOR_SAMPLES = 8, 16
TRAVERSED_DIMENSIONS, STEPS, REACH = 8, 9, 2.5
INTERPOLATED_PAIRS = 4
# Samples that are compared with as many images; of large images fewer.
SAMPLES_MEASURED = 256
# So many test rows for each score: which score is looked at is chosen later.
TOP_ROWS = 10


def code_arrays(measured: Measurement, latent_map: str) -> dict[str, Floats]:
    """Arrays that describe the codes of one split.

    Args:
        measured: One model's parts on the split.
        latent_map: "pca" or "tsne".

    Returns:
        `latent_mean` and `latent_variance` of the aggregate posterior's means, (Z,); `kl_per_dimension`, nats, (Z,) or
        (0,) for a family without a rate; `latent_map`, (N, 2).
    """
    normal_NZ = measured.mean_NZ[~measured.is_anomaly_N]
    kl_NR = measured.kl_NR
    return {
        "latent_mean": normal_NZ.mean(axis=0),
        "latent_variance": normal_NZ.var(axis=0),
        "kl_per_dimension": np.zeros(0) if kl_NR is None else kl_NR[~measured.is_anomaly_N].mean(axis=0),
        "latent_map": flat_map(measured.mean_NZ, latent_map),
    }


def flat_map(mean_NZ: Floats, kind: str) -> Floats:
    """Posterior means in two dimensions, (N, 2), by PCA or t-SNE; of one row or dimension the second column is 0."""
    if kind == "tsne" and len(mean_NZ) > 3:
        perplexity = min(30.0, (len(mean_NZ) - 1) / 3)
        from sklearn.manifold import TSNE

        return np.asarray(TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(mean_NZ), np.float64)
    if min(mean_NZ.shape) < 2:
        return np.pad(mean_NZ[:, :1], ((0, 0), (0, 1)))
    from sklearn.decomposition import PCA

    # All directions of many rows of a long code take half a minute, two of them a second.
    solver = "full" if min(mean_NZ.shape) <= FULL_COVARIANCE else "arpack"
    return np.asarray(PCA(n_components=2, svd_solver=solver, random_state=0).fit_transform(mean_NZ), np.float64)


class Illustrator:
    """Decodes codes of one model of a batch, with the labels of examples for a conditional family."""

    def __init__(self, model_batch: ModelBatch, k: int, split: str):
        self.model_batch, self.k, self.split = model_batch, k, model_batch.data.splits[split]
        self.examples, self.models = model_batch.examples[split], len(model_batch.setups)

    @torch.no_grad()
    def arrays(self, measured: Measurement) -> dict[str, NDArray[Any]]:
        """Pictures of the scaled data, by name.

        Returns:
            `inputs`, `reconstructions` and `input_is_anomaly` of some examples, `samples` from the prior, and for
            images `traversals` (dimensions, steps, D) and `interpolations` (pairs, steps, D).
        """
        self.model_batch.model.eval()
        rows = example_rows(self.split)
        arrays: dict[str, NDArray[Any]] = {
            "inputs": self.split.x_ND[rows],
            "reconstructions": self._decode(self._code(rows), rows),
            "input_is_anomaly": self.split.is_anomaly_N[rows],
            "samples": self._samples(),
        }
        if self.model_batch.data.image_shape is not None:
            arrays |= {"traversals": self._traversals(rows[0], measured), "interpolations": self._interpolations(rows)}
        return arrays

    def _condition(self, rows: NDArray[np.intp]) -> Tensor | None:
        """The label indicators of some rows, (K, N, C), for a conditional family."""
        every_NC = self.examples.condition_NC
        return None if every_NC is None else every_NC[self.model_batch.index(rows)].expand(self.models, -1, -1)

    def _code(self, rows: NDArray[np.intp]) -> Tensor:
        """This model's posterior modes of some rows, (N, Z)."""
        x_KND = self.examples.x_ND[self.model_batch.index(rows)].expand(self.models, -1, -1)
        return self.model_batch.model.code(x_KND, self._condition(rows), None).z_KBZ[self.k]

    def _decode(self, z_NZ: Tensor, rows: NDArray[np.intp]) -> Pictures:
        """E[x|z], (N, D), with the labels of some rows."""
        model = self.model_batch.model
        decoded_KNE = model.decode(z_NZ.expand(self.models, -1, -1), self._condition(rows))
        return model.likelihood.mean(decoded_KNE)[self.k].float().cpu().numpy()

    def _samples(self) -> Pictures:
        """Draws from the prior, decoded, (16, D); (0, D) for a family without a prior."""
        model = self.model_batch.model
        prior_KMZ = model.prior(model.prior_noise(PRIOR_SAMPLES, self.model_batch.generators("samples")))
        if prior_KMZ is None:
            return np.zeros((0, self.split.x_ND.shape[1]), np.float32)
        # A conditional family needs labels: those of normal examples in turn.
        rows = np.resize(np.flatnonzero(~self.split.is_anomaly_N), PRIOR_SAMPLES)
        return self._decode(prior_KMZ[self.k], rows)

    def _traversals(self, row: np.intp, measured: Measurement) -> Pictures:
        """One example's code, decoded with one dimension at a time moved over the range of all examples."""
        deviation_Z = measured.mean_NZ[~measured.is_anomaly_N].std(axis=0)
        centre_Z = self._code(np.array([row]))[0]
        own = [place for part in self.model_batch.model.code_parts_K[self.k] for place in range(part.start, part.stop)]
        rows = np.full(STEPS, row)
        strips = []
        for dimension in np.argsort(-deviation_Z, kind="stable")[:TRAVERSED_DIMENSIONS]:
            moved_SZ = centre_Z.repeat(STEPS, 1)
            reach = REACH * float(deviation_Z[dimension])
            offsets_S = torch.linspace(-reach, reach, STEPS).to(moved_SZ)
            moved_SZ[:, own[dimension]] = float(measured.mean_NZ[:, dimension].mean()) + offsets_S
            strips.append(self._decode(moved_SZ, rows))
        return np.stack(strips)

    def _interpolations(self, rows: NDArray[np.intp]) -> Pictures:
        """Straight lines between the codes of pairs of examples."""
        pairs = [(rows[i], rows[-1 - i]) for i in range(min(INTERPOLATED_PAIRS, len(rows) // 2))]
        strips = []
        for first, last in pairs:
            ends_2Z = self._code(np.array([first, last]))
            share_S1 = torch.linspace(0, 1, STEPS).to(ends_2Z)[:, None]
            strips.append(self._decode(ends_2Z[0] + share_S1 * (ends_2Z[1] - ends_2Z[0]), np.full(STEPS, first)))
        return np.stack(strips)


def example_rows(split: Split) -> NDArray[np.intp]:
    """The first normal and the first anomalous rows of a split."""
    normal, anomalous = np.flatnonzero(~split.is_anomaly_N), np.flatnonzero(split.is_anomaly_N)
    return np.concatenate([normal[:PICTURES_PER_CLASS], anomalous[:PICTURES_PER_CLASS]])


def usual_cost(model_batch: ModelBatch) -> NDArray[np.float64]:
    """The mean of each feature's reconstruction term over the training rows that have it, nats, (K, D)."""
    train, models = model_batch.examples["train"], len(model_batch.setups)
    examples = train.rows(model_batch.index(reference_rows(len(train.x_ND))))
    total_KD = torch.zeros(models, examples.x_ND.shape[1], dtype=torch.float64, device=examples.x_ND.device)
    for cost_KND, _ in feature_costs(model_batch.model, examples, models):
        total_KD += cost_KND.double().sum(dim=1)
    rows = rows_per_minibatch(model_batch.model)
    count_D = sum((~x_1BD[0].isnan()).sum(dim=0) for x_1BD, _ in examples.minibatches(1, rows))
    return np.asarray((total_KD / torch.as_tensor(count_D).clamp(min=1)).cpu().numpy())


def usual_input(model_batch: ModelBatch) -> Tensor:
    """The mean of each feature over the training rows that have it, (D,), float64; 0 of one that none has."""
    train_ND = model_batch.examples["train"].x_ND
    x_RD = part_of(train_ND, model_batch.index(reference_rows(len(train_ND))))
    total_D, count_D = torch.zeros(2, x_RD.shape[1], dtype=torch.float64, device=model_batch.device)
    for rows in slices_of(x_RD):
        part_BD = x_RD[rows]
        total_D += part_BD.nansum(dim=0, dtype=torch.float64)
        count_D += (~part_BD.isnan()).sum(dim=0)
    found_D: Tensor = total_D / count_D.clamp(min=1)
    return found_D


def explained_arrays(
    model_batch: ModelBatch,
    k: int,
    usual_D: NDArray[np.float64],
    test_scores: Mapping[str, NDArray[np.float64]],
    scorer: Scorer,
) -> dict[str, NDArray[Any]]:
    """Arrays that explain the highest scores among the test rows, feature by feature.

    Args:
        model_batch: Trained.
        k: Which of its models.
        usual_D: This model's `usual_cost`.
        test_scores: This model's scores of the test rows.
        scorer: This model's.

    Returns:
        `top_place` (T,), indices in the test split of the ten highest rows of each score; `top_inputs` and
        `top_reconstructions`, (T, D), scaled; `top_contributions`, (T, D): each feature's
        reconstruction term, nats, minus its mean over training rows; 0 where a value is missing. Of images, `top_maps`,
        (T, H, W), and where they have masks `top_masks`, (T, H, W).
    """
    highest = [np.argsort(-score_N, kind="stable")[:TOP_ROWS] for score_N in test_scores.values()]
    place_T = np.unique(np.concatenate(highest))
    examples = model_batch.examples["test"].rows(model_batch.index(place_T))
    minibatches = [
        (cost[k], residual[k]) for cost, residual in feature_costs(model_batch.model, examples, len(model_batch.setups))
    ]
    cost_TD, residual_TD = (torch.cat(part).double().cpu().numpy() for part in zip(*minibatches, strict=True))
    test = model_batch.data.splits["test"]
    input_TD = test.x_ND[place_T]
    # What is missing costs nothing, as usual.
    nats_TD = np.where(np.isnan(input_TD), 0, cost_TD - usual_D)
    arrays = {
        "top_place": place_T,
        "top_inputs": input_TD,
        "top_reconstructions": (input_TD - residual_TD).astype(np.float32),
        "top_contributions": nats_TD.astype(np.float32),
    }
    if scorer.images is not None:
        arrays["top_maps"] = maps_THW = scorer.maps(residual_TD).astype(np.float32)
        if test.is_anomaly_NP is not None:
            arrays["top_masks"] = test.is_anomaly_NP[place_T].reshape(maps_THW.shape)
    return arrays


@torch.no_grad()
def picture_metrics(model_batch: ModelBatch, model: Family) -> list[dict[str, float]]:
    """How like test's normal images their reconstructions are, how sharp, and how far samples are from them.

    Args:
        model_batch: The models, of images.
        model: The same as an `inference_model`.

    Returns:
        Of each model: `test/ms_ssim`, the mean where pixels lie in [0, 1]; `test/sharpness`, the energy of the fine
        detail of all reconstructions as a share of the images' own; and for a family with a prior
        `test/sample_distance`, the `patch_distance` of samples, as a multiple of that of as many training images.
    """
    models = len(model_batch.setups)
    test = model_batch.examples["test"].rows(model_batch.index(~model_batch.data.splits["test"].is_anomaly_N))
    sums_3K = torch.zeros(3, models, dtype=torch.float64, device=model_batch.device)
    is_unit = torch.ones((), dtype=torch.bool, device=model_batch.device)
    for x_KBD, condition_KBC in test.minibatches(models, rows_per_minibatch(model)):
        rows, condition_KBC = x_KBD.shape[1], None if condition_KBC is None else whole_blocks(condition_KBC)
        mode = posterior_mode(model, whole_blocks(x_KBD), condition_KBC)
        own, got = (images_of(one, model) for one in (x_KBD, x_KBD - mode.residual_KBD[:, :rows]))
        parts = (ms_ssim(own, got), detail(got), detail(own))
        sums_3K += torch.stack([part.view(models, rows).sum(dim=1, dtype=torch.float64) for part in parts])
        is_unit &= ((x_KBD[0] >= 0) & (x_KBD[0] <= 1)).all()
    sums_3K, is_unit = on_host([sums_3K, is_unit.double()])
    metrics = {"test/sharpness": (sums_3K[1] / sums_3K[2]).numpy()}
    if is_unit:
        metrics["test/ms_ssim"] = (sums_3K[0] / len(test.x_ND)).numpy()
    metrics |= _sample_distances(model_batch, test)
    every = [{name: float(value_K[k]) for name, value_K in metrics.items()} for k in range(models)]
    return [defined(one) for one in every]


def _sample_distances(model_batch: ModelBatch, test: Examples) -> dict[str, Floats]:
    model, train_ND = model_batch.model, model_batch.examples["train"].x_ND
    count = min(SAMPLES_MEASURED, fewer_if_wide(model), len(test.x_ND), len(train_ND))
    prior_KMZ = model.eval().prior(model.prior_noise(count, model_batch.generators("samples")))
    if prior_KMZ is None:
        return {}
    condition_NC = test.condition_NC
    labels_KMC = None if condition_NC is None else condition_NC[:count].expand(len(prior_KMZ), -1, -1)
    sample_KMD = model.likelihood.mean(model.decode(prior_KMZ, labels_KMC))
    there = on_host([test.x_ND[:count], train_ND[:count], *sample_KMD])
    real, others, *samples = (images_of(one, model).double().numpy() for one in there)
    usual = patch_distance(others, real)
    return {"test/sample_distance": np.array([patch_distance(one, real) for one in samples]) / (usual or np.nan)}


def images_of(x: Tensor, model: Family) -> Tensor:
    """Features (..., D) of images as pixels, (N, C, H, W)."""
    assert model.shape.image is not None
    return x.reshape(-1, *model.shape.image)


def probe_accuracy(
    train_NZ: Floats, train_label_N: Labels, test_NZ: Floats, test_label_N: Labels, share: float, seed: int
) -> float:
    """Share of test codes whose label a logistic regression on a few labelled training codes finds.

    This is the semi-supervised use of a VAE (Kingma et al. 2014, model M1).

    Args:
        train_NZ, train_label_N: Posterior means and labels of which some are shown to the classifier.
        test_NZ, test_label_N: Posterior means and labels of other examples.
        share: Share of each class that is shown, from 0 to 1; at least one example a class.
        seed: Of the choice of those.

    Returns:
        Accuracy from 0 to 1; NaN where fewer than two classes occur in training.
    """
    # As all of scikit-learn here: a worker trains before it needs it.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    classes = np.unique(train_label_N)
    known_N = np.isin(test_label_N, classes)
    if len(classes) < 2 or not known_N.any():
        return float("nan")
    random = np.random.default_rng(seed)
    every = [np.flatnonzero(train_label_N == label) for label in classes]
    shown = np.concatenate([random.choice(rows, max(1, round(share * len(rows))), replace=False) for rows in every])
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(train_NZ[shown], train_label_N[shown])
    return float(classifier.score(test_NZ[known_N], test_label_N[known_N]))

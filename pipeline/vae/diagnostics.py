"""Looking into a trained model's code: what each dimension costs and does, and where the examples lie."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from torch import Tensor

from pipeline.data import Split
from pipeline.vae.evaluation import Measurement
from pipeline.vae.population import Population

Floats = NDArray[np.float64]
Pictures = NDArray[np.float32]
PICTURES_PER_CLASS, PRIOR_SAMPLES = 8, 16
TRAVERSED_DIMENSIONS, STEPS, REACH = 8, 9, 2.5
INTERPOLATED_PAIRS = 4


def code_arrays(measured: Measurement, latent_map: str) -> dict[str, Floats]:
    """What the code of one split looks like.

    Args:
        measured: One member's parts on the split.
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
    """Posterior means in two dimensions, (N, 2): principal components, or t-SNE; 0 beside a lone dimension."""
    if kind == "tsne" and len(mean_NZ) > 3:
        perplexity = min(30.0, (len(mean_NZ) - 1) / 3)
        return np.asarray(TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(mean_NZ), np.float64)
    if mean_NZ.shape[1] < 2:
        return np.pad(mean_NZ, ((0, 0), (0, 1)))
    return np.asarray(PCA(n_components=2, svd_solver="full").fit_transform(mean_NZ), np.float64)


class Illustrator:
    """Decodes codes of one member of a population, with the labels of examples for a conditional family."""

    def __init__(self, population: Population, member: int, split: str):
        self.population, self.member, self.split = population, member, population.data.splits[split]
        self.examples = population.examples[split]

    @torch.no_grad()
    def arrays(self, measured: Measurement) -> dict[str, NDArray[Any]]:
        """Pictures of the scaled data, by name.

        Returns:
            `inputs`, `reconstructions` and `input_is_anomaly` of some examples, `samples` from the prior, and for
            images `traversals` (dimensions, steps, D) and `interpolations` (pairs, steps, D).
        """
        self.population.model.eval()
        rows = example_rows(self.split)
        arrays: dict[str, NDArray[Any]] = {
            "inputs": self.split.x_ND[rows],
            "reconstructions": self._decode(self._code(rows), rows),
            "input_is_anomaly": self.split.is_anomaly_N[rows],
            "samples": self._samples(),
        }
        if self.population.data.image_shape is not None:
            arrays |= {"traversals": self._traversals(rows[0], measured), "interpolations": self._interpolations(rows)}
        return arrays

    def _condition(self, rows: NDArray[np.intp]) -> Tensor | None:
        every = self.examples.condition_NC
        return None if every is None else every[torch.as_tensor(rows, device=every.device)]

    def _code(self, rows: NDArray[np.intp]) -> Tensor:
        """This member's most likely codes of some rows, (N, Z)."""
        model, members = self.population.model, len(self.population.members)
        x_ND = self.examples.x_ND[torch.as_tensor(rows, device=self.examples.x_ND.device)]
        condition_NC = self._condition(rows)
        condition_KNC = None if condition_NC is None else condition_NC.expand(members, -1, -1)
        return model.code(x_ND.expand(members, -1, -1), condition_KNC, None).z_KBZ[self.member]

    def _decode(self, z_NZ: Tensor, rows: NDArray[np.intp] | None) -> Pictures:
        model, members = self.population.model, len(self.population.members)
        condition_NC = None if rows is None else self._condition(rows)
        condition_KNC = None if condition_NC is None else condition_NC.expand(members, -1, -1)
        decoded_KNE = model.decode(z_NZ.expand(members, -1, -1), condition_KNC)
        return model.likelihood.mean(decoded_KNE)[self.member].float().cpu().numpy()

    def _samples(self) -> Pictures:
        """Draws from the prior, decoded; none for a family without a prior."""
        model = self.population.model
        prior_KMZ = model.prior(model.prior_noise(PRIOR_SAMPLES, self.population.generators("samples")))
        if prior_KMZ is None:
            return np.zeros((0, self.split.x_ND.shape[1]), np.float32)
        # A conditional family shows its classes in turn, by the labels of examples.
        rows = np.resize(np.flatnonzero(~self.split.is_anomaly_N), PRIOR_SAMPLES)
        return self._decode(prior_KMZ[self.member], rows)

    def _traversals(self, row: np.intp, measured: Measurement) -> Pictures:
        """One example's code with one dimension at a time moved over the range that the examples have in it."""
        deviation_Z = measured.mean_NZ[~measured.is_anomaly_N].std(axis=0)
        centre_Z = self._code(np.array([row]))[0]
        own = torch.nonzero(self.population.model.code_mask_KZ[self.member])[:, 0]
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


def finalist_arrays(
    population: Population, member: int, measured: Measurement, latent_map: str
) -> dict[str, NDArray[Any]]:
    """All arrays that a finalist leaves for its report, measured on test."""
    pictures: dict[str, NDArray[Any]] = Illustrator(population, member, "test").arrays(measured)
    return {**code_arrays(measured, latent_map), **pictures}

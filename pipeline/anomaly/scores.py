"""Anomaly scores from the parts that a trained model gives of each example, fitted on training examples."""

from dataclasses import dataclass
from typing import Self, get_args

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import LedoitWolf
from sklearn.neighbors import NearestNeighbors

from pipeline.anomaly.areas import Floats
from pipeline.spec.schema import AnomalyScore

#: Every score of a trial, in the order of the spec.
SCORES: tuple[str, ...] = get_args(AnomalyScore)
#: Those that need nothing but the example's own parts, so that they can be followed epoch by epoch.
SIMPLE_SCORES = ("elbo", "reconstruction", "kl", "squared_error")
BASELINE = "input_knn"
NEIGHBOURS = 5
TREE_DIMENSIONS = 5
LARGEST = float(np.finfo(np.float32).max)
# Distances are squared and summed, so that residuals and codes have to end before their squares do.
LARGEST_COORDINATE = 1e12
# More training rows than these change no ranking worth the time that they cost.
REFERENCE_ROWS = 8192
# Above this many features a full covariance costs more than the model.
FULL_COVARIANCE = 4096


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a model says of N examples at the most likely code.

    Attributes:
        reconstruction_N, kl_N: Nats.
        reconstruction_probability_N: Mean of -log p(x|z) over draws of z, nats (An and Cho 2015); None where nothing
            was drawn.
        squared_error_N: Sum over features, in squared units of the scaled data.
        residual_ND: x - E[x|code].
        mean_NZ: Posterior means.
    """

    reconstruction_N: Floats
    kl_N: Floats
    reconstruction_probability_N: Floats | None
    squared_error_N: Floats
    residual_ND: Floats
    mean_NZ: Floats


def simple_scores(*, reconstruction_N: Floats, kl_N: Floats, squared_error_N: Floats) -> dict[str, Floats]:
    """The SIMPLE_SCORES of N examples.

    Args:
        reconstruction_N, kl_N: Nats per example.
        squared_error_N: In squared units of the scaled data, summed over features.
    """
    scores = {
        "elbo": reconstruction_N + kl_N,
        "reconstruction": reconstruction_N,
        "kl": kl_N,
        "squared_error": squared_error_N,
    }
    return {name: finite(score_N) for name, score_N in scores.items()}


def finite(values: Floats, largest: float = LARGEST) -> Floats:
    """Values with the largest in place of an overflow: no example is further from what the model knows."""
    return np.nan_to_num(values, nan=largest, posinf=largest, neginf=-largest).clip(-largest, largest)


@dataclass(frozen=True, kw_only=True)
class Gaussian:
    """A distribution that distances are measured by (Mahalanobis), with a shrunk covariance (Ledoit and Wolf 2004).

    Attributes:
        mean_D: Its mean.
        precision_DD: Inverse covariance; above FULL_COVARIANCE features only its diagonal, (D,).
    """

    mean_D: Floats
    precision_DD: Floats

    @classmethod
    def fit(cls, x_ND: Floats) -> Self:
        """The Gaussian of N rows."""
        if x_ND.shape[1] > FULL_COVARIANCE:
            return cls(mean_D=x_ND.mean(axis=0), precision_DD=1 / (x_ND.var(axis=0) + 1e-6))
        fitted = LedoitWolf().fit(x_ND)
        return cls(mean_D=fitted.location_, precision_DD=fitted.precision_)

    def squared_distance(self, x_ND: Floats) -> Floats:
        """Squared Mahalanobis distance of N rows, without a unit."""
        centred_ND = x_ND - self.mean_D
        weighted_ND = centred_ND * self.precision_DD if self.precision_DD.ndim == 1 else centred_ND @ self.precision_DD
        return np.asarray((weighted_ND * centred_ND).sum(axis=1))


class Neighbours:
    """Mean distance to the k = 5 nearest reference rows, each feature in units of its standard deviation there."""

    def __init__(self, reference_RD: Floats):
        """Take R rows as the reference; a constant feature counts as it is."""
        self.mean_D, deviation_D = reference_RD.mean(axis=0), reference_RD.std(axis=0)
        self.deviation_D = np.where(deviation_D > 0, deviation_D, 1)
        # A tree saves nothing beyond a few dimensions: at 12, all pairs by matrix product take a fifth of its time.
        algorithm = "kd_tree" if reference_RD.shape[1] <= TREE_DIMENSIONS else "brute"
        self.search = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(reference_RD)), algorithm=algorithm)
        self.search.fit((reference_RD - self.mean_D) / self.deviation_D)

    def distance(self, x_ND: Floats) -> Floats:
        """The distances of N rows, shape (N,)."""
        nearest_NK = self.search.kneighbors((x_ND - self.mean_D) / self.deviation_D)[0]
        return np.asarray(nearest_NK.mean(axis=1))


def reference_rows(rows: int) -> NDArray[np.int64]:
    """Which of so many training rows serve as the reference: all, or REFERENCE_ROWS of them, always the same."""
    if rows <= REFERENCE_ROWS:
        return np.arange(rows)
    return np.sort(np.random.default_rng(0).choice(rows, REFERENCE_ROWS, replace=False))


class Scorer:
    """All scores of a model, fitted on the parts of its training examples."""

    def __init__(self, trained: Parts):
        """Fit to the parts of the reference rows of train."""
        mean_NZ = finite(trained.mean_NZ, LARGEST_COORDINATE)
        self.residual = Gaussian.fit(finite(trained.residual_ND, LARGEST_COORDINATE))
        self.latent = Gaussian.fit(mean_NZ)
        self.neighbours = Neighbours(mean_NZ)

    def scores(self, parts: Parts) -> dict[str, Floats]:
        """Every score that there are parts for, by name in the order of SCORES; higher is more anomalous."""
        simple = simple_scores(
            reconstruction_N=parts.reconstruction_N, kl_N=parts.kl_N, squared_error_N=parts.squared_error_N
        )
        drawn = parts.reconstruction_probability_N
        residual_ND, mean_NZ = (finite(part, LARGEST_COORDINATE) for part in (parts.residual_ND, parts.mean_NZ))
        fitted = {
            **({} if drawn is None else {"reconstruction_probability": drawn}),
            "residual_mahalanobis": self.residual.squared_distance(residual_ND),
            "latent_mahalanobis": self.latent.squared_distance(mean_NZ),
            "latent_knn": self.neighbours.distance(mean_NZ),
        }
        every = simple | fitted
        return {name: finite(every[name]) for name in SCORES if name in every}

"""The anomaly scores: computed from what a trained model says of each row, some after a fit to training rows.

A score is a row of `metrics.SCORES` and a formula here, in SIMPLE or in FITTED. Higher is more anomalous.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from vae_study.anomaly.maps import anomaly_maps
from vae_study.metrics import SCORES, need

Floats = NDArray[np.float64]
NEIGHBOURS = 5
#: A k-d tree is faster up to this many dimensions: at 12, all pairs by matrix product take a fifth of its time.
TREE_DIMENSIONS = 5
LARGEST = float(np.finfo(np.float32).max)
#: Distances are squared and summed, so residuals and codes are clipped well before their squares overflow.
LARGEST_COORDINATE = 1e12
#: Reference rows for the fit; more of them cost time and hardly improve a ranking.
REFERENCE_ROWS = 8192
#: Numbers of the reference rows that neighbours are looked for among, 32 MB: of a long code fewer rows.
NEIGHBOUR_NUMBERS = 2**22
#: With more features than these a full covariance costs more than the model: half a minute for 4,096, and 134 MB.
FULL_COVARIANCE = 1024
#: The name of `ImageResiduals.variance_D` among a scorer's arrays.
RESIDUAL_VARIANCE = "residual_variance"
ROWS_PER_MERGE = 32


def per_value(scores: Mapping[str, Floats], values_N: Floats | None) -> dict[str, Floats]:
    """Scores of N series of different length: means over the values that are there, which do not grow with them.

    Args:
        scores: By name; those of the code alone stay as they are.
        values_N: How many values of each are there; None leaves all scores as they are.
    """
    if values_N is None:
        return dict(scores)
    return {name: score_N if need([name], "code") else score_N / values_N for name, score_N in scores.items()}


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a model says of N rows at the posterior mode.

    Attributes:
        reconstruction_N: -log p(x|z), nats.
        kl_N: KL or rate, nats.
        reconstruction_probability_N: Mean of -log p(x|z) over draws of z, nats (An and Cho 2015); None without draws.
        squared_error_N: Sum over features, in squared units of the scaled data.
        residual_ND: x - E[x|z]; no features if no score needs them.
        mean_NZ: Posterior means.
    """

    reconstruction_N: Floats
    kl_N: Floats
    reconstruction_probability_N: Floats | None
    squared_error_N: Floats
    residual_ND: Floats
    mean_NZ: Floats


#: The scores that need no fit, from reconstruction, KL and squared error of N rows.
SIMPLE: Mapping[str, Callable[[Floats, Floats, Floats], Floats]] = {
    "elbo": lambda reconstruction_N, kl_N, error_N: reconstruction_N + kl_N,
    "reconstruction": lambda reconstruction_N, kl_N, error_N: reconstruction_N,
    "kl": lambda reconstruction_N, kl_N, error_N: kl_N,
    "squared_error": lambda reconstruction_N, kl_N, error_N: error_N,
}


def simple_scores(*, reconstruction_N: Floats, kl_N: Floats, squared_error_N: Floats) -> dict[str, Floats]:
    """The scores in SIMPLE of N rows.

    Args:
        reconstruction_N: Nats.
        kl_N: Nats.
        squared_error_N: In squared units of the scaled data, summed over features.
    """
    return {name: finite(formula(reconstruction_N, kl_N, squared_error_N)) for name, formula in SIMPLE.items()}


def finite(values: Floats, largest: float = LARGEST) -> Floats:
    """The values, clipped to ±largest, and the largest instead of NaN: no row is further from the training rows."""
    # Of a number and NaN, fmin takes the number.
    return np.fmax(np.fmin(values, largest), -largest)


def with_usual(x_ND: NDArray[Any], usual_D: NDArray[Any] | None = None) -> NDArray[Any]:
    """The rows with a usual value in place of each missing one (NaN), for whoever cannot do without a value.

    Args:
        x_ND: N rows.
        usual_D: A value of each feature; by default the mean of those that are there, and 0 of a feature without any.
    """
    is_missing_ND = np.isnan(x_ND)
    if not is_missing_ND.any():
        return x_ND
    if usual_D is None:
        total_D = np.where(is_missing_ND, 0, x_ND).sum(axis=0, dtype=np.float64)
        usual_D = total_D / np.maximum((~is_missing_ND).sum(axis=0), 1)
    return np.where(is_missing_ND, usual_D, x_ND).astype(x_ND.dtype)


class Moments:
    """The number of rows, and of each feature the mean and the sum of squared deviations, of rows that come in parts.

    They are merged as by Chan, Golub and LeVeque 1983, in blocks of a fixed size: where each part is whole blocks, how
    rows are divided into parts does not change a bit. Rows are arrays of numpy, or tensors.
    """

    def __init__(self) -> None:
        """Begin without a row."""
        self.rows = 0
        self.mean_D: Any = 0.0
        self.squares_D: Any = 0.0

    def add(self, x_ND: Any) -> None:
        """Take N rows more."""
        for start in range(0, len(x_ND), ROWS_PER_MERGE):
            part_BD = x_ND[start : start + ROWS_PER_MERGE]
            rows, mean_D = self.rows + len(part_BD), part_BD.mean(axis=0)
            way_D = mean_D - self.mean_D
            own_D = ((part_BD - mean_D) ** 2).sum(axis=0)
            self.squares_D = self.squares_D + own_D + way_D * way_D * (self.rows * len(part_BD) / rows)
            self.mean_D = self.mean_D + way_D * (len(part_BD) / rows)
            self.rows = rows

    @property
    def variance_D(self) -> Any:
        """The mean squared deviation of each feature."""
        return self.squares_D / self.rows

    def diagonal(self) -> tuple[Any, Any]:
        """The mean and the precision of a `Gaussian` without correlations, both (D,)."""
        return self.mean_D, 1 / (self.variance_D + 1e-6)


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution for Mahalanobis distances, with a shrunk covariance (Ledoit and Wolf 2004).

    Attributes:
        mean_D: Its mean.
        precision_DD: The inverse covariance; with more than FULL_COVARIANCE features only its diagonal, (D,).
    """

    mean_D: Floats
    precision_DD: Floats

    @classmethod
    def fit(cls, x_ND: Floats) -> Self:
        """Fit it to N rows."""
        if x_ND.shape[1] > FULL_COVARIANCE:
            moments = Moments()
            moments.add(x_ND)
            return cls(*moments.diagonal())
        # scikit-learn takes more than a second to import: a worker trains before it needs it.
        from sklearn.covariance import LedoitWolf

        fitted = LedoitWolf().fit(x_ND)
        # The memory order of an array that was read from a file: it can decide the last bits of a product.
        return cls(mean_D=fitted.location_, precision_DD=np.ascontiguousarray(fitted.precision_))

    def squared_distance(self, x_ND: Floats) -> Floats:
        """Squared Mahalanobis distance of N rows, without a unit."""
        return np.asarray(self.contributions(x_ND).sum(axis=1))

    def contributions(self, x_ND: Floats) -> Floats:
        """What each feature adds to the squared distance, (N, D); negative where it makes the others more likely."""
        centred_ND = finite(x_ND, LARGEST_COORDINATE) - self.mean_D
        weighted_ND = centred_ND * self.precision_DD if self.precision_DD.ndim == 1 else centred_ND @ self.precision_DD
        return np.asarray(weighted_ND * centred_ND)


class Neighbours:
    """Nearest neighbours among reference rows, each feature in units of its standard deviation there.

    Attributes:
        reference_RD: The reference rows. The same rows give the same distances, bit for bit.
    """

    def __init__(self, reference_RD: Floats, neighbours: int = NEIGHBOURS):
        """Take R rows as the reference; a constant feature is not scaled.

        Args:
            reference_RD: One at least.
            neighbours: How many to look for, where there are so many.
        """
        from sklearn.neighbors import NearestNeighbors

        # The memory order would decide the last bits of the moments.
        self.reference_RD = reference_RD = np.ascontiguousarray(reference_RD)
        self.mean_D, deviation_D = reference_RD.mean(axis=0), reference_RD.std(axis=0)
        self.deviation_D = np.where(deviation_D > 0, deviation_D, 1)
        algorithm = "kd_tree" if reference_RD.shape[1] <= TREE_DIMENSIONS else "brute"
        self.search = NearestNeighbors(n_neighbors=min(neighbours, len(reference_RD)), algorithm=algorithm)
        self.search.fit((reference_RD - self.mean_D) / self.deviation_D)

    def nearest(self, x_ND: Floats) -> tuple[Floats, NDArray[np.int64]]:
        """The distances and the places of the neighbours of N rows, nearest first, both (N, neighbours)."""
        scaled_ND = (finite(x_ND, LARGEST_COORDINATE) - self.mean_D) / self.deviation_D
        found: tuple[Floats, NDArray[np.int64]] = self.search.kneighbors(scaled_ND)
        return found

    def distance(self, x_ND: Floats) -> Floats:
        """The mean distance to the neighbours of N rows, shape (N,)."""
        return np.asarray(self.nearest(x_ND)[0].mean(axis=1))


def reference_rows(rows: int, most: int = REFERENCE_ROWS) -> NDArray[np.int64]:
    """The places of the training rows that scores are fitted to: all, or a fixed sample of the most that are taken."""
    if rows <= most:
        return np.arange(rows)
    return np.sort(np.random.default_rng(0).choice(rows, most, replace=False))


def neighbour_rows(rows: int, dimensions: int) -> NDArray[np.int64]:
    """The places of those of the reference rows that neighbours are looked for among: all, or of long codes fewer."""
    return reference_rows(rows, max(1, NEIGHBOUR_NUMBERS // dimensions))


@dataclass(frozen=True, kw_only=True)
class ImageResiduals:
    """What anomaly maps of images take beside the mean of the residuals.

    Attributes:
        shape: Channels, height and width.
        variance_D: Of the residuals of the training images.
    """

    shape: tuple[int, int, int]
    variance_D: Floats


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """All scores of one model, fitted to training rows.

    Attributes:
        residual: Of x - E[x|z].
        latent: Of the posterior means.
        neighbours: Of the posterior means.
        images: Of images, what their maps take; else None.
    """

    residual: Gaussian
    latent: Gaussian
    neighbours: Neighbours
    images: ImageResiduals | None = None

    @classmethod
    def fit(cls, trained: Parts, image: tuple[int, int, int] | None = None, residuals: Moments | None = None) -> Self:
        """Fit it to the parts of the reference rows.

        Args:
            trained: The parts.
            image: The channels, height and width of images; else None.
            residuals: Those of the residuals, if the parts are without them.
        """
        mean_NZ = finite(trained.mean_NZ, LARGEST_COORDINATE)
        residual_ND = finite(trained.residual_ND, LARGEST_COORDINATE)
        variance_D = residual_ND.var(axis=0) if residuals is None else residuals.variance_D
        return cls(
            residual=Gaussian.fit(residual_ND) if residuals is None else Gaussian(*residuals.diagonal()),
            latent=Gaussian.fit(mean_NZ),
            neighbours=Neighbours(mean_NZ[neighbour_rows(*mean_NZ.shape)]),
            images=None if image is None else ImageResiduals(shape=image, variance_D=variance_D),
        )

    def maps(self, residual_ND: Floats) -> Floats:
        """The anomaly maps of N images, (N, H, W), from x - E[x|z]."""
        assert self.images is not None
        shape, variance_D = self.images.shape, self.images.variance_D
        return anomaly_maps(finite(residual_ND, LARGEST_COORDINATE), self.residual.mean_D, variance_D, shape)

    def arrays(self) -> dict[str, Floats]:
        """All that was fitted, by name, for `from_arrays`."""
        return {
            "residual_mean": self.residual.mean_D,
            "residual_precision": self.residual.precision_DD,
            "latent_mean": self.latent.mean_D,
            "latent_precision": self.latent.precision_DD,
            "latent_reference": self.neighbours.reference_RD,
            **({} if self.images is None else {RESIDUAL_VARIANCE: self.images.variance_D}),
        }

    @staticmethod
    def shapes(features: int, latents: int, found: Mapping[str, Any]) -> dict[str, tuple[int | None, ...]]:
        """The shapes that `arrays` have to have, None for a size that may be any but 0.

        Args:
            features, latents: How many the model has.
            found: The arrays. Those of earlier releases have a full covariance of more features, and none a map.
        """
        full = {name: found[name].ndim == 2 for name in ("residual_precision", "latent_precision") if name in found}
        shapes: dict[str, tuple[int | None, ...]] = {"residual_mean": (features,), "latent_mean": (latents,)}
        for name, size in (("residual_precision", features), ("latent_precision", latents)):
            shapes[name] = (size, size) if full.get(name, size <= FULL_COVARIANCE) else (size,)
        shapes["latent_reference"] = (None, latents)
        return shapes | ({RESIDUAL_VARIANCE: (features,)} if RESIDUAL_VARIANCE in found else {})

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], image: tuple[int, int, int] | None = None) -> Self:
        """The scorer that `arrays` came from; it gives the same scores, bit for bit."""
        residual, latent = (
            Gaussian(mean_D=arrays[f"{part}_mean"], precision_DD=arrays[f"{part}_precision"])
            for part in ("residual", "latent")
        )
        has_maps = image is not None and RESIDUAL_VARIANCE in arrays
        images = ImageResiduals(shape=image, variance_D=arrays[RESIDUAL_VARIANCE]) if image and has_maps else None
        return cls(residual=residual, latent=latent, neighbours=Neighbours(arrays["latent_reference"]), images=images)

    def scores(self, parts: Parts, names: Collection[str] = SCORES) -> dict[str, Floats]:
        """The scores of these names for which there are parts, in the order of SCORES."""
        found = simple_scores(
            reconstruction_N=parts.reconstruction_N, kl_N=parts.kl_N, squared_error_N=parts.squared_error_N
        )
        if parts.reconstruction_probability_N is not None:
            found["reconstruction_probability"] = finite(parts.reconstruction_probability_N)
        wanted = [name for name in FITTED if name in names and (self.images or not SCORES[name].of_images)]
        found |= {name: finite(FITTED[name](self, parts)) for name in wanted}
        return {name: found[name] for name in SCORES if name in names and name in found}


#: The scores that need a scorer, which was fitted to training rows.
FITTED: Mapping[str, Callable[[Scorer, Parts], Floats]] = {
    "residual_mahalanobis": lambda scorer, parts: scorer.residual.squared_distance(parts.residual_ND),
    "map_maximum": lambda scorer, parts: scorer.maps(parts.residual_ND).max(axis=(1, 2)),
    "latent_mahalanobis": lambda scorer, parts: scorer.latent.squared_distance(parts.mean_NZ),
    "latent_knn": lambda scorer, parts: scorer.neighbours.distance(parts.mean_NZ),
}

#: Scores that are sums over features, the negative ELBO together with the KL: what each feature adds, from its cost
#: -log p(x_d|z) in nats and its residual, both (N, D). The reconstruction probability takes the mean cost of its draws.
ADDITIVE: Mapping[str, Callable[[Scorer, Floats, Floats], Floats]] = {
    "elbo": lambda scorer, cost_ND, residual_ND: cost_ND,
    "reconstruction": lambda scorer, cost_ND, residual_ND: cost_ND,
    "reconstruction_probability": lambda scorer, cost_ND, residual_ND: cost_ND,
    "squared_error": lambda scorer, cost_ND, residual_ND: residual_ND**2,
    "residual_mahalanobis": lambda scorer, cost_ND, residual_ND: scorer.residual.contributions(residual_ND),
}

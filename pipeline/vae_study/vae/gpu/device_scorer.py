"""The fitted anomaly scores on a GPU: the same formulas as `anomaly.scores`, in float64, where the model's output is.

On the host they take seconds for each trial, in which a GPU would stand still.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from vae_study.anomaly.maps import LEAST_VARIANCE, window
from vae_study.anomaly.scores import (
    FULL_COVARIANCE,
    LARGEST_COORDINATE,
    NEIGHBOURS,
    Gaussian,
    ImageResiduals,
    Moments,
    Neighbours,
    Scorer,
    neighbour_rows,
)
from vae_study.vae.device import on_host

# Distances that are computed at once.
DISTANCES = 2**26


@dataclass(frozen=True, kw_only=True)
class DeviceScorer:
    """What a `Scorer` has, on a device.

    Attributes:
        residual: Mean and precision of x - E[x|z], as of a `Gaussian`.
        latent: The same of the posterior means.
        reference_RZ: The posterior means of the reference rows.
        images: Of images, their channels, height and width, and the variance of the residuals, (D,); else None.
    """

    residual: tuple[Tensor, Tensor]
    latent: tuple[Tensor, Tensor]
    reference_RZ: Tensor
    images: tuple[tuple[int, int, int], Tensor] | None = None

    @classmethod
    def fit(
        cls,
        residual_RD: Tensor,
        mean_RZ: Tensor,
        image: tuple[int, int, int] | None = None,
        residuals: Moments | None = None,
    ) -> Self:
        """Fit it to the reference rows, as `Scorer.fit`."""
        residual_RD, mean_RZ = bounded(residual_RD), bounded(mean_RZ)
        rows_R = torch.as_tensor(neighbour_rows(*mean_RZ.shape), device=mean_RZ.device)
        variance_D = residual_RD.var(dim=0, correction=0) if residuals is None else residuals.variance_D
        return cls(
            residual=gaussian(residual_RD) if residuals is None else residuals.diagonal(),
            latent=gaussian(mean_RZ),
            reference_RZ=mean_RZ[rows_R],
            images=None if image is None else (image, variance_D),
        )

    def maps(self, residual_BD: Tensor) -> Tensor:
        """The anomaly maps of B images, (B, H, W), as `anomaly.maps.anomaly_maps`."""
        assert self.images is not None
        image, variance_D = self.images
        squared_BD = (residual_BD - self.residual[0]).square() / (variance_D + LEAST_VARIANCE)
        map_BHW, weights = squared_BD.view(-1, *image).mean(dim=1), window(image)
        reach = len(weights) // 2
        for padding, dim in (((0, 0, reach, reach), 1), ((reach, reach, 0, 0), 2)):
            padded = functional.pad(map_BHW[:, None], padding, mode="replicate")[:, 0]
            parts = (weight * padded.narrow(dim, place, map_BHW.shape[dim]) for place, weight in enumerate(weights))
            map_BHW = sum(parts, start=torch.zeros_like(map_BHW))
        return map_BHW

    def distance(self, mean_BZ: Tensor) -> Tensor:
        """The mean distance to the nearest reference rows, (B,), as of `Neighbours`."""
        deviation_Z = self.reference_RZ.std(dim=0, correction=0)
        deviation_Z = torch.where(deviation_Z > 0, deviation_Z, 1)
        reference_RZ, scaled_BZ = self.reference_RZ / deviation_Z, mean_BZ / deviation_Z
        nearest = min(NEIGHBOURS, len(reference_RZ))
        distances = [
            torch.cdist(part_BZ, reference_RZ, compute_mode="donot_use_mm_for_euclid_dist")
            .topk(nearest, dim=1, largest=False)
            .values.mean(dim=1)
            for part_BZ in torch.split(scaled_BZ, max(1, DISTANCES // len(reference_RZ)))
        ]
        return torch.cat(distances)


#: As `anomaly.scores.FITTED`: from residuals (B, D) and posterior means (B, Z), both `bounded`, to scores (B,).
FITTED: Mapping[str, Callable[[DeviceScorer, Tensor, Tensor], Tensor]] = {
    "residual_mahalanobis": lambda scorer, residual_BD, mean_BZ: squared_distance(*scorer.residual, residual_BD),
    "map_maximum": lambda scorer, residual_BD, mean_BZ: scorer.maps(residual_BD).amax(dim=(1, 2)),
    "latent_mahalanobis": lambda scorer, residual_BD, mean_BZ: squared_distance(*scorer.latent, mean_BZ),
    "latent_knn": lambda scorer, residual_BD, mean_BZ: scorer.distance(mean_BZ),
}


def fitted_scores(scorer: DeviceScorer, residual_BD: Tensor, mean_BZ: Tensor, names: Collection[str]) -> Tensor:
    """The scores of FITTED that are among these names, one at least, in its order, (F, B)."""
    residual_BD, mean_BZ = bounded(residual_BD), bounded(mean_BZ)
    return torch.stack([formula(scorer, residual_BD, mean_BZ) for name, formula in FITTED.items() if name in names])


def brought_to_host(scorers_K: Sequence[DeviceScorer]) -> list[Scorer]:
    """The scorers of some models, brought to the host at once."""
    every = [(*each.residual, *each.latent, each.reference_RZ, *(each.images or ())[1:]) for each in scorers_K]
    arrays = iter(on_host([one for each in every for one in each]))

    def gaussian_there() -> Gaussian:
        return Gaussian(mean_D=next(arrays).numpy(), precision_DD=next(arrays).numpy())

    return [
        Scorer(
            residual=gaussian_there(),
            latent=gaussian_there(),
            neighbours=Neighbours(next(arrays).numpy()),
            images=ImageResiduals(shape=each.images[0], variance_D=next(arrays).numpy()) if each.images else None,
        )
        for each in scorers_K
    ]


def bounded(values: Tensor) -> Tensor:
    """As `anomaly.scores.finite` with LARGEST_COORDINATE, in float64."""
    most = LARGEST_COORDINATE
    return values.double().nan_to_num(nan=most, posinf=most, neginf=-most).clamp(-most, most)


def gaussian(x_ND: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and precision, with the shrunk covariance of Ledoit and Wolf 2004, as `Gaussian.fit`."""
    rows, features = x_ND.shape
    if features > FULL_COVARIANCE:
        moments = Moments()
        moments.add(x_ND)
        return moments.diagonal()
    mean_D = x_ND.mean(dim=0)
    centred_ND = x_ND - mean_D
    covariance_DD = centred_ND.T @ centred_ND / rows
    scale = covariance_DD.trace() / features
    identity_DD = torch.eye(features, dtype=x_ND.dtype, device=x_ND.device)
    # Of the covariance: how far it is from a multiple of the identity, and how far rows scatter about it.
    distance = (covariance_DD - scale * identity_DD).square().sum()
    scatter = (centred_ND.square().sum(dim=1).square().mean() - covariance_DD.square().sum()) / rows
    shrinkage = torch.where(distance > 0, (scatter / distance).clamp(0, 1), 0)
    shrunk_DD = (1 - shrinkage) * covariance_DD + shrinkage * scale * identity_DD
    return mean_D, torch.linalg.pinv(shrunk_DD, hermitian=True)


def squared_distance(mean_D: Tensor, precision_DD: Tensor, x_ND: Tensor) -> Tensor:
    """Squared Mahalanobis distance of N rows, as of a `Gaussian`."""
    centred_ND = x_ND - mean_D
    weighted_ND = centred_ND * precision_DD if precision_DD.dim() == 1 else centred_ND @ precision_DD
    return (weighted_ND * centred_ND).sum(dim=1)

"""Anomaly maps of images, and how well they find anomalous pixels.

A map has a value for each pixel, higher for more anomalous: the squared residual x - E[x|z], in units of its variance
over training images, the mean of an image's channels, and smoothed. A flaw that covers few pixels changes the sum over
an image by less than noise does, but the maximum of its map by much more.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
# The standard deviation of the smoothing, as a share of the shorter side, and how many of these the window reaches.
SMOOTHING, REACH = 1 / 32, 3
# As `scores.Gaussian` has it, so that a pixel that never varies has a finite value.
LEAST_VARIANCE = 1e-6
# The per-region overlap is averaged up to this share of false alarms among the normal pixels.
MOST_FALSE = 0.3
# Normal pixels beyond these are sampled: the standard error of an area is then below 0.0005.
MOST_NORMAL = 2**20
# Pixels that touch at a corner belong to one region, as in the authors' own evaluation of MVTec AD.
NEIGHBOURS = np.ones((3, 3), np.int8)


def window(image: tuple[int, int, int]) -> list[float]:
    """The weights of the smoothing along a side, an odd number of them, which add up to 1; [1.0] of small images.

    Args:
        image: Channels, height and width.
    """
    deviation = SMOOTHING * min(image[1:])
    places = np.arange(-round(REACH * deviation), round(REACH * deviation) + 1)
    weights = np.exp(-0.5 * (places / max(deviation, 1e-9)) ** 2)
    return list((weights / weights.sum()).tolist())


def anomaly_maps(residual_ND: Floats, mean_D: Floats, variance_D: Floats, image: tuple[int, int, int]) -> Floats:
    """The maps of N images, (N, H, W), without a unit.

    Args:
        residual_ND: x - E[x|z].
        mean_D, variance_D: Of the residuals of training images.
        image: Channels, height and width.
    """
    # A worker of other data does without this import.
    from scipy.ndimage import correlate1d

    squared_ND = np.square(residual_ND - mean_D) / (variance_D + LEAST_VARIANCE)
    map_NHW = squared_ND.reshape(-1, *image).mean(axis=1)
    weights = window(image)
    for axis in (1, 2):
        map_NHW = correlate1d(map_NHW, weights, axis=axis, mode="nearest")
    return np.asarray(map_NHW)


@dataclass(frozen=True, kw_only=True)
class FlawedPixels:
    """Which pixels of N images are compared.

    Attributes:
        anomalous_N: Of each image, the places of its anomalous pixels among its H * W.
        region_N: Of each, a number for each of these: pixels of one connected region have the same.
        normal_N: Of each, the places of the normal pixels that stand for all.
        regions: How many regions there are.
    """

    anomalous_N: tuple[NDArray[np.int64], ...]
    region_N: tuple[NDArray[np.int64], ...]
    normal_N: tuple[NDArray[np.int64], ...]
    regions: int

    @classmethod
    def of(cls, is_anomaly_NP: NDArray[np.bool_], shape: tuple[int, int], seed: int = 0) -> "FlawedPixels":
        """Find the regions, and draw the normal pixels.

        Args:
            is_anomaly_NP: Which pixels are anomalous, (N, H * W).
            shape: H and W.
            seed: Of the draw, if there are more than MOST_NORMAL.
        """
        # A worker of other data does without this import.
        from scipy.ndimage import label

        random = np.random.default_rng(seed)
        normal = is_anomaly_NP.size - int(np.count_nonzero(is_anomaly_NP))
        share = min(1.0, MOST_NORMAL / max(normal, 1))
        anomalous, regions, drawn, count = [], [], [], 0
        for is_anomaly_P in is_anomaly_NP:
            place = np.flatnonzero(is_anomaly_P)
            numbered, found = label(is_anomaly_P.reshape(shape), NEIGHBOURS)
            anomalous.append(place)
            regions.append(numbered.ravel()[place].astype(np.int64) - 1 + count)
            others = np.flatnonzero(~is_anomaly_P)
            drawn.append(others if share == 1 else others[random.random(len(others)) < share])
            count += int(found)
        return cls(anomalous_N=tuple(anomalous), region_N=tuple(regions), normal_N=tuple(drawn), regions=count)

    def picked(self, place: int, map_HW: Floats) -> tuple[Floats, Floats]:
        """The values of one image's map at its anomalous pixels, and at the normal ones that are compared."""
        map_P = map_HW.ravel()
        return map_P[self.anomalous_N[place]], map_P[self.normal_N[place]]


def pixel_metrics(flawed: FlawedPixels, anomalous_A: Floats, normal_M: Floats) -> Mapping[str, float]:
    """How well a map tells anomalous pixels from normal ones; NaN without one of both.

    `pixel_auroc` is the area under the ROC curve of all pixels together. `pixel_pro` is the per-region overlap
    (Bergmann et al. 2021, equation 2), the mean over regions of the share of a region that is found, averaged over the
    thresholds at which up to MOST_FALSE of the normal pixels are false alarms: 1 at best. A scratch then counts as much
    as a large stain.

    Args:
        flawed: Which pixels these are.
        anomalous_A: The map at the anomalous pixels, image by image.
        normal_M: The map at the normal pixels, in any order.
    """
    if not len(anomalous_A) or not len(normal_M):
        return {"pixel_auroc": float("nan"), "pixel_pro": float("nan")}
    sorted_M = np.sort(normal_M)
    # At the threshold that just finds a pixel, between these shares of the normal pixels are false alarms.
    least_A = 1 - np.searchsorted(sorted_M, anomalous_A, "right") / len(sorted_M)
    most_A = 1 - np.searchsorted(sorted_M, anomalous_A, "left") / len(sorted_M)
    region_A = np.concatenate(flawed.region_N)
    sizes = np.bincount(region_A, minlength=flawed.regions)
    overlap = np.bincount(region_A, _found_up_to(MOST_FALSE, least_A, most_A), minlength=flawed.regions) / sizes
    auroc = float(_found_up_to(1.0, least_A, most_A).mean())
    return {"pixel_auroc": auroc, "pixel_pro": float(overlap.mean()) / MOST_FALSE}


def _found_up_to(limit: float, least_A: Floats, most_A: Floats) -> Floats:
    """The area, up to a share of false alarms, under the curve of whether each pixel is found.

    The curve is 0 up to `least`, 1 from `most` on, and a straight line where normal pixels have the same value.
    """
    rest_A = np.maximum(limit - most_A, 0)
    width_A = most_A - least_A
    along_A = np.clip(limit - least_A, 0, width_A)
    rising_A = np.divide(along_A**2, 2 * width_A, out=np.zeros_like(along_A), where=width_A > 0)
    return np.asarray(rest_A + rising_A)

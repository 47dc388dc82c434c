"""Anomaly maps and what is measured of them, beside slow references."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, label
from sklearn.metrics import roc_auc_score
from vae_study.anomaly.maps import (
    MOST_FALSE,
    MOST_NORMAL,
    REACH,
    SMOOTHING,
    FlawedPixels,
    anomaly_maps,
    pixel_metrics,
    window,
)


def measured(maps_NHW: np.ndarray, masks_NHW: np.ndarray) -> dict[str, float]:
    """The metrics of some maps."""
    flawed = FlawedPixels.of(masks_NHW.reshape(len(masks_NHW), -1), masks_NHW.shape[1:])
    parts = [flawed.picked(place, map_HW) for place, map_HW in enumerate(maps_NHW)]
    return dict(pixel_metrics(flawed, *(np.concatenate(one) for one in zip(*parts, strict=True))))


def slow_overlap(maps_NHW: np.ndarray, masks_NHW: np.ndarray) -> float:
    """The per-region overlap by its definition: threshold by threshold, region by region, trapezoid by trapezoid."""
    regions = []
    for place, mask_HW in enumerate(masks_NHW):
        numbered, count = label(mask_HW, np.ones((3, 3)))
        regions += [(place, numbered == number) for number in range(1, count + 1)]
    false, overlap = [0.0], [0.0]
    for threshold in np.unique(maps_NHW)[::-1]:
        found_NHW = maps_NHW >= threshold
        false.append(found_NHW[~masks_NHW].mean())
        overlap.append(np.mean([found_NHW[place][region_HW].mean() for place, region_HW in regions]))
    # A vertical step of the curve keeps its upper end.
    at = np.interp(MOST_FALSE, false, overlap)
    inside = np.array(false) < MOST_FALSE
    x, y = np.append(np.array(false)[inside], MOST_FALSE), np.append(np.array(overlap)[inside], at)
    return float(np.trapezoid(y, x) / MOST_FALSE)


@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.floats(0.05, 0.6))
def test_pixel_metrics_are_what_their_definitions_say_also_with_ties(seed, values, share):
    random = np.random.default_rng(seed)
    masks_NHW = random.random((3, 7, 9)) < share * np.array([0, 1, 1])[:, None, None]
    masks_NHW[1, 0, 0] = True
    # Few values, so that normal and anomalous pixels tie.
    maps_NHW = random.integers(0, values, (3, 7, 9)) + 2.0 * masks_NHW * random.integers(0, 2, (3, 7, 9))
    found = measured(maps_NHW, masks_NHW)
    assert found["pixel_auroc"] == pytest.approx(roc_auc_score(masks_NHW.ravel(), maps_NHW.ravel()), abs=1e-12)
    assert found["pixel_pro"] == pytest.approx(slow_overlap(maps_NHW, masks_NHW), abs=1e-12)


def test_a_small_region_counts_as_much_as_a_large_one():
    masks_NHW = np.zeros((1, 32, 32), bool)
    masks_NHW[0, 2:18, 2:18] = masks_NHW[0, 30, 30] = True
    only_large, only_small = (np.zeros((1, 32, 32)) for _ in range(2))
    only_large[0, 2:18, 2:18], only_small[0, 30, 30] = 1, 1
    large, small = measured(only_large, masks_NHW), measured(only_small, masks_NHW)
    assert large["pixel_auroc"] > small["pixel_auroc"] + 0.4
    assert large["pixel_pro"] == pytest.approx(small["pixel_pro"])


def test_corners_join_a_region_and_images_do_not():
    masks_NHW = np.zeros((2, 4, 4), bool)
    masks_NHW[:, 1, 1] = masks_NHW[:, 2, 2] = True
    flawed = FlawedPixels.of(masks_NHW.reshape(2, -1), (4, 4))
    assert flawed.regions == 2
    assert [one.tolist() for one in flawed.region_N] == [[0, 0], [1, 1]]


@pytest.mark.parametrize("share", [0, 1])
def test_without_both_kinds_of_pixels_there_is_no_number(share):
    masks_NHW = np.full((2, 3, 3), bool(share))
    assert all(np.isnan(value) for value in measured(np.ones((2, 3, 3)), masks_NHW).values())


def test_of_very_many_normal_pixels_a_sample_gives_nearly_the_same():
    random = np.random.default_rng(0)
    shape = (3, 1024, 1024)
    masks_NHW = np.zeros(shape, bool)
    masks_NHW[1, 100:160, 100:160] = masks_NHW[2, 500:520, 3:90] = True
    maps_NHW = random.normal(size=shape) + 1.5 * masks_NHW
    flawed = FlawedPixels.of(masks_NHW.reshape(3, -1), shape[1:])
    assert sum(map(len, flawed.normal_N)) == pytest.approx(MOST_NORMAL, rel=0.01)
    exact = roc_auc_score(masks_NHW.ravel(), maps_NHW.ravel())
    assert measured(maps_NHW, masks_NHW)["pixel_auroc"] == pytest.approx(exact, abs=0.001)


@given(st.integers(0, 2**32 - 1), st.sampled_from([(1, 8, 8), (3, 40, 70), (1, 64, 64)]))
def test_a_map_is_the_smoothed_squared_residual_in_units_of_its_variance(seed, image):
    random = np.random.default_rng(seed)
    residual_ND, mean_D = random.normal(size=(2, np.prod(image))), random.normal(size=np.prod(image))
    variance_D = random.uniform(0.1, 2, np.prod(image))
    found_NHW = anomaly_maps(residual_ND, mean_D, variance_D, image)
    squared = ((residual_ND - mean_D) ** 2 / (variance_D + 1e-6)).reshape(2, *image).mean(axis=1)
    deviation = SMOOTHING * min(image[1:])
    for own, map_HW in zip(squared, found_NHW, strict=True):
        slow = gaussian_filter(own, deviation, mode="nearest", radius=round(REACH * deviation))
        assert map_HW == pytest.approx(slow, rel=1e-9)
    assert sum(window(image)) == pytest.approx(1)

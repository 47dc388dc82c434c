import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from vae_study.data.scales import LARGEST_RANKS, Ranks, fit_scale, scale_from_plain

KINDS = ["unit", "standard", "robust", "quantile", "none"]
numbers = st.floats(-1e4, 1e4, width=32)
columns = arrays(np.float32, st.integers(1, 40), elements=numbers)
kinds = st.sampled_from(KINDS)


@given(columns, arrays(np.float32, 20, elements=numbers), st.sampled_from(["unit", "quantile"]))
def test_unit_and_quantile_lie_within_0_and_1_and_train_reaches_both(train_N, other_N, kind):
    scale = fit_scale(kind, train_N, None)
    scaled_N = scale(np.concatenate([train_N, other_N]))
    assert scaled_N.dtype == np.float32
    assert ((scaled_N >= 0) & (scaled_N <= 1)).all()
    if np.ptp(train_N) > 0:
        assert (scale(train_N).min(), scale(train_N).max()) == (0, 1)


@given(columns, arrays(np.float32, 20, elements=numbers), kinds, st.none() | st.floats(0.1, 10))
def test_every_scale_keeps_the_order_of_values(train_N, other_N, kind, clip):
    clip = None if kind == "quantile" else clip
    scaled_N = fit_scale(kind, train_N, clip)(np.sort(other_N))
    assert np.isfinite(scaled_N).all()
    assert (np.diff(scaled_N) >= 0).all()
    if clip is not None:
        assert (abs(scaled_N) <= np.float32(clip)).all()


@given(columns, kinds)
def test_train_values_come_back(train_N, kind):
    scale = fit_scale(kind, train_N, None)
    back_N = scale.inverse(scale(train_N))
    # What one float32 between 0 and 1 cannot tell apart, in units of the data.
    steepest = np.max(np.diff(scale.values) / np.diff(scale.levels), initial=0) if isinstance(scale, Ranks) else 0
    width = max(steepest, np.ptp(train_N), abs(train_N).max())
    np.testing.assert_allclose(back_N, train_N, rtol=0, atol=4e-7 * max(width, 1e-30))


@given(columns, kinds, st.none() | st.floats(0.1, 10))
def test_a_scale_survives_json_bit_for_bit(train_N, kind, clip):
    scale = fit_scale(kind, train_N, clip)
    text = json.dumps(asdict(scale), allow_nan=False)
    assert scale_from_plain(json.loads(text)) == scale


@given(numbers, kinds)
def test_one_value_alone_does_no_harm(value, kind):
    """It stays finite, and a change elsewhere is not blown up."""
    scale = fit_scale(kind, np.full(97, value, np.float32), None)
    moved = scale(np.array([value, value + 1], np.float32))
    assert abs(moved[1] - moved[0]) <= 1 + 1e-2


def test_standard_gives_mean_0_and_variance_1_also_far_from_0():
    x_N = np.random.default_rng(0).normal(1e6, 1e3, 1_000).astype(np.float32)
    scaled_N = fit_scale("standard", x_N, None)(x_N).astype(np.float64)
    assert scaled_N.mean() == pytest.approx(0, abs=1e-6)
    assert scaled_N.var() == pytest.approx(1, rel=1e-6)


def test_robust_gives_median_0_and_interquartile_range_1_whatever_the_tail():
    x_N = np.append(np.arange(1_001), 1e9).astype(np.float32)
    scaled_N = fit_scale("robust", x_N, None)(x_N)
    assert np.median(scaled_N) == pytest.approx(0, abs=1e-6)
    assert np.subtract(*np.quantile(scaled_N, (0.75, 0.25))) == pytest.approx(1)


def test_robust_does_not_blow_up_a_column_of_mostly_one_value():
    x_N = np.where(np.arange(1_000) % 10 == 0, 1e5, 0).astype(np.float32)
    nearly_N = x_N + np.float32(1e-12) * np.arange(1_000, dtype=np.float32)
    for column_N in (x_N, nearly_N):
        assert abs(fit_scale("robust", column_N, None)(column_N)).max() < 10


def test_quantile_gives_even_ranks_from_few_numbers():
    x_N = np.random.default_rng(0).lognormal(0, 3, 100_000).astype(np.float32)
    scale = fit_scale("quantile", x_N, None)
    assert len(scale.values) == len(scale.levels) == LARGEST_RANKS
    ranks_N = np.argsort(np.argsort(x_N)) / (len(x_N) - 1)
    np.testing.assert_allclose(scale(x_N), ranks_N, atol=2 / LARGEST_RANKS)


def test_a_value_that_many_rows_share_has_the_middle_of_their_ranks():
    x_N = np.array([0] * 10 + [1] * 80 + [2] * 10, np.float32)
    assert fit_scale("quantile", x_N, None)(np.array([0, 1, 2], np.float32)).tolist() == pytest.approx([0, 0.5, 1])

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control
from vae_study.anomaly.conformal import (
    TailScale,
    calibration_needed,
    calibration_scores,
    fewest_flags,
    flag_limit,
    p_value_counts,
    p_values,
    promises,
)

# Whole numbers, so that there are many ties and none by rounding.
scores = st.lists(st.integers(-20, 20), min_size=1, max_size=40).map(lambda values: np.array(values, np.float64))
# No level at which a p-value times a rank can hit the limit by rounding only.
levels = st.floats(0.01, 0.9).map(lambda level: level + 1e-4 * math.pi)


@given(normal_M=scores, score_N=scores)
def test_a_p_value_counts_the_normal_rows_that_score_as_high(normal_M, score_N):
    expected = [(1 + sum(normal >= score for normal in normal_M)) / (len(normal_M) + 1) for score in score_N]
    assert p_values(calibration_scores(normal_M), score_N).tolist() == expected


@given(normal_M=scores, score_N=scores, level=levels)
def test_the_flagged_rows_are_those_of_scipy_with_ties(normal_M, score_N, level):
    p_N = p_values(calibration_scores(normal_M), score_N)
    flagged_N = p_N <= flag_limit(p_value_counts(p_N, len(normal_M)), level)
    assert flagged_N.tolist() == (false_discovery_control(p_N) <= level).tolist()


@given(normal_M=scores, score_N=scores, level=levels, parts=st.integers(1, 5))
def test_counts_of_several_batches_flag_what_those_of_one_do(normal_M, score_N, level, parts):
    p_N = p_values(calibration_scores(normal_M), score_N)
    batches = [p_value_counts(part, len(normal_M)) for part in np.array_split(p_N, parts)]
    assert flag_limit(sum(batches), level) == flag_limit(p_value_counts(p_N, len(normal_M)), level)


@pytest.mark.parametrize("draw", [lambda r, n: r.normal(size=n), lambda r, n: r.integers(0, 6, n).astype(float)])
def test_p_values_of_exchangeable_rows_are_no_smaller_than_uniform_ones(draw):
    random, draws = np.random.default_rng(0), 4000
    p_N = np.array([p_values(np.sort(draw(random, 30)), draw(random, 1))[0] for _ in range(draws)])
    for level in np.arange(1, 31) / 31:
        assert (p_N <= level).mean() <= level + 4 * math.sqrt(level * (1 - level) / draws)


def test_the_false_discovery_rate_is_kept_on_average_over_calibration_draws():
    random, level, shares = np.random.default_rng(1), 0.2, []
    is_anomaly_N = np.arange(150) >= 100
    for _ in range(600):
        score_N = random.normal(size=150) + 3 * is_anomaly_N
        p_N = p_values(np.sort(random.normal(size=400)), score_N)
        flagged_N = p_N <= flag_limit(p_value_counts(p_N, 400), level)
        shares.append(flagged_N[~is_anomaly_N].sum() / max(flagged_N.sum(), 1))
    # Exactly the level times the share of normal rows (Bates et al. 2023, theorem 2), but for the last step of 1/401.
    assert np.mean(shares) == pytest.approx(level * 100 / 150, abs=0.015)


@given(normal_M=scores, score_N=scores)
def test_rounding_makes_no_row_higher_than_one_that_it_equals(normal_M, score_N):
    calibration_M = calibration_scores(normal_M)
    rounded_N = score_N * (1 + 1e-6 * np.where(np.arange(len(score_N)) % 2, 1, -1))
    assert p_values(calibration_M, rounded_N).tolist() == p_values(calibration_M, score_N).tolist()


def test_of_many_normal_rows_a_fixed_sample_is_kept():
    normal_M = np.random.default_rng(0).permutation(1000).astype(np.float64)
    kept = calibration_scores(normal_M, 100)
    assert len(np.unique(kept)) == 100
    assert (np.diff(kept) > 0).all()
    assert set(kept) <= set(normal_M)
    assert kept.tolist() == calibration_scores(normal_M, 100).tolist()


@given(rows=st.integers(1, 2000), calibration=st.integers(1, 300), level=levels)
@settings(max_examples=50)
def test_the_number_of_flags_that_is_called_the_smallest_is(rows, calibration, level):
    def is_flagged(rank: int, calibration: int) -> bool:
        counts = np.zeros(calibration + 1, np.int64)
        counts[[0, -1]] += rank, rows - rank
        return 0 < flag_limit(counts, level) < 1

    fewest = fewest_flags(rows, calibration, level)
    assert fewest >= rows or is_flagged(fewest, calibration)
    assert not is_flagged(min(fewest - 1, rows), calibration)
    flags = max(1, min(fewest, rows) // 2)
    needed = calibration_needed(rows, flags, level)
    assert fewest_flags(rows, needed, level) <= flags
    assert needed == 0 or fewest_flags(rows, needed - 1, level) > flags


def test_promised_and_realised_rates_are_those_of_plain_loops():
    random = np.random.default_rng(2)
    normal_M = random.normal(size=199)
    is_anomaly_N = random.random(300) < 0.2
    score_N = random.normal(size=300) + 4 * is_anomaly_N
    found = promises(normal_M, is_anomaly_N, score_N)
    p_N = [(1 + sum(normal >= score for normal in normal_M)) / 200 for score in score_N]
    adjusted_N = false_discovery_control(p_N)
    for row in found.to_dict("records"):
        values = p_N if row["by"] == "p_value" else adjusted_N
        flagged = [anomaly for value, anomaly in zip(values, is_anomaly_N, strict=True) if value <= row["level"]]
        false = len(flagged) - sum(flagged)
        assert (row["flagged"], row["false"]) == (len(flagged), false)
        whole = (~is_anomaly_N).sum() if row["by"] == "p_value" else len(flagged)
        assert row["realised"] == pytest.approx(false / whole)
    assert found["by"].tolist() == ["p_value"] * 3 + ["fdr"] * 3


def test_where_nothing_is_flagged_nothing_is_false():
    found = promises(np.arange(5.0), np.array([False, True]), np.array([2.0, 9.0]))
    assert found.loc[found["by"].eq("fdr"), ["flagged", "false", "realised"]].to_numpy().tolist() == [[0, 0, 0]] * 3


@given(normal_M=scores)
def test_on_the_tail_scale_a_held_out_score_is_minus_the_log_of_its_p_value(normal_M):
    assert TailScale.of(normal_M)(normal_M) == pytest.approx(-np.log(p_values(calibration_scores(normal_M), normal_M)))
    assert TailScale.of(normal_M)(normal_M.min() - np.arange(3.0)) == pytest.approx(0)


@example(normal_M=np.array([0.0, 1.0, 1.0]), score_N=np.array([2.0]), factor=0.01)
@given(normal_M=scores, score_N=scores, factor=st.sampled_from([0.01, 3.0, 1e6]))
def test_the_tail_scale_is_continuous_keeps_the_order_and_knows_no_unit(normal_M, score_N, factor):
    order_N = np.sort(score_N)
    found_N = TailScale.of(normal_M)(order_N)
    assert (np.diff(found_N) >= 0).all()
    far_N = np.unique(score_N[score_N > normal_M.max()])
    assert (np.diff(TailScale.of(normal_M)(far_N)) > 0).all()
    assert TailScale.of(normal_M)(order_N + 1e-9) == pytest.approx(found_N, abs=1e-7)
    if len(set(normal_M)) > 1:
        assert TailScale.of(factor * normal_M)(factor * order_N) == pytest.approx(found_N)


def test_the_tail_scale_of_a_detector_that_knows_no_difference_is_flat_up_to_rounding():
    flat = TailScale.of(1 + 1e-9 * np.arange(50.0))
    assert flat(np.array([1.0, 1 + 1e-8])) == pytest.approx(flat(np.ones(2)))

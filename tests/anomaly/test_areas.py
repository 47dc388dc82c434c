import math

import numpy as np
import pytest
from hypothesis import given
from sklearn.metrics import average_precision_score, roc_auc_score

from pipeline.anomaly import (
    METRICS,
    auroc,
    average_precision,
    interval,
    precision_recall_points,
    roc_points,
)
from tests.anomaly.examples import both_classes, shifted


@given(both_classes)
def test_auroc_is_the_share_of_pairs_in_the_right_order_ties_half(pair):
    is_anomaly_N, score_N = pair
    higher_AN = score_N[is_anomaly_N][:, None] > score_N[~is_anomaly_N]
    equal_AN = score_N[is_anomaly_N][:, None] == score_N[~is_anomaly_N]
    assert auroc(is_anomaly_N, score_N) == pytest.approx((higher_AN + 0.5 * equal_AN).mean(), abs=1e-12)
    assert auroc(is_anomaly_N, score_N) == pytest.approx(roc_auc_score(is_anomaly_N, score_N), abs=1e-12)
    assert auroc(is_anomaly_N, -score_N) == pytest.approx(1 - auroc(is_anomaly_N, score_N), abs=1e-12)


@given(both_classes)
def test_average_precision_is_scikit_learns(pair):
    assert average_precision(*pair) == pytest.approx(average_precision_score(*pair), abs=1e-12)


@given(both_classes)
def test_the_roc_curve_encloses_the_auroc_and_the_precision_recall_curve_the_average_precision(pair):
    false_rate, true_rate = roc_points(*pair)
    assert [false_rate[0], true_rate[0], false_rate[-1], true_rate[-1]] == [0, 0, 1, 1]
    assert np.trapezoid(true_rate, false_rate) == pytest.approx(auroc(*pair))
    recall, precision = precision_recall_points(*pair)
    assert (recall[0], recall[-1]) == (0, 1)
    assert (np.diff(recall) * precision[1:]).sum() == pytest.approx(average_precision(*pair))


@pytest.mark.parametrize(
    ("is_anomaly", "score"),
    [([], []), ([True, True], [1, 2]), ([False], [1]), ([True, False], [math.nan, 1]), ([True, False], [1, math.inf])],
)
def test_one_class_or_a_score_that_is_no_number_gives_nan(is_anomaly, score):
    pair = np.array(is_anomaly, bool), np.array(score, float)
    results = [auroc(*pair), average_precision(*pair), *interval("auroc", *pair), *interval("average_precision", *pair)]
    assert np.isnan(results).all()


@pytest.mark.parametrize("metric", METRICS)
def test_an_interval_is_fixed_by_its_seed_holds_the_estimate_and_narrows_with_data_and_level(metric):
    pair = shifted(np.random.default_rng(0), 150, 60, 1.0)
    low, high = interval(metric, *pair)
    assert (low, high) == interval(metric, *pair) != interval(metric, *pair, seed=1)
    assert low < {"auroc": auroc, "average_precision": average_precision}[metric](*pair) < high
    many = interval(metric, *shifted(np.random.default_rng(0), 2400, 960, 1.0))
    assert (many[1] - many[0]) / (high - low) == pytest.approx(1 / 4, rel=0.3)
    inner = interval(metric, *pair, level=0.5)
    assert low < inner[0] < inner[1] < high


@pytest.mark.parametrize(
    ("metric", "value"), [("auroc", roc_auc_score), ("average_precision", average_precision_score)]
)
def test_an_interval_is_as_wide_as_resampling_each_class_by_hand_says(metric, value):
    random = np.random.default_rng(1)
    is_anomaly_N, score_N = shifted(random, 200, 80, 0.8)
    score_N = score_N.round(1)
    draws = []
    for _ in range(800):
        rows = [random.choice(np.flatnonzero(part), part.sum()) for part in (is_anomaly_N, ~is_anomaly_N)]
        rows_N = np.concatenate(rows)
        draws.append(value(is_anomaly_N[rows_N], score_N[rows_N]))
    expected = np.quantile(draws, [0.025, 0.975])
    assert interval(metric, is_anomaly_N, score_N, draws=2000) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(("normal", "anomalous", "shift"), [(200, 50, 1.2), (300, 30, 2.0)])
@pytest.mark.parametrize("metric", METRICS)
def test_a_95_percent_interval_holds_the_truth_93_to_97_times_in_100(metric, normal, anomalous, shift):
    random = np.random.default_rng(2)
    truth = 0.5 * (1 + math.erf(shift / 2))  # Phi(shift / sqrt 2)
    if metric == "average_precision":
        truth = average_precision_score(*shifted(random, normal * 2000, anomalous * 2000, shift))
    ends = [interval(metric, *shifted(random, normal, anomalous, shift), draws=200, seed=seed) for seed in range(1000)]
    assert 0.93 <= np.mean([low <= truth <= high for low, high in ends]) <= 0.97


def test_a_perfect_score_is_still_uncertain_and_the_more_so_with_few_anomalies():
    ends = {few: interval("auroc", *shifted(np.random.default_rng(0), 100, few, 1e6)) for few in (1, 5, 50)}
    assert all(high == 1 for _, high in ends.values())
    assert 0 < ends[1][0] < ends[5][0] < ends[50][0] < 0.95
    assert ends[50][0] == pytest.approx(0.025 ** (1 / 50))

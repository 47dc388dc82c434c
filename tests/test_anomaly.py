import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from pipeline.anomaly import (
    METRICS,
    auroc,
    average_precision,
    interval,
    precision_recall_points,
    roc_points,
    scores_of,
    threshold_table,
)

# Few values, so that there are ties, or any.
values = st.integers(-2, 2).map(float) | st.floats(-1e300, 1e300)
examples = st.lists(st.tuples(st.booleans(), values), min_size=2, max_size=60).map(
    lambda rows: (np.array([label for label, _ in rows]), np.array([score for _, score in rows]))
)
both_classes = examples.filter(lambda pair: pair[0].any() and not pair[0].all())


def shifted(random, normal, anomalous, shift):
    """Normal scores, and anomalous ones that are higher by so many standard deviations."""
    is_anomaly_N = np.arange(normal + anomalous) >= normal
    return is_anomaly_N, random.normal(size=len(is_anomaly_N)) + shift * is_anomaly_N


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
def test_an_interval_is_that_of_resampling_each_class_by_hand(metric, value):
    random = np.random.default_rng(1)
    is_anomaly_N, score_N = shifted(random, 40, 15, 0.8)
    score_N = score_N.round(1)
    draws = []
    for _ in range(800):
        rows = [random.choice(np.flatnonzero(part), part.sum()) for part in (is_anomaly_N, ~is_anomaly_N)]
        rows_N = np.concatenate(rows)
        draws.append(value(is_anomaly_N[rows_N], score_N[rows_N]))
    expected = np.quantile(draws, [0.025, 0.975])
    assert interval(metric, is_anomaly_N, score_N, draws=4000) == pytest.approx(expected, abs=0.03)


def test_a_95_percent_interval_holds_the_true_auroc_about_95_times_in_100():
    random, shift = np.random.default_rng(2), 1.0
    truth = 0.5 * (1 + math.erf(shift / 2))  # Phi(shift / sqrt 2)
    ends = [interval("auroc", *shifted(random, 150, 60, shift), draws=400, seed=seed) for seed in range(300)]
    assert 0.90 <= np.mean([low <= truth <= high for low, high in ends]) <= 0.99


@given(examples, st.lists(values, min_size=1, max_size=20))
def test_a_threshold_table_is_what_counting_gives(pair, normal_scores):
    is_anomaly_N, score_N = pair
    rows = threshold_table(np.array(normal_scores), is_anomaly_N, score_N, (0, 50, 99)).to_dict("records")
    for row, percentile in zip(rows, (0, 50, 99), strict=True):
        threshold = np.percentile(normal_scores, percentile)
        flagged = [label for label, score in zip(is_anomaly_N, score_N, strict=True) if score > threshold]
        hits, alarms = sum(flagged), len(flagged) - sum(flagged)
        wholes = {"precision": len(flagged), "recall": is_anomaly_N.sum(), "false_alarm_rate": (~is_anomaly_N).sum()}
        parts = {"precision": hits, "recall": hits, "false_alarm_rate": alarms}
        shares = {name: parts[name] / whole if whole else math.nan for name, whole in wholes.items()}
        assert row == pytest.approx({"percentile": percentile, "threshold": threshold, **shares}, nan_ok=True)


def test_the_elbo_score_is_reconstruction_and_kl():
    parts = {name: np.arange(3.0) + shift for shift, name in enumerate(["reconstruction_N", "kl_N", "squared_error_N"])}
    scores = scores_of(**parts)
    assert (scores["elbo"] == parts["reconstruction_N"] + parts["kl_N"]).all()
    assert all((scores[name] == parts[f"{name}_N"]).all() for name in ("reconstruction", "kl", "squared_error"))

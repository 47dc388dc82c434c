import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from vae_study.anomaly.detection import (
    AREAS,
    alarm_budget,
    auroc,
    average_precision,
    interval,
    is_drift,
    operating_points,
    precision_at,
    precision_recall_points,
    roc_points,
    threshold_table,
    why_undefined,
)

from tests.anomaly.examples import both_classes, examples, shifted, values


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


@pytest.mark.parametrize("metric", AREAS)
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


def with_misses(random, normal, anomalous, shift, missed):
    """As `shifted`, but this share of the anomalies looks like normal rows."""
    is_anomaly_N, score_N = shifted(random, normal, anomalous, shift)
    return is_anomaly_N, np.where(is_anomaly_N & (random.random(len(score_N)) < missed), score_N - shift, score_N)


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("normal", "anomalous", "shift", "missed"),
    [(200, 50, 1.2, 0), (400, 36, 4, 0.03)],
)
@pytest.mark.parametrize("metric", AREAS)
def test_a_95_percent_interval_holds_the_truth_at_least_93_times_in_100(metric, normal, anomalous, shift, missed):
    random = np.random.default_rng(2)
    truth = {"auroc": auroc, "average_precision": average_precision}[metric](
        *with_misses(random, normal * 500, anomalous * 500, shift, missed)
    )
    draws = (with_misses(random, normal, anomalous, shift, missed) for _ in range(1000))
    ends = [interval(metric, *rows, draws=200, seed=seed) for seed, rows in enumerate(draws)]
    assert 0.93 <= np.mean([low <= truth <= high for low, high in ends]) <= 0.99


@pytest.mark.parametrize("metric", AREAS)
def test_one_missed_anomaly_among_36_leaves_an_interval_that_tells_something(metric):
    is_anomaly_N, score_N = shifted(np.random.default_rng(0), 400, 36, 8)
    score_N[np.flatnonzero(is_anomaly_N)[0]] = np.median(score_N[~is_anomaly_N])
    low, high = interval(metric, is_anomaly_N, score_N)
    # Of 36 anomalies 1 was missed; Clopper and Pearson's exact interval for the share that is found.
    found, (exact_low, exact_high) = 35 / 36, beta.ppf([0.025, 0.975], [35, 36], [2, 1])
    assert low < found < high
    assert low == pytest.approx(exact_low, abs=0.06)
    assert high == pytest.approx(exact_high, abs=0.01)


def test_a_perfect_score_is_still_uncertain_and_the_more_so_with_few_anomalies():
    ends = {few: interval("auroc", *shifted(np.random.default_rng(0), 100, few, 1e6)) for few in (1, 5, 50)}
    assert all(high == 1 for _, high in ends.values())
    assert 0 < ends[1][0] < ends[5][0] < ends[50][0] < 0.95
    assert ends[50][0] == pytest.approx(0.025 ** (1 / 50))


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
        del row["drifted"]
        assert row == pytest.approx({"percentile": percentile, "threshold": threshold, **shares}, nan_ok=True)


@given(both_classes)
def test_operating_points_are_what_trying_every_threshold_gives(pair):
    is_anomaly_N, score_N = pair
    points = operating_points(*pair)
    flags = [score_N >= threshold for threshold in [*score_N, math.inf]]
    rates = [(flag[~is_anomaly_N].mean(), flag[is_anomaly_N].mean()) for flag in flags]
    assert points["fpr_at_95_tpr"] == min(false for false, true in rates if true >= 0.95)
    assert points["tpr_at_1_fpr"] == max(true for false, true in rates if false <= 0.01)
    f1 = [f1_score(is_anomaly_N, flag, zero_division=0) for flag in flags]
    assert points["best_f1"] == pytest.approx(max(f1))
    assert points["prevalence"] == is_anomaly_N.mean()
    assert points["average_precision"] == pytest.approx(average_precision_score(*pair))


@given(both_classes)
def test_precision_at_n_is_the_mean_over_all_orders_of_equal_scores(pair):
    is_anomaly_N, score_N = pair
    wanted, random = int(is_anomaly_N.sum()), np.random.default_rng(0)
    orders = [np.lexsort((random.random(len(score_N)), -score_N)) for _ in range(400)]
    drawn = np.mean([is_anomaly_N[order[:wanted]].mean() for order in orders])
    assert operating_points(*pair)["precision_at_n"] == pytest.approx(drawn, abs=0.12)


@given(both_classes, st.integers(1, 70))
def test_the_precision_of_alarms_is_the_mean_over_all_orders_of_equal_scores(pair, alarms):
    is_anomaly_N, score_N = pair
    alarms, random = min(alarms, len(score_N)), np.random.default_rng(0)
    orders = [np.lexsort((random.random(len(score_N)), -score_N)) for _ in range(400)]
    drawn = np.mean([is_anomaly_N[order[:alarms]].mean() for order in orders])
    points = operating_points(*pair, alarms)
    assert points["alarm_precision"] == pytest.approx(drawn, abs=0.12)
    assert points["alarm_recall"] == pytest.approx(points["alarm_precision"] * alarms / is_anomaly_N.sum())


def test_precision_at_another_prevalence_is_what_drawing_rows_at_it_gives():
    random = np.random.default_rng(0)
    is_anomaly_N = random.random(400_000) < 0.02
    flagged_N = random.random(400_000) < np.where(is_anomaly_N, 0.7, 0.01)
    assert precision_at(0.02, 0.7, 0.01) == pytest.approx(is_anomaly_N[flagged_N].mean(), abs=0.01)
    assert math.isnan(precision_at(0.02, 0.0, 0.0))


def test_an_alarm_budget_is_a_number_of_rows_or_a_share_of_them_and_at_least_one():
    budgets = [
        alarm_budget(*asked) for asked in ((50, 400), (50, 30), ({"per_1000": 1}, 4000), (None, 4000), (None, 20))
    ]
    assert budgets == [50, 30, 4, 40, 1]


def test_without_both_classes_there_is_a_reason_and_no_number():
    score_N = np.arange(3.0)
    none, every = np.zeros(3, bool), np.ones(3, bool)
    mixed = np.array([True, False, False])
    assert "anomaly" in str(why_undefined(none, score_N))
    assert "normal" in str(why_undefined(every, score_N))
    assert "finite" in str(why_undefined(mixed, np.array([1, math.nan, 0])))
    assert why_undefined(mixed, score_N) is None
    points = operating_points(none, score_N)
    assert (points.pop("prevalence"), points.pop("alarms")) == (0, 1)
    assert np.isnan(list(points.values())).all()


def test_drift_is_called_where_there_is_one_and_hardly_ever_where_there_is_none():
    random = np.random.default_rng(0)
    called = []
    for _ in range(600):
        held_out, normals = random.normal(size=200), random.normal(size=300)
        for percentile in (90, 95, 99):
            threshold = np.percentile(held_out, percentile)
            called.append(is_drift(int((normals > threshold).sum()), 300, int((held_out > threshold).sum()), 200))
    assert np.mean(called) < 0.006
    assert is_drift(210, 300, 10, 200)
    assert is_drift(0, 3000, 100, 2000)
    assert not is_drift(0, 0, 10, 200)


def test_equal_scores_are_no_drift():
    tied = threshold_table(np.ones(400), np.zeros(400, bool), np.ones(400))
    assert not tied["drifted"].any()


def test_a_threshold_table_says_which_of_its_rates_drifted():
    random = np.random.default_rng(1)
    is_anomaly_N, score_N = shifted(random, 500, 50, 3.0)
    normal = random.normal(size=400)
    assert not threshold_table(normal, is_anomaly_N, score_N)["drifted"].any()
    assert threshold_table(normal - 1.5, is_anomaly_N, score_N)["drifted"].all()

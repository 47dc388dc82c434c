import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, f1_score

from pipeline.anomaly import is_drift, operating_points, threshold_table, why_undefined
from tests.anomaly.examples import both_classes, examples, shifted, values


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


def test_without_both_classes_there_is_a_reason_and_no_number():
    score_N = np.arange(3.0)
    none, every = np.zeros(3, bool), np.ones(3, bool)
    mixed = np.array([True, False, False])
    assert "anomaly" in str(why_undefined(none, score_N))
    assert "normal" in str(why_undefined(every, score_N))
    assert "finite" in str(why_undefined(mixed, np.array([1, math.nan, 0])))
    assert why_undefined(mixed, score_N) is None
    points = operating_points(none, score_N)
    assert points.pop("prevalence") == 0
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

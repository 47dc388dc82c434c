import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from vae_study.anomaly.detection import AREAS
from vae_study.anomaly.paired import ScoredRows, verdict

from tests.anomaly.examples import both_classes


def two_shifted(random, normal, anomalous, shifts, shared=0.5):
    """Two detectors' scores of the same rows, correlated, each with a shift of its own; as `ScoredRows`."""
    is_anomaly_N = np.arange(normal + anomalous) >= normal
    common_N = np.sqrt(shared) * random.normal(size=len(is_anomaly_N))
    noise_2N = np.sqrt(1 - shared) * random.normal(size=(2, len(is_anomaly_N)))
    return [ScoredRows(is_anomaly_N, common_N + own_N + shift * is_anomaly_N)
            for own_N, shift in zip(noise_2N, shifts, strict=True)]  # fmt: skip


def test_placements_give_delongs_variance_of_a_difference_as_all_pairs_do():
    ours, other = two_shifted(np.random.default_rng(3), 150, 110, (1.0, 0.7))
    ours, other = (ScoredRows(one.is_anomaly_N, one.score_N.round(1)) for one in (ours, other))
    kernels = []
    for one in (ours, other):
        anomalous_A, normal_M = one.score_N[one.is_anomaly_N], one.score_N[~one.is_anomaly_N]
        won_AM = [[1.0 if a > n else 0.5 if a == n else 0.0 for n in normal_M] for a in anomalous_A]
        kernels.append(np.array(won_AM))
        assert one.placements[0] == pytest.approx(kernels[-1].mean(axis=1))
        assert one.placements[1] == pytest.approx(kernels[-1].mean(axis=0))
    # DeLong et al. 1988, equations 4 to 6: the covariance of the areas, from the components of each row.
    s10, s01 = (np.cov([kernel.mean(axis=axis) for kernel in kernels]) for axis in (1, 0))
    covariance = s10 / 110 + s01 / 150
    error = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    found = ours.minus(other, "auroc")
    value = kernels[0].mean() - kernels[1].mean()
    assert found.value == pytest.approx(value)
    assert (found.high - found.value) / error == pytest.approx(1.97, abs=0.01)
    assert found.value - found.low == pytest.approx(found.high - found.value)


def test_a_difference_of_average_precisions_is_as_wide_as_resampling_rows_by_hand_says():
    random = np.random.default_rng(4)
    ours, other = two_shifted(random, 200, 60, (1.5, 1.0))
    draws = []
    for _ in range(500):
        rows = [random.choice(np.flatnonzero(part), part.sum()) for part in (ours.is_anomaly_N, ~ours.is_anomaly_N)]
        rows_N = np.concatenate(rows)
        values = [average_precision_score(one.is_anomaly_N[rows_N], one.score_N[rows_N]) for one in (ours, other)]
        draws.append(values[0] - values[1])
    found = ours.minus(other, "average_precision")
    assert (found.high - found.low) / (4 * np.std(draws)) == pytest.approx(1, abs=0.15)
    apart = [average_precision_score(one.is_anomaly_N, one.score_N) for one in (ours, other)]
    assert found.value == pytest.approx(apart[0] - apart[1])


@pytest.mark.parametrize(
    ("metric", "anomalous", "normal", "shifts", "most"),
    [
        ("auroc", 110, 200, (2.0, 1.5), 0.97),
        ("auroc", 120, 120, (0.5, 0.5), 0.97),
        ("auroc", 8, 200, (2.0, 1.0), 0.99),
        ("auroc", 20, 400, (1.5, 1.2), 0.99),
        pytest.param("average_precision", 30, 100, (1.5, 1.0), 0.97, marks=pytest.mark.thorough),
        pytest.param("average_precision", 10, 200, (2.0, 1.2), 0.97, marks=pytest.mark.thorough),
    ],
)
def test_a_paired_interval_holds_the_true_difference_93_to_97_times_in_100_and_more_only_with_few_anomalies(
    metric, anomalous, normal, shifts, most
):
    random = np.random.default_rng(5)
    truth = 0.5 * (math.erf(shifts[0] / 2) - math.erf(shifts[1] / 2))
    if metric == "average_precision":
        ours, other = two_shifted(random, normal * 2000, anomalous * 2000, shifts)
        truth = np.subtract(*(average_precision_score(one.is_anomaly_N, one.score_N) for one in (ours, other)))
    held = []
    for _ in range(1000):
        ours, other = two_shifted(random, normal, anomalous, shifts)
        found = ours.minus(other, metric)
        held.append(found.low <= truth <= found.high)
    assert 0.93 <= np.mean(held) <= most


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("anomalous", "normal", "alarms", "shifts", "most"),
    [(40, 400, 20, (2.0, 1.5), 0.98), (87, 325, 4, (3.0, 1.5), 1.0)],
)
def test_a_paired_interval_of_the_alarms_holds_the_true_difference_and_more_often_only_with_few_alarms(
    anomalous, normal, alarms, shifts, most
):
    random = np.random.default_rng(5)

    def drawn():
        return [replace(one, alarms=alarms) for one in two_shifted(random, normal, anomalous, shifts)]

    def real(one):
        return one.is_anomaly_N[np.argsort(-one.score_N)[:alarms]].mean()

    truth = np.mean([np.subtract(*map(real, drawn())) for _ in range(4000)])
    held = []
    for _ in range(300):
        ours, other = drawn()
        found = ours.minus(other, "alarm_precision")
        held.append(found.low <= truth <= found.high)
    assert 0.93 <= np.mean(held) <= most


def test_four_alarms_that_are_all_real_do_not_say_that_two_detectors_are_the_same():
    is_anomaly_N = np.arange(100) >= 80
    random = np.random.default_rng(0)
    ours, other = (ScoredRows(is_anomaly_N, 9 * is_anomaly_N + random.random(100), alarms=4) for _ in range(2))
    found = ours.minus(other, "alarm_precision")
    # Wilson's interval of 4 of 4 begins at 0.51.
    assert (found.value, found.low, found.high) == pytest.approx((0, -0.49, 0.49), abs=0.005)


@given(both_classes, st.integers(0, 9))
def test_a_difference_changes_its_sign_with_the_order_and_is_0_of_a_score_to_itself(pair, seed):
    is_anomaly_N, score_N = pair
    other_N = np.random.default_rng(seed).permutation(score_N)
    ours, other = ScoredRows(is_anomaly_N, score_N), ScoredRows(is_anomaly_N, other_N)
    for metric in AREAS:
        found, back, same = ours.minus(other, metric), other.minus(ours, metric), ours.minus(ours, metric)
        ends = (found.value, found.low, found.high)
        assert ends == pytest.approx((-back.value, -back.high, -back.low), abs=1e-9)
        assert -1 <= found.low <= found.value <= found.high <= 1
        assert same.value == 0
        assert verdict(same.low, same.high) == "tie"


def test_without_both_classes_there_is_no_difference_and_no_verdict():
    rows = ScoredRows(np.zeros(3, bool), np.arange(3.0))
    found = rows.minus(rows, "auroc")
    assert np.isnan([found.value, found.low, found.high]).all()
    assert [verdict(*ends) for ends in ((found.low, found.high), (0.1, 0.2), (-0.2, -0.1), (0.0, 0.1))] == [
        "", "better", "worse", "tie",
    ]  # fmt: skip

"""Metrics of ranges, against the published definition written out point by point."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vae_study.anomaly.ranges import THRESHOLDS, alarms, covered, delays, holds, of_points, ranges, vus_pr


def slow_vus_pr(label, score, largest):
    """The definition, one threshold and one point after the other."""
    count, positives = len(label), sum(label)
    runs, start = [], None
    for n in range(count + 1):
        inside = n < count and label[n]
        if inside and start is None:
            start = n
        if not inside and start is not None:
            runs.append((start, n - 1))
            start = None
    areas = []
    for length in range(largest + 1):
        soft = [float(one) for one in label]
        for first, last in runs:
            for distance in range(1, length // 2 + 1):
                for n in (first - distance, last + distance):
                    if 0 <= n < count:
                        soft[n] += math.sqrt(1 - distance / length)
        soft = [min(one, 1.0) for one in soft]
        extended = []
        for first, last in runs:
            if extended and first - length // 2 <= extended[-1][1]:
                extended[-1][1] = last + length // 2
            else:
                extended.append([first - length // 2, last + length // 2])
        area = before = 0.0
        for j in range(THRESHOLDS):
            threshold = sorted(score, reverse=True)[int(j * (count - 1) / (THRESHOLDS - 1))]
            flagged = [n for n in range(count) if score[n] >= threshold]
            true = sum(soft[n] for n in flagged)
            beside = sum(soft[n] for n in flagged if not label[n])
            found = sum(any(first <= n <= last for n in flagged) for first, last in extended) / len(extended)
            recall = min(true / ((positives + positives + beside) / 2), 1) * found
            area += (recall - before) * true / len(flagged)
            before = recall
        areas.append(area)
    return sum(areas) / len(areas)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 6)), min_size=2, max_size=40),
    st.integers(0, 9),
    st.integers(1, 3),
)
def test_vus_pr_is_the_published_one(points, largest, repeat):
    label = [one for one, _ in points for _ in range(repeat)]
    score = [float(one) for _, one in points for _ in range(repeat)]
    found = vus_pr(np.array(label), np.array(score), largest)
    if not any(label):
        assert math.isnan(found)
    else:
        assert found == pytest.approx(slow_vus_pr(label, score, largest), abs=1e-9)


def test_without_a_buffer_a_perfect_score_has_1_and_a_late_alarm_counts_with_one():
    label = np.zeros(400, bool)
    label[100:120] = label[300:340] = True
    late = np.roll(label, 8)
    assert vus_pr(label, label.astype(float), 0) == pytest.approx(1)
    assert vus_pr(label, late.astype(float), 0) < vus_pr(label, late.astype(float), 20)


@settings(deadline=None)
@given(st.integers(2, 6), st.lists(st.floats(-5, 5), min_size=1, max_size=30))
def test_a_point_has_the_mean_or_largest_score_of_the_windows_that_cover_it(steps, windows):
    count = len(windows) + steps - 1
    ending = np.array([windows[max(n - steps + 1, 0)] for n in range(count)])
    covering = [[one for start, one in enumerate(windows) if start <= n < start + steps] for n in range(count)]
    np.testing.assert_allclose(of_points(ending, steps, "mean"), [np.mean(one) for one in covering], atol=1e-12)
    np.testing.assert_array_equal(of_points(ending, steps, "max"), [max(one) for one in covering])
    np.testing.assert_array_equal(of_points(ending, steps, "last"), ending)


@settings(deadline=None)
@given(st.integers(1, 5), st.lists(st.floats(-5, 5), min_size=1, max_size=20), st.randoms())
def test_a_point_of_a_split_has_the_mean_of_the_windows_that_cover_it(steps, windows, random):
    start = np.array(sorted(random.sample(range(3 * len(windows)), len(windows))))
    points = int(start.max()) + steps
    covering = [
        [one for first, one in zip(start, windows, strict=True) if first <= p < first + steps] for p in range(points)
    ]
    found = covered(np.array(windows), start, steps, points)
    np.testing.assert_allclose(found, [np.mean(one) if one else np.nan for one in covering], atol=1e-12)


def test_alarms_are_counted_by_range_delay_and_day():
    second = 10**9
    is_anomaly, is_flagged = np.zeros(100, bool), np.zeros(100, bool)
    is_anomaly[10:20] = is_anomaly[50:55] = True
    is_flagged[[14, 15, 30, 31, 33, 70]] = True
    found = alarms(is_anomaly, is_flagged, np.arange(100) * second)
    assert ranges(is_anomaly).tolist() == [[10, 19], [50, 54]]
    assert (found.found, found.delay) == (0.5, 4 * second)
    assert found.false_a_day == pytest.approx(3 / (85 / 86_400))


def slow_ranges(is_set, series, within):
    """Point by point: each joins the last run, or begins one."""
    found = []
    for n, one in enumerate(is_set):
        if one and found and n - found[-1][1] <= within and series[n] == series[found[-1][1]]:
            found[-1][1] = n
        elif one:
            found.append([n, n])
    return found


@settings(max_examples=40)
@given(st.data(), st.integers(1, 30), st.integers(1, 5))
def test_alarms_of_several_series_are_those_counted_point_by_point(data, count, within):
    flags = st.lists(st.booleans(), min_size=count, max_size=count)
    is_anomaly, is_flagged = (np.array(data.draw(flags)) for _ in range(2))
    series = np.cumsum(data.draw(flags))
    time = np.arange(count, dtype=np.int64) * 60 * 10**9
    runs, true = slow_ranges(is_flagged, series, within), slow_ranges(is_anomaly, series, 1)
    assert ranges(is_flagged, series, within).tolist() == runs
    late = [next((n - first for n in range(first, last + 1) if is_flagged[n]), None) for first, last in true]
    found = delays(is_anomaly, is_flagged, time, series)
    assert [None if np.isnan(one) else one / 60e9 for one in found] == late
    is_true = [any(is_anomaly[first : last + 1]) for first, last in runs]
    assert holds(ranges(is_flagged, series, within), is_anomaly).tolist() == is_true
    told, known = alarms(is_anomaly, is_flagged, time, series, within), [one for one in late if one is not None]
    normal = count - is_anomaly.sum()
    steps = np.diff(series)[np.diff(series) == 0]
    if true:
        assert told.found == pytest.approx(len(known) / len(true))
    if known:
        assert told.delay == pytest.approx(60e9 * np.mean(known))
    if normal and len(steps):
        assert told.false_a_day == pytest.approx((len(runs) - sum(is_true)) / (normal / 1440))

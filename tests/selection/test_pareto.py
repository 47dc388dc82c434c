import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vae_study.selection.ranking import frontier_of, hypervolume, non_dominated

# Few values, so that there are equal points and shared coordinates; and some that are no numbers.
few = st.integers(0, 4).map(float)
any_value = few | st.floats(-1e6, 1e6) | st.sampled_from([math.nan, math.inf, -math.inf])


def point_sets(values, most):
    return st.integers(1, 4).flatmap(
        lambda m: st.lists(st.lists(values, min_size=m, max_size=m), max_size=most).map(
            lambda rows: np.array(rows, float).reshape(-1, m)
        )
    )


def dominates(one, other):
    return (one <= other).all() and (one < other).any()


@given(point_sets(any_value, 25))
def test_non_dominated_is_what_comparing_all_pairs_gives(values_NM):
    is_finite_N = np.isfinite(values_NM).all(axis=1)
    finite_NM = values_NM[is_finite_N]
    expected = [
        bool(finite) and not any(dominates(other, point) for other in finite_NM)
        for finite, point in zip(is_finite_N, values_NM, strict=True)
    ]
    assert non_dominated(values_NM).tolist() == expected


@given(point_sets(few | st.just(math.nan), 8), st.integers(1, 4))
def test_hypervolume_is_the_sum_of_the_dominated_cells(values_NM, corner):
    """Every coordinate is whole, so that unit cells measure the volume exactly."""
    cells = itertools.product(range(corner), repeat=values_NM.shape[1])
    volume = sum(any((point <= cell).all() for point in values_NM) for cell in map(np.array, cells))
    assert hypervolume(values_NM, [corner] * values_NM.shape[1]) == pytest.approx(volume)


@given(st.lists(st.tuples(*[st.floats(-1e3, 1e3)] * 2), max_size=20))
def test_hypervolume_of_two_objectives_is_the_area_under_the_staircase(points):
    reference, area = (500.0, 300.0), 0.0
    floor = reference[1]
    for x, y in sorted(point for point in points if point[0] < reference[0] and point[1] < reference[1]):
        area += (reference[0] - x) * max(floor - y, 0)
        floor = min(floor, y)
    assert hypervolume(np.array(points).reshape(-1, 2), reference) == pytest.approx(area, rel=1e-9, abs=1e-9)


@given(point_sets(any_value, 10), st.randoms())
def test_dominated_and_infinite_points_add_no_volume(values_NM, random):
    reference = [2.5] * values_NM.shape[1]
    shuffled = random.sample(range(len(values_NM)), len(values_NM))
    expected = hypervolume(values_NM, reference)
    assert hypervolume(values_NM[non_dominated(values_NM)], reference) == pytest.approx(expected)
    assert hypervolume(values_NM[shuffled], reference) == pytest.approx(expected)


def trials(**changes) -> pd.DataFrame:
    columns = {
        "trial": [5, 3, 2, 4, 1, 0],
        "state": ["finished", "pruned", "failed", "running", "finished", "finished"],
        "val/kl": [2.0, 0.0, 0.0, 0.0, 1.0, 3.0],
        "val/elbo": [20.0, 99.0, 99.0, 99.0, 10.0, 5.0],
    }
    return pd.DataFrame(columns | changes)


@pytest.mark.parametrize(
    ("signs", "frontier"),
    [([1, -1], [1, 5]), ([1, 1], [1, 0]), ([-1, -1], [5, 0]), ([-1, 1], [0])],
)
def test_only_finished_trials_make_the_frontier_in_either_direction(signs, frontier):
    assert frontier_of(trials(), ["val/kl", "val/elbo"], signs)["trial"].tolist() == frontier


any_trial = st.tuples(
    st.sampled_from(["finished", "finished", "pruned", "failed", "running", "waiting"]),
    st.sampled_from([True, True, False, None]),
    few,
    few,
)


@given(st.lists(any_trial, min_size=1, max_size=20))
def test_the_frontier_is_that_of_the_finished_feasible_trials_alone(rows):
    frame = pd.DataFrame(rows, columns=["state", "feasible", "x", "y"]).assign(trial=range(len(rows)))
    kept = {n: np.array(row[2:]) for n, row in enumerate(rows) if row[0] == "finished" and row[1] is not False}
    expected = {n for n, point in kept.items() if not any(dominates(other, point) for other in kept.values())}
    assert set(frontier_of(frame, ["x", "y"], [1, 1])["trial"]) == expected
    without = frame.drop(columns="feasible")
    everyone = frontier_of(frame.assign(feasible=True), ["x", "y"], [1, 1])["trial"].tolist()
    assert frontier_of(without, ["x", "y"], [1, 1])["trial"].tolist() == everyone


def test_a_better_trial_that_was_stopped_or_violates_a_constraint_pushes_none_off_the_frontier():
    better = {"val/kl": [2.0, 0, 0, 0, 1.0, 0.0], "val/elbo": [2.0, 0, 0, 0, 1.0, 0.0]}
    frame = trials(**better, feasible=[True, True, True, True, True, False])
    assert frontier_of(frame, ["val/kl", "val/elbo"], [1, 1])["trial"].tolist() == [1]
    assert frontier_of(frame.assign(feasible=False), ["val/kl", "val/elbo"], [1, 1]).empty


def test_trials_without_finite_objectives_are_not_on_the_frontier_and_equal_ones_come_by_number():
    values = {"val/kl": [1.0, 0, 0, 0, 1.0, math.nan], "val/elbo": [7.0, 0, 0, 0, 7.0, -math.inf]}
    assert frontier_of(trials(**values), ["val/kl", "val/elbo"], [1, 1])["trial"].tolist() == [1, 5]
    assert frontier_of(trials(), ["val/kl", "val/auroc"], [1, 1]).empty
    assert frontier_of(trials().iloc[:0], ["val/kl"], [1]).empty

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from vae_study.config.model import KlAnnealing
from vae_study.config.study import EarlyStoppingConfig
from vae_study.search.early_stopping import RULES, among_best_fronts, due, goes_on, place_by_spread, rungs
from vae_study.vae.objective import SCHEDULES, kl_weights

kinds = st.sampled_from(["pareto", "asha", "median"])
stopping_configs = st.builds(
    EarlyStoppingConfig, kind=kinds, reduction_factor=st.integers(2, 5), min_epochs=st.none() | st.integers(1, 50)
)


@given(stopping_configs, st.integers(1, 500))
def test_rungs_rise_from_the_first_and_stay_below_the_budget(config, epochs):
    found = rungs(config, epochs)
    assert list(found) == sorted(set(found))
    assert all(1 <= rung < epochs for rung in found)
    if config.min_epochs is not None:
        assert found[:1] == ((config.min_epochs,) if config.min_epochs < epochs else ())
    if config.kind != "median":
        assert all(later == rung * config.reduction_factor for rung, later in itertools.pairwise(found))
        assert not found or found[-1] * config.reduction_factor >= epochs
    assert rungs(config.model_copy(update={"kind": "none"}), epochs) == ()


@pytest.mark.parametrize(
    ("kind", "epochs", "expected"),
    [
        ("pareto", 60, (2, 6, 18, 54)),
        ("asha", 27, (1, 3, 9)),
        ("asha", 1, ()),
        ("median", 60, (6, 12, 18, 24, 30, 36, 42, 48, 54)),
        ("median", 4, (1, 2, 3)),
    ],
)
def test_rungs_of_usual_budgets(kind, epochs, expected):
    assert rungs(EarlyStoppingConfig(kind=kind), epochs) == expected


schedules = st.builds(
    KlAnnealing,
    schedule=st.sampled_from(sorted(SCHEDULES)),
    warmup=st.floats(0.05, 0.95),
    cycles=st.integers(1, 6),
    ramp=st.floats(0.1, 0.9),
)


def weights_by_epoch(annealing, epochs, steps_per_epoch):
    """As a worker measures them: in float32, one step after the other."""
    weights_ES = kl_weights(annealing, epochs * steps_per_epoch).astype(np.float32).reshape(epochs, steps_per_epoch)
    sums_E = np.zeros(epochs, np.float32)
    for step in range(steps_per_epoch):
        sums_E += weights_ES[:, step]
    return weights_ES, (sums_E / np.float32(steps_per_epoch)).astype(float)


def due_rungs(steps, mean_E):
    """Epoch by epoch, the rung at which a trial is compared."""
    history = [(epoch + 1, float(mean)) for epoch, mean in enumerate(mean_E)]
    found = {epoch: due(steps, reversed(history[:epoch])) for epoch in range(1, len(history) + 1)}
    return {epoch: rung for epoch, rung in found.items() if rung is not None}


@given(stopping_configs, schedules, st.integers(1, 60), st.integers(1, 12))
def test_a_trial_is_judged_once_a_rung_and_only_in_epochs_of_full_weight(config, annealing, epochs, steps_per_epoch):
    weights_ES, mean_E = weights_by_epoch(annealing, epochs, steps_per_epoch)
    is_full_E = (weights_ES > 1 - 1e-6).all(axis=1)
    expected, waiting = {}, None
    for epoch in range(1, epochs + 1):
        waiting = epoch if epoch in rungs(config, epochs) else waiting
        if is_full_E[epoch - 1] and waiting is not None:
            expected[epoch], waiting = waiting, None
    assert due_rungs(rungs(config, epochs), mean_E) == expected
    assert len(set(expected.values())) == len(expected)


@given(st.integers(1, 300), st.integers(0, 299), st.sampled_from(["linear", "cyclical"]))
def test_one_step_of_the_warm_up_is_enough_to_put_a_judgement_off(steps_per_epoch, place, schedule):
    """The last step below 1 of a warm-up that ends inside epoch 6 of 10."""
    assume(place < steps_per_epoch - 1)
    end = (5 * steps_per_epoch + place + 1) / (10 * steps_per_epoch)
    annealing = KlAnnealing(schedule=schedule, warmup=end, cycles=1, ramp=end)
    weights_ES, mean_E = weights_by_epoch(annealing, 10, steps_per_epoch)
    assert weights_ES[5, place] < 1
    assert due_rungs((5,), mean_E) == {7: 5}


@pytest.mark.parametrize(
    ("steps", "weights", "expected"),
    [
        ((2, 4), [1, 1, 1, 1, 1], {2: 2, 4: 4}),
        ((2, 4), [0, 0.5, 1, 1, 1], {3: 2, 4: 4}),
        ((2, 4), [0, 0.5, 0.9, 1, 1], {4: 4}),
        ((2, 4), [0, 0, 0, 0, 1], {5: 4}),
        ((2, 4), [0, 0, 0, 0, 0], {}),
        ((1, 3), [1, 0, 0.5, 1, 0], {1: 1, 4: 3}),
        ((2,), [1, math.nan, 1], {3: 2}),
        ((), [1, 1], {}),
    ],
)
def test_a_rung_inside_the_warm_up_is_judged_late_unless_the_next_comes_first(steps, weights, expected):
    assert due_rungs(steps, weights) == expected


def dominates(one, other):
    return (one <= other).all() and (one < other).any()


def front_numbers(values_NM):
    """By peeling off, again and again, what nothing left dominates."""
    front_N = np.full(len(values_NM), -1)
    for front in range(len(values_NM)):
        left = np.flatnonzero(front_N < 0)
        front_N[[i for i in left if not any(dominates(values_NM[j], values_NM[i]) for j in left)]] = front
    return front_N


def spread_order(front_FM):
    """Farthest-first from the ends, the last point before all other ends, and last of equal points."""
    low_M, range_M = front_FM.min(axis=0), np.ptp(front_FM, axis=0)
    scaled_FM = (front_FM - low_M) / np.where(range_M > 0, range_M, 1)
    last = len(front_FM) - 1
    ends = [int(np.flatnonzero(front_FM[:, m] == low_M[m])[0]) for m in range(front_FM.shape[1])]
    is_new = not (front_FM[:last] == front_FM[last]).all(axis=1).any()
    order = [last] if is_new and (front_FM[last] == low_M).any() else []
    order += [end for end in dict.fromkeys(ends) if end not in order]
    while len(order) < len(front_FM):
        left = [i for i in range(len(front_FM)) if i not in order]
        order.append(max(left, key=lambda i: min(np.linalg.norm(scaled_FM[i] - scaled_FM[j]) for j in order)))
    return order


def point_sets(values, fewest=1, most=14):
    return st.integers(1, 3).flatmap(
        lambda m: st.lists(st.lists(values, min_size=m, max_size=m), min_size=fewest, max_size=most).map(
            lambda rows: np.array(rows, float)
        )
    )


few = st.integers(0, 4).map(float)
any_finite = few | st.floats(-1e6, 1e6)
factors = st.integers(2, 5)


@given(point_sets(any_finite), factors)
def test_pareto_is_what_sorting_front_by_front_and_inside_a_front_by_spread_gives(values_NM, factor):
    front_N = front_numbers(values_NM)
    mates = np.flatnonzero(front_N == front_N[-1])
    place = (front_N < front_N[-1]).sum() + spread_order(values_NM[mates]).index(len(mates) - 1)
    is_among_best = place < math.ceil(len(values_NM) / factor)
    assert place_by_spread(values_NM[mates]) == spread_order(values_NM[mates]).index(len(mates) - 1)
    assert among_best_fronts(values_NM[:-1], values_NM[-1], factor, spares_front=False) == is_among_best
    assert goes_on("pareto", values_NM[:-1], values_NM[-1], factor) == (is_among_best or front_N[-1] == 0)


@given(point_sets(any_finite), factors)
def test_a_new_end_of_the_first_front_always_goes_on(values_NM, factor):
    record_NM, own_M = values_NM[:-1], values_NM[-1].copy()
    own_M[0] = values_NM[:, 0].min() - 1
    assert goes_on("pareto", record_NM, own_M, factor)


@given(point_sets(any_finite, fewest=2), factors, st.randoms())
def test_a_trial_beaten_by_as_many_as_may_go_on_does_not(values_NM, factor, random):
    own_M = values_NM.max(axis=0) + 1
    for kind in ("pareto", "asha"):
        columns = values_NM.shape[1] if kind == "pareto" else 1
        assert not goes_on(kind, values_NM[:, :columns], own_M[:columns], factor)
    assert goes_on("pareto", values_NM[:0], own_M, factor)


@given(st.integers(12, 100), factors)
def test_of_a_crowded_front_the_middle_of_a_gap_goes_on_and_a_near_twin_does_not(count, factor):
    angle_N = np.linspace(0, np.pi / 2, 20 * count + 1)
    curve_NM = 1 - np.c_[np.cos(angle_N), np.sin(angle_N)]
    crowd_NM = np.vstack([curve_NM[: 2 * count], curve_NM[-1:]])
    assert among_best_fronts(crowd_NM, curve_NM[11 * count], factor, spares_front=False)
    between = 1 - np.array([np.cos(angle_N[:2]).mean(), np.sin(angle_N[:2]).mean()]) - 1e-9
    assert not among_best_fronts(crowd_NM, between, factor, spares_front=False)
    assert goes_on("pareto", crowd_NM, between, factor)


@given(st.lists(any_finite, max_size=20), any_finite, factors)
def test_asha_keeps_the_best_share_and_median_what_is_not_below_the_middle(record, own, factor):
    record_N1 = np.array(record).reshape(-1, 1)
    ahead = sum(value < own for value in record)
    assert goes_on("asha", record_N1, np.array([own]), factor) == (ahead < math.ceil((len(record) + 1) / factor))
    middle = sorted(record)
    median = (middle[(len(record) - 1) // 2] + middle[len(record) // 2]) / 2 if record else math.nan
    assert goes_on("median", record_N1, np.array([own]), factor) == (len(record) < 3 or own <= median)


@given(kinds, st.integers(1, 3), st.data())
def test_what_is_not_finite_never_goes_on_and_is_passed_over_in_the_record(kind, count, data):
    columns = count if kind == "pareto" else 1
    row = st.lists(any_finite, min_size=columns, max_size=columns)
    bad = st.lists(st.sampled_from([math.nan, math.inf, -math.inf]), min_size=columns, max_size=columns)
    good, own = data.draw(st.lists(row, max_size=6)), np.array(data.draw(row))
    mixed = data.draw(st.permutations([*good, *data.draw(st.lists(bad, max_size=3))]))
    shuffled_good = [values for values in mixed if np.isfinite(values).all()]
    assert goes_on(kind, np.array(mixed), own, 3) == goes_on(kind, np.array(shuffled_good), own, 3)
    own[data.draw(st.integers(0, columns - 1))] = data.draw(st.sampled_from([math.nan, math.inf, -math.inf]))
    assert not goes_on(kind, np.array(good), own, 3)


@given(point_sets(st.integers(0, 10**6).map(float), fewest=2), factors, st.integers(-10, 10))
def test_an_objectives_unit_makes_no_difference(values_NM, factor, unit):
    """A power of two, so that rounding makes none either."""
    scaled_NM = values_NM * 2.0**unit
    assert goes_on("pareto", values_NM[:-1], values_NM[-1], factor) == goes_on(
        "pareto", scaled_NM[:-1], scaled_NM[-1], factor
    )


@given(point_sets(st.sampled_from([-1e308, 0.0, 1e308, 5e-324])))
def test_values_at_the_edge_of_float64_are_judged_too(values_NM):
    assert goes_on("pareto", values_NM[:-1], values_NM[-1], 3) in (True, False)


def test_every_kind_of_early_stopping_has_its_rule():
    assert {"none", *RULES} == set(EarlyStoppingConfig.model_fields["kind"].annotation.__args__)


def test_a_long_trial_is_not_read_through_after_each_of_its_epochs():
    read = []

    def newest_first(epochs):
        for epoch in range(epochs, 0, -1):
            read.append(epoch)
            yield epoch, 1.0

    assert due((10, 100), newest_first(5000)) is None
    assert due((10, 100), newest_first(100)) == 100
    assert len(read) <= 5

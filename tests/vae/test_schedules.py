import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from vae_study.config.model import KlAnnealing, ObjectiveConfig, SweepConfig
from vae_study.vae.objective import SCHEDULES, kl_weights, penalty_weights


def test_weights_follow_hand_computed_values():
    linear = kl_weights(KlAnnealing(schedule="linear", warmup=0.5), 8)
    assert linear.tolist() == [0, 0.25, 0.5, 0.75, 1, 1, 1, 1]
    cyclical = kl_weights(KlAnnealing(schedule="cyclical", cycles=2, ramp=0.5), 8)
    assert cyclical.tolist() == [0, 0.5, 1, 1, 0, 0.5, 1, 1]
    sigmoid = kl_weights(KlAnnealing(schedule="sigmoid", warmup=0.5), 8)
    assert sigmoid[[0, 2, 4, 7]].tolist() == pytest.approx([0, 0.5, 1, 1])
    quarter = 1 / (1 + math.exp(3))
    edge = 1 / (1 + math.exp(6))
    assert sigmoid[1] == pytest.approx((quarter - edge) / (1 - 2 * edge))
    assert kl_weights(KlAnnealing(schedule="none"), 3).tolist() == [1, 1, 1]


@given(
    schedule=st.sampled_from(sorted(SCHEDULES)),
    warmup=st.floats(0.01, 0.99),
    cycles=st.integers(1, 8),
    ramp=st.floats(0.05, 0.95),
    steps=st.integers(1, 500),
)
def test_weights_stay_between_zero_and_one(schedule, warmup, cycles, ramp, steps):
    annealing = KlAnnealing(schedule=schedule, warmup=warmup, cycles=cycles, ramp=ramp)
    weights = kl_weights(annealing, steps)
    assert weights.shape == (steps,)
    assert (weights >= 0).all()
    assert (weights <= 1 + 1e-12).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_means_the_same_at_every_data_size(schedule):
    annealing = KlAnnealing(schedule=schedule, warmup=0.3, cycles=2, ramp=0.7)
    assert np.allclose(kl_weights(annealing, 3 * 64)[::3], kl_weights(annealing, 64))


@pytest.mark.parametrize("schedule", ["linear", "sigmoid"])
def test_warmup_rises_and_has_ended_at_its_fraction_of_the_budget(schedule):
    weights = kl_weights(KlAnnealing(schedule=schedule, warmup=0.3), 100)
    assert (np.diff(weights) >= 0).all()
    assert np.allclose(weights[30:], 1)
    assert weights[29] < 1


SWEEPS = st.builds(
    lambda low, ratio, hold, points: SweepConfig(low=low, high=low * ratio, hold=hold, points=points),
    low=st.floats(1e-3, 10),
    ratio=st.floats(1.01, 1e4),
    hold=st.floats(0, 0.95),
    points=st.integers(2, 50),
)


@given(sweep=SWEEPS, epochs=st.integers(1, 200), steps=st.integers(1, 20))
def test_a_sweep_holds_and_then_rises_by_equal_ratios_and_keeps_what_it_has_come_to(sweep, epochs, steps):
    beta = sweep.high * penalty_weights(ObjectiveConfig(kind="sweep", sweep=sweep), epochs * steps)
    time = np.arange(epochs * steps) / (epochs * steps)
    assert beta[time <= sweep.hold] == pytest.approx(sweep.low)
    ratios = np.diff(np.log(beta[time >= sweep.hold]))
    assert ratios == pytest.approx(np.log(sweep.high / sweep.low) / (1 - sweep.hold) / (epochs * steps), rel=1e-6)
    kept = sweep.kept(epochs)
    assert [*kept] == sorted({*kept})
    assert min(kept) >= 1
    assert max(kept) == epochs
    assert kept[epochs] == pytest.approx(sweep.high)
    assert len(kept) <= sweep.points
    for epoch, value in kept.items():
        # What the next step would use: the last one before it used hardly less.
        assert value == pytest.approx(beta[epoch * steps] if epoch < epochs else sweep.high)


def test_with_an_epoch_for_each_a_sweep_keeps_as_many_models_as_it_is_asked_for():
    assert [*SweepConfig(hold=0.3, points=24).kept(60).values()][::23] == pytest.approx([0.05, 5])
    assert len(SweepConfig(hold=0.3, points=24).kept(60)) == 24
    assert len(SweepConfig(hold=0.3, points=24).kept(20)) == 15


def test_a_sweep_that_does_not_rise_is_refused():
    with pytest.raises(ValidationError, match="low below high, got low 2 and high 1"):
        SweepConfig(low=2, high=1)

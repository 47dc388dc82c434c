import math

import pytest
from optuna.trial import TrialState
from vae_study.config.study import LARGEST_VIOLATION
from vae_study.errors import UserError

from .conftest import GOOD

BOUNDS = "constraints=[{metric: val/kl, at_most: 4}, {metric: val/active_units, at_least: 2}]"


def trial_of(store, number):
    return store.study.get_trials(deepcopy=False)[number]


@pytest.mark.parametrize("objectives", [None, "objectives=[{metric: val/kl, direction: minimize}]"])
def test_a_stopped_trial_is_pruned_without_values_and_keeps_its_last_metrics(open_store, objectives):
    store = open_store(BOUNDS, *filter(None, [objectives]))
    for metrics in (GOOD | {"val/active_units": 3, "test/kl": 1.0}, {"val/kl": math.nan}, {}):
        store.stop(store.ask().number, metrics)
    trials = store.study.get_trials()
    assert [(trial.state, trial.values) for trial in trials] == [(TrialState.PRUNED, None)] * 3
    assert trials[0].constraints == {"val/kl at_most": 1.0, "val/active_units at_least": -1.0}
    assert set(trials[1].constraints.values()) == set(trials[2].constraints.values()) == {LARGEST_VIOLATION}
    assert [trial.user_attrs["metrics"] for trial in trials] == [GOOD | {"val/active_units": 3}, {}, {}]
    assert store.counts() == {"pruned": 3}
    assert store.finished_values() == []
    assert open_store(BOUNDS, *filter(None, [objectives])).counts() == {"pruned": 3}


def test_a_finished_trial_keeps_how_far_it_is_beyond_each_bound(open_store):
    store = open_store(BOUNDS)
    metrics = GOOD | {"val/active_units": 2}
    store.finish(store.ask().number, metrics)
    assert trial_of(store, 0).constraints == {"val/kl at_most": 1.0, "val/active_units at_least": 0.0}
    assert not store.config.is_feasible(metrics)
    assert store.finished_values() == [[30.0, 5.0]]


@pytest.mark.filterwarnings("error")
def test_a_driver_that_died_while_it_wrote_an_end_is_followed_by_one_that_writes_it_whole(open_store):
    dead = open_store(BOUNDS)
    trial = dead.study.ask()
    trial.set_constraint("val/kl at_most", 1.0)
    store = open_store(BOUNDS)
    assert store.finish(store.ask().number, GOOD | {"val/active_units": 2})
    assert trial_of(store, 0).constraints == {"val/kl at_most": 1.0, "val/active_units at_least": 0.0}


def test_a_failed_trial_says_why_in_words_of_bounded_length(open_store):
    store = open_store()
    for reason in ("", "no room", "x" * 2_000):
        store.fail(store.ask().number, "out_of_memory", reason)
    store.finish(store.ask().number, GOOD)
    store.finish(store.ask().number, {})
    kind = "out_of_memory"
    expected = [(0, kind, ""), (1, kind, "no room"), (2, kind, "x" * 500), (4, "diverged", "")]
    assert store.failures() == open_store().failures() == expected


def test_a_failure_of_an_older_study_without_a_reason_is_an_error(open_store):
    store = open_store()
    store.study.tell(store.ask().number, state=TrialState.FAIL)
    assert store.failures() == [(0, "error", "")]


def test_a_trial_ends_once(open_store):
    store = open_store()
    store.stop(store.ask().number, GOOD)
    for end in (lambda: store.finish(0, GOOD), lambda: store.stop(0, GOOD), lambda: store.fail(0, "error")):
        with pytest.raises(Exception, match="finished"):
            end()
    assert trial_of(store, 0).state == TrialState.PRUNED


def test_a_study_stays_with_its_data(open_store):
    store = open_store()
    store.remember_data("abc")
    store.remember_data("abc")
    open_store().remember_data("abc")
    with pytest.raises(UserError, match="'a' exists already, on other data; expected the same data, or another --name"):
        open_store().remember_data("abd")
    open_store(name="b").remember_data("abd")

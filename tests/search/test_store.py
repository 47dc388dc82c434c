import math

import pytest
from optuna.trial import TrialState
from vae_study.errors import UserError

from .conftest import GOOD


def states(store):
    return {trial.number: (trial.state.name, trial.user_attrs.get("failure")) for trial in store.study.get_trials()}


@pytest.mark.parametrize("bad", [{"val/kl": math.nan}, {"val/kl": math.inf}, {"val/reconstruction": -math.inf}, {}])
def test_a_trial_without_finite_objectives_has_failed_as_diverged(open_store, bad):
    store = open_store()
    number = store.ask().number
    assert not store.finish(number, {**GOOD, **bad} if bad else {"val/kl": 5.0})
    assert states(store) == {number: ("FAIL", "diverged")}
    assert store.finished_values() == []


def test_each_trial_ends_as_what_became_of_it(open_store):
    store = open_store("trials=5")
    numbers = [store.ask().number for _ in range(4)]
    assert store.finish(numbers[0], GOOD | {"val/auroc": math.nan})
    for number, reason in zip(numbers[1:3], ["out_of_memory", "error"], strict=True):
        store.fail(number, reason)
    expected = [("COMPLETE", None), ("FAIL", "out_of_memory"), ("FAIL", "error"), ("RUNNING", None)]
    assert states(store) == dict(enumerate(expected))
    assert store.counts() == {"finished": 1, "failed": 2, "running": 1}
    assert store.finished_values() == [[30.0, 5.0]]


def test_objectives_are_kept_in_the_configs_order_and_directions(open_store):
    objectives = "objectives=[{metric: val/auroc, direction: maximize}, {metric: val/kl, direction: minimize}]"
    store = open_store(objectives)
    for auroc, kl in [(0.9, 5.0), (0.8, 6.0), (0.7, 1.0)]:
        store.finish(store.ask().number, {"val/kl": kl, "val/auroc": auroc})
    assert store.finished_values() == [[0.9, 5.0], [0.8, 6.0], [0.7, 1.0]]
    assert [trial.number for trial in store.study.best_trials] == [0, 2]


def test_the_budget_counts_every_trial_that_was_handed_out(open_store):
    store = open_store("trials=4")
    left = []
    for number in range(4):
        left.append(store.remaining())
        proposal = store.ask()
        if number == 1:
            store.fail(proposal.number, "diverged")
        if number == 2:
            store.finish(proposal.number, GOOD)
    assert (left, store.remaining()) == ([4, 3, 2, 1], 0)


def test_a_new_driver_first_hands_out_what_the_dead_one_left_under_the_old_numbers(open_store):
    dead = open_store("trials=6")
    asked = [dead.ask() for _ in range(5)]
    dead.finish(0, GOOD)
    dead.fail(3, "error")

    store = open_store("trials=6")
    assert store.remaining() == 4
    again = [store.ask() for _ in range(3)]
    assert again == [asked[1], asked[2], asked[4]]
    assert store.remaining() == 1
    assert store.ask().number == 5
    assert store.remaining() == 0
    for proposal in again:
        assert store.finish(proposal.number, GOOD)
    assert store.counts() == {"finished": 4, "failed": 1, "running": 1}
    assert open_store("trials=6").remaining() == 1


def test_a_trial_whose_driver_died_before_it_had_parameters_gets_them_now(open_store):
    dead = open_store()
    dead.study.ask()
    proposal = open_store().ask()
    assert proposal.number == 0
    assert proposal.parameters["network.hidden"] in {(64, 32), (128,)}


def test_lists_among_the_choices_survive_the_store(open_store):
    dead = open_store()
    asked = [dead.ask() for _ in range(6)]
    assert {proposal.parameters["network.hidden"] for proposal in asked} == {(64, 32), (128,)}
    store = open_store()
    again = [store.ask() for _ in range(6)]
    assert again == asked
    assert all(isinstance(proposal.parameters["network.hidden"], tuple) for proposal in again)
    assert store.config.trial(again[0].parameters).model.network.hidden == asked[0].parameters["network.hidden"]


@pytest.mark.parametrize(
    "setting", ["search.beta.high=30", "training.epochs=3", "objectives=[{metric: val/kl, direction: minimize}]"]
)
def test_another_config_under_the_same_name_is_refused_and_changes_nothing(open_store, setting):
    before = open_store()
    before.ask()
    with pytest.raises(UserError, match="'a' exists already, with another config"):
        open_store(setting)
    assert len(open_store().study.get_trials(states=[TrialState.RUNNING])) == 1
    assert open_store(setting, name="b").remaining() == before.config.trials


def test_the_same_study_may_go_on_with_a_larger_budget(open_store):
    store = open_store("trials=1")
    store.finish(store.ask().number, GOOD)
    assert store.remaining() == 0
    assert open_store("trials=3").remaining() == 2

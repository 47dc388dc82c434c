import math

import pytest
from vae_study.search import early_stopping, study_store

from .conftest import GOOD

AUROC_AND_KL = "objectives=[{metric: val/auroc, direction: maximize}, {metric: val/kl, direction: minimize}]"


def decided(store, rung, *metrics, is_late=False):
    return [store.should_continue(store.ask().number, rung, values, is_late) for values in metrics]


def attributes(store, number):
    return store.study.get_trials(deepcopy=False)[number].user_attrs


def pair(reconstruction, kl):
    return {"val/reconstruction": float(reconstruction), "val/kl": float(kl)}


def test_pareto_compares_the_objectives_in_their_directions(open_store):
    store = open_store(AUROC_AND_KL, "early_stopping={kind: pareto, reduction_factor: 2}")
    many = [{"val/auroc": auroc, "val/kl": kl} for auroc, kl in [(0.7, 5.0), (0.9, 4.0), (0.6, 6.0), (0.8, 4.5)]]
    assert decided(store, 2, *many) == [True, True, False, True]
    assert attributes(store, 2)["rung:2"] == {"values": [0.6, 6.0], "goes_on": False}


@pytest.mark.parametrize(
    ("stopping", "verdicts"),
    [
        ("{kind: asha, reduction_factor: 2}", [True, True, False, True, False]),
        ("{kind: asha, metric: val/kl, reduction_factor: 2}", [True, False, True, False, True]),
        ("{kind: median}", [True, True, True, True, False]),
        ("{kind: median, metric: val/kl}", [True, True, True, False, True]),
    ],
)
def test_one_metric_is_compared_in_its_natural_direction(open_store, stopping, verdicts):
    store = open_store(f"early_stopping={stopping}")
    many = [(-50.0, 5.0), (-40.0, 6.0), (-60.0, 4.0), (-30.0, 7.0), (-70.0, 3.0)]
    assert decided(store, 3, *({"val/elbo": elbo, "val/kl": kl} for elbo, kl in many)) == verdicts


def test_each_rung_has_a_record_of_its_own(open_store):
    store = open_store("early_stopping={kind: pareto}")
    assert decided(store, 2, pair(1, 1), pair(2, 2)) == [True, False]
    assert decided(store, 6, pair(2, 2)) == [True]


def test_a_judgement_stands_whatever_comes_after_it_and_in_every_driver(open_store):
    settings = "early_stopping={kind: pareto}"
    store = open_store(settings)
    assert decided(store, 2, pair(2, 2), pair(3, 3), pair(1, 1)) == [True, False, True]
    for again in (store, open_store(settings)):
        assert [again.should_continue(number, 2, pair(0, 0), False) for number in range(3)] == [True, False, True]
        assert attributes(again, 0)["rung:2"] == {"values": [2.0, 2.0], "goes_on": True}
    store = open_store(settings)
    assert [store.ask().number for _ in range(3)] == [0, 1, 2]
    assert decided(store, 2, pair(4, 4), pair(0, 0)) == [False, True]


def test_ended_trials_stay_in_the_record(open_store):
    store = open_store("early_stopping={kind: pareto}")
    assert decided(store, 2, pair(3, 3), pair(4, 4), pair(2, 2)) == [True, False, True]
    store.finish(0, GOOD)
    store.stop(1, GOOD)
    store.fail(2, "error")
    assert decided(store, 2, pair(2.5, 2.5), pair(1, 1)) == [True, True]
    assert decided(store, 2, pair(2.7, 2.7)) == [False]


def test_a_late_trial_is_compared_but_raises_no_bar(open_store):
    store = open_store("early_stopping={kind: pareto}")
    assert decided(store, 2, pair(5, 5)) == [True]
    assert decided(store, 2, pair(1, 1), pair(9, 9), is_late=True) == [True, False]
    assert [attributes(store, number)["rung:2"] for number in (1, 2)] == [{"goes_on": True}, {"goes_on": False}]
    assert decided(store, 2, pair(4, 4)) == [True]


@pytest.mark.parametrize("bad", [{"val/kl": math.nan}, {"val/kl": math.inf}, {}])
def test_values_that_are_not_finite_end_the_trial_and_are_not_recorded(open_store, bad):
    store = open_store("early_stopping={kind: pareto}")
    assert decided(store, 2, {**GOOD, **bad} if bad else {"val/reconstruction": 1.0}) == [False]
    assert attributes(store, 0)["rung:2"] == {"goes_on": False}
    assert decided(store, 2, GOOD) == [True]


@pytest.mark.parametrize("kind", ["pareto", "asha", "median"])
def test_of_a_long_study_the_newest_trials_are_compared_in_every_driver(open_store, monkeypatch, kind):
    compared, rule = [], early_stopping.RULES[kind]

    def heard(record_NM, *others):
        compared.append(record_NM.tolist())
        return rule(record_NM, *others)

    monkeypatch.setattr(early_stopping, "RULES", {kind: heard})
    monkeypatch.setattr(study_store, "COMPARED", 4)
    values = [{**pair(number, 20 - number), "val/elbo": -float(number)} for number in range(9)]
    stopping = f"early_stopping={{kind: {kind}}}"
    store = open_store(stopping)
    decided(store, 2, *values[:7])
    for number in range(7):
        store.fail(number, "error")
    decided(open_store(stopping), 2, *values[7:])
    assert [len(record) for record in compared] == [0, 1, 2, 3, 4, 4, 4, 4, 4]
    # All are told as what is to be minimized.
    assert [record[0][0] for record in compared[5:]] == [1, 2, 3, 4]

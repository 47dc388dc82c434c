from concurrent.futures import ThreadPoolExecutor

import pytest
from optuna.trial import TrialState
from vae_study.search import sampler
from vae_study.search.sampler import MEMORIES, History

from .conftest import GOOD

TRIES = "enqueue=[{beta: 1, network.hidden: [128]}, {objective.free_bits.kind: total, free_bits.nats: 1}]"


def attributes(store, number):
    return store.study.get_trials(deepcopy=False)[number].user_attrs


def test_what_the_config_names_is_tried_first_and_completed_by_the_sampler(open_store):
    store = open_store(TRIES)
    first, second, third = (store.ask() for _ in range(3))
    assert (first.parameters["beta"], first.parameters["network.hidden"]) == (1.0, (128,))
    assert type(first.parameters["beta"]) is float
    assert (second.parameters["free_bits.kind"], second.parameters["free_bits.nats"]) == ("total", 1.0)
    assert second.parameters["beta"] != first.parameters["beta"]
    assert [first.number, second.number, third.number] == [0, 1, 2]
    for proposal in (first, second, third):
        assert store.config.trial(proposal.parameters)
        assert store.parameters(proposal.number) == proposal.parameters


def test_each_first_try_is_handed_out_once_however_often_drivers_come_and_go(open_store):
    store = open_store(TRIES, "trials=4")
    assert store.remaining() == 4
    first = store.ask()
    assert store.remaining() == 3
    assert store.counts() == {"running": 1, "waiting": 1}
    store.fail(first.number, "diverged")

    store = open_store(TRIES, "trials=4")
    assert store.remaining() == 3
    assert store.ask().parameters["free_bits.kind"] == "total"
    store = open_store(TRIES, "trials=4")
    assert (store.remaining(), store.ask().number) == (3, 1)
    assert [store.ask().number for _ in range(2)] == [2, 3]
    assert (store.remaining(), store.counts()) == (0, {"failed": 1, "running": 3})


def test_first_tries_may_be_added_later_and_come_after_what_was_interrupted(open_store):
    dead = open_store()
    left = dead.ask()
    store = open_store(TRIES)
    assert store.ask() == left
    assert store.ask().parameters["beta"] == 1.0
    one_more = TRIES.replace("enqueue=[", "enqueue=[{beta: 2}, ")
    store = open_store(one_more)
    assert [store.ask().number for _ in range(2)] == [0, 1]
    assert [store.ask().parameters["beta"] for _ in range(2)][1] == 2.0


def test_equal_first_tries_are_one(open_store):
    store = open_store("enqueue=[{beta: 1}, {objective.beta: 1.0}]")
    assert [store.ask().parameters["beta"] == 1.0 for _ in range(2)] == [True, False]


def test_a_trials_lost_workers_are_counted_over_all_drivers(open_store):
    store = open_store(TRIES, "trials=4")
    for _ in range(3):
        store.ask()
    assert (store.count_preemption(1), store.count_preemption(1), store.count_preemption(2)) == (1, 2, 1)
    assert store.finish(1, GOOD)
    assert attributes(store, 1)["preemptions"] == 2
    assert open_store(TRIES, "trials=4").count_preemption(2) == 2


@pytest.mark.parametrize("kind", ["random", "tpe", "gp"])
def test_asking_at_random_is_noted_and_needs_no_sampler(open_store, kind):
    store = open_store(f"sampler.kind={kind}")
    sampled, at_random = store.ask(), store.ask(at_random=True)
    assert at_random.number == 1
    assert store.config.trial(at_random.parameters)
    assert ["sampler" in attributes(store, number) for number in (0, 1)] == [False, True]
    assert attributes(store, 1)["sampler"] == "random"
    assert store.ask(at_random=True).parameters != at_random.parameters
    assert sampled.parameters != at_random.parameters


def test_a_complete_configuration_is_not_drawn_at_random_whoever_asks(open_store):
    everything = "{beta: 1, latent_dim: 2, kl_annealing.schedule: none, free_bits.kind: none, network.hidden: [128]}"
    store = open_store(f"enqueue=[{everything}, {{beta: 2}}]")
    assert store.ask(at_random=True).parameters["beta"] == 1
    assert store.ask(at_random=True).parameters["beta"] == 2
    store = open_store(f"enqueue=[{everything}, {{beta: 2}}]")
    assert [store.ask(at_random=True).number for _ in range(2)] == [0, 1]
    assert ["sampler" in attributes(store, number) for number in (0, 1)] == [False, True]


def test_threads_that_ask_at_once_get_different_trials_while_others_end(open_store):
    store = open_store(TRIES, "sampler.kind=gp", "trials=40")
    for _ in range(11):
        proposal = store.ask()
        store.finish(proposal.number, {"val/reconstruction": 30 + proposal.parameters["beta"], "val/kl": 5.0})
    with ThreadPoolExecutor(3) as threads:
        slow = [threads.submit(store.ask) for _ in range(3)]
        quick = [threads.submit(store.ask, at_random=True) for _ in range(6)]
        proposals = [future.result() for future in [*quick, *slow]]
        ended = [threads.submit(store.finish, proposal.number, GOOD) for proposal in proposals[:6]]
        assert all(future.result() for future in ended)
    assert sorted(proposal.number for proposal in proposals) == list(range(11, 20))
    assert len({proposal.parameters["beta"] for proposal in proposals}) == 9
    assert store.counts() == {"finished": 17, "running": 3}
    for proposal in proposals:
        assert store.parameters(proposal.number) == proposal.parameters
        assert store.config.trial(proposal.parameters)
    assert [("sampler" in attributes(store, proposal.number)) for proposal in proposals] == [True] * 6 + [False] * 3


def test_the_first_numbers_are_those_that_were_handed_out(open_store):
    store = open_store(TRIES)
    assert store.first_numbers(3) == []
    store.ask()
    assert store.study.get_trials(states=[TrialState.WAITING])
    assert store.first_numbers(3) == [0]
    for _ in range(3):
        store.ask()
    assert store.first_numbers(3) == [0, 1, 2]


def test_the_models_of_a_sweep_have_numbers_of_their_own_and_are_no_trials_of_the_budget(open_store):
    store = open_store("trials=3", "sampler.kind=tpe")
    first = store.ask()
    points = store.reserve(first.number, {18: 0.05, 60: 5.0})
    assert points == store.reserve(first.number, {18: 0.05, 60: 5.0}) == [1, 2]
    assert store.remaining() == 2
    assert store.finish(1, GOOD)
    # What a sweep left open is not a trial to continue.
    again = open_store("trials=3", "sampler.kind=tpe")
    assert again.ask() == first
    assert again.reserve(first.number, {18: 0.05, 60: 5.0}) == points
    assert again.counts() == {"running": 1}
    assert [again.is_open(number) for number in (0, *points)] == [True, False, True]
    assert [again.origin(number) for number in (0, *points)] == [{}, {"sweep": 0}, {"sweep": 0}]
    assert again.parameters(1) == {**again.parameters(0), "objective.kind": "beta", "beta": 0.05}
    assert again.finish(2, GOOD)
    assert again.finish(0, GOOD)
    assert [again.ask().number for _ in range(2)] == [3, 4]
    assert again.remaining() == 0
    # The sweep's last model, and one that it kept, each once more.
    assert again.retrain([0, 1]) == [5, 6]
    assert open_store("trials=3", "sampler.kind=tpe").retrain([1, 0, 2]) == [6, 5, 7]
    assert [again.origin(number) for number in (5, 6)] == [{"retrains": 0}, {"retrains": 1}]
    assert [again.parameters(number)["beta"] for number in (5, 6)] == [again.parameters(0)["beta"], 0.05]
    assert again.parameters(5)["objective.kind"] == "beta"
    assert again.reserve(first.number, {18: 0.05, 60: 5.0}) == points
    assert again.counts() == {"finished": 1, "running": 2}


@pytest.mark.parametrize("whole", [20, 800])
@pytest.mark.parametrize("kind", MEMORIES)
def test_a_sampler_sees_no_model_of_a_sweep_however_long_the_history_is(open_store, monkeypatch, kind, whole):
    for name, value in {"WHOLE": whole, "NEWEST": whole // 2, "BEST": 10, "BLOCK": 5}.items():
        monkeypatch.setattr(sampler, name, value)
    store = open_store("trials=20", f"sampler.kind={kind}")
    for number in range(8):
        own = store.ask(at_random=True).number
        for point in store.reserve(own, {1: 1.0, 2: 2.0, 3: 3.0})[: 3 if number < 6 else 1]:
            # Better than all others: a memory of the best would keep them.
            store.finish(point, {"val/reconstruction": 1.0 + number, "val/kl": 1.0})
        store.finish(own, {"val/reconstruction": 30.0 - number, "val/kl": 5.0 + number})
    hidden = {trial.number for trial in store.points()}
    seen = {trial.number for trial in History(kind).part(store.study).get_trials(deepcopy=False)}
    assert len(hidden) == 24
    assert seen
    assert not hidden & seen
    assert whole == 20 or seen == {trial.number for trial in store.own_trials()}
    assert store.ask().number == 32

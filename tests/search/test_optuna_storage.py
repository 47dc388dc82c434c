import math

import optuna
import pytest
import sqlalchemy
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import TrialState
from vae_study.search.optuna_compat import DriverStorage

from .conftest import GOOD

MINIMIZE = [StudyDirection.MINIMIZE] * 2
PARAMETERS = {
    "beta": (FloatDistribution(0.1, 10, log=True), st.floats(0.1, 10)),
    "size": (IntDistribution(2, 32), st.integers(2, 32)),
    "kind": (CategoricalDistribution(("none", "linear", 3, None)), st.integers(0, 3)),
}
VALUES = st.one_of(st.floats(allow_nan=False), st.text(), st.lists(st.integers(0, 9)), st.none(), st.just((1, 2)))
WRITES = st.lists(
    st.one_of(
        st.just(("create",)),
        *(st.tuples(st.just("param"), st.just(name), values) for name, (_, values) in PARAMETERS.items()),
        st.tuples(st.just("user"), st.sampled_from("ab"), VALUES),
        st.tuples(st.just("system"), st.sampled_from("ab"), VALUES),
        st.tuples(st.just("step"), st.integers(0, 3), st.floats(allow_nan=False)),
        st.tuples(st.just("end"), st.sampled_from([TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL])),
    ),
    max_size=25,
)


def write(storage, study, trial, one):
    """Carry out a write, where the trial's state allows it."""
    kind, *what = one
    if kind == "create" or trial is None:
        return storage.create_new_trial(study)
    known = storage.get_trial(trial)
    if known.state.is_finished():
        with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
            storage.set_trial_user_attr(trial, "late", 1)
    elif kind == "param" and what[0] not in known.params:
        storage.set_trial_param(trial, what[0], what[1], PARAMETERS[what[0]][0])
    elif kind == "user":
        storage.set_trial_user_attr(trial, *what)
    elif kind == "system":
        storage.set_trial_system_attr(trial, *what)
    elif kind == "step":
        storage.set_trial_intermediate_value(trial, *what)
    elif kind == "end":
        storage.set_trial_state_values(trial, what[0], [1.0, -2.0] if what[0] == TrialState.COMPLETE else None)
    return trial


@settings(max_examples=20)
@given(WRITES, st.integers(0, 25))
def test_what_the_driver_knows_is_what_the_database_holds(writes, read_after):
    storage = DriverStorage("sqlite:///:memory:")
    study, trial = storage.create_new_study(MINIMIZE, "a"), None
    for done, one in enumerate(writes):
        if done == read_after:
            storage.get_all_trials(study)
        trial = write(storage, study, trial, one)
        held = storage._backend.get_all_trials(study)
        if done >= read_after:
            assert storage.get_all_trials(study) == held
        assert storage.get_trial(trial) == held[-1]
    for states in (None, *((state,) for state in TrialState), (TrialState.RUNNING, TrialState.COMPLETE)):
        assert storage.get_all_trials(study, states=states) == storage._backend.get_all_trials(study, states=states)
    storage.remove_session()


def test_who_changes_a_trial_that_was_asked_for_changes_nobody_elses():
    storage = DriverStorage("sqlite:///:memory:")
    study = storage.create_new_study(MINIMIZE, "a")
    trial = storage.create_new_trial(study)
    before = storage.get_all_trials(study, deepcopy=False)[0]
    storage.get_trial(trial).params["beta"] = math.pi
    storage.set_trial_user_attr(trial, "a", 1)
    assert storage.get_trial(trial).params == before.params == {}
    assert (before.user_attrs, storage.get_trial(trial).user_attrs) == ({}, {"a": 1})


def test_to_look_at_all_trials_asks_the_database_nothing_however_many_are_running(open_store):
    store = open_store("sampler.kind=random", "early_stopping={kind: pareto}")

    def queries(act):
        count = []
        engine = store._storage._backend.engine
        heard = lambda *_: count.append(1)  # noqa: E731
        sqlalchemy.event.listen(engine, "before_cursor_execute", heard)
        act()
        sqlalchemy.event.remove(engine, "before_cursor_execute", heard)
        return len(count)

    def turn():
        proposal = store.ask()
        store.should_continue(proposal.number, 1, GOOD, is_late=False)

    turn()
    few = queries(turn)
    for _ in range(12):
        store.ask()
    assert abs(queries(turn) - few) < 12
    assert queries(lambda: (store.counts(), store.finished_values(), store.remaining())) == 0


def test_an_ask_takes_no_trial_into_its_hand_that_ended_long_ago(open_store, monkeypatch):
    """To sort all trials by their numbers at each look, as Optuna does, took 20 ms of an ask after 100,000 trials."""
    store, looks = open_store("sampler.kind=random"), []
    number = optuna.trial.FrozenTrial.number
    monkeypatch.setattr(
        optuna.trial.FrozenTrial, "number", property(lambda one: looks.append(1) or number.fget(one), number.fset)
    )

    def looked():
        looks.clear()
        store.ask()
        store.study.get_trials(deepcopy=False)
        return len(looks)

    store.ask()
    few = looked()
    for _ in range(30):
        store.fail(store.ask().number, "error")
    assert looked() == few


@settings(max_examples=20)
@given(st.permutations(range(6)), st.integers(0, 6))
def test_trials_stay_in_the_order_of_their_numbers_in_whatever_order_threads_make_them_known(order, at_once):
    storage = DriverStorage("sqlite:///:memory:")
    study = storage.create_new_study(MINIMIZE, "a")
    made = [storage._backend._create_new_trial(study) for _ in order]
    for some in ([made[place] for place in order[:at_once]], *([made[place]] for place in order[at_once:])):
        storage._add_trials_to_cache(study, some)
    assert [trial.number for trial in storage.get_all_trials(study)] == sorted(order)
    storage.remove_session()

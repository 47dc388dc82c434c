import numpy as np
import pytest
from optuna.distributions import FloatDistribution
from optuna.samplers import NSGAIISampler
from optuna.trial import TrialState, create_trial
from vae_study.config.loading import load_config
from vae_study.errors import UserError
from vae_study.search.sampler import SAMPLERS

from .conftest import DIGITS, GOOD
from .test_samplers import add_first_generation, measured

KL_FIRST = "objectives=[{metric: val/kl, direction: minimize}, {metric: val/reconstruction, direction: minimize}]"
BOUNDS = "constraints=[{metric: val/active_units, at_least: 2}]"


@pytest.fixture
def learn(open_store, tmp_path):
    """Opens a study on the same data, and lets it learn from the study "old" of another file."""

    def learn_it(*settings, **place):
        store = open_store(*settings, **place)
        store.remember_data("data")
        return store, store.learn_from(f"sqlite:///{tmp_path / 'old.db'}", "old")

    return learn_it


@pytest.fixture
def old(open_store):
    """An earlier study: 4 finished trials, a stopped one, a failed one and one that runs."""
    store = open_store(name="old", file="old.db")
    store.remember_data("data")
    for _ in range(4):
        proposal = store.ask()
        store.finish(proposal.number, measured(proposal.parameters) | {"val/active_units": 3})
    store.stop(store.ask().number, GOOD)
    store.fail(store.ask().number, "error")
    store.ask()
    return store


def test_finished_trials_are_known_and_counted_nowhere(learn, old):
    store, count = learn("early_stopping={kind: pareto}", "trials=3")
    assert count == 4
    theirs = old.study.get_trials(states=[TrialState.COMPLETE])
    taken = store.study.get_trials()
    assert [trial.params for trial in taken] == [trial.params for trial in theirs]
    assert [trial.values for trial in taken] == [trial.values for trial in theirs]
    assert {trial.user_attrs["warm_start"] for trial in taken} == {"old"}
    assert (store.remaining(), store.counts(), store.finished_values(), store.failures()) == (3, {}, [], [])
    numbers = [store.ask().number for _ in range(3)]
    assert numbers == store.first_numbers(9) == [4, 5, 6]
    assert store.should_continue(4, 2, {"val/reconstruction": 1e6, "val/kl": 1e6}, is_late=False)
    assert store.parameters(5)
    store.finish(4, GOOD)
    store.fail(5, "error", "why")
    assert (store.remaining(), store.counts()) == (0, {"finished": 1, "failed": 1, "running": 1})
    assert (store.finished_values(), store.failures()) == ([[30.0, 5.0]], [(5, "error", "why")])


def test_it_is_done_once_and_completed_after_a_driver_that_died_in_the_middle(learn, old, open_store):
    dead = open_store()
    dead.remember_data("data")
    attributes = {"warm_start": "old", "warm_start_number": 2}
    distributions = {"beta": FloatDistribution(0.05, 20, log=True)}
    trial = create_trial(params={"beta": 1.0}, distributions=distributions, values=[1, 1], user_attrs=attributes)
    dead.study.add_trial(trial)
    assert learn()[1] == 4
    proposal = old.ask()
    old.finish(proposal.number, measured(proposal.parameters))
    store, count = learn()
    assert (count, len(store.study.trials)) == (4, 4)


def test_first_tries_of_a_learning_study_are_tried_even_if_the_earlier_one_tried_them(learn, old):
    best = old.parameters(0)
    tries = {name: list(value) if isinstance(value, tuple) else value for name, value in best.items()}
    store, _ = learn(f"enqueue=[{tries}]".replace("'", ""))
    proposal = store.ask()
    assert (proposal.number, proposal.parameters) == (4, best)


def test_values_come_in_the_present_order_and_bounds_are_the_present_ones(learn, old):
    store, count = learn(KL_FIRST, BOUNDS, file="c.db")
    assert count == 4
    theirs = old.study.get_trials(states=[TrialState.COMPLETE])
    assert [trial.values for trial in store.study.get_trials()] == [trial.values[::-1] for trial in theirs]
    assert {tuple(trial.constraints.items()) for trial in store.study.get_trials()} == {
        (("val/active_units at_least", -1.0),)
    }


def test_a_trial_that_cannot_say_whether_it_kept_a_bound_is_left_out(learn, old):
    assert learn("constraints=[{metric: val/squared_error, at_most: 2}]")[1] == 0
    assert learn("constraints=[{metric: val/kl, at_most: 2}]", file="c.db")[1] == 4


@pytest.mark.parametrize(
    ("settings", "fits"),
    [
        ([], lambda values: True),
        (["search.beta.low=1"], lambda values: values["beta"] >= 1),
        (
            ["search.free_bits.kind.choices=[none, total]", "search.free_bits.nats.when={free_bits.kind: total}"],
            lambda values: values["free_bits.kind"] != "per_dimension",
        ),
        (["search.latent_dim=null"], lambda values: False),
        (["search.sigma={low: 0.5, high: 1}"], lambda values: False),
        (
            ["search.free_bits.nats.when={free_bits.kind: [total]}", "search.beta.high=21"],
            lambda values: values["free_bits.kind"] != "per_dimension",
        ),
    ],
)
def test_trials_that_the_present_search_could_not_come_to_are_left_out(learn, open_store, settings, fits):
    earlier = open_store(name="old", file="old.db")
    earlier.remember_data("data")
    known = []
    for _ in range(8):
        proposal = earlier.ask()
        earlier.finish(proposal.number, measured(proposal.parameters))
        known.append(proposal.parameters)
    store, count = learn(*settings)
    taken = [store.parameters(number) for number in range(count)]
    assert taken == [values for values in known if fits(values)]
    assert not settings or count < 8
    mine = store.ask()
    for trial in store.study.get_trials(states=[TrialState.COMPLETE]):
        ours = store.study.get_trials()[mine.number].distributions
        assert all(trial.distributions[name] == ours[name] for name in trial.params.keys() & ours.keys())


@pytest.mark.parametrize("kind", [kind for kind in SAMPLERS if kind != "random"])
def test_a_sampler_starts_from_what_the_earlier_study_found(learn, open_store, kind):
    """The earlier study knows that a small beta is best in both objectives."""
    # A genetic sampler's first generation has 50; the others begin to model after 10.
    count = 50 if kind.startswith("nsga") else 12
    settings = ["search=null", "search.beta={low: 1, high: 20}", "search.latent_dim={low: 2, high: 32, type: int}"]
    settings += ["model.network=null"]
    earlier = open_store(*settings, "sampler.kind=random", name="old", file="old.db")
    earlier.remember_data("data")
    add_first_generation(earlier, count, lambda values: dict.fromkeys(GOOD, values["beta"]))
    known = {trial.params["beta"] for trial in earlier.study.get_trials()}
    store, learned = learn(*settings, f"sampler.kind={kind}")
    assert learned == count
    betas = [store.ask().parameters["beta"] for _ in range(3)]
    # A genetic sampler hands values on as they are.
    assert known & set(betas) if kind.startswith("nsga") else np.median(betas) < 6


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda old: None, None),
        (lambda old: old.study.set_user_attr("data_sha256", "other"), "'old' is about other data"),
        (lambda old: old.study.set_user_attr("data_sha256", None), "'old' is about other data"),
        (
            lambda old: old.study.set_user_attr("objectives", None),
            "'old' has no objectives, expected val",
        ),
    ],
)
def test_an_earlier_study_must_be_on_the_same_data(learn, old, change, says):
    change(old)
    if says is None:
        learn()
    else:
        with pytest.raises(UserError, match=f"^warm_start: .*{says}"):
            learn()


@pytest.mark.parametrize(
    "objectives",
    [
        "objectives=[{metric: val/kl, direction: minimize}]",
        "objectives=[{metric: val/reconstruction, direction: minimize}, {metric: val/kl, direction: maximize}]",
        "objectives=[{metric: val/reconstruction, direction: minimize}, {metric: val/elbo, direction: minimize}]",
    ],
)
def test_an_earlier_study_must_have_the_same_objectives(learn, old, objectives):
    with pytest.raises(
        UserError, match=r"^warm_start: 'old' has val/reconstruction \(minimize\), val/kl \(minimize\), "
    ):
        learn(objectives)


def test_a_study_that_is_not_there_is_said_to_be_missing_and_is_not_made(open_store, old, tmp_path):
    store = open_store()
    store.remember_data("data")
    for file, name in [("old.db", "older"), ("none.db", "old"), ("none/none.db", "old")]:
        with pytest.raises(UserError, match=f"^warm_start: got '{name}', expected a study that is there"):
            store.learn_from(f"sqlite:///{tmp_path / file}", name)
    assert not (tmp_path / "none.db").exists()


def test_a_study_cannot_learn_from_itself(old, tmp_path):
    with pytest.raises(UserError, match=r"^warm_start: got 'old', which is this study itself"):
        old.learn_from(f"sqlite:///{tmp_path / 'old.db'}", "old")


def test_genetic_samplers_still_keep_generations_under_the_name_that_is_borrowed(open_store):
    store = open_store("sampler.kind=nsga2")
    store.finish(store.ask().number, GOOD)
    assert NSGAIISampler._get_generation_key() in store.study.get_trials()[0].system_attrs


def test_the_name_of_the_earlier_study_is_in_the_config():
    assert load_config(DIGITS, ["warm_start=old"]).warm_start == "old"

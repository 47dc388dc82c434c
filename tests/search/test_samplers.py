import numpy as np
import pytest
from optuna.samplers import RandomSampler
from optuna.trial import create_trial
from vae_study.config.search_space import Choices
from vae_study.search import sampler
from vae_study.search.sampler import SAMPLERS, distribution, first_generation

# The samplers with a model begin to use it after 10 finished trials; the Gaussian process takes about a second then.
FEW = 12
KINDS = pytest.mark.parametrize("kind", SAMPLERS)


def measured(parameters):
    """A trade-off that depends on the configuration, so that a sampler has something to learn from."""
    return {
        "val/reconstruction": 30 + parameters["beta"],
        "val/kl": parameters["latent_dim"] / (1 + parameters["beta"]),
    }


def try_some(store, count):
    proposals = []
    for _ in range(count):
        proposal = store.ask()
        store.finish(proposal.number, measured(proposal.parameters))
        proposals.append(proposal)
    return proposals


@KINDS
def test_every_configuration_keeps_to_its_branches_and_ranges(open_store, kind):
    store = open_store(f"sampler.kind={kind}", "search.latent_dim={low: 2, high: 4, type: int}")
    proposals = try_some(store, 30 if kind != "gp" else FEW)
    schedules = set()
    for values in (proposal.parameters for proposal in proposals):
        schedule, bits = values["kl_annealing.schedule"], values["free_bits.kind"]
        schedules.add(schedule)
        active = {"beta", "latent_dim", "kl_annealing.schedule", "free_bits.kind", "network.hidden"}
        active |= {"kl_annealing.warmup"} if schedule in ("linear", "sigmoid") else set()
        active |= {"kl_annealing.cycles"} if schedule == "cyclical" else set()
        active |= {"free_bits.nats"} if bits != "none" else set()
        assert set(values) == active
        for name, value in values.items():
            parameter = store.config.search[name]
            if isinstance(parameter, Choices):
                assert value in parameter.choices
            else:
                assert parameter.low <= value <= parameter.high
                assert type(value) is (int if parameter.type == "int" else float)
        store.config.trial(values)
    assert schedules == {"none", "linear", "sigmoid", "cyclical"}
    assert {proposal.parameters["latent_dim"] for proposal in proposals} == {2, 3, 4}


@KINDS
def test_the_same_seed_gives_the_same_configurations_and_another_seed_others(open_store, kind):
    asked = [
        try_some(open_store(f"sampler.kind={kind}", *settings, file=f"{number}.db"), 5)
        for number, settings in enumerate([["sampler.seed=3"], ["sampler.seed=null", "seed=3"], ["sampler.seed=4"]])
    ]
    assert asked[0] == asked[1]
    assert all(one.parameters != other.parameters for one, other in zip(asked[0], asked[2], strict=True))


@KINDS
def test_a_new_driver_goes_on_where_the_last_one_was_and_repeats_nothing(open_store, kind):
    undisturbed = try_some(open_store(f"sampler.kind={kind}", file="whole.db"), FEW)
    first = try_some(open_store(f"sampler.kind={kind}"), FEW - 1)
    second = try_some(open_store(f"sampler.kind={kind}"), 1)
    assert [*first, *second] == undisturbed
    assert len({proposal.parameters["beta"] for proposal in undisturbed}) == FEW


class Death(BaseException):
    pass


@KINDS
@pytest.mark.parametrize("earlier", [0, FEW])
def test_a_driver_that_dies_between_two_parameters_changes_none(open_store, monkeypatch, kind, earlier):
    whole, cut = (open_store(f"sampler.kind={kind}", file=file) for file in ("whole.db", "cut.db"))
    for store in (whole, cut):
        try_some(store, earlier)
    undisturbed = whole.ask()
    drawn = sampler._suggest_one
    for last in undisturbed.parameters:

        def dying(trial, name, parameter, last=last):
            value = drawn(trial, name, parameter)
            if name == last:
                raise Death
            return value

        with monkeypatch.context() as patched:
            patched.setattr(sampler, "_suggest_one", dying)
            with pytest.raises(Death):
                cut.ask()
        cut = open_store(f"sampler.kind={kind}", file="cut.db")
    assert cut.ask() == undisturbed


@KINDS
def test_failed_and_stopped_trials_disturb_no_sampler(open_store, kind):
    settings = [f"sampler.kind={kind}", "constraints=[{metric: val/kl, at_most: 4}]"]
    store = open_store(*settings)
    for _ in range(FEW // 2):
        store.fail(store.ask().number, "diverged")
        proposal = store.ask()
        store.stop(proposal.number, measured(proposal.parameters))
        store.stop(store.ask().number, {})
    assert all(store.config.trial(proposal.parameters) for proposal in try_some(store, FEW))
    assert store.counts() == {"finished": FEW, "pruned": 2 * (FEW // 2), "failed": FEW // 2}


@KINDS
def test_a_study_with_one_objective_works_with_every_sampler(open_store, kind):
    store = open_store(f"sampler.kind={kind}", "objectives=[{metric: val/kl, direction: minimize}]")
    assert all(store.config.trial(proposal.parameters) for proposal in try_some(store, FEW))


def add_first_generation(store, count, measure):
    """Finished trials, drawn at random but told without being asked for, which takes less time."""
    random = RandomSampler(seed=0)
    for _ in range(count):
        ranges = {name: distribution(parameter) for name, parameter in store.config.search.items()}
        values = {name: random.sample_independent(store.study, None, name, one) for name, one in ranges.items()}
        metrics = measure(values)
        trial = create_trial(
            params=values,
            distributions=ranges,
            values=[metrics[objective.metric] for objective in store.config.objectives],
            constraints={one.name: one.violation(metrics) for one in store.config.constraints},
            system_attrs=first_generation(store.config.sampler.kind),
        )
        store.study.add_trial(trial)


def torn(parameters):
    """Both objectives are best at a large beta, but so are the active units, which are to be few."""
    beta = parameters["beta"]
    return {"val/reconstruction": 10 - beta, "val/kl": 20 - beta, "val/active_units": beta}


@pytest.mark.parametrize("kind", [kind for kind in SAMPLERS if kind != "random"])
def test_a_sampler_looks_where_the_constraint_is_kept(open_store, kind):
    others = [f"search.{name}={{low: 0.1, high: 0.9}}" for name in ("sigma", "corruption.level", "codebook.commitment")]
    settings = [f"sampler.kind={kind}", "search=null", "search.beta={low: 0, high: 10}", *others]

    def share(*bound):
        store = open_store(*settings, *bound, file=f"{len(bound)}.db")
        add_first_generation(store, 80 if kind.startswith("nsga") else 12, torn)
        betas = [store.ask().parameters["beta"] for _ in range(4 if kind == "gp" else 20)]
        return np.mean(np.array(betas) <= 3)

    assert share("constraints=[{metric: val/active_units, at_most: 3}]") > share() + 0.3

import pytest

from pipeline.search.sampler import SAMPLERS
from pipeline.spec import Choices

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
    proposals = try_some(store, 30)
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
            parameter = store.spec.search[name]
            if isinstance(parameter, Choices):
                assert value in parameter.choices
            else:
                assert parameter.low <= value <= parameter.high
                assert type(value) is (int if parameter.type == "int" else float)
        store.spec.trial(values)
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
    undisturbed = try_some(open_store(f"sampler.kind={kind}", file="whole.db"), 6)
    first = try_some(open_store(f"sampler.kind={kind}"), 3)
    second = try_some(open_store(f"sampler.kind={kind}"), 3)
    assert [*first, *second] == undisturbed
    assert len({proposal.parameters["beta"] for proposal in undisturbed}) == 6

"""A trial in a pack is the same trial: whoever trains with it, wherever it comes from, whatever epoch others are at."""

import math
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.spec.schema import DiagnosticsSpec
from pipeline.vae.families import FAMILIES
from pipeline.vae.outcome import outcome_of, outcomes_of
from pipeline.vae.population import Population
from pipeline.vae.schedules import kl_weights
from pipeline.vae.sharing import shape_key
from pipeline.vae.snapshot import member_state, restore_member
from tests.vae.builders import member, same, stored, train

CAPACITY = 9
# Each with a latent size, a budget, an objective, a learning rate and a limit of the gradient of its own.
OWN = [
    {"latent_dim": 1, "training__epochs": 3, "beta": 0.5, "training__gradient_clip": 5.0},
    {
        "latent_dim": 7,
        "training__epochs": 5,
        "kl_annealing__schedule": "linear",
        "free_bits__kind": "total",
        "free_bits__nats": 0.7,
        "training__learning_rate_schedule": "cosine",
        "training__learning_rate": 3e-3,
    },
    {
        "latent_dim": 3,
        "training__epochs": 4,
        "objective__kind": "constrained",
        "delta_nats": 0.1,
        "kl_annealing__schedule": "cyclical",
    },
    {"latent_dim": 9, "training__epochs": 2, "free_bits__kind": "per_dimension", "training__weight_decay": 0.01},
    {
        "latent_dim": 4,
        "training__epochs": 4,
        "objective__kind": "capacity",
        "capacity_nats": 3.0,
        "kl_annealing__schedule": "sigmoid",
    },
]
# One kernel for one member and for several: the same bits.
EXACT = {name: {"family": name} for name in FAMILIES} | {
    "denoising-point": {"family": "denoising", "code": "point", "corruption__kind": "gaussian"},
    "batch-norm": {"network__batch_norm": True},
    "learned-sigma": {"likelihood": "gaussian_learned", "learned_sigma": "per_feature", "sigma": 0.3},
    "elu": {"network__activation": "elu"},
}
# Others: the same but for rounding.
CLOSE = {
    "conv": {"network__kind": "conv", "network__channels": (4, 6), "network__hidden": (8,)},
    "conv-batch-norm": {"network__kind": "conv", "network__channels": (4, 6), "network__batch_norm": True},
}
# In an empty pack, or one of many, something of these happens to some member.
PLANS = st.lists(st.tuples(st.sampled_from(("train", "train", "move", "restore")), st.integers(0, 4)), max_size=14)
# One member at a time, some, or all.
SLICES = st.sampled_from((1, 2**12, 2**14, 2**30))


@contextmanager
def sliced(numbers):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.vae.slices.SLICE_NUMBERS", numbers)
        yield


def members(**values):
    common = {"training__batch_size": 32, **values}
    return [member(k, **{**own, **common}) for k, own in enumerate(OWN)]


def population(some, data, dtype=torch.float32):
    return Population(some, data, dtype=dtype, latent_capacity=CAPACITY)


class Alone:
    """What members do with nobody else around: their histories and their states after each epoch."""

    def __init__(self, specs, data, dtype=torch.float32):
        self.histories, self.states = [], []
        for spec in specs:
            single = population([spec], data, dtype)
            states, history = [member_state(single, 0)], []
            for _ in range(spec.spec.training.epochs):
                history.append(train(single, 1)[0][0])
                states.append(member_state(single, 0))
            self.histories.append(history)
            self.states.append(states)


def follow(plan, specs, data, check, dtype=torch.float32):
    """Let two packs live through a plan, and check each member's metrics and state after whatever happens to it."""
    packs = [population(specs[:2], data, dtype), population(specs[2:3], data, dtype)]
    packs[1].leave(0)
    for action, which in plan:
        if action == "train":
            for pack in packs:
                for k, metrics in enumerate(train(pack, 1)[0]):
                    check(specs.index(pack.members[k]), pack.epochs_K[k], metrics, member_state(pack, k))
                for k in reversed(range(len(pack.members))):
                    if pack.epochs_K[k] == pack.members[k].spec.training.epochs:
                        pack.leave(k)
            continue
        spec = specs[which]
        here = next((pack for pack in packs if spec in pack.members), None)
        state = None
        if here is not None:
            place = here.members.index(spec)
            state = stored(member_state(here, place))
            if action == "restore":
                restore_member(here, place, state)
                continue
            here.leave(place)
        there = packs[0] if here is packs[1] else packs[1]
        there.join(spec, state)
        assert there.members[-1] == spec


def exactly(reference):
    def check(which, epoch, metrics, state):
        assert metrics == reference.histories[which][epoch - 1]
        assert same(state, reference.states[which][epoch])

    return check


def closely(reference):
    def check(which, epoch, metrics, state):
        assert metrics == pytest.approx(reference.histories[which][epoch - 1], rel=1e-6)
        for name, value in reference.states[which][epoch].items():
            assert torch.allclose(state[name].double(), value.double(), rtol=1e-6, atol=1e-9), name

    return check


@pytest.mark.parametrize("variant", EXACT)
def test_whatever_order_members_join_train_move_and_leave_in_each_ends_with_its_own_bits(few, variant):
    specs = members(**EXACT[variant])
    check = exactly(Alone(specs, few))

    @given(plan=PLANS, numbers=SLICES)
    @settings(max_examples=8)
    def every(plan, numbers):
        with sliced(numbers):
            follow(plan, specs, few, check)

    every()


@pytest.mark.parametrize("variant", CLOSE)
def test_where_the_kernels_are_others_the_numbers_are_the_same_but_for_rounding(few, variant):
    specs = members(**CLOSE[variant])
    check = closely(Alone(specs, few, torch.float64))

    @given(plan=PLANS, numbers=SLICES)
    @settings(max_examples=4)
    def every(plan, numbers):
        with sliced(numbers):
            follow(plan, specs, few, check, torch.float64)

    every()


def test_a_hierarchical_member_does_not_miss_a_larger_one(few):
    specs = members(family="hierarchical")
    check = exactly(Alone(specs, few))
    follow([("train", 0), ("move", 1), ("move", 4), ("train", 0), ("move", 0), ("train", 0)], specs, few, check)


# One by one, convolutional members have the kernels that they have alone.
@pytest.mark.parametrize(("variant", "numbers"), [({}, 2**30), ({}, 1), (CLOSE["conv"], 1)])
def test_scores_and_final_metrics_do_not_depend_on_the_company(few, variant, numbers, monkeypatch):
    monkeypatch.setattr("pipeline.vae.slices.SLICE_NUMBERS", numbers)
    common = {"training__epochs": 2, "training__batch_size": 32, **variant}
    specs = [member(k, **{**one, **common}) for k, one in enumerate(OWN[:3])]
    pack = population(specs, few)
    train(pack, 2)
    every = outcomes_of(pack, DiagnosticsSpec(iwae_draws=4))
    for k, spec in enumerate(specs):
        single = population([spec], few)
        train(single, 2)
        expected = outcomes_of(single, DiagnosticsSpec(iwae_draws=4))[0]
        for came in (every[k], outcome_of(pack, k, DiagnosticsSpec(iwae_draws=4))):
            assert came.metrics == expected.metrics
            assert came.scores.equals(expected.scores)
            assert same(came.weights, expected.weights)
    assert [one.spec for one in pack.members] == [one.spec for one in specs]


def test_padding_to_a_capacity_changes_rounding_only(few):
    specs = members()
    padded, alone = (
        population(specs, few, torch.float64),
        [Population([one], few, dtype=torch.float64) for one in specs],
    )
    for k, metrics in enumerate(train(padded, 1)[0]):
        assert metrics == pytest.approx(train(alone[k], 1)[0][0], rel=1e-6)
        states = member_state(padded, k), member_state(alone[k], 0)
        assert [value.shape for value in states[0].values()] == [value.shape for value in states[1].values()]
        restore_member(alone[k], 0, states[0])


def test_a_member_that_diverged_harms_nobody_and_can_be_taken_out(few):
    specs = members()
    wild = member(9, training__learning_rate=1e20, training__batch_size=32, training__epochs=5)
    check = exactly(Alone(specs, few))
    pack = population([wild, *specs[:2]], few)
    for epoch in (1, 2):
        broken, *sane = train(pack, 1)[0]
        for which, metrics in enumerate(sane):
            check(which, epoch, metrics, member_state(pack, which + 1))
    assert not math.isfinite(broken["train/loss"])
    pack.leave(0)
    check(1, 3, train(pack, 1)[0][1], member_state(pack, 1))


def test_an_empty_population_costs_nothing_and_takes_members_again(few):
    specs = members()
    pack = population(specs[:1], few)
    pack.leave(0)
    assert pack.train_epoch() == pack.measure("test") == pack.members == pack.epochs_K == []
    assert all(buffer.numel() == 0 for buffer in (pack.adam.parameters_KP, pack.adam.gradient_KP, pack.adam.mean_KP))
    assert all(value.numel() == 0 for value in pack.model.state_dict().values())
    pack.join(specs[1])
    assert train(pack, 1)[0] == train(population(specs[1:2], few), 1)[0]


@pytest.mark.parametrize(
    ("joining", "says"),
    [
        (member(0, latent_dim=17, training__batch_size=32), "17 latent dimensions"),
        (member(0, training__batch_size=16), "another shape"),
        (member(0, training__batch_size=32, network__hidden=(16,)), "another shape"),
        (member(0, training__batch_size=32, family="autoencoder"), "another shape"),
    ],
)
def test_a_member_that_does_not_fit_is_refused_and_nothing_changed(few, joining, says):
    pack = population(members()[:2], few)
    before = [member_state(pack, k) for k in range(2)]
    with pytest.raises(ValueError, match=says):
        pack.join(joining)
    assert [same(member_state(pack, k), before[k]) for k in range(2)] == [True, True]
    assert len(pack.members) == 2


def test_a_member_that_brings_anothers_state_is_refused_and_nothing_changed(few):
    specs = members()
    check = exactly(Alone(specs, few))
    pack, other = population(specs[:2], few), population(specs[2:3], few)
    with pytest.raises(ValueError, match="the state of another model"):
        pack.join(specs[3], member_state(other, 0))
    assert pack.members == specs[:2]
    for k, metrics in enumerate(train(pack, 1)[0]):
        check(k, 1, metrics, member_state(pack, k))


def test_nobody_trains_beyond_a_budget(few):
    specs = members()
    pack = population([specs[0], specs[3]], few)
    train(pack, 2)
    with pytest.raises(AssertionError, match="spent its budget"):
        pack.train_epoch()
    assert pack.epochs_K == [2, 2]


def test_a_member_apart_is_a_copy_of_its_own(few):
    specs = members()
    pack = population(specs[:2], few)
    train(pack, 1)
    before = member_state(pack, 1)
    apart = pack.alone(1)
    assert same(member_state(apart, 0), before)
    ahead = train(apart, 1)[0][0]
    assert same(member_state(pack, 1), before)
    assert train(pack, 1)[0][1] == ahead


def test_trials_share_a_pack_exactly_where_only_their_own_numbers_differ():
    one = shape_key(member().spec)
    own = {
        "latent_dim": 5,
        "beta": 2.0,
        "free_bits__kind": "total",
        "kl_annealing__schedule": "linear",
        "objective__kind": "capacity",
        "sigma": 0.2,
        "corruption__level": 0.1,
        "training__epochs": 9,
        "training__learning_rate": 0.1,
        "training__learning_rate_schedule": "cosine",
        "training__weight_decay": 0.1,
        "training__gradient_clip": 1.0,
    }
    shaping = {
        "family": "autoencoder",
        "network__hidden": (32, 8),
        "network__kind": "conv",
        "network__channels": (4,),
        "network__activation": "tanh",
        "network__batch_norm": True,
        "likelihood": "gaussian",
        "learned_sigma": "per_feature",
        "code": "point",
        "corruption__kind": "gaussian",
        "codebook__size": 8,
        "codebook__dim": 2,
        "codebook__commitment": 0.5,
        "training__batch_size": 64,
    }
    assert {shape_key(member(**{name: value}).spec) for name, value in own.items()} == {one}
    assert one not in {shape_key(member(**{name: value}).spec) for name, value in shaping.items()}


def test_each_member_is_annealed_by_its_own_epoch_and_budget(few):
    specs = members()
    pack = population(specs[:1], few)
    train(pack, 1)
    pack.join(specs[2])
    pack.join(specs[1])
    for epoch in range(2):
        for k, metrics in enumerate(train(pack, 1)[0]):
            spec, steps = pack.members[k].spec, pack.steps_per_epoch
            weight_T = kl_weights(spec.objective.kl_annealing, spec.training.epochs * steps)
            start = (epoch + (k == 0)) * steps
            assert metrics["train/kl_weight"] == pytest.approx(weight_T[start : start + steps].mean())

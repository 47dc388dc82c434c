"""A trial is the same in every batch: whatever trains with it, wherever it comes from, at whatever epoch others are."""

import math
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vae_study.config.study import DiagnosticsConfig
from vae_study.vae.families import FAMILIES
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.objective import kl_weights
from vae_study.vae.outcome import outcome_of, outcomes_of
from vae_study.vae.stacking import compatibility_key

from tests.vae.builders import model_setup, same, stored, train

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
# Beside those, and in their places: kinds of objective that only a normal code takes.
WITH_TERMS = [
    OWN[0],
    {**OWN[1], "objective__kind": "beta_tc"},
    {"latent_dim": 3, "training__epochs": 4, "objective__kind": "dip", "kl_annealing__schedule": "cyclical"},
    {"latent_dim": 9, "training__epochs": 2, "objective__kind": "beta_tc", "tc_weight": 0.0, "beta": 2.0},
    OWN[4],
]
# One kernel for one model and for several: the same bits.
EXACT = {name: {"family": name} for name in FAMILIES} | {
    "denoising-deterministic": {"family": "denoising", "code": "deterministic", "corruption__kind": "gaussian"},
    "batch-norm": {"network__batch_norm": True},
    "learned-sigma": {"likelihood": "gaussian_learned", "learned_sigma": "per_feature", "sigma": 0.3},
    "elu": {"network__activation": "elu"},
    "terms": {"own": WITH_TERMS},
    "terms-batch-norm": {"own": WITH_TERMS, "network__batch_norm": True},
    "gru": {"network__kind": "recurrent", "network__hidden": (8,)},
    "gru-step": {"network__kind": "recurrent", "network__hidden": (8,), "latent": "step"},
    "temporal-conv": {"network__kind": "temporal_conv", "network__channels": (8, 8), "network__hidden": (16,)},
    "map": {"network__kind": "residual", "network__channels": (8, 8), "network__hidden": (16,), "latent": "map"},
    "maps": {
        "family": "hierarchical",
        "network__kind": "residual",
        "network__channels": (8, 8),
        "network__hidden": (16,),
        "latent": "map",
    },
    "lstm": {"network__kind": "recurrent", "network__hidden": (8, 4), "network__cell": "lstm"},
}
# Others: the same but for rounding.
CLOSE = {
    "conv": {"network__kind": "conv", "network__channels": (4, 6), "network__hidden": (8,)},
    "conv-batch-norm": {"network__kind": "conv", "network__channels": (4, 6), "network__batch_norm": True},
    "conv-map": {"network__kind": "conv", "network__channels": (4, 6), "network__hidden": (8,), "latent": "map"},
}
# In an empty batch, or one of many, something of these happens to some model.
PLANS = st.lists(st.tuples(st.sampled_from(("train", "train", "move", "restore")), st.integers(0, 4)), max_size=14)
# One model at a time, some, or all.
CHUNKS = st.sampled_from((1, 2**12, 2**14, 2**30))


@contextmanager
def chunked(numbers):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vae_study.vae.stacking.CHUNK_NUMBERS", numbers)
        yield


def model_setups(own=OWN, **values):
    common = {"training__batch_size": 32, **values}
    return [model_setup(k, **{**one, **common}) for k, one in enumerate(own)]


def model_batch(some, data, dtype=torch.float32):
    return ModelBatch(some, data, dtype=dtype, latent_capacity=CAPACITY)


class Alone:
    """What models do with nobody else around: their histories and their states after each epoch."""

    def __init__(self, configs, data, dtype=torch.float32):
        self.histories, self.states = [], []
        for config in configs:
            single = model_batch([config], data, dtype)
            states, history = [single.state(0)], []
            for _ in range(config.config.training.epochs):
                history.append(train(single, 1)[0][0])
                states.append(single.state(0))
            self.histories.append(history)
            self.states.append(states)


def follow(plan, configs, data, check, dtype=torch.float32):
    """Let two batches live through a plan, and check each model's metrics and state after whatever happens to it."""
    batches = [model_batch(configs[:2], data, dtype), model_batch(configs[2:3], data, dtype)]
    batches[1].leave(0)
    for action, which in plan:
        if action == "train":
            for batch in batches:
                for k, metrics in enumerate(train(batch, 1)[0]):
                    check(configs.index(batch.setups[k]), batch.epochs_K[k], metrics, batch.state(k))
                for k in reversed(range(len(batch.setups))):
                    if batch.epochs_K[k] == batch.setups[k].config.training.epochs:
                        batch.leave(k)
            continue
        config = configs[which]
        here = next((batch for batch in batches if config in batch.setups), None)
        state = None
        if here is not None:
            place = here.setups.index(config)
            state = stored(here.state(place))
            if action == "restore":
                here.restore(place, state)
                continue
            here.leave(place)
        there = batches[0] if here is batches[1] else batches[1]
        there.join(config, state)
        assert there.setups[-1] == config


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
def test_whatever_order_models_join_train_move_and_leave_in_each_ends_with_its_own_bits(few, variant):
    configs = model_setups(**EXACT[variant])
    check = exactly(Alone(configs, few))

    @given(plan=PLANS, numbers=CHUNKS)
    @settings(max_examples=8)
    def every(plan, numbers):
        with chunked(numbers):
            follow(plan, configs, few, check)

    every()


@pytest.mark.parametrize("variant", CLOSE)
def test_where_the_kernels_are_others_the_numbers_are_the_same_but_for_rounding(few, variant):
    configs = model_setups(**CLOSE[variant])
    check = closely(Alone(configs, few, torch.float64))

    @given(plan=PLANS, numbers=CHUNKS)
    @settings(max_examples=4)
    def every(plan, numbers):
        with chunked(numbers):
            follow(plan, configs, few, check, torch.float64)

    every()


def test_a_hierarchical_model_does_not_miss_a_larger_one(few):
    configs = model_setups(family="hierarchical")
    check = exactly(Alone(configs, few))
    follow([("train", 0), ("move", 1), ("move", 4), ("train", 0), ("move", 0), ("train", 0)], configs, few, check)


# One by one, convolutional models have the kernels that they have alone.
@pytest.mark.parametrize(("variant", "numbers"), [({}, 2**30), ({}, 1), (CLOSE["conv"], 1)])
def test_scores_and_final_metrics_do_not_depend_on_the_company(few, variant, numbers, monkeypatch):
    monkeypatch.setattr("vae_study.vae.stacking.CHUNK_NUMBERS", numbers)
    common = {"training__epochs": 2, "training__batch_size": 32, **variant}
    configs = [model_setup(k, **{**one, **common}) for k, one in enumerate(OWN[:3])]
    batch = model_batch(configs, few)
    train(batch, 2)
    every = outcomes_of(batch, DiagnosticsConfig(iwae_draws=4))
    for k, config in enumerate(configs):
        single = model_batch([config], few)
        train(single, 2)
        expected = outcomes_of(single, DiagnosticsConfig(iwae_draws=4))[0]
        for got in (every[k], outcome_of(batch, k, DiagnosticsConfig(iwae_draws=4))):
            assert got.metrics == expected.metrics
            assert got.scores.equals(expected.scores)
            assert same(got.weights, expected.weights)
    assert [one.config for one in batch.setups] == [one.config for one in configs]


def test_padding_to_a_capacity_changes_rounding_only(few):
    configs = model_setups()
    padded, alone = (
        model_batch(configs, few, torch.float64),
        [ModelBatch([one], few, dtype=torch.float64) for one in configs],
    )
    for k, metrics in enumerate(train(padded, 1)[0]):
        assert metrics == pytest.approx(train(alone[k], 1)[0][0], rel=1e-6)
        states = padded.state(k), alone[k].state(0)
        assert [value.shape for value in states[0].values()] == [value.shape for value in states[1].values()]
        alone[k].restore(0, states[0])


@pytest.mark.parametrize("family", ["vae", "adversarial", "vae_gan"])
def test_a_model_that_diverged_harms_nobody_and_can_be_taken_out(few, family):
    own = OWN if family == "vae" else [one for one in OWN if one.get("objective__kind") is None] * 2
    configs = model_setups(own[:3], family=family)
    wild = model_setup(9, family=family, training__learning_rate=10.0, training__batch_size=32, training__epochs=5)
    check = exactly(Alone(configs, few))
    batch = model_batch([wild, *configs[:2]], few)
    for epoch in (1, 2):
        broken, *sane = train(batch, 1)[0]
        for which, metrics in enumerate(sane):
            check(which, epoch, metrics, batch.state(which + 1))
    assert not math.isfinite(broken["train/loss"])
    batch.leave(0)
    check(1, 3, train(batch, 1)[0][1], batch.state(1))


def test_an_empty_batch_costs_nothing_and_takes_models_again(few):
    configs = model_setups()
    batch = model_batch(configs[:1], few)
    batch.leave(0)
    assert batch.train_epoch() == batch.measure("test") == batch.setups == batch.epochs_K == []
    assert all(buffer.numel() == 0 for buffer in (batch.adam.parameters_KP, batch.adam.gradient_KP, batch.adam.mean_KP))
    assert all(value.numel() == 0 for value in batch.model.state_dict().values())
    batch.join(configs[1])
    assert train(batch, 1)[0] == train(model_batch(configs[1:2], few), 1)[0]


@pytest.mark.parametrize(
    ("joining", "says"),
    [
        (model_setup(0, latent_dim=17, training__batch_size=32), "17 latent dimensions"),
        (model_setup(0, training__batch_size=16), "another shape"),
        (model_setup(0, training__batch_size=32, network__hidden=(16,)), "another shape"),
        (model_setup(0, training__batch_size=32, family="autoencoder"), "another shape"),
    ],
)
def test_a_model_that_does_not_fit_is_refused_and_nothing_changed(few, joining, says):
    batch = model_batch(model_setups()[:2], few)
    before = [batch.state(k) for k in range(2)]
    with pytest.raises(ValueError, match=says):
        batch.join(joining)
    assert [same(batch.state(k), before[k]) for k in range(2)] == [True, True]
    assert len(batch.setups) == 2


def test_a_model_that_brings_anothers_state_is_refused_and_nothing_changed(few):
    configs = model_setups()
    check = exactly(Alone(configs, few))
    batch, other = model_batch(configs[:2], few), model_batch(configs[2:3], few)
    with pytest.raises(ValueError, match="the state of another model"):
        batch.join(configs[3], other.state(0))
    assert batch.setups == configs[:2]
    for k, metrics in enumerate(train(batch, 1)[0]):
        check(k, 1, metrics, batch.state(k))


def test_nobody_trains_beyond_a_budget(few):
    configs = model_setups()
    batch = model_batch([configs[0], configs[3]], few)
    train(batch, 2)
    with pytest.raises(AssertionError, match="spent its budget"):
        batch.train_epoch()
    assert batch.epochs_K == [2, 2]


def test_a_model_apart_is_a_copy_of_its_own(few):
    configs = model_setups()
    batch = model_batch(configs[:2], few)
    train(batch, 1)
    before = batch.state(1)
    apart = batch.alone(1)
    assert same(apart.state(0), before)
    ahead = train(apart, 1)[0][0]
    assert same(batch.state(1), before)
    assert train(batch, 1)[0][1] == ahead


def test_trials_share_a_batch_exactly_where_only_their_own_numbers_differ():
    one = compatibility_key(model_setup().config)
    own = {
        "latent_dim": 5,
        "beta": 2.0,
        "free_bits__kind": "total",
        "kl_annealing__schedule": "linear",
        "objective__kind": "beta_tc",
        "tc_weight": 3.0,
        "dip_weight": 3.0,
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
        "latent": "step",
        "network__cell": "lstm",
        "network__hidden": (32, 8),
        "network__kind": "conv",
        "network__channels": (4,),
        "network__activation": "tanh",
        "network__batch_norm": True,
        "likelihood": "gaussian",
        "learned_sigma": "per_feature",
        "code": "deterministic",
        "corruption__kind": "gaussian",
        "codebook__size": 8,
        "codebook__dim": 2,
        "codebook__commitment": 0.5,
        "training__batch_size": 64,
        "training__precision": "bf16",
    }
    assert {compatibility_key(model_setup(**{name: value}).config) for name, value in own.items()} == {one}
    assert one not in {compatibility_key(model_setup(**{name: value}).config) for name, value in shaping.items()}


def test_each_model_is_annealed_by_its_own_epoch_and_budget(few):
    configs = model_setups()
    batch = model_batch(configs[:1], few)
    train(batch, 1)
    batch.join(configs[2])
    batch.join(configs[1])
    for epoch in range(2):
        for k, metrics in enumerate(train(batch, 1)[0]):
            config, steps = batch.setups[k].config, batch.steps_per_epoch
            weight_T = kl_weights(config.objective.kl_annealing, config.training.epochs * steps)
            start = (epoch + (k == 0)) * steps
            assert metrics["train/kl_weight"] == pytest.approx(weight_T[start : start + steps].mean())

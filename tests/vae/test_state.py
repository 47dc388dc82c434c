import itertools

import numpy as np
import pytest
import torch
from vae_study.config.study import DiagnosticsConfig
from vae_study.vae.families import FAMILIES
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.outcome import outcomes_of

from tests.vae.builders import model_setup, same, stored, train

EPOCHS = 2
EVERYTHING = {
    "training__epochs": 2 * EPOCHS,
    "training__batch_size": 16,
    "training__learning_rate_schedule": "cosine",
    "training__weight_decay": 0.01,
    "training__gradient_clip": 5.0,
    "objective__kind": "constrained",
    "delta_nats": 0.1,
    "kl_annealing__schedule": "cyclical",
}
NETWORKS = {
    "mlp": {"network__kind": "mlp", "network__hidden": (16, 8)},
    "conv": {"network__kind": "conv", "network__channels": (4, 6), "network__hidden": (8,)},
}
VARIANTS = {name: {"family": name} for name in FAMILIES} | {
    "denoising-deterministic": {"family": "denoising", "code": "deterministic", "corruption__kind": "gaussian"},
    "learned-sigma": {"likelihood": "gaussian_learned", "learned_sigma": "per_feature", "sigma": 0.3},
    "free-bits": {"objective__kind": "beta", "free_bits__kind": "per_dimension"},
    "capacity": {"objective__kind": "capacity", "capacity_nats": 3.0},
    "beta_tc": {"objective__kind": "beta_tc", "tc_weight": 4.0},
    "dip": {"objective__kind": "dip"},
    "sweep": {"objective__kind": "sweep", "sweep__hold": 0.25, "free_bits__kind": "total"},
}
GROUPS = ("model/", "mean/", "square/", "running_", "multiplier", "random/batches", "random/corruption", "epoch")


def continued(configs, data, state, dtype=torch.float32):
    model_batch = ModelBatch(configs, data, dtype=dtype)
    model_batch.restore(0, state)
    return model_batch


@pytest.mark.parametrize(("network", "batch_norm"), [*itertools.product(NETWORKS, (False, True))])
@pytest.mark.parametrize("variant", VARIANTS)
def test_training_that_goes_on_from_a_state_ends_with_the_same_bits(few, variant, network, batch_norm):
    config = model_setup(
        7, **{**EVERYTHING, **NETWORKS[network], "network__batch_norm": batch_norm, **VARIANTS[variant]}
    )
    undisturbed = ModelBatch([config], few)
    history = train(undisturbed, 2 * EPOCHS)

    broken_off = ModelBatch([config], few)
    train(broken_off, EPOCHS)
    state = stored(broken_off.state(0))
    resumed = continued([config], few, state)
    assert resumed.epoch == EPOCHS
    assert same(resumed.state(0), state)
    assert train(resumed, EPOCHS) == history[EPOCHS:]
    assert same(resumed.state(0), undisturbed.state(0))

    expected, got = (outcomes_of(one, DiagnosticsConfig(iwae_draws=4))[0] for one in (undisturbed, resumed))
    assert got.metrics == expected.metrics
    assert got.scores.equals(expected.scores)
    assert same(got.weights, expected.weights)
    for name, array in expected.arrays.items():
        assert np.array_equal(got.arrays[name], array), name


def test_a_state_is_a_copy_that_training_goes_on_without(few):
    model_batch = ModelBatch([model_setup(7, **EVERYTHING)], few)
    train(model_batch, 1)
    state = model_batch.state(0)
    kept = stored(state)
    train(model_batch, 1)
    assert same(state, kept)
    assert not same(model_batch.state(0), kept)


def test_a_state_before_the_first_epoch_and_after_the_last_is_one_too(few):
    config = model_setup(7, **EVERYTHING)
    model_batch = ModelBatch([config], few)
    fresh = continued([config], few, model_batch.state(0))
    assert train(fresh, 2 * EPOCHS) == train(model_batch, 2 * EPOCHS)
    ended = continued([config], few, model_batch.state(0))
    assert ended.epoch == ended.training.epochs
    assert (
        outcomes_of(ended, DiagnosticsConfig())[0].metrics == outcomes_of(model_batch, DiagnosticsConfig())[0].metrics
    )


@pytest.mark.parametrize("group", GROUPS)
def test_every_part_of_a_state_is_needed(few, group):
    """Without one part the numbers are others, so that the tests of equal bits would see it missing."""
    config = model_setup(7, **{**EVERYTHING, "family": "denoising", "network__batch_norm": True})
    model_batch = ModelBatch([config], few)
    fresh = model_batch.state(0)
    train(model_batch, EPOCHS)
    state = model_batch.state(0)
    names = {name for name in state if (group in name if group == "running_" else name.startswith(group))}
    names |= {"steps"} if group == "epoch" else set()
    lacking = continued([config], few, {name: fresh[name] if name in names else state[name] for name in state})
    assert names
    assert train(lacking, EPOCHS) != train(model_batch, EPOCHS)


def batch(few, **values):
    configs = [model_setup(k, latent_dim=size, **{**EVERYTHING, **values}) for k, size in enumerate((2, 5, 3), start=1)]
    return configs, ModelBatch(configs, few, dtype=torch.float64)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_model_leaves_a_batch_as_it_would_be_alone(few, variant):
    configs, together = batch(few, **VARIANTS[variant], network__batch_norm=True)
    alone = [ModelBatch([config], few, dtype=torch.float64) for config in configs]
    histories = train(together, EPOCHS)
    for k, single in enumerate(alone):
        own = train(single, EPOCHS)
        left, stayed = together.state(k), single.state(0)
        assert left.keys() == stayed.keys()
        for name, value in left.items():
            assert value.shape == stayed[name].shape, name
            assert torch.allclose(value.double(), stayed[name].double(), rtol=1e-6, atol=1e-9), name
        later = continued([configs[k]], few, stored(left), torch.float64)
        assert [epoch[0] for epoch in train(later, 1)] == [pytest.approx(e[0], rel=1e-6) for e in train(single, 1)]
        assert histories[-1][k] == pytest.approx(own[-1][0], rel=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_model_joins_a_batch_and_trains_as_it_would_alone(few, variant):
    configs, together = batch(few, **VARIANTS[variant], network__batch_norm=True)
    alone = ModelBatch([configs[0]], few, dtype=torch.float64)
    train(alone, EPOCHS)
    train(together, EPOCHS - 1)
    spoil(together, 0)
    train(together, 1)
    others = [together.state(k) for k in (1, 2)]
    together.restore(0, stored(alone.state(0)))
    assert all(same(together.state(k), before) for k, before in zip((1, 2), others, strict=True))
    assert train(together, 1)[0][0] == pytest.approx(train(alone, 1)[0][0], rel=1e-6)


def spoil(model_batch, k):
    """Spoil a model's training, as if it had been another's."""
    fresh = ModelBatch(model_batch.setups, model_batch.data, dtype=torch.float64)
    position = {name: value for name, value in model_batch.state(k).items() if name in ("epoch", "steps")}
    model_batch.restore(k, {**fresh.state(k), **position})


def test_a_place_in_a_batch_takes_a_model_of_another_epoch_and_the_others_stay_as_they_were(few):
    configs, together = batch(few)
    alone = ModelBatch([configs[1]], few, dtype=torch.float64)
    train(alone, 1)
    before = [together.state(k) for k in range(3)]
    together.restore(1, alone.state(0))
    assert together.epochs_K == [0, 1, 0]
    assert all(same(together.state(k), before[k]) for k in (0, 2))
    assert same(together.state(1), alone.state(0))


@pytest.mark.parametrize(
    "values",
    [
        {"latent_dim": 5},
        {"network__hidden": (16,)},
        {"network__batch_norm": True},
        {"family": "autoencoder"},
        {"training__batch_size": 32},
        {"training__epochs": 1},
    ],
)
def test_the_state_of_another_training_is_refused_and_nothing_changed(few, values):
    config = model_setup(7, **EVERYTHING)
    model_batch = ModelBatch([config], few)
    train(model_batch, EPOCHS)
    other = ModelBatch([model_setup(7, **{**EVERYTHING, **values})], few)
    before = other.state(0)
    with pytest.raises(ValueError, match=r"the state of (another|a training)"):
        other.restore(0, model_batch.state(0))
    assert same(other.state(0), before)
    assert other.epoch == 0
    assert train(other, 1) == train(ModelBatch(other.setups, few), 1)

import itertools

import numpy as np
import pytest
import torch

from pipeline.spec.schema import DiagnosticsSpec
from pipeline.vae.families import FAMILIES
from pipeline.vae.outcome import outcomes_of
from pipeline.vae.population import Population
from pipeline.vae.snapshot import member_state, restore_member
from tests.vae.builders import member, same, stored, train

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
    "denoising-point": {"family": "denoising", "code": "point", "corruption__kind": "gaussian"},
    "learned-sigma": {"likelihood": "gaussian_learned", "learned_sigma": "per_feature", "sigma": 0.3},
    "free-bits": {"objective__kind": "beta", "free_bits__kind": "per_dimension"},
    "capacity": {"objective__kind": "capacity", "capacity_nats": 3.0},
}
GROUPS = ("model/", "mean/", "square/", "running_", "multiplier", "random/batches", "random/corruption", "epoch")


def continued(specs, data, state, dtype=torch.float32):
    population = Population(specs, data, dtype=dtype)
    restore_member(population, 0, state)
    return population


@pytest.mark.parametrize(("network", "batch_norm"), [*itertools.product(NETWORKS, (False, True))])
@pytest.mark.parametrize("variant", VARIANTS)
def test_training_that_goes_on_from_a_snapshot_ends_with_the_same_bits(few, variant, network, batch_norm):
    spec = member(7, **{**EVERYTHING, **NETWORKS[network], "network__batch_norm": batch_norm, **VARIANTS[variant]})
    undisturbed = Population([spec], few)
    history = train(undisturbed, 2 * EPOCHS)

    broken_off = Population([spec], few)
    train(broken_off, EPOCHS)
    state = stored(member_state(broken_off, 0))
    resumed = continued([spec], few, state)
    assert resumed.epoch == EPOCHS
    assert same(member_state(resumed, 0), state)
    assert train(resumed, EPOCHS) == history[EPOCHS:]
    assert same(member_state(resumed, 0), member_state(undisturbed, 0))

    expected, came = (outcomes_of(one, DiagnosticsSpec(iwae_draws=4))[0] for one in (undisturbed, resumed))
    assert came.metrics == expected.metrics
    assert came.scores.equals(expected.scores)
    assert same(came.weights, expected.weights)
    for name, array in expected.arrays.items():
        assert np.array_equal(came.arrays[name], array), name


def test_a_snapshot_is_a_copy_that_training_goes_on_without(few):
    population = Population([member(7, **EVERYTHING)], few)
    train(population, 1)
    state = member_state(population, 0)
    kept = stored(state)
    train(population, 1)
    assert same(state, kept)
    assert not same(member_state(population, 0), kept)


def test_a_snapshot_before_the_first_epoch_and_after_the_last_is_one_too(few):
    spec = member(7, **EVERYTHING)
    population = Population([spec], few)
    fresh = continued([spec], few, member_state(population, 0))
    assert train(fresh, 2 * EPOCHS) == train(population, 2 * EPOCHS)
    ended = continued([spec], few, member_state(population, 0))
    assert ended.epoch == ended.training.epochs
    assert outcomes_of(ended, DiagnosticsSpec())[0].metrics == outcomes_of(population, DiagnosticsSpec())[0].metrics


@pytest.mark.parametrize("group", GROUPS)
def test_every_part_of_a_snapshot_is_needed(few, group):
    """Without one part the numbers are others, so that the tests of equal bits would see it missing."""
    spec = member(7, **{**EVERYTHING, "family": "denoising", "network__batch_norm": True})
    population = Population([spec], few)
    fresh = member_state(population, 0)
    train(population, EPOCHS)
    state = member_state(population, 0)
    names = {name for name in state if (group in name if group == "running_" else name.startswith(group))}
    names |= {"steps"} if group == "epoch" else set()
    lacking = continued([spec], few, {name: fresh[name] if name in names else state[name] for name in state})
    assert names
    assert train(lacking, EPOCHS) != train(population, EPOCHS)


def pack(few, **values):
    specs = [member(k, latent_dim=size, **{**EVERYTHING, **values}) for k, size in enumerate((2, 5, 3), start=1)]
    return specs, Population(specs, few, dtype=torch.float64)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_member_leaves_a_pack_as_it_would_be_alone(few, variant):
    specs, together = pack(few, **VARIANTS[variant], network__batch_norm=True)
    alone = [Population([spec], few, dtype=torch.float64) for spec in specs]
    histories = train(together, EPOCHS)
    for k, single in enumerate(alone):
        own = train(single, EPOCHS)
        left, stayed = member_state(together, k), member_state(single, 0)
        assert left.keys() == stayed.keys()
        for name, value in left.items():
            assert value.shape == stayed[name].shape, name
            assert torch.allclose(value.double(), stayed[name].double(), rtol=1e-6, atol=1e-9), name
        later = continued([specs[k]], few, stored(left), torch.float64)
        assert [epoch[0] for epoch in train(later, 1)] == [pytest.approx(e[0], rel=1e-6) for e in train(single, 1)]
        assert histories[-1][k] == pytest.approx(own[-1][0], rel=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_member_joins_a_pack_and_trains_as_it_would_alone(few, variant):
    specs, together = pack(few, **VARIANTS[variant], network__batch_norm=True)
    alone = Population([specs[0]], few, dtype=torch.float64)
    train(alone, EPOCHS)
    train(together, EPOCHS - 1)
    spoil(together, 0)
    train(together, 1)
    others = [member_state(together, k) for k in (1, 2)]
    restore_member(together, 0, stored(member_state(alone, 0)))
    assert all(same(member_state(together, k), before) for k, before in zip((1, 2), others, strict=True))
    assert train(together, 1)[0][0] == pytest.approx(train(alone, 1)[0][0], rel=1e-6)


def spoil(population, k):
    """Spoil a member's training, as if it had been another's."""
    fresh = Population(population.members, population.data, dtype=torch.float64)
    position = {name: value for name, value in member_state(population, k).items() if name in ("epoch", "steps")}
    restore_member(population, k, {**member_state(fresh, k), **position})


def test_a_place_in_a_pack_takes_a_member_of_another_epoch_and_the_others_stay_as_they_were(few):
    specs, together = pack(few)
    alone = Population([specs[1]], few, dtype=torch.float64)
    train(alone, 1)
    before = [member_state(together, k) for k in range(3)]
    restore_member(together, 1, member_state(alone, 0))
    assert together.epochs_K == [0, 1, 0]
    assert all(same(member_state(together, k), before[k]) for k in (0, 2))
    assert same(member_state(together, 1), member_state(alone, 0))


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
def test_the_snapshot_of_another_training_is_refused_and_nothing_changed(few, values):
    spec = member(7, **EVERYTHING)
    population = Population([spec], few)
    train(population, EPOCHS)
    other = Population([member(7, **{**EVERYTHING, **values})], few)
    before = member_state(other, 0)
    with pytest.raises(ValueError, match=r"the state of (another|a training)"):
        restore_member(other, 0, member_state(population, 0))
    assert same(member_state(other, 0), before)
    assert other.epoch == 0
    assert train(other, 1) == train(Population(other.members, few), 1)

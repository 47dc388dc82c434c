"""One contract for every family, likelihood, annealing and kind of free bits."""

import itertools
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from vae_study.config.model import ModelConfig
from vae_study.config.study import DiagnosticsConfig
from vae_study.vae.evaluation import trade_off_reference
from vae_study.vae.families import FAMILIES
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.objective import SCHEDULES
from vae_study.vae.outcome import outcomes_of
from vae_study.vae.terms import TERMS

from tests.vae.builders import model_setup

LIKELIHOODS = {
    "bernoulli": {"likelihood": "bernoulli"},
    "gaussian": {"likelihood": "gaussian"},
    **{
        f"learned-{kind}": {"likelihood": "gaussian_learned", "learned_sigma": kind, "sigma": 0.3}
        for kind in ("shared", "per_feature", "per_example")
    },
}
RECURRENT = {"network__kind": "recurrent", "network__hidden": (8,)}
MAP = {"network__kind": "conv", "network__channels": (8, 16), "network__hidden": (16,), "latent": "map"}
RESIDUAL = {"network__kind": "residual", "network__channels": (4, 8), "network__hidden": (16,)}
VARIANTS = {name: {"family": name} for name in FAMILIES} | {
    "denoising-deterministic": {"family": "denoising", "code": "deterministic", "corruption__kind": "gaussian"},
    "conv": {"network__kind": "conv", "network__channels": (4, 8), "network__hidden": (16,)},
    "conv-vae_gan": {"family": "vae_gan", "network__kind": "conv", "network__channels": (4, 8)},
    "batch-norm": {"network__batch_norm": True},
    "conv-batch-norm": {"network__kind": "conv", "network__channels": (4, 8), "network__batch_norm": True},
    "residual": RESIDUAL,
    "linear": {"network__hidden": ()},
    "ms_ssim": {"ms_ssim": 0.3},
    **{f"recurrent-{name}": {"family": name, **RECURRENT} for name in FAMILIES},
    "temporal-conv": {"network__kind": "temporal_conv", "network__channels": (6, 6), "network__hidden": (16,)},
    **{
        f"step-{name}": {"family": name, "latent": "step", **RECURRENT}
        for name in ("vae", "autoencoder", "denoising", "conditional", "adversarial")
    },
    "temporal-conv-step": {"network__kind": "temporal_conv", "network__channels": (6,), "latent": "step"},
    **{
        f"map-{name}": {"family": name, **MAP}
        for name in ("vae", "autoencoder", "denoising", "conditional", "adversarial", "vae_gan")
    },
    "map-batch-norm": {**MAP, "network__batch_norm": True},
    "map-residual": {**RESIDUAL, "latent": "map"},
    "map-hierarchical": {**RESIDUAL, "family": "hierarchical", "latent": "map"},
    "map-linear": {**RESIDUAL, "latent": "map", "network__hidden": ()},
    "lstm": {**RECURRENT, "network__hidden": (8, 4), "network__cell": "lstm"},
    "constrained": {"objective__kind": "constrained", "delta_nats": 2.0},
    "capacity": {"objective__kind": "capacity", "capacity_nats": 3.0, "kl_annealing__schedule": "linear"},
    "sweep": {"objective__kind": "sweep", "sweep__hold": 0.1},
    "beta_tc": {"objective__kind": "beta_tc", "tc_weight": 4.0, "kl_annealing__schedule": "linear"},
    "dip": {"objective__kind": "dip", "dip_weight": 2.0},
    "decayed-and-clipped": {
        "training__weight_decay": 0.01,
        "training__gradient_clip": 5.0,
        "training__learning_rate_schedule": "cosine",
    },
}
ANNEALED = [("none", "none"), *itertools.product(SCHEDULES, ("none", "total", "per_dimension"))]
SIZES = (3, 6, 2)


def model_setups(seed=10, **values):
    """Three models of different latent sizes, weights of the KL and rates."""
    return [
        model_setup(
            seed + k, **{"latent_dim": size, "beta": 0.3 * (k + 1), "training__learning_rate": 1e-3 * (k + 1), **values}
        )
        for k, size in enumerate(SIZES)
    ]


def trained(configs, data, dtype=torch.float32, epochs=2):
    model_batch = ModelBatch(configs, data, dtype=dtype)
    return model_batch, [model_batch.train_epoch() for _ in range(epochs)]


def numbers(metrics):
    return {name: value for name, value in metrics.items() if not name.startswith("time/")}


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_family_with_every_likelihood_keeps_the_contract(few, variant, likelihood):
    configs = model_setups(**{**LIKELIHOODS[likelihood], **VARIANTS[variant], "training__batch_size": 8})
    _, epochs = trained(configs, few, torch.float64)
    for k, config in enumerate(configs):
        first, second = (numbers(epoch[k]) for epoch in epochs)
        assert all(math.isfinite(value) for value in second.values())
        assert second["train/reconstruction"] < first["train/reconstruction"]
        assert ("val/kl" in second) == config.config.model.has_rate
        assert second.get("val/kl", 0.0) >= 0
        _, alone = trained([config], few, torch.float64)
        assert second == pytest.approx(numbers(alone[1][0]), rel=1e-6)
    _, again = trained(configs, few, torch.float64)
    assert [numbers(one) for one in again[1]] == [numbers(one) for one in epochs[1]]


RATED = [name for name in FAMILIES if ModelConfig(family=name).has_rate]
OF_EACH_KIND = [(name, "beta") for name in RATED]
OF_EACH_KIND += [(name, kind) for name in RATED if ModelConfig(family=name).has_normal_code for kind in TERMS]


@pytest.mark.parametrize(("schedule", "free_bits"), ANNEALED)
@pytest.mark.parametrize(("family", "kind"), OF_EACH_KIND)
def test_every_annealing_with_every_kind_of_free_bits_trains(few, family, kind, schedule, free_bits):
    values = {"family": family, "objective__kind": kind}
    values |= {"kl_annealing__schedule": schedule, "free_bits__kind": free_bits}
    _, epochs = trained(model_setups(**values, training__batch_size=16), few)
    for k in range(len(SIZES)):
        assert all(math.isfinite(value) for value in epochs[1][k].values())
        assert epochs[1][k]["val/kl"] >= 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_weight_of_the_rate_reaches_the_gradient(digits, variant):
    """Where the rate is constant or missing (codebook, deterministic code), beta must change nothing at all."""
    values = {**VARIANTS[variant], "training__epochs": 8, "latent_dim": 4}
    knobs = {"constrained": "delta_nats", "capacity": "capacity_nats", "sweep": "sweep__high"}
    knobs |= {"beta_tc": "tc_weight", "dip": "dip_weight"}
    knob = knobs.get(variant, "beta")
    if variant in TERMS:
        # A code that says something, for the term to act on.
        values["beta"] = 0.1
    configs = [model_setup(1, **{**values, knob: value}) for value in (0.2, 30.0)]
    _, epochs = trained(configs, digits, epochs=8)
    low, high = epochs[-1]
    model = configs[0].config.model
    if not model.has_rate or model.family == "vector_quantized":
        assert low["val/reconstruction"] == pytest.approx(high["val/reconstruction"], rel=1e-3)
    elif model.family == "adversarial":
        assert low["val/reconstruction"] < high["val/reconstruction"] - 0.1
    elif knob in ("beta", "sweep__high"):
        # A label that is told has a rate that nothing changes; of validation none is told.
        name = "val/kl" if model.family == "semi_supervised" else "train/kl"
        assert low[name] > 3 * high[name]
    elif variant in TERMS:
        assert low[TERMS[variant].metric] > 2 * high[TERMS[variant].metric] > 0
    else:
        assert low["train/kl"] < high["train/kl"] - 0.5


@pytest.fixture(scope="module", params=VARIANTS)
def ended(request, digits):
    """Three trained models of a variant: their setups, their batch and their outcomes."""
    configs = model_setups(**VARIANTS[request.param])
    model_batch, _ = trained(configs, digits)
    return configs, model_batch, outcomes_of(model_batch, DiagnosticsConfig())


def test_saved_and_loaded_again_a_model_says_the_same(ended, digits, tmp_path):
    configs, model_batch, (outcome, *_) = ended
    save_file({name: value.contiguous() for name, value in outcome.weights.items()}, tmp_path / "weights.safetensors")
    fresh = ModelBatch([configs[0]], digits)
    whole = load_file(tmp_path / "weights.safetensors")
    for name, value in fresh.model.state_dict().items():
        value[0].copy_(whole[name][tuple(slice(0, size) for size in value[0].shape)])
    before, after = model_batch.measure("test")[0], fresh.measure("test")[0]
    assert torch.allclose(torch.tensor(before.reconstruction_N), torch.tensor(after.reconstruction_N), rtol=1e-5)
    assert (before.kl_NR is None) == (after.kl_NR is None) == (not configs[0].config.model.has_rate)


def test_an_outcome_has_finite_metrics_scores_and_pictures(ended):
    _, model_batch, (_, outcome, _) = ended
    assert all(math.isfinite(value) for value in outcome.metrics.values())
    for name, array in outcome.arrays.items():
        assert torch.isfinite(torch.as_tensor(array)).all(), name
    has_rate = model_batch.model.has_rate
    assert (len(outcome.arrays["samples"]) == 16) == has_rate
    assert ("test/iwae" in outcome.metrics) == has_rate
    if has_rate:
        assert outcome.metrics["test/iwae"] >= outcome.metrics["test/elbo"] - 0.2
    assert 0.1 < outcome.metrics["test/probe_accuracy"] <= 1


def test_a_conditional_model_cannot_tell_anomalies_by_their_labels(digits):
    """Scores are taken under the label that explains an example best, so that shuffled labels change none of them."""
    model_batch, _ = trained([model_setup(0, family="conditional", training__epochs=4)], digits, epochs=4)
    own = model_batch.measure("test")[0].scores()["elbo"]
    examples = model_batch.examples["test"]
    shuffled = examples.condition_NC[
        torch.randperm(len(examples.condition_NC), generator=torch.Generator().manual_seed(0))
    ]
    model_batch.examples["test"] = examples._replace(condition_NC=shuffled)
    assert (model_batch.measure("test")[0].scores()["elbo"] == own).all()


@pytest.mark.parametrize("kind", ["shared", "per_feature", "per_example"])
def test_a_trained_model_with_a_learned_sigma_lies_inside_the_reference(digits, kind):
    sigma = {"likelihood": "gaussian_learned", "learned_sigma": kind, "sigma": 0.2}
    config = model_setup(0, **sigma, training__epochs=80, training__learning_rate=5e-3, network__hidden=(128,))
    _, epochs = trained([config], digits, epochs=80)
    reference = trade_off_reference(digits, [config.config.model])
    last = epochs[-1][0]
    assert -last["val/elbo"] < reference["val/reconstruction"]
    assert last["val/reconstruction"] < reference["val/reconstruction"]
    assert last["val/kl"] < reference["val/kl"]

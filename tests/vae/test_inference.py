"""The copies of models that score, against the models themselves."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vae_study.config.model import ModelConfig, NetworkConfig
from vae_study.vae.families import make_family
from vae_study.vae.inference import ROWS_PER_BLOCK, FastLinear, inference_model, posterior_mode
from vae_study.vae.networks import DataShape
from vae_study.vae.networks.layers import StackedMLP

FAMILIES = ["vae", "autoencoder", "hierarchical", "adversarial", "vector_quantized", "semi_supervised"]
ACTIVATIONS = ["relu", "elu", "gelu", "silu", "tanh"]
SIDE = 8


def make_models(family, network, models=1, features=SIDE**2, **values):
    values = {"latent_dim": 3, "likelihood": "bernoulli", **values}
    configs = [ModelConfig(family=family, network=network, **values)] * models
    generators = [torch.Generator().manual_seed(seed) for seed in range(models)]
    image = (1, SIDE, SIDE) if network.kind == "conv" else None
    sequence = (SIDE, features // SIDE) if network.kind in ("recurrent", "temporal_conv") else None
    shape = DataShape(features=features, classes=2, image=image, sequence=sequence, may_miss=sequence is not None)
    return make_family(configs, shape, generators).eval()


@torch.inference_mode()
def parts(model, x_BD):
    """What the model says of the rows, but for what it was not asked."""
    return posterior_mode(model, x_BD.expand(len(model.configs), -1, -1), None)[:4]


@given(
    family=st.sampled_from(FAMILIES),
    activation=st.sampled_from(ACTIVATIONS),
    hidden=st.lists(st.integers(1, 70), min_size=0, max_size=3),
    batch_norm=st.booleans(),
    models=st.integers(1, 3),
    features=st.integers(1, 70),
    blocks=st.integers(1, 5),
)
@settings(max_examples=60, deadline=None)
def test_a_copy_says_what_its_model_says_and_of_each_row_the_same_in_any_company(
    family, activation, hidden, batch_norm, models, features, blocks
):
    network = NetworkConfig(hidden=tuple(hidden), activation=activation, batch_norm=batch_norm)
    model = make_models(family, network, models, features)
    x_BD = torch.rand(blocks * ROWS_PER_BLOCK, features, generator=torch.Generator().manual_seed(0))
    inference = inference_model(model)
    whole, first = parts(inference, x_BD), parts(inference, x_BD[:ROWS_PER_BLOCK])
    for own, expected, early in zip(whole, parts(model, x_BD), first, strict=True):
        # Of two entries that are as near as rounding lets one tell, either may be the code.
        if family != "vector_quantized":
            torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(own[:, :ROWS_PER_BLOCK], early)


@given(
    family=st.sampled_from(FAMILIES),
    kind=st.sampled_from([{"cell": "gru"}, {"cell": "lstm"}, {"kind": "temporal_conv", "channels": (8, 8)}]),
    hidden=st.lists(st.sampled_from([4, 8, 20, 64]), min_size=1, max_size=2),
    models=st.integers(1, 3),
    sensors=st.integers(1, 9),
    blocks=st.integers(2, 9),
)
@settings(max_examples=40, deadline=None)
def test_a_copy_for_sequences_says_of_each_row_the_same_in_any_company(family, kind, hidden, models, sensors, blocks):
    network = NetworkConfig(**{"kind": "recurrent", "hidden": tuple(hidden), **kind})
    inference = inference_model(make_models(family, network, models, sensors * SIDE))
    generator = torch.Generator().manual_seed(0)
    x_BD = torch.rand(blocks * ROWS_PER_BLOCK, sensors * SIDE, generator=generator)
    x_BD[torch.rand(x_BD.shape, generator=generator) < 0.2] = torch.nan
    whole, first = parts(inference, x_BD), parts(inference, x_BD[:ROWS_PER_BLOCK])
    for own, early in zip(whole, first, strict=True):
        assert torch.equal(own[:, :ROWS_PER_BLOCK], early)


@pytest.mark.parametrize("latent", ["window", "map"])
def test_a_convolutional_net_is_copied_too(latent):
    model = make_models("vae", NetworkConfig(kind="conv", channels=(4, 8), hidden=(16,)), models=2, latent=latent)
    x_BD = torch.rand(ROWS_PER_BLOCK, SIDE**2)
    for own, expected in zip(parts(inference_model(model), x_BD), parts(model, x_BD), strict=True):
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5)


def test_numbers_that_onednn_does_not_take_stay_with_the_models_own_layers():
    model = make_models("vae", NetworkConfig(hidden=(5,))).double()
    x_BD = torch.rand(ROWS_PER_BLOCK, SIDE**2, dtype=torch.float64)
    inference = inference_model(model)
    assert not any(isinstance(module, FastLinear) for module in inference.modules())
    assert all(map(torch.equal, parts(inference, x_BD), parts(model, x_BD)))


@pytest.mark.parametrize(
    ("network", "fused"),
    [
        (NetworkConfig(hidden=(5, 3)), True),
        (NetworkConfig(hidden=(5, 3), activation="tanh"), False),
        (NetworkConfig(hidden=(5, 3), batch_norm=True), False),
    ],
)
def test_a_relu_goes_into_the_product_and_leaves_the_model_itself_alone(network, fused):
    model = make_models("vae", network)
    inference = inference_model(model)
    for mlp in (inference.encoder, inference.decoder):
        assert (mlp.activated == 0) == fused
    assert [mlp.activated for mlp in model.modules() if isinstance(mlp, StackedMLP)] == [2, 2]

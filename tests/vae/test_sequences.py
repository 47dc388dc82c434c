"""Networks of sequences against torch's own, and missing values against the same values left out."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from vae_study.config.model import ModelConfig, NetworkConfig
from vae_study.config.study import DiagnosticsConfig
from vae_study.errors import UserError
from vae_study.vae.evaluation import trade_off_reference
from vae_study.vae.families import FAMILIES, make_family
from vae_study.vae.families.base import Family
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.networks import DataShape
from vae_study.vae.networks.layers import PlaceRows
from vae_study.vae.outcome import outcomes_of
from vae_study.vae.sequence_networks import CausalConvolutions, RecurrentDecoder, RecurrentEncoder

from tests.vae.builders import model_setup, train
from tests.vae.test_families import LIKELIHOODS

SIZES, STEPS, FEATURES, ROWS = (2, 3), 6, 3, 7
CELLS = {"gru": nn.GRU, "lstm": nn.LSTM}
NETWORKS = {
    "gru": {"kind": "recurrent"},
    "lstm": {"kind": "recurrent", "cell": "lstm"},
    "temporal-conv": {"kind": "temporal_conv", "channels": (4, 4, 3)},
}


def generators(models=2, seed=0):
    return [torch.Generator().manual_seed(seed + k) for k in range(models)]


def in_torchs_order(cell, weight_OI):
    """The rows of the gates as torch has them: of a GRU r, z, n, of an LSTM i, f, g, o."""
    if cell == "gru":
        n, r, z = weight_OI.chunk(3)
        return torch.cat([r, z, n])
    i, f, o, g = weight_OI.chunk(4)
    return torch.cat([i, f, g, o])


def torchs(cell, network, k):
    """Torch's own layers with the weights of model k."""
    layers = []
    for weights_KdOI, recurrent_KdOH in zip(network.weights, network.recurrent, strict=True):
        width, directions = recurrent_KdOH.shape[3], weights_KdOI.shape[1]
        layer = CELLS[cell](weights_KdOI.shape[3] - 1, width, bidirectional=directions == 2).double()
        for direction in range(directions):
            end, weight_OI = "_reverse" * direction, in_torchs_order(cell, weights_KdOI[k, direction])
            recurrent_OH = recurrent_KdOH[k, direction]
            values = {
                "weight_ih": weight_OI[:, 1:],
                "bias_ih": weight_OI[:, 0],
                "weight_hh": recurrent_OH if cell == "gru" else in_torchs_order(cell, recurrent_OH),
                "bias_hh": torch.zeros(len(recurrent_OH)),
            }
            for name, value in values.items():
                getattr(layer, f"{name}_l0{end}").data.copy_(value)
        layers.append(layer)
    return layers


@pytest.mark.parametrize("hidden", [(4,), (5, 3)])
@pytest.mark.parametrize("cell", CELLS)
def test_a_recurrent_encoder_and_decoder_are_torchs_own_model_by_model_and_so_are_their_gradients(cell, hidden):
    network = NetworkConfig(kind="recurrent", cell=cell, hidden=hidden)
    encoder = RecurrentEncoder((STEPS, FEATURES), 0, network, False, generators()).double()
    decoder = RecurrentDecoder(SIZES, (STEPS, FEATURES), 1, network, generators()).double()
    x_KBD = torch.randn(len(SIZES), ROWS, STEPS * FEATURES, dtype=torch.float64)
    z_KBZ = torch.randn(len(SIZES), ROWS, max(SIZES), dtype=torch.float64, requires_grad=True)
    code, decoded = encoder(x_KBD), decoder(z_KBZ)
    (of_z,) = torch.autograd.grad(decoded.square().sum(), z_KBZ, retain_graph=True)
    of_first = torch.autograd.grad(code.square().sum(), encoder.recurrent.recurrent[0])[0]
    for k, size in enumerate(SIZES):
        states_TBI = x_KBD[k].view(ROWS, STEPS, FEATURES).transpose(0, 1)
        layers = torchs(cell, encoder.recurrent, k)
        for layer in layers:
            states_TBI, last = layer(states_TBI)
        last = last[0] if cell == "lstm" else last
        expected = torch.cat([last[0], last[1]], dim=1)
        assert torch.allclose(code[k], expected, atol=1e-12)
        (gradient,) = torch.autograd.grad(expected.square().sum(), layers[0].weight_hh_l0)
        own = of_first[k, 0] if cell == "gru" else in_torchs_order(cell, of_first[k, 0])
        assert torch.allclose(own, gradient, atol=1e-11)
        z_BZ = z_KBZ[k].detach().requires_grad_()
        states_TBI = z_BZ.expand(STEPS, -1, -1)
        for layer in torchs(cell, decoder.recurrent, k):
            states_TBI, _ = layer(states_TBI)
        expected_TBF = states_TBI @ decoder.output.weight_KOI[k].T + decoder.output.bias_KO1[k, :, 0]
        expected = expected_TBF.transpose(0, 1).flatten(1)
        assert torch.allclose(decoded[k], expected, atol=1e-12)
        (gradient,) = torch.autograd.grad(expected.square().sum(), z_BZ)
        assert torch.allclose(of_z[k], gradient, atol=1e-11)
        assert (of_z[k, :, size:] == 0).all()


def models(values, sequence=(STEPS, FEATURES), may_miss=True, sizes=SIZES, **network) -> Family:
    values = {name.replace("network__", ""): value for name, value in values.items()}
    network = NetworkConfig(**{"hidden": (5, 4), **network})
    configs = [ModelConfig(latent_dim=size, network=network, **values) for size in sizes]
    shape = DataShape(features=math.prod(sequence or (4,)), classes=2, sequence=sequence, may_miss=may_miss)
    return make_family(configs, shape, generators(len(sizes))).double()


def losses(model, x_KBD, noise_KBZ):
    """Reconstruction and rate of each example, (K, B), and the gradients of their sum."""
    condition = torch.ones(2, dtype=x_KBD.dtype).expand(*x_KBD.shape[:2], 2) if model.is_conditional else None
    code = model.code(x_KBD, condition, noise_KBZ)
    decoded = model.decode(code.z_KBZ, condition)
    reconstruction_KB = model.likelihood.negative_log(decoded, x_KBD).sum(dim=2)
    rate_KB = code.rate_KBR.sum(dim=2)
    gradients = torch.autograd.grad((reconstruction_KB + rate_KB).sum(), [*model.parameters()], materialize_grads=True)
    return [reconstruction_KB, rate_KB, *gradients]


def noise_of(model, rows=ROWS):
    return model.noise(1, rows, generators(len(model.configs), 5))[0]


# The discriminator of `adversarial` reads the codes of all steps: its weights belong to one length.
OF_STEPS = ("vae", "autoencoder", "denoising", "conditional")


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize(
    ("family", "latent"),
    [*((name, "window") for name in FAMILIES if name != "vae_gan"), *((name, "step") for name in OF_STEPS)],
)
def test_a_padded_sequence_has_the_loss_and_the_gradients_of_the_shorter_one(family, latent, likelihood, network):
    values, more = {"family": family, "latent": latent, **LIKELIHOODS[likelihood]}, 3
    short, long = (
        models(values, sequence=(steps, FEATURES), may_miss=may_miss, **NETWORKS[network])
        for steps, may_miss in ((STEPS, False), (STEPS + more, True))
    )
    short.eval(), long.eval()
    if likelihood == "learned-per_feature":
        long.likelihood.raw_sigma_K1F.data[..., : STEPS * FEATURES] = short.likelihood.raw_sigma_K1F.data
    x_KBD = torch.rand(len(SIZES), ROWS, STEPS * FEATURES, dtype=torch.float64)
    nothing = torch.full((len(SIZES), ROWS, more * FEATURES), math.nan, dtype=torch.float64)
    noise_KBZ = noise_of(long)
    found = losses(long, torch.cat([x_KBD, nothing], dim=2), noise_KBZ)
    if latent == "step":
        noise_KBZ = noise_KBZ.unflatten(2, (-1, STEPS + more))[..., :STEPS].flatten(2)
    expected = losses(short, x_KBD, noise_KBZ)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours[..., : theirs.shape[-1]], theirs, rtol=1e-9, atol=1e-9)
        assert (ours[..., theirs.shape[-1] :] == 0).all()


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_what_is_missing_costs_nothing_and_the_rest_what_it_costs_value_by_value(data):
    likelihood = data.draw(st.sampled_from(sorted(LIKELIHOODS)))
    network = data.draw(st.sampled_from([*NETWORKS.values(), {"kind": "mlp"}]))
    model = models(LIKELIHOODS[likelihood], **network).eval()
    seed = data.draw(st.integers(0, 2**20))
    whole_KBD = torch.rand(len(SIZES), ROWS, STEPS * FEATURES, dtype=torch.float64, generator=generators(1, seed)[0])
    is_missing_BD = np.random.default_rng(seed).random((ROWS, STEPS * FEATURES)) < data.draw(st.floats(0, 1))
    x_KBD = whole_KBD.masked_fill(torch.as_tensor(is_missing_BD), math.nan)
    noise_KBZ = noise_of(model)
    found = losses(model, x_KBD, noise_KBZ)
    assert all(torch.isfinite(one).all() for one in found)
    code = model.code(x_KBD, None, noise_KBZ)
    decoded = model.decode(code.z_KBZ)
    cost_KBD, residual_KBD = model.likelihood.negative_log(decoded, x_KBD), model.likelihood.residual(decoded, x_KBD)
    model.likelihood.may_miss = False
    every_KBD = model.likelihood.negative_log(decoded, whole_KBD)
    differences_KBD = whole_KBD - model.likelihood.mean(decoded)
    for row, column in np.ndindex(ROWS, STEPS * FEATURES):
        is_there = not is_missing_BD[row, column]
        assert torch.equal(cost_KBD[:, row, column], every_KBD[:, row, column] * is_there)
        assert torch.equal(residual_KBD[:, row, column], differences_KBD[:, row, column] * is_there)


@pytest.mark.parametrize("network", [*NETWORKS.values(), {"kind": "mlp"}], ids=[*NETWORKS, "mlp"])
def test_where_nothing_is_missing_the_bits_are_those_of_data_without_missing_values(network):
    with_, without = (models({}, may_miss=may_miss, **network) for may_miss in (True, False))
    x_KBD = torch.rand(len(SIZES), ROWS, STEPS * FEATURES, dtype=torch.float64)
    found, expected = (losses(model, x_KBD, noise_of(model)) for model in (with_, without))
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("cell", CELLS)
def test_by_step_the_states_are_torchs_of_each_step_and_the_code_of_a_step_is_fed_at_that_step(cell):
    network = NetworkConfig(kind="recurrent", cell=cell, hidden=(4,))
    encoder = RecurrentEncoder((STEPS, FEATURES), 0, network, False, generators(), is_by_step=True).double()
    decoder = RecurrentDecoder(SIZES, (STEPS, FEATURES), 1, network, generators(), is_by_step=True).double()
    x_KBD = torch.randn(len(SIZES), ROWS, STEPS * FEATURES, dtype=torch.float64)
    code_KBZT = torch.randn(len(SIZES), ROWS, max(SIZES), STEPS, dtype=torch.float64)
    found, decoded = encoder(x_KBD), decoder(PlaceRows(0, STEPS)(code_KBZT.flatten(2)))
    for k in range(len(SIZES)):
        (layer,) = torchs(cell, encoder.recurrent, k)
        states_TBH, _ = layer(x_KBD[k].view(ROWS, STEPS, FEATURES).transpose(0, 1))
        assert torch.allclose(found[k].view(ROWS, STEPS, -1), states_TBH.transpose(0, 1), atol=1e-12)
        (layer,) = torchs(cell, decoder.recurrent, k)
        states_TBH, _ = layer(code_KBZT[k].permute(2, 0, 1))
        expected_TBF = states_TBH @ decoder.output.weight_KOI[k].T + decoder.output.bias_KO1[k, :, 0]
        assert torch.allclose(decoded[k].view(ROWS, STEPS, -1), expected_TBF.transpose(0, 1), atol=1e-12)


def test_by_step_the_kl_is_that_of_every_step_and_dimension_of_the_own_steps():
    model = models({"latent": "step"}, kind="recurrent").eval()
    x_KBD = torch.rand(len(SIZES), ROWS, STEPS * FEATURES, dtype=torch.float64)
    x_KBD[:, 0, 2 * FEATURES :] = math.nan
    rate = model.code(x_KBD, None, None).rate_KBR.unflatten(2, (max(SIZES), STEPS))
    assert (rate[:, 0, :, 2:] == 0).all()
    for k, size in enumerate(SIZES):
        assert (rate[k, 0, :size, :2] > 0).all()
        assert (rate[k, 1:, :size] > 0).all()
        assert (rate[k, :, size:] == 0).all()


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_each_example_is_coded_as_alone_whatever_lengths_stand_beside_it(network):
    model = models({}, **network).eval()
    x_KBD = torch.rand(1, ROWS, STEPS * FEATURES, dtype=torch.float64).expand(len(SIZES), -1, -1).clone()
    for row in range(ROWS):
        x_KBD[:, row, FEATURES * min(row, STEPS) :] = math.nan
    together = model.code(x_KBD, None, None).z_KBZ
    for row in range(1, ROWS):
        steps = min(row, STEPS)
        short = models({}, sequence=(steps, FEATURES), may_miss=False, **network).eval()
        alone = short.code(x_KBD[:, row : row + 1, : steps * FEATURES], None, None).z_KBZ
        assert torch.allclose(together[:, row : row + 1], alone, atol=1e-12)
    assert torch.isfinite(together).all()


@pytest.mark.parametrize("layers", [1, 3])
def test_a_stack_of_causal_convolutions_is_torchs_own_model_by_model(layers):
    channels = (4, 4, 3)[:layers]
    stack = CausalConvolutions((FEATURES, FEATURES), channels, torch.tanh, generators()).double()
    x_KITB = torch.randn(len(SIZES), FEATURES, STEPS, ROWS, dtype=torch.float64)
    found = stack(x_KITB.flatten(2), ROWS).unflatten(2, (STEPS, ROWS))
    for k in range(len(SIZES)):
        y_BIT = x_KITB[k].permute(2, 0, 1)
        for index, (weight_K3OI, bias_KO1) in enumerate(zip(stack.weights, stack.biases, strict=True)):
            # torch's first tap is of the earliest step.
            weight_OI3, bias_O = weight_K3OI[k].permute(1, 2, 0).flip(2), bias_KO1[k, :, 0]
            dilation = 2**index
            padded_BIT = functional.pad(y_BIT, (2 * dilation, 0))
            out_BOT = torch.tanh(functional.conv1d(padded_BIT, weight_OI3, bias_O, dilation=dilation))
            y_BIT = y_BIT + out_BOT if y_BIT.shape == out_BOT.shape else out_BOT
        assert torch.allclose(found[k].permute(2, 0, 1), y_BIT, atol=1e-12)


@pytest.mark.parametrize(
    ("network", "says"),
    [
        ({"kind": "recurrent"}, "got 'recurrent', expected 'mlp': this data has no sequences"),
        ({"kind": "temporal_conv"}, "got 'temporal_conv', expected 'mlp': this data has no sequences"),
        ({"kind": "conv"}, "got 'conv', expected 'mlp': the features of this data are no pixels"),
    ],
)
def test_a_network_that_does_not_fit_the_data_is_refused(network, says):
    with pytest.raises(UserError, match=says):
        models({}, sequence=None, **network)


@pytest.mark.parametrize(
    ("values", "network", "says"),
    [
        ({}, {"kind": "mlp"}, "got 'step', expected 'window' for network.kind mlp"),
        ({"family": "hierarchical"}, {"kind": "recurrent"}, "expected 'window' for family hierarchical"),
        ({"family": "vector_quantized"}, {"kind": "recurrent"}, "expected 'window' for family vector_quantized"),
    ],
)
def test_a_code_of_each_step_is_refused_where_there_is_none(values, network, says):
    with pytest.raises(UserError, match=says):
        models({"latent": "step", **values}, **network)


def test_a_recurrent_network_without_a_layer_is_refused():
    with pytest.raises(UserError, match="hidden: got none, expected a width for each recurrent layer"):
        models({}, kind="recurrent", hidden=())


@pytest.mark.parametrize("network", [{"kind": "mlp"}, *NETWORKS.values()], ids=["mlp", *NETWORKS])
def test_a_model_of_sequences_with_missing_values_trains_and_its_outcome_is_finite(few, network):
    """Also a trial of them: what is missing in one batch of rows is in all that is measured of them."""

    def with_gaps(split, seed):
        x_ND = split.x_ND.copy()
        x_ND[np.random.default_rng(seed).random(x_ND.shape) < 0.2] = np.nan
        x_ND[::3, 40:] = np.nan
        return replace(split, x_ND=x_ND)

    splits = {name: with_gaps(one, seed) for seed, (name, one) in enumerate(few.splits.items())}
    data = replace(few, splits=splits, preprocessing=replace(few.preprocessing, missing="mask"))
    values = {f"network__{name}": value for name, value in {"hidden": (8,), **network}.items()}
    batch = ModelBatch([model_setup(0, training__batch_size=16, **values)], data)
    (first,), *_, (last,) = train(batch, 3)
    assert last["train/reconstruction"] < first["train/reconstruction"]
    assert all(math.isfinite(value) for value in trade_off_reference(data, [batch.setups[0].config.model]).values())
    (outcome,) = outcomes_of(batch, DiagnosticsConfig(iwae_draws=2))
    assert all(math.isfinite(value) for value in outcome.metrics.values())
    assert np.isfinite(outcome.scores.select_dtypes("number")).all(axis=None)
    assert all(torch.isfinite(value).all() for value in (*outcome.weights.values(), *outcome.scorer.values()))

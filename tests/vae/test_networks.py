"""Stacked layers and the stacked optimizer against torch's own, model by model."""

from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from vae_study.config.model import NetworkConfig, TrainingConfig
from vae_study.vae.networks import ConvDecoder, ConvEncoder
from vae_study.vae.networks.layers import StackedBatchNorm, StackedConv, StackedLinear, activation_of
from vae_study.vae.optimizer import StackedAdam

MODELS, ROWS = 3, 5


def generators(seed=0):
    return [torch.Generator().manual_seed(seed + k) for k in range(MODELS)]


def test_a_stacked_linear_layer_is_each_models_own():
    layer = StackedLinear([4] * MODELS, [6] * MODELS, generators())
    x = torch.randn(MODELS, ROWS, 4)
    for k in range(MODELS):
        expected = functional.linear(x[k], layer.weight_KIO[k].T, layer.bias_K1O[k, 0])
        assert torch.allclose(layer(x)[k], expected, atol=1e-6)


@pytest.mark.parametrize("name", get_args(NetworkConfig.model_fields["activation"].annotation))
def test_every_activation_that_a_config_may_name_is_torchs_of_that_name(name):
    x = torch.linspace(-3, 3, 7)
    assert torch.equal(activation_of(NetworkConfig(activation=name))(x), getattr(functional, name)(x))


@pytest.mark.parametrize(("inputs", "outputs", "stride"), [(1, 8, 2), (8, 1, 1), (3, 4, 1), (6, 6, 1), (4, 3, 2)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(8, 8), (7, 5)])
def test_a_stacked_convolution_is_each_models_own(inputs, outputs, stride, bias, size):
    layer = StackedConv(inputs, outputs, generators(), stride, bias).double()
    x = torch.randn(ROWS, MODELS, inputs, *size, dtype=torch.float64)
    for k in range(MODELS):
        own_bias = layer.bias_KO[k] if bias else None
        expected = functional.conv2d(x[:, k], layer.weight_KOI33[k], own_bias, stride=stride, padding=1)
        assert torch.allclose(layer(x)[:, k], expected, atol=1e-12)


def test_a_stacked_batch_norm_is_each_models_own_in_training_and_after():
    stacked, own = StackedBatchNorm(MODELS, 4), [nn.BatchNorm1d(4) for _ in range(MODELS)]
    for _ in range(3):
        x = torch.randn(ROWS, MODELS, 4) * 3 + 1
        trained = stacked(x)
        for k in range(MODELS):
            assert torch.allclose(trained[:, k], own[k](x[:, k]), atol=1e-5)
    stacked.eval()
    for k in range(MODELS):
        assert torch.allclose(stacked(x)[:, k], own[k].eval()(x[:, k]), atol=1e-5)


@pytest.mark.parametrize("image", [(1, 28, 28), (3, 32, 32), (1, 8, 8), (3, 7, 9)])
@pytest.mark.parametrize("extra", [0, 2])
def test_a_convolutional_pair_gives_back_the_shape_of_its_images(image, extra):
    network = NetworkConfig(kind="conv", channels=(4, 6), hidden=(10,))
    pixels = image[0] * image[1] * image[2]
    encoder = ConvEncoder(image, extra, network, generators())
    decoder = ConvDecoder([2, 5, 3], image, 2, network, generators())
    assert encoder(torch.rand(MODELS, ROWS, pixels + extra)).shape == (MODELS, ROWS, 10)
    assert decoder(torch.rand(MODELS, ROWS, 5)).shape == (MODELS, ROWS, 2 * pixels)


def differentiate(adam, loss):
    """The gradients, where Adam takes them from."""
    for place, gradient in zip(adam.gradients, torch.autograd.grad(loss, adam.parameters), strict=True):
        place.copy_(gradient)


@pytest.mark.parametrize("is_fused", [True, False])
def test_stacked_adam_is_torchs_with_each_models_own_settings(is_fused):
    rates, decays, clips = (1e-2, 3e-3, 1e-3), (0.0, 0.1, 0.01), (0.5, 0.0, 0.05)
    settings = [
        TrainingConfig(learning_rate=rate, weight_decay=decay, gradient_clip=clip)
        for rate, decay, clip in zip(rates, decays, clips, strict=True)
    ]
    layer = StackedLinear([4] * MODELS, [2] * MODELS, generators()).double()
    own = [[nn.Parameter(p[k].detach().clone()) for p in layer.parameters()] for k in range(MODELS)]
    theirs = [
        torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
        for parameters, rate, decay in zip(own, rates, decays, strict=True)
    ]
    ours = StackedAdam(layer, settings)
    ours.is_fused = is_fused
    ours.begin([0] * MODELS, np.tile(rates, (20, 1)))
    for step in range(20):
        x = torch.randn(MODELS, ROWS, 4, dtype=torch.float64)
        differentiate(ours, layer(x).square().sum())
        ours.step(step)
        for k in range(MODELS):
            theirs[k].zero_grad()
            torch.baddbmm(own[k][1][None], x[k][None], own[k][0][None]).square().sum().backward()
            if clips[k]:
                nn.utils.clip_grad_norm_(own[k], clips[k])
            theirs[k].step()
    for k in range(MODELS):
        for stacked, single in zip(layer.parameters(), own[k], strict=True):
            assert torch.allclose(stacked[k], single, atol=1e-7)


@pytest.mark.parametrize("is_fused", [True, False])
def test_a_model_takes_the_steps_of_its_own_count_at_its_own_rates(is_fused):
    """Three steps, then beside a new model two more: the rows of stacked Adam and torch's Adam of each one's own."""
    rates_TK = np.array([[1e-2, 3e-3], [8e-3, 2e-3], [5e-3, 1e-3], [3e-3, 9e-4], [1e-3, 8e-4]])
    layers = [StackedLinear([4], [2], generators()[:1]).double(), StackedLinear([4], [2], generators(9)[:1]).double()]
    own = [[nn.Parameter(p[0].detach().clone()) for p in layer.parameters()] for layer in layers]
    theirs = [torch.optim.Adam(parameters) for parameters in own]
    ours = StackedAdam(layers[0], [TrainingConfig()])
    ours.is_fused = is_fused
    for start, stop, done in ((0, 3, [0]), (3, 5, [3, 0])):
        if start:
            ours.append(layers[1], [TrainingConfig()])
        # The second model is at the beginning of its schedule where the first has come some way.
        ours.begin(done, np.stack([rates_TK[n : n + stop - start, k] for k, n in enumerate(done)], axis=1))
        for step in range(start, stop):
            x = torch.randn(len(done), ROWS, 4, dtype=torch.float64)
            differentiate(ours, layers[0](x).square().sum())
            ours.step(step - start)
            for k, n in enumerate(done):
                theirs[k].param_groups[0]["lr"] = rates_TK[n + step - start, k]
                theirs[k].zero_grad()
                torch.addmm(own[k][1], x[k], own[k][0]).square().sum().backward()
                theirs[k].step()
    for k, single in enumerate(own):
        for stacked, expected in zip(layers[0].parameters(), single, strict=True):
            assert torch.allclose(stacked[k], expected, atol=1e-7)


@pytest.mark.parametrize("widths", [(3, 7), (5, 6), (17, 30), (1, 33)])
def test_a_gradient_written_to_its_place_has_the_same_bits_in_every_row(widths):
    inputs, outputs = widths
    layer = StackedLinear([inputs] * 4, [outputs] * 4, generators()[:1] * 4)
    several = StackedAdam(layer, [TrainingConfig()] * 4)
    x, slope = torch.randn(4, 128, inputs), torch.randn(4, 128, outputs)
    torch.bmm(x.mT, slope, out=several.gradients[0])
    for k in range(4):
        one = StackedAdam(StackedLinear([inputs], [outputs], generators()[:1]), [TrainingConfig()])
        torch.bmm(x[k : k + 1].clone().mT, slope[k : k + 1].clone(), out=one.gradients[0])
        assert torch.equal(one.gradients[0][0], several.gradients[0][k])

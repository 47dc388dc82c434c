"""What is lost where torch lacks one of its undocumented kernels: time, and nothing else but where a test says so.

Each kernel is also there in the torch that is installed: an upgrade that takes one away fails here first.
"""

import pytest
import torch
from vae_study.config.model import ModelConfig, NetworkConfig
from vae_study.vae import kernels
from vae_study.vae.families import make_family
from vae_study.vae.fast_step.step import covers
from vae_study.vae.inference import FastLinear, inference_model
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.networks import DataShape
from vae_study.vae.networks.layers import StackedLinear

from tests.vae.builders import model_setup, same, train

WIDE = {"network__hidden": (512, 256), "training__batch_size": 64}
CONV = {"network__kind": "conv", "network__channels": (4,), "network__hidden": (8,)}


def trained(data, **values):
    batch = ModelBatch([model_setup(1, **values), model_setup(2, **values)], data)
    return train(batch, 2), [batch.state(k) for k in range(2)]


def without(monkeypatch, kernel):
    assert getattr(kernels, kernel) is not None
    monkeypatch.setattr(kernels, kernel, None)


def test_without_onednn_wide_layers_are_slower_and_rounded_in_another_way(few, monkeypatch):
    expected, _ = trained(few, **WIDE)
    without(monkeypatch, "LINEAR_POINTWISE")
    assert not kernels.is_wide(torch.zeros(1, 4096, 4096), 128)
    for metrics, others in zip(trained(few, **WIDE)[0][1], expected[1], strict=True):
        assert metrics == pytest.approx(others, rel=1e-3)


def test_without_onednn_a_row_may_be_rounded_in_another_way_by_what_it_is_scored_with(monkeypatch):
    """The copies for inference keep the stacked layers, whose kernels depend on the number of rows."""
    without(monkeypatch, "LINEAR_POINTWISE")
    model = make_family([ModelConfig()], DataShape(features=5), [torch.Generator()])
    kinds = {type(module) for module in inference_model(model).modules()}
    assert StackedLinear in kinds
    assert FastLinear not in kinds


def test_without_fused_adam_a_step_takes_several_passes_and_is_rounded_in_another_way(few, monkeypatch):
    expected, _ = trained(few)
    without(monkeypatch, "FUSED_ADAMW")
    for metrics, others in zip(trained(few)[0][1], expected[1], strict=True):
        assert metrics == pytest.approx(others, rel=1e-3)


def test_without_foreach_copy_gradients_are_copied_one_by_one_to_the_same_bits(few, monkeypatch):
    expected = trained(few, **CONV)
    without(monkeypatch, "FOREACH_COPY")
    metrics, states = trained(few, **CONV)
    assert metrics == expected[0]
    assert all(map(same, states, expected[1]))


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian_learned"])
def test_without_softplus_out_a_step_allocates_memory_for_the_same_bits(few, monkeypatch, likelihood):
    values = {"likelihood": likelihood, "learned_sigma": "per_example"}
    expected = trained(few, **values)
    without(monkeypatch, "SOFTPLUS_OUT")
    metrics, states = trained(few, **values)
    assert metrics == expected[0]
    assert all(map(same, states, expected[1]))


@pytest.mark.parametrize("activation", sorted(kernels.DERIVATIVES))
def test_without_the_kernel_of_a_derivative_its_activation_is_left_to_autograd(few, monkeypatch, activation):
    values = {"network__activation": activation}
    expected, _ = trained(few, **values)
    left = {name: known for name, known in kernels.DERIVATIVES.items() if name != activation}
    monkeypatch.setattr("vae_study.vae.fast_step.step.DERIVATIVES", left)
    model = make_family(
        [ModelConfig(network=NetworkConfig(activation=activation))], DataShape(features=5), [torch.Generator()]
    )
    assert not covers(model)
    for metrics, others in zip(trained(few, **values)[0][1], expected[1], strict=True):
        assert metrics == pytest.approx(others, rel=1e-3)


def test_all_derivatives_are_known_to_the_torch_that_is_installed():
    assert set(kernels.DERIVATIVES) == {"relu", "elu", "gelu", "silu", "tanh"}


def test_a_name_that_torch_has_not_is_none():
    assert kernels._private("ops.aten.no_such_kernel.out") is None
    assert kernels._private("_no_such_function_") is None

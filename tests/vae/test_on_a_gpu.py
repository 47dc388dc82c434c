"""The code on a GPU, on the pretend one: the CPU's numbers, no wait in a step, few kernels, also recorded."""

import contextlib
import functools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from vae_study.config.study import DiagnosticsConfig
from vae_study.vae.evaluation import RawMeasurement
from vae_study.vae.gpu import captured_step
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.outcome import fit_scorer, outcomes_of

from tests.pretend_gpu import PRETEND, PretendGpu
from tests.vae.builders import model_setup, same, train
from tests.vae.test_families import LIKELIHOODS, VARIANTS

MODELS, EPOCHS = 4, 2
CASES = VARIANTS | LIKELIHOODS | {
    # Each activation, and TF32, which the pretend GPU does not round to, beside something else.
    "sweep": {**VARIANTS["sweep"], "network__activation": "gelu", "training__precision": "tf32"},
    "free-bits-total": {"free_bits__kind": "total", "free_bits__nats": 1.0, "network__activation": "silu"},
    "free-bits-each": {"free_bits__kind": "per_dimension", "free_bits__nats": 0.1, "network__activation": "elu"},
    "masking": {"family": "denoising", "corruption__kind": "masking", "network__activation": "tanh"},
    "bf16": {"training__precision": "bf16"},
    "conv-beta_tc": {**VARIANTS["beta_tc"], "network__kind": "conv", "network__channels": (4, 8)},
    "conv-conditional": {"family": "conditional", "network__kind": "conv", "network__channels": (4, 8)},
}  # fmt: skip
# On the pretend GPU, networks of sequences take seconds each: of their variants, `make test` runs these.
SEQUENCES_IN_SHORT = ("recurrent-vae", "step-vae", "temporal-conv")
# Their models, and so their outcomes, are of the kind that others have.
TRAINED_OTHERWISE = (
    "linear", "constrained", "capacity", "sweep", "decayed-and-clipped", "free-bits-total", "free-bits-each", "masking",
    "denoising-deterministic", "bf16", "recurrent-vae", "map-linear", "beta_tc", "dip", "conv-beta_tc",
)  # fmt: skip
# In these, two come together that others have one by one.
PAIRS = ("conv-batch-norm", "conv-conditional", "conv-vae_gan")
NAMES = [
    pytest.param(name, marks=[pytest.mark.thorough] if is_long else [])
    for name in CASES
    for is_sequence in [name.startswith(("recurrent", "step", "temporal", "lstm"))]
    for is_long in [name in PAIRS or (is_sequence and name not in SEQUENCES_IN_SHORT)]
    # All of these have that likelihood.
    if name != "bernoulli"
]
# Each step of these is written by hand. More kernels: a sigma to learn, or a penalty that autograd differentiates.
BY_HAND = {
    "vae": 90, "autoencoder": 67, "linear": 61, "denoising-deterministic": 74, "conditional": 93,
    "denoising": 101, "gaussian": 95, "decayed-and-clipped": 96, "learned-shared": 106, "learned-per_feature": 105,
    "learned-per_example": 103, "constrained": 157, "capacity": 157, "beta_tc": 154,
    "dip": 133,
}  # fmt: skip
BY_AUTOGRAD = {
    "adversarial": 215, "hierarchical": 299, "vector_quantized": 135, "semi_supervised": 271, "vae_gan": 380,
    "batch-norm": 202, "conv": 203, "residual": 346, "conv-batch-norm": 255, "conv-beta_tc": 279,
    "map-vae": 213, "map-residual": 359, "map-hierarchical": 607,
}  # fmt: skip


def setup(number, values):
    own = {"latent_dim": 3 + number, "beta": 0.5 + number, "training__batch_size": 32, "training__epochs": 4}
    return model_setup(number, **{**own, **values})


def batch_on(device, values, data, models=MODELS):
    return ModelBatch([setup(number, values) for number in range(models)], data, device=device, latent_capacity=8)


def way(device, values, data, gpu=None):
    """A batch trains; one model leaves, joins again from its state, and all go on. The first epoch is counted."""
    counting = gpu.counting if gpu else lambda what: contextlib.nullcontext()
    batch = batch_on(device, values, data)
    # As on a GPU: with other rounding, a discrete code may be another one.
    batch.adam.is_fused = False
    if gpu:
        gpu.count_calls("step", batch, "_step")
    with counting("epoch"):
        history = train(batch, 1)
    with counting("state"):
        state = batch.state(1)
    batch.leave(1)
    batch.join(setup(1, values), state)
    history += train(batch, EPOCHS - 1)
    return batch, history, [batch.state(k) for k in range(MODELS)]


def outcomes(batch):
    """Of two of the models."""
    batch.leave(0)
    batch.leave(0)
    return outcomes_of(batch, DiagnosticsConfig(iwae_draws=2))


@pytest.fixture(scope="module")
def on_gpu(few):
    """The way of a configuration on the pretend GPU, kernel by kernel, with what was counted; taken once."""

    @functools.cache
    def taken(name):
        with PretendGpu() as gpu:
            return gpu, *way(PRETEND, CASES[name], few, gpu)

    return taken


def assert_near(found, expected, places):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert np.allclose(found[name], value, rtol=places, atol=places, equal_nan=True), name


@pytest.mark.parametrize("name", NAMES)
def test_on_a_gpu_a_pack_trains_is_saved_goes_on_and_is_measured_with_the_numbers_of_the_cpu(name, few, on_gpu):
    cpu_batch, expected, states = way("cpu", CASES[name], few)
    gpu, batch, found, gpu_states = on_gpu(name)
    for epoch, cpu_epoch in zip(found, expected, strict=True):
        for own, cpu_own in zip(epoch, cpu_epoch, strict=True):
            assert_near(own, cpu_own, 2e-4)
    for own, cpu_own in zip(gpu_states, states, strict=True):
        assert {value.device.type for value in own.values()} == {"cpu"}
        assert_near(
            {name: value for name, value in own.items() if not name.startswith("random/")},
            {name: value for name, value in cpu_own.items() if not name.startswith("random/")},
            2e-4,
        )
    if name in TRAINED_OTHERWISE:
        return
    with gpu:
        gpu_outcomes = outcomes(batch)
    for own, cpu_own in zip(gpu_outcomes, outcomes(cpu_batch), strict=True):
        is_stable = [name for name in cpu_own.metrics if name.startswith("test/") and "au" not in name]
        assert_near({n: own.metrics[n] for n in is_stable}, {n: cpu_own.metrics[n] for n in is_stable}, 5e-3)
        pd.testing.assert_frame_equal(own.scores, cpu_own.scores, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("name", NAMES)
def test_no_step_waits_for_the_gpu_and_an_epoch_waits_twice_once_to_begin_and_once_for_its_numbers(name, on_gpu):
    gpu = on_gpu(name)[0]
    assert not gpu.waits("step")
    assert [place.partition(",")[0] for place in sorted(gpu.waits("epoch"))] == [
        "a copy from the host",
        "a copy to the host",
    ]
    assert gpu.waits("epoch").total() == 2
    assert gpu.waits("state").total() == 1


@pytest.mark.parametrize("name", [one for one in NAMES if one.values[0] in BY_HAND | BY_AUTOGRAD])
def test_a_step_launches_no_more_kernels_than_it_did(name, on_gpu):
    gpu, batch = on_gpu(name)[:2]
    steps = EPOCHS * batch.steps_per_epoch
    assert gpu.launches("step").total() / steps <= (BY_HAND | BY_AUTOGRAD)[name]


def test_in_bf16_the_factors_of_a_steps_products_are_rounded_on_a_gpu(on_gpu):
    plain, rounded = on_gpu("vae"), on_gpu("bf16")
    assert rounded[0].launches("step")["_to_copy"] > plain[0].launches("step")["_to_copy"]
    assert rounded[2] != plain[2]


@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_step_gives_the_same_bits_also_after_a_model_has_left_and_come_back(name, few, on_gpu, monkeypatch):
    monkeypatch.setattr(captured_step, "FEWEST_STEPS", 0)
    monkeypatch.setattr(captured_step, "REFUSED", set())
    _, _, history, states = on_gpu(name)
    with PretendGpu() as gpu, gpu.counting("all"):
        monkeypatch.setitem(captured_step.RECORDERS, PRETEND, gpu.record)
        batch, found, found_states = way(PRETEND, CASES[name], few)
    assert not captured_step.REFUSED
    # Each recording is compared with two steps.
    assert gpu.launches("all")["a graph"] == EPOCHS * batch.steps_per_epoch + 2 * captured_step.COMPARED_STEPS
    assert repr(found) == repr(history)
    assert all(same(own, other) for own, other in zip(found_states, states, strict=True))


def test_scoring_a_pack_waits_for_the_numbers_of_all_models_at_once(few):
    def waits(models):
        with PretendGpu() as gpu:
            batch = batch_on(PRETEND, {}, few, models)
            batch.train_epoch()
            scorer = fit_scorer(batch)
            with gpu.counting("scores"):
                scorer.scores(batch.examples["test"].x_ND)
            with gpu.counting("outcomes"):
                outcomes_of(batch, DiagnosticsConfig(iwae_draws=0))
        return [gpu.waits(what).total() for what in ("scores", "outcomes")]

    one, four = waits(1), waits(4)
    assert one[0] == four[0] == 1
    # What is left belongs to the pictures of each model.
    assert four[1] <= 4 * 36


@pytest.mark.parametrize("models", [1, 2, 16])
def test_a_step_by_hand_is_one_block_of_95_kernels_at_most_whatever_it_trains(models, few):
    with PretendGpu() as gpu:
        batch = batch_on(PRETEND, {"latent_dim": 4}, few, models)
        gpu.count_calls("step", batch, "_step")
        batch.train_epoch()
    assert len(batch.gradient_step.parts) == 1
    assert gpu.launches("step").total() / batch.steps_per_epoch <= 95


def test_a_gpu_measures_all_rows_that_its_memory_takes_at_once(digits, few):
    with PretendGpu() as gpu:
        batch = batch_on(PRETEND, {}, digits)
        with gpu.counting("measure"):
            batch.measure("train")
        fewer = batch_on(PRETEND, {}, few)
        with gpu.counting("fewer"):
            fewer.measure("train")
    assert len(digits.splits["train"].x_ND) > 13 * len(few.splits["train"].x_ND)
    # Rows are padded to whole blocks.
    assert abs(gpu.launches("measure").total() - gpu.launches("fewer").total()) <= 2


def test_the_batches_of_a_worker_have_one_copy_of_the_rows_on_its_gpu(few):
    values = {"family": "conditional"}
    with PretendGpu():
        first = batch_on(PRETEND, {}, few)
        second = ModelBatch([setup(0, values)], few, device=PRETEND, latent_capacity=8, beside=first)
        places = [{name: rows.x_ND.host.data_ptr() for name, rows in one.examples.items()} for one in (first, second)]
        found = train(second, 1)
    assert places[0] == places[1]
    with PretendGpu():
        expected = train(ModelBatch([setup(0, values)], few, device=PRETEND, latent_capacity=8), 1)
    assert repr(found) == repr(expected)


def test_what_is_brought_to_the_host_at_once_has_the_values_and_the_shapes_that_it_had(few):
    with PretendGpu():
        batch = batch_on(PRETEND, {"family": "hierarchical"}, few)
        beside, measured = batch.measure_beside("test", torch.arange(6.0, device=PRETEND).view(2, 3))
    assert torch.equal(beside, torch.arange(6.0).view(2, 3))
    assert len(measured) == MODELS
    assert all(len(one.sampled_kl_N) == len(few.splits["test"].x_ND) for one in measured)
    assert len(RawMeasurement._fields) == 9
    assert all(math.isfinite(one.reconstruction_N.sum()) for one in measured)

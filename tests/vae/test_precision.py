"""Training in another precision than float32: what is rounded, what is not, and how near the metrics stay."""

import contextlib
from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from vae_study.detector import detector
from vae_study.vae.device import compute_in_float32, missing_units
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.stacking import compatibility_key

from tests.vae.builders import model_setup, same, stored, train
from tests.vae.test_families import LIKELIHOODS, VARIANTS

BF16 = {"training__precision": "bf16"}
# Of the reconstruction after a few epochs, relative; and of the KL, in nats.
TOLERANCE = 0.02
PRODUCTS = ("bmm", "baddbmm", "convolution", "convolution_backward", "mm", "addmm")
CASES = VARIANTS | LIKELIHOODS | {"free-bits": {"free_bits__kind": "total", "free_bits__nats": 1.0}}


class Products(TorchDispatchMode):
    """Counts the products by their operator and the dtype of their factors."""

    def __init__(self):
        super().__init__()
        self.found = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.partition("::")[2]
        if name in PRODUCTS or name.startswith("_linear_pointwise"):
            dtypes = {one.dtype for one in args if isinstance(one, torch.Tensor)}
            self.found[name, tuple(sorted(map(str, dtypes)))] += 1
        return func(*args, **kwargs or {})

    @property
    def dtypes(self):
        return {dtype for _, dtypes in self.found for dtype in dtypes}


def batch_of(data, values, seeds=(10, 11, 12)):
    own = {"training__batch_size": 32, "training__epochs": 6}
    setups = [model_setup(seed, latent_dim=3 + k, beta=0.5 + k, **own, **values) for k, seed in enumerate(seeds)]
    return ModelBatch(setups, data, latent_capacity=8)


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_in_bf16_the_metrics_of_every_configuration_are_those_of_float32_within_two_percent(values, few):
    plain, rounded = (batch_of(few, {**values, **more}) for more in ({}, BF16))
    expected, found = (train(batch, 4)[-1] for batch in (plain, rounded))
    assert found != expected
    for own, exact in zip(found, expected, strict=True):
        assert own["val/reconstruction"] == pytest.approx(exact["val/reconstruction"], rel=TOLERANCE)
        assert own["train/loss"] == pytest.approx(exact["train/loss"], rel=TOLERANCE, abs=0.1)
        if "val/kl" in exact:
            assert own["val/kl"] == pytest.approx(exact["val/kl"], rel=0.05, abs=0.1)


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_bf16_is_of_the_products_of_a_step_and_of_nothing_that_stays_or_is_measured(values, few):
    batch = batch_of(few, {**values, **BF16})
    with Products() as steps:
        batch.train_epoch()
    assert "torch.bfloat16" in steps.dtypes
    with Products() as measuring:
        batch.measure("validation")
    assert measuring.dtypes == {"torch.float32"}
    kept = batch.state(0).items()
    assert {value.dtype for name, value in kept if name.startswith(("model/", "mean/", "square/"))} == {torch.float32}


def test_training_in_bf16_goes_on_from_a_checkpoint_with_the_same_bits_also_in_another_batch(few):
    batch = batch_of(few, BF16)
    batch.train_epoch()
    state = stored(batch.state(1))
    train(batch, 2)
    again = batch_of(few, BF16)
    again.restore(1, state)
    train(again, 2)
    assert same(again.state(1), batch.state(1))


def test_models_of_different_precisions_are_not_trained_in_one_batch(few):
    keys = {compatibility_key(model_setup(training__precision=name).config) for name in ("float32", "tf32", "bf16")}
    assert len(keys) == 3
    with pytest.raises(ValueError, match="another shape"):
        batch_of(few, {}).join(model_setup(0, training__batch_size=32, **BF16))


def factors():
    return torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision


@contextlib.contextmanager
def flags_restored():
    before = factors()
    yield
    torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision = before


def test_tf32_is_on_in_the_steps_only_also_after_one_that_failed(few, monkeypatch):
    with flags_restored():
        torch.backends.cudnn.conv.fp32_precision = "tf32"
        compute_in_float32()
        assert factors() == ("ieee", "ieee")
        batch, seen = batch_of(few, {"training__precision": "tf32"}), set()

        def note(name):
            whole = getattr(batch, name)
            monkeypatch.setattr(batch, name, lambda *args: (seen.add((name, *factors())), whole(*args))[1])

        note("_step")
        note("measure_beside")
        batch.train_epoch()
        assert seen == {("_step", "tf32", "tf32"), ("measure_beside", "ieee", "ieee")}
        monkeypatch.setattr(batch, "_step", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            batch.train_epoch()
        assert factors() == ("ieee", "ieee")
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark


def test_whoever_scores_on_a_device_computes_in_float32_there():
    with flags_restored():
        torch.backends.cudnn.conv.fp32_precision = "tf32"
        detector._device("cpu")
        assert factors() == ("ieee", "ieee")


@pytest.mark.parametrize(
    ("tf32", "bf16", "missing"), [(False, False, "tf32 and bf16"), (True, False, "bf16"), (True, True, "")]
)
def test_what_a_gpu_has_no_units_for_is_told_by_name(tf32, bf16, missing, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_tf32_supported", lambda: tf32)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    assert missing_units({"float32", "tf32", "bf16"}) == missing
    assert not missing_units({"float32"})

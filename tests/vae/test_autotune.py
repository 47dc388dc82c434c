"""How many models a device is given, from what batches of each size cost."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vae_study.config.model import TrialConfig
from vae_study.vae import autotune
from vae_study.vae.autotune import models_per_device
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.stacking import ModelSetup

CONFIG = {"model": {"network": {"hidden": [16]}, "latent_dim": 2}, "training": {"batch_size": 32, "epochs": 1}}
SETUP = ModelSetup(config=TrialConfig.model_validate(CONFIG), seed=0)


class Small(ModelBatch):
    """On a device with memory for five models."""

    def __init__(self, setups, *others, **named):
        if len(setups) > 5:
            raise MemoryError
        super().__init__(setups, *others, **named)


def found(data):
    return models_per_device(SETUP, data, "elbo", "cpu", None)


@settings(max_examples=30)
@given(fixed=st.floats(0, 100), each=st.floats(0.01, 100))
def test_a_batch_is_doubled_as_long_as_that_makes_a_model_a_tenth_cheaper(few, fixed, each):
    with pytest.MonkeyPatch.context() as patch:
        # What is decided is the size; what a size costs is given.
        patch.setattr(autotune, "_epoch_seconds", lambda model_batch: fixed + each * len(model_batch.setups))
        size = found(few)
    costs = [fixed / models + each for models in (1, 2, 4, 8, 16, 32, 64)]
    pays = [after <= 0.9 * before for before, after in itertools.pairwise(costs)]
    assert size == 2 ** ([*pays, False].index(False))


def test_memory_that_does_not_suffice_ends_the_doubling(few, monkeypatch):
    monkeypatch.setattr(autotune, "_epoch_seconds", lambda model_batch: 1.0)
    assert found(few) == 64
    monkeypatch.setattr(autotune, "ModelBatch", Small)
    assert found(few) == 4


@pytest.mark.parametrize("words", ["CUDA error: out of memory", "CUDNN_STATUS_ALLOC_FAILED", "not enough memory"])
def test_memory_that_a_library_of_the_gpu_asks_for_in_vain_ends_it_too(few, monkeypatch, words):
    def seconds(model_batch):
        if len(model_batch.setups) > 2:
            raise RuntimeError(words)
        return 1.0

    monkeypatch.setattr(autotune, "_epoch_seconds", seconds)
    assert found(few) == 2


def test_another_error_is_not_taken_for_full_memory(few, monkeypatch):
    def seconds(model_batch):
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(autotune, "_epoch_seconds", seconds)
    with pytest.raises(RuntimeError, match="device-side assert"):
        found(few)


def test_what_is_tried_leaves_the_model_and_the_data_as_they_were(few):
    rows = {name: split.x_ND.copy() for name, split in few.splits.items()}
    assert found(few) in {1, 2, 4, 8, 16, 32, 64}
    assert SETUP.config == TrialConfig.model_validate(CONFIG)
    assert all((few.splits[name].x_ND == before_ND).all() for name, before_ND in rows.items())

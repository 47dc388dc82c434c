"""A recorded step gives the bits of the same steps kernel by kernel; one that does not is found out and not used.

test_on_a_gpu.py records the step of every configuration.
"""

from dataclasses import replace

import pytest
import torch
from vae_study.vae import model_batch
from vae_study.vae.gpu import captured_step
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.optimizer import StackedAdam

from tests.pretend_gpu import PRETEND, PretendGpu
from tests.vae.builders import first, same, train
from tests.vae.test_on_a_gpu import MODELS, setup

VALUES = {"training__learning_rate_schedule": "cosine", "training__epochs": 6}


@pytest.fixture(scope="module")
def data(digits):
    """Four steps an epoch."""
    counts = {"train": 140, "validation": 40, "test": 40}
    return replace(digits, splits={name: first(split, counts[name]) for name, split in digits.splits.items()})


@pytest.fixture
def recorded(monkeypatch):
    """Has every step on the pretend GPU recorded; gives what counts the recordings."""
    counts = []

    def record(step):
        counts.append(1)
        return PretendGpu.current.record(step)

    monkeypatch.setattr(captured_step, "FEWEST_STEPS", 0)
    monkeypatch.setattr(captured_step, "REFUSED", set())
    # The last draw of an epoch is a shorter one.
    monkeypatch.setattr(model_batch, "STEPS_PER_DRAW", 3)
    monkeypatch.setitem(captured_step.RECORDERS, PRETEND, record)
    return counts


def way(values, data):
    """Two epochs; a model leaves and another joins; then one comes back from its state."""
    batch = ModelBatch([setup(k, values) for k in range(MODELS)], data, device=PRETEND, latent_capacity=8)
    history = train(batch, 2)
    state = batch.state(2)
    batch.leave(0)
    batch.leave(1)
    batch.join(setup(9, {**values, "latent_dim": 5}))
    history += train(batch, 1)
    batch.leave(0)
    batch.leave(0)
    batch.join(setup(2, values), state)
    history += train(batch, 1)
    return history, [batch.state(k) for k in range(len(batch.setups))]


@pytest.fixture(scope="module")
def plain(data):
    """The same without recording."""
    with PretendGpu():
        return way(VALUES, data)


def assert_same(found, expected):
    assert repr(found[0]) == repr(expected[0])
    assert all(same(own, other) for own, other in zip(found[1], expected[1], strict=True))


def test_a_recorded_step_gives_the_same_bits_also_after_models_have_left_joined_and_come_back(data, recorded, plain):
    with PretendGpu():
        assert_same(way(VALUES, data), plain)
    assert len(recorded) == 3
    assert not captured_step.REFUSED


def epochs(values, data):
    with PretendGpu() as gpu:
        batch = ModelBatch([setup(k, values) for k in range(MODELS)], data, device=PRETEND, latent_capacity=8)
        train(batch, 1)
        with gpu.counting("later"):
            train(batch, 1)
    return gpu, batch


def test_a_replayed_step_is_one_launch_beside_what_is_drawn(data, recorded):
    gpu, batch = epochs({}, data)
    assert gpu.launches("later")["a graph"] == batch.steps_per_epoch
    assert gpu.waits("later").total() == 2


def refuse(step):
    raise torch.AcceleratorError("CUDA error: operation not permitted when stream is capturing")


def forget(step):
    """A graph that does nothing."""
    return lambda: None


def repeats_the_first(step):
    """A graph in which the number of the step was baked in."""
    gpu, cell = PretendGpu.current, step.__self__

    def at_zero():
        cell._at.zero_()
        step()

    return gpu.record(at_zero)


@pytest.mark.parametrize("wrong", [refuse, forget, repeats_the_first])
def test_a_graph_that_cannot_be_or_answers_wrongly_gives_one_warning_and_the_numbers_without_it(
    data, recorded, plain, monkeypatch, caplog, wrong
):
    monkeypatch.setitem(captured_step.RECORDERS, PRETEND, wrong)
    with PretendGpu():
        assert_same(way(VALUES, data), plain)
    assert len(caplog.records) == 1
    assert "training without a CUDA graph" in caplog.text


def test_a_step_that_reads_the_counter_of_python_is_found_out(data, recorded, monkeypatch, caplog):
    whole = StackedAdam.step_by

    def by_python(adam, columns_3K1):
        adam.taken = getattr(adam, "taken", -1) + 1
        whole(adam, adam.columns_3SK1[:, adam.taken % adam.columns_3SK1.shape[1]] * (1 + adam.taken))

    monkeypatch.setattr(StackedAdam, "step_by", by_python)
    epochs({}, data)
    assert "its first steps differ" in caplog.text


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), torch.AcceleratorError("CUDA error: device-side assert")]
)
def test_full_memory_and_a_lost_gpu_are_no_reason_to_go_on_without_a_graph(data, recorded, monkeypatch, error):
    def fails(step):
        raise error

    monkeypatch.setitem(captured_step.RECORDERS, PRETEND, fails)
    with pytest.raises(type(error)):
        epochs({}, data)
    assert not captured_step.REFUSED


def test_a_step_that_will_be_taken_a_few_times_is_not_recorded(data, recorded, monkeypatch):
    monkeypatch.setattr(captured_step, "FEWEST_STEPS", 200)
    epochs({}, data)
    assert not recorded

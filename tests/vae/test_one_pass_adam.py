"""Adam in one pass on a GPU: the kernel does what several passes do, moves little memory, and is tried before use.

Triton runs the kernel on the CPU, and compiles it for GPUs that are not there.
"""

import importlib
import re
import sys

import pytest
import torch
from torch import Tensor
from vae_study.vae import optimizer
from vae_study.vae.gpu import captured_step
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.optimizer import BETA_1, BETA_2, step_in_passes

from tests.needs import lacks
from tests.pretend_gpu import PRETEND, PretendGpu
from tests.vae.builders import same, train
from tests.vae.test_on_a_gpu import setup

MODULE = "vae_study.vae.gpu.triton_adam"
# Each model its own, as they are in a study.
OWN = [
    {"learning_rate": 1e-3, "gradient_clip": 0.5},
    {"learning_rate": 1e-2, "weight_decay": 0.1},
    {"learning_rate": 1e-4, "learning_rate_schedule": "cosine"},
]
STEP = {}


def triton_adam(monkeypatch, interpret):
    """The module, for the CPU or for GPUs."""
    monkeypatch.setenv("TRITON_INTERPRET", str(int(interpret)))
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    try:
        return importlib.import_module(MODULE)
    except ModuleNotFoundError:
        lacks("triton")


# As an operator of torch, the pretend GPU counts and repeats it.
@torch.library.custom_op("tests::one_pass", mutates_args=("parameters", "mean", "square"), device_types="cpu")
def one_pass(
    parameters: Tensor, gradient: Tensor, mean: Tensor, square: Tensor, columns: Tensor, scale: Tensor | None
) -> None:
    STEP["interpreted"]((parameters, gradient, mean, square), columns, scale, betas=(BETA_1, BETA_2))


@pytest.fixture
def kernel(monkeypatch):
    """Has the CPU and the pretend GPU move parameters by the kernel."""
    monkeypatch.setitem(STEP, "interpreted", triton_adam(monkeypatch, interpret=True).step)
    for device in ("cpu", PRETEND):
        monkeypatch.setitem(optimizer.KERNELS, device, lambda: lambda buffers, *others: one_pass(*buffers, *others))
    optimizer.one_pass.cache_clear()
    yield
    optimizer.one_pass.cache_clear()


def batch_of(data, device="cpu", own=OWN):
    setups = [setup(k, {f"training__{name}": value for name, value in one.items()}) for k, one in enumerate(own)]
    batch = ModelBatch(setups, data, device=device, latent_capacity=8)
    batch.adam.is_fused = False
    return batch


def way(batch):
    """Two epochs; then a model leaves, and one joins that begins."""
    train(batch, 2)
    batch.leave(1)
    batch.join(setup(4, {"training__weight_decay": 0.01}))
    train(batch, 1)
    return [batch.state(k) for k in range(len(batch.setups))]


def test_models_of_any_rate_decay_clip_and_age_are_moved_as_by_several_passes(few, kernel):
    batch = batch_of(few)
    assert batch.adam.one_pass
    found = way(batch)
    batch = batch_of(few)
    batch.adam.one_pass = None
    expected = way(batch)
    for ours, theirs in zip(found, expected, strict=True):
        for name, value in theirs.items():
            if name.startswith(("model/", "mean/", "square/")):
                assert torch.allclose(ours[name], value, rtol=1e-3, atol=1e-6), name


# More of both where gradients are clipped and weights decay.
@pytest.mark.parametrize(("own", "several", "one"), [(OWN[2:], 16, 7), (OWN, 21, 8)], ids=["plain", "all"])
def test_a_step_reads_and_writes_each_number_seven_times_in_place_of_sixteen(few, kernel, own, several, one):
    def passes(is_one):
        with PretendGpu() as gpu:
            batch = batch_of(few, PRETEND, own)
            if not is_one:
                batch.adam.one_pass = None
            gpu.count_calls("adam", batch.adam, "step_by")
            batch.train_epoch()
        return gpu.traffic("adam") / batch.steps_per_epoch / batch.adam.parameters_KP.numel()

    assert passes(True) == pytest.approx(one, rel=0.01)
    assert passes(False) == pytest.approx(several, rel=0.01)


def test_in_a_recorded_step_it_gives_the_same_bits(few, kernel, monkeypatch):
    monkeypatch.setattr(captured_step, "FEWEST_STEPS", 0)
    monkeypatch.setattr(captured_step, "REFUSED", set())
    with PretendGpu():
        expected = way(batch_of(few, PRETEND))
    monkeypatch.setitem(captured_step.RECORDERS, PRETEND, lambda step: PretendGpu.current.record(step))
    with PretendGpu() as gpu, gpu.counting("all"):
        found = way(batch_of(few, PRETEND))
    assert gpu.launches("all")["a graph"]
    assert gpu.launches("all")["one_pass"]
    assert not captured_step.REFUSED
    assert all(same(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


class NoGpu:
    """What Triton asks a driver for before it compiles."""

    get_current_device = get_current_stream = staticmethod(lambda *device: 0)

    def __init__(self, compute_capability):
        from triton.backends.compiler import GPUTarget

        self.get_current_target = lambda: GPUTarget("cuda", compute_capability, 32)


class OnlyCompiled:
    """A kernel that is compiled where it would be launched."""

    def __init__(self, kernel):
        self.kernel, self.found = kernel, []

    def __getitem__(self, grid):
        return lambda *args, **constants: self.found.append(self.kernel.warmup(*args, grid=grid, **constants))


@pytest.mark.parametrize("compute_capability", [80, 90])
def test_compiled_for_a_gpu_it_loads_four_buffers_and_stores_three_once_in_the_widest_words(
    monkeypatch, compute_capability
):
    adam = triton_adam(monkeypatch, interpret=False)
    from triton.runtime.driver import driver

    compiled = OnlyCompiled(adam.kernel)
    monkeypatch.setattr(adam, "kernel", compiled)
    monkeypatch.setattr(driver, "_active", NoGpu(compute_capability))
    buffers = tuple(torch.zeros(4, 3, 64))
    # The columns of an epoch's steps lie at any places.
    for columns in [*torch.zeros(3, 5, 3, 1).unbind(1), torch.zeros(3, 3, 1)]:
        adam.step(buffers, columns, None, betas=(BETA_1, BETA_2))
    assert len({id(one) for one in compiled.found}) == 1
    words = re.findall(r"(ld|st)\.global\.v4", compiled.found[0].asm["ptx"])
    numbers = {kind: 4 * 32 * 4 * words.count(kind) / adam.BLOCK for kind in ("ld", "st")}
    assert numbers == {"ld": 4, "st": 3}
    assert compiled.found[0].asm["cubin"]


def of_twice_the_rate(buffers, columns, scale):
    step_in_passes(buffers, columns / 2, scale)


def with_the_rate_of_the_first(buffers, columns, scale):
    step_in_passes(buffers, columns[:, :1].expand_as(columns), scale)


def unclipped(buffers, columns, scale):
    step_in_passes(buffers, columns, None)


def without_a_compiler(buffers, columns, scale):
    raise FileNotFoundError("gcc")


@pytest.mark.parametrize("wrong", [of_twice_the_rate, with_the_rate_of_the_first, unclipped, without_a_compiler])
def test_a_kernel_that_answers_wrongly_or_not_at_all_gives_one_warning_and_is_not_used(few, monkeypatch, caplog, wrong):
    monkeypatch.setitem(optimizer.KERNELS, "cpu", lambda: wrong)
    optimizer.one_pass.cache_clear()
    assert [batch_of(few).adam.one_pass for _ in range(2)] == [None, None]
    optimizer.one_pass.cache_clear()
    [record] = caplog.records
    assert "Adam takes several passes over memory in place of one" in record.getMessage()


def test_where_triton_is_missing_adam_takes_several_passes(monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    monkeypatch.delattr(MODULE, raising=False)
    monkeypatch.setitem(optimizer.KERNELS, "cpu", optimizer.KERNELS["cuda"])
    optimizer.one_pass.cache_clear()
    assert optimizer.one_pass("cpu") is None
    optimizer.one_pass.cache_clear()
    assert "triton" in caplog.text


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), torch.AcceleratorError("CUDA error")])
def test_full_memory_and_a_lost_gpu_are_no_reason_for_several_passes(monkeypatch, error):
    def fails(*arguments):
        raise error

    monkeypatch.setitem(optimizer.KERNELS, "cpu", lambda: fails)
    optimizer.one_pass.cache_clear()
    with pytest.raises(type(error)):
        optimizer.one_pass("cpu")

"""Does the pretend GPU catch what it is there to catch?"""

import copy

import numpy as np
import pytest
import torch

from tests.pretend_gpu import PRETEND, PretendGpu, PretendGpuError

FORBIDDEN = {
    "two devices": lambda x: x + torch.ones(8),
    "an output on the host": lambda x: torch.add(x, x, out=torch.empty(4, 8)),
    "the host's generator": lambda x: torch.randn(3, device=PRETEND, generator=torch.Generator()),
    "its generator for the host": lambda x: torch.randn(3, generator=torch.Generator(PRETEND)),
    "a kernel that only the CPU has": lambda x: torch.ops.mkldnn._linear_pointwise(x, x[:3], None, "none", [], ""),
}
WAITING = {
    "a number": lambda x: x.sum().item(),
    "a truth": lambda x: bool(x.any()),
    "a list": lambda x: x.tolist(),
    "a copy to the host": lambda x: x.cpu(),
    "a copy from the host": lambda x: x.copy_(torch.ones(4, 8)),
    "numbers of Python": lambda x: x.new_tensor([1.0, 2.0]),
    "a tensor of Python's numbers": lambda x: torch.as_tensor(np.ones(3), device=PRETEND),
    "where not zero": lambda x: torch.nonzero(x),
    "a mask": lambda x: x[x > 0],
    "a mask to write at": lambda x: x.__setitem__(x > 0, 0.0),
    "an index of the host": lambda x: x[torch.tensor([0, 1])],
    "an index of Python": lambda x: x[[0, 1]],
}
FREE = {
    "a number of the host": lambda x: x + torch.ones(()),
    "its own generator": lambda x: torch.randn(3, device=PRETEND, generator=torch.Generator(PRETEND)),
    "an index of its own": lambda x: x[torch.arange(2, device=PRETEND)],
    "a view": lambda x: x.T[1:3, None],
    "a copy within": lambda x: x.copy_(x + 1),
}


def run(what):
    with PretendGpu() as gpu:
        x = torch.ones(4, 8, device=PRETEND)
        with gpu.counting("it"):
            what(x)
    return gpu


@pytest.mark.parametrize("what", FORBIDDEN.values(), ids=FORBIDDEN)
def test_what_cuda_refuses_raises(what):
    with pytest.raises(PretendGpuError):
        run(what)


@pytest.mark.parametrize("what", [lambda x: x.numpy(), lambda x: np.asarray(x)], ids=["numpy", "asarray"])
def test_numbers_on_the_device_are_no_array(what):
    with pytest.raises((TypeError, RuntimeError)):
        run(what)


@pytest.mark.parametrize("what", WAITING.values(), ids=WAITING)
def test_where_the_host_waits_is_counted_with_its_place(what):
    [(place, count)] = run(what).waits("it").items()
    assert count == 1
    assert place.endswith("outside of the package")


@pytest.mark.parametrize("what", FREE.values(), ids=FREE)
def test_what_the_device_does_alone_is_no_wait(what):
    assert not run(what).waits("it")


def test_each_kernel_is_counted_and_views_are_none():
    assert run(lambda x: (x @ x.T).relu().sum(dim=1)[1:]).launches("it") == {"mm": 1, "relu": 1, "sum": 1}
    assert run(lambda x: torch._foreach_add([x, x, x], 1.0)).launches("it").total() == 3


def test_the_numbers_that_kernels_read_and_write_are_counted():
    x = 4 * 8
    assert run(lambda x: x.mul_(2)).traffic("it") == 2 * x
    assert run(lambda x: x + 1).traffic("it") == 2 * x
    assert run(lambda x: torch.outer(x[0], x[0])).traffic("it") == 8 + 8 + 8 * 8
    assert run(lambda x: x.T).traffic("it") == 0


def gradient(device):
    x = torch.linspace(-1, 1, 32, device=device).view(4, 8)
    w = torch.nn.Parameter(torch.linspace(0, 1, 24, device=device).view(8, 3))
    [found] = torch.autograd.grad((x @ w).tanh().square().sum(), [w])
    return found


def test_numbers_and_gradients_are_those_of_the_cpu():
    with PretendGpu():
        found = gradient(PRETEND)
        assert found.device.type == PRETEND
        found = found.cpu()
    assert torch.equal(found, gradient("cpu"))


def test_draws_are_those_of_the_cpu_with_the_same_seed():
    with PretendGpu():
        drawn = torch.randn(5, device=PRETEND, generator=torch.Generator(PRETEND).manual_seed(3)).cpu()
    assert torch.equal(drawn, torch.randn(5, generator=torch.Generator().manual_seed(3)))


def test_a_graph_repeats_kernels_on_the_same_memory_with_the_numbers_that_python_had():
    with PretendGpu() as gpu:
        x, total, factor = torch.ones(3, device=PRETEND), torch.zeros(3, device=PRETEND), 2.0

        def step():
            total.add_((x * factor).view(3))

        replay = gpu.record(step)
        x.copy_(torch.tensor([1.0, 10.0, 100.0]))
        factor = 7.0
        with gpu.counting("it"):
            replay()
            replay()
        assert total.tolist() == [6.0, 42.0, 402.0]
    assert gpu.launches("it") == {"a graph": 2}


@pytest.mark.parametrize("what", [*WAITING.values(), FREE["its own generator"]], ids=[*WAITING, "a draw"])
def test_while_a_graph_is_recorded_the_host_may_neither_wait_nor_draw(what):
    with PretendGpu() as gpu:
        x = torch.ones(4, 8, device=PRETEND)
        with pytest.raises(PretendGpuError, match="while a graph is recorded"):
            gpu.record(lambda: what(x))


def test_a_module_moves_there_and_can_be_copied():
    with PretendGpu():
        layer = torch.nn.Linear(2, 2).to(PRETEND)
        assert copy.deepcopy(layer).weight.device.type == PRETEND
        assert isinstance(copy.deepcopy(layer).weight, torch.nn.Parameter)


def test_afterwards_torch_is_as_before():
    generator, enter = torch.Generator, torch.inference_mode.__enter__
    run(lambda x: x)
    assert (torch.Generator, torch.inference_mode.__enter__) == (generator, enter)
    with torch.inference_mode():
        assert torch.is_inference_mode_enabled()

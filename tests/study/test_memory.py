"""Workers that share a GPU: each has its share of the memory, and one that wants more is out of memory by itself."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from vae_study.study.session import _times
from vae_study.study.worker import CONTEXT_BYTES, memory_share

GIB = 2**30


@given(st.integers(1, 9999), st.integers(2, 200))
def test_all_workers_that_fit_on_a_gpu_stay_within_it_together_with_what_cuda_takes_for_each(ten_thousandths, gib):
    gpu, device_bytes = ten_thousandths / 1e4, gib * GIB
    share = memory_share(gpu, device_bytes)
    assert 0 < share < gpu
    if gpu * device_bytes >= 2 * CONTEXT_BYTES:
        together = _times(1, gpu) * (share * device_bytes + CONTEXT_BYTES)
        assert together <= device_bytes * (1 + 1e-9)


def test_a_whole_gpu_is_not_capped():
    assert memory_share(1, 24 * GIB) == 1


@pytest.mark.parametrize(("whole", "part", "times"), [(1, 0.1, 10), (4, 0.2, 20), (1, 0.3333, 3), (8, 3, 2), (0, 1, 0)])
def test_parts_of_a_gpu_are_counted_as_ray_does(whole, part, times):
    assert _times(whole, part) == times


# In a process of its own, since a cap is the process's for good.
PROGRAM = """
import torch

from vae_study.config.study import ResourcesConfig
from vae_study.study.worker import cap_memory
from vae_study.vae.device import is_out_of_memory

cap_memory(ResourcesConfig(gpu=0.25), is_exclusive={is_exclusive})
total = torch.cuda.get_device_properties(0).total_memory
try:
    held = torch.empty(int({share} * total), dtype=torch.uint8, device="cuda")
    print("held")
except Exception as error:
    print("out of memory" if is_out_of_memory(error) else repr(error))
"""


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU with half its memory free")
@pytest.mark.parametrize(
    ("share", "is_exclusive", "outcome"), [(0.2, False, "held"), (0.26, False, "out of memory"), (0.4, True, "held")]
)
def test_what_goes_beyond_a_workers_share_is_out_of_memory_and_alone_it_has_the_whole_gpu(share, is_exclusive, outcome):
    program = PROGRAM.format(share=share, is_exclusive=is_exclusive)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == outcome

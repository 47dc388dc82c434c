"""What the errors of a GPU mean: full memory, a GPU that is lost to the process, or an error like any other."""

import pytest
import torch
from vae_study.vae.device import device_name, is_gpu_lost, is_out_of_memory

FULL = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    torch.AcceleratorError("CUDA error: out of memory\nCompile with `TORCH_USE_CUDA_DSA`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
]
LOST = [
    torch.AcceleratorError("CUDA error: device-side assert triggered"),
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
]
ORDINARY = [
    ValueError("out of memory"),
    RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"),
    KeyError("CUDA error"),
]


@pytest.mark.parametrize("error", FULL, ids=str)
def test_every_error_of_an_allocation_says_that_memory_is_full_and_leaves_the_gpu_usable(error):
    assert is_out_of_memory(error)
    assert not is_gpu_lost(error)


@pytest.mark.parametrize("error", LOST, ids=str)
def test_any_other_error_of_cuda_may_have_cost_the_process_its_gpu(error):
    assert is_gpu_lost(error)
    assert not is_out_of_memory(error)


@pytest.mark.parametrize("error", ORDINARY, ids=repr)
def test_an_error_of_the_program_is_neither(error):
    assert not is_gpu_lost(error)
    assert not is_out_of_memory(error)


def test_a_cpu_is_named_by_what_it_is():
    assert device_name("cpu").startswith("cpu, ")

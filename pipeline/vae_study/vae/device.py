"""The device that models are trained on: what torch sees of it, what it is called, and what its errors mean."""

import platform
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

# What says that memory is full: the host's, for which PyTorch has no class; a GPU's, by CUDA itself; and a GPU's, by
# CUDA's libraries (cuBLAS, cuSOLVER, cuDNN), which allocate beside PyTorch.
MEMORY_IS_FULL = (
    *("can't allocate memory", "not enough memory", "out of memory"),
    *("ALLOC_FAILED", "DEVICE_ALLOCATION_FAILED", "HOST_ALLOCATION_FAILED"),
)
# How the errors of CUDA, of its libraries and of Triton on it begin.
OF_CUDA = ("CUDA error", "cuDNN error", "CUDNN_STATUS", "CUDA driver error", "Triton Error")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a GPU's or the host's memory is full."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in MEMORY_IS_FULL)


def is_gpu_lost(error: BaseException) -> bool:
    """Whether a GPU may refuse all further work of this process: after most of CUDA's errors, only a new one helps."""
    # What cannot be recorded as a CUDA graph is refused, and all else goes on.
    if is_out_of_memory(error) or "captur" in str(error):
        return False
    return isinstance(error, torch.AcceleratorError) or (
        isinstance(error, RuntimeError) and str(error).startswith(OF_CUDA)
    )


def device_name(device: str) -> str:
    """A device for a reader, such as "cpu, x86_64" or "cuda, NVIDIA L4"."""
    name = torch.cuda.get_device_name(0) if device == "cuda" else platform.machine()
    return f"{device}, {name}" if name else device


def compute_in_float32() -> None:
    """Have a GPU multiply, convolve and add in float32, as a CPU does, and by the same kernels each time.

    By itself cuDNN would round factors to TF32, and cuBLAS might round the sums of bfloat16's products to bfloat16.
    """
    _round_factors("ieee")
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False


def _round_factors(to: str) -> None:
    torch.backends.cuda.matmul.fp32_precision = to
    torch.backends.cudnn.conv.fp32_precision = to  # type: ignore[attr-defined]


@contextmanager
def training_in(precision: str) -> Iterator[None]:
    """Within, a GPU's products of float32 have their factors rounded to TF32 if that is the precision."""
    if precision != "tf32":
        yield
        return
    _round_factors("tf32")
    try:
        yield
    finally:
        _round_factors("ieee")


def missing_units(precisions: Collection[str]) -> str:
    """Which of these precisions the GPU of this process has no units for; empty if it has them all."""
    has_units: dict[str, Callable[[], bool]] = {
        "tf32": torch.cuda.is_tf32_supported,
        "bf16": partial(torch.cuda.is_bf16_supported, including_emulation=False),
    }
    return " and ".join(name for name, has in has_units.items() if name in precisions and not has())


def on_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors of one dtype on the host, from a GPU in a single copy: each one makes the host wait for the GPU.

    Those that are there already are returned as they are.
    """
    if all(one.device.type == "cpu" for one in tensors):
        return list(tensors)
    return _parts(torch.cat([one.reshape(-1) for one in tensors]).cpu(), tensors)


def copy_from_host(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy tensors of the host into those of one dtype and shape on any one device; to a GPU in a single copy."""
    if targets[0].device.type != "cpu":
        flat = torch.cat([one.reshape(-1) for one in sources]).to(targets[0].device)
        sources = _parts(flat, targets)
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)


def _parts(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    parts = torch.split(flat, [one.numel() for one in like])
    return [part.view(one.shape) for part, one in zip(parts, like, strict=True)]


def what_torch_sees() -> str:
    """Such as "torch 2.13.0+cpu, which is built without CUDA" or "torch 2.13.0 for CUDA 13.0, with 1 GPU"."""
    build = torch.version.cuda or getattr(torch.version, "hip", None)
    if build is None:
        return f"torch {torch.__version__}, which is built without CUDA"
    count = torch.cuda.device_count()
    return f"torch {torch.__version__} for CUDA {build}, with {count or 'no'} GPU{'s' * (count > 1)}"

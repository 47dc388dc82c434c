"""How much of a GPU's memory a worker may take: workers that share one must not take each other's."""

import torch

from pipeline.spec.schema import ResourcesSpec

# What CUDA itself takes for each process, beside what PyTorch counts: some hundred megabytes.
CONTEXT_BYTES = 512 * 2**20


def memory_share(gpu: float, device_bytes: int) -> float:
    """The share of a device's memory that tensors may take in a worker that occupies so much of the device.

    So many workers as fit beside each other stay within the device together, CUDA's own memory included, where each
    has twice of what that takes.

    Args:
        gpu: What the worker occupies; 1 and more are whole devices.
        device_bytes: The device's memory.
    """
    return 1.0 if gpu >= 1 else max(gpu - CONTEXT_BYTES / device_bytes, gpu / 2)


def cap_memory(resources: ResourcesSpec, is_alone: bool) -> None:
    """Have PyTorch refuse what goes beyond a worker's share: the trial is out of memory then, and no other one.

    torch.cuda.set_per_process_memory_fraction; without a GPU, or with a whole one, there is nothing to do.
    """
    if 0 < resources.gpu < 1 and not is_alone and torch.cuda.is_available():
        device_bytes = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(memory_share(resources.gpu, device_bytes), 0)

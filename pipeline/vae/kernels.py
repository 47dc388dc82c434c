"""Products of linear layers on a CPU by oneDNN's kernels, where those are the faster ones."""

import torch
from torch import Tensor

# Multiply-adds of a member's product from which oneDNN's kernels, which cost more to call, beat those of torch.bmm: up
# to twice as fast where MKL leaves AVX-512 unused, as on AMD's CPUs.
WIDE_PRODUCT = 2**21
# Where nothing is trained the kernel must not depend on the rows at hand: a row's last digit would depend on how many
# come with it.
ROWS_OF_ANY = 128
onednn = torch.ops.mkldnn._linear_pointwise


def has_onednn(values: Tensor) -> bool:
    """Whether oneDNN takes such values."""
    return values.device.type == "cpu" and values.dtype == torch.float32 and torch._C._has_mkldnn


def is_wide(weight_KIO: Tensor, rows: int) -> bool:
    """Whether a member's product with so many rows is one for oneDNN."""
    return has_onednn(weight_KIO) and weight_KIO[0].numel() * rows >= WIDE_PRODUCT


def wide_linear(x_KBI: Tensor, weight_KIO: Tensor, bias_K1O: Tensor | None, then: str = "none") -> Tensor:
    """Map (K, B, I) to (K, B, O), without a way back for gradients; `then` is "none" or "relu"."""
    biases = [None] * len(weight_KIO) if bias_K1O is None else list(bias_K1O[:, 0])
    rows = zip(torch.split(x_KBI, 1), weight_KIO, biases, strict=True)
    parts_1BO = [onednn(x_1BI, weight_IO.T, bias_O, then, [], "") for x_1BI, weight_IO, bias_O in rows]
    return parts_1BO[0] if len(parts_1BO) == 1 else torch.cat(parts_1BO)

"""Products of wide linear layers on a CPU, by oneDNN's kernels."""

import torch
from torch import Tensor

# Multiply-adds of a member's product from which oneDNN's kernels, which cost more to call, beat those of torch.bmm: up
# to twice as fast where MKL leaves AVX-512 unused, as on AMD's CPUs.
WIDE_PRODUCT = 2**21
# Where nothing is trained the kernel must not depend on the rows at hand: a row's last digit would depend on how many
# come with it.
ROWS_OF_ANY = 128
onednn = torch.ops.mkldnn._linear_pointwise


def is_wide(weight_KIO: Tensor, rows: int) -> bool:
    """Whether a member's product with so many rows is one for oneDNN."""
    is_known = weight_KIO.device.type == "cpu" and weight_KIO.dtype == torch.float32 and torch._C._has_mkldnn
    return is_known and weight_KIO[0].numel() * rows >= WIDE_PRODUCT


def wide_linear(x_KBI: Tensor, weight_KIO: Tensor, bias_K1O: Tensor | None) -> Tensor:
    """Map (K, B, I) to (K, B, O), without a way back for gradients."""
    out_KBO = x_KBI.new_empty(*x_KBI.shape[:2], weight_KIO.shape[2])
    for k in range(len(weight_KIO)):
        bias_O = None if bias_K1O is None else bias_K1O[k, 0]
        out_KBO[k] = onednn(x_KBI[k], weight_KIO[k].T, bias_O, "none", [], "")
    return out_KBO

"""Fast kernels that torch has but does not document. No other module uses undocumented parts of torch.

Each kernel is looked up once and is None if this version of torch lacks it; the comment beside it says what is used
instead. tests/vae/test_kernels.py tests what is lost without each kernel.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def _private(path: str) -> Any:
    """The function that torch has at this path, or None if this version of torch has none."""
    try:
        return reduce(getattr, path.split("."), torch)
    except (AttributeError, RuntimeError):
        return None


aten = torch.ops.aten
_has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
# Without it: torch.baddbmm.
LINEAR_POINTWISE: Any = _private("ops.mkldnn._linear_pointwise") if _has_onednn else None
# Without it: Adam over all rows at once, in several passes.
FUSED_ADAMW = _private("_fused_adamw_")
# Without it: one copy for each tensor.
FOREACH_COPY = _private("_foreach_copy_")
# Without it: a temporary tensor.
SOFTPLUS_OUT = _private("ops.aten.softplus.out")

# From this many multiply-adds in one model's product, oneDNN is faster than torch.bmm despite its higher call cost:
# up to twice as fast where MKL does not use AVX-512, as on AMD CPUs.
WIDE_PRODUCT = 2**21
# At inference the choice of kernel must not depend on the number of rows: otherwise the last digit of a row's result
# would depend on how many rows are scored with it.
ROWS_OF_ANY = 128
# A CPU rounds the remainder after the last full SIMD vector differently. In whole blocks of rows, a model's results do
# not depend on how many other models are measured with it.
ROWS_PER_BLOCK = 32


def has_onednn(values: Tensor) -> bool:
    """Whether oneDNN can compute with such values: float32 on a CPU, where torch comes with oneDNN."""
    is_supported = values.device.type == "cpu" and values.dtype == torch.float32
    return is_supported and LINEAR_POINTWISE is not None


def is_wide(weight_KIO: Tensor, rows: int) -> bool:
    """Whether to compute one model's product with this many rows by oneDNN."""
    return has_onednn(weight_KIO) and weight_KIO[0].numel() * rows >= WIDE_PRODUCT


def onednn(x: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None, activation: str = "none") -> Tensor:
    """Map (..., I) to (..., O) by oneDNN, with the activation ("none" or "relu") in the product; no gradients."""
    mapped: Tensor = LINEAR_POINTWISE(x, weight_OI, bias_O, activation, [], "")
    return mapped


def wide_linear(x_KBI: Tensor, weight_KIO: Tensor, bias_K1O: Tensor | None, activation: str = "none") -> Tensor:
    """Map (K, B, I) to (K, B, O) by oneDNN, model by model."""
    biases = [None] * len(weight_KIO) if bias_K1O is None else list(bias_K1O[:, 0])
    rows = zip(torch.split(x_KBI, 1), weight_KIO, biases, strict=True)
    parts_1BO = [onednn(x_1BI, weight_IO.T, bias_O, activation) for x_1BI, weight_IO, bias_O in rows]
    return parts_1BO[0] if len(parts_1BO) == 1 else torch.cat(parts_1BO)


def copy_all(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy each source into its target."""
    if FOREACH_COPY is not None:
        FOREACH_COPY(targets, sources)
        return
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)


def softplus(x: Tensor, threshold: float, out: Tensor) -> Tensor:
    """Write log(1 + exp(x)), or x where it is above the threshold, to `out`."""
    if SOFTPLUS_OUT is None:
        return out.copy_(functional.softplus(x, threshold=threshold))
    SOFTPLUS_OUT(x, 1, threshold, out=out)
    return out


@dataclass(frozen=True, kw_only=True)
class Derivative:
    """An activation and its derivative for training without autograd.

    Attributes:
        needs: The kernels of torch.ops.aten that it takes.
        forward: Writes f(x) into its second argument, which may be x itself if the derivative is one of the output.
        backward: Multiplies a gradient, its first argument, by f' in place, given the output or the input.
        by_output: Whether `backward` takes the output, so that the input need not be kept.
    """

    needs: tuple[str, ...]
    forward: Callable[[Tensor, Tensor], object]
    backward: Callable[[Tensor, Tensor], object]
    by_output: bool


_KNOWN = {
    "relu": Derivative(
        needs=("threshold_backward.grad_input",),
        forward=lambda x, out: torch.relu_(x),
        backward=lambda gradient, y: aten.threshold_backward.grad_input(gradient, y, 0, grad_input=gradient),
        by_output=True,
    ),
    "elu": Derivative(
        needs=("elu_backward.grad_input",),
        forward=lambda x, out: functional.elu(x, inplace=True),
        backward=lambda gradient, y: aten.elu_backward.grad_input(gradient, 1, 1, 1, True, y, grad_input=gradient),
        by_output=True,
    ),
    "tanh": Derivative(
        needs=("tanh_backward.grad_input",),
        forward=lambda x, out: torch.tanh_(x),
        backward=lambda gradient, y: aten.tanh_backward.grad_input(gradient, y, grad_input=gradient),
        by_output=True,
    ),
    "gelu": Derivative(
        needs=("gelu.out", "gelu_backward.grad_input"),
        forward=lambda x, out: aten.gelu.out(x, out=out),
        backward=lambda gradient, x: aten.gelu_backward.grad_input(gradient, x, grad_input=gradient),
        by_output=False,
    ),
    "silu": Derivative(
        needs=("silu.out", "silu_backward.grad_input"),
        forward=lambda x, out: aten.silu.out(x, out=out),
        backward=lambda gradient, x: aten.silu_backward.grad_input(gradient, x, grad_input=gradient),
        by_output=False,
    ),
}
# By the name of the activation. A model with another one is trained by autograd, which costs time and nothing else.
DERIVATIVES: Mapping[str, Derivative] = {
    name: known for name, known in _KNOWN.items() if all(_private(f"ops.aten.{kernel}") for kernel in known.needs)
}

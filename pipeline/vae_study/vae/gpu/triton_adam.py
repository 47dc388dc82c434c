"""Adam over stacked models in one pass: a kernel in Triton, which comes with torch for CUDA on Linux.

This module is imported only where the kernel is used: elsewhere there is no Triton.
"""

import triton
import triton.language as tl
from torch import Tensor

# Numbers of one model that one program moves: with four warps, two loads of 16 bytes by each thread.
BLOCK = 1024


def _adam(
    parameters_KP: tl.tensor,
    gradient_KP: tl.tensor,
    mean_KP: tl.tensor,
    square_KP: tl.tensor,
    columns_3K: tl.tensor,
    row_of_columns: tl.tensor,
    scale_K: tl.tensor,
    width: tl.tensor,
    beta_1: tl.constexpr,
    beta_2: tl.constexpr,
    clips: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Move a block of one model's parameters; all but the constants are pointers and sizes."""
    model = tl.program_id(1)
    column = tl.program_id(0) * block + tl.arange(0, block)
    is_inside = column < width
    at = model.to(tl.int64) * width + column
    gradient = tl.load(gradient_KP + at, mask=is_inside)
    if clips:
        gradient = gradient * tl.load(scale_K + model)
    mean = tl.load(mean_KP + at, mask=is_inside)
    mean = mean + (gradient - mean) * (1 - beta_1)
    square = tl.load(square_KP + at, mask=is_inside)
    square = square * beta_2 + gradient * gradient * (1 - beta_2)
    per_stride = tl.load(columns_3K + model)
    epsilon = tl.load(columns_3K + row_of_columns + model)
    shrink = tl.load(columns_3K + 2 * row_of_columns + model)
    stride = tl.div_rn(mean, epsilon + tl.sqrt_rn(square) * per_stride)
    parameters = tl.load(parameters_KP + at, mask=is_inside) * shrink + stride
    tl.store(mean_KP + at, mean, mask=is_inside)
    tl.store(square_KP + at, square, mask=is_inside)
    tl.store(parameters_KP + at, parameters, mask=is_inside)


# One kernel, whatever step and number of models: none is compiled while a graph is recorded.
kernel = triton.jit(_adam, do_not_specialize=["columns_3K", "row_of_columns"])


def step(
    buffers: tuple[Tensor, Tensor, Tensor, Tensor],
    columns_3K1: Tensor,
    scale_K1: Tensor | None,
    betas: tuple[float, float],
) -> None:
    """As `optimizer.step_in_passes`, on buffers of float32; the gradient stays as it is."""
    models, width = buffers[0].shape
    grid = (triton.cdiv(width, BLOCK), models)
    # Where there is no scale, the pointer is not read.
    scale = buffers[0] if scale_K1 is None else scale_K1
    constants = {"beta_1": betas[0], "beta_2": betas[1], "clips": scale_K1 is not None, "block": BLOCK}
    kernel[grid](*buffers, columns_3K1, columns_3K1.stride(0), scale, width, **constants)

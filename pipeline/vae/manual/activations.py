"""The activations of `networks.ACTIVATIONS` and their derivatives, in place where the derivative allows it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

aten = torch.ops.aten


@dataclass(frozen=True, kw_only=True)
class Activation:
    """An elementwise function.

    Attributes:
        forward: Writes f(x) into its second argument, which may be x itself if the derivative is one of the output.
        backward: Multiplies a gradient, its first argument, by f' in place, given the output or the input.
        by_output: Whether `backward` takes the output, so that the input need not be kept.
    """

    forward: Callable[[Tensor, Tensor], object]
    backward: Callable[[Tensor, Tensor], object]
    by_output: bool


ACTIVATIONS: Mapping[str, Activation] = {
    "relu": Activation(
        forward=lambda x, out: torch.relu_(x),
        backward=lambda gradient, y: aten.threshold_backward.grad_input(gradient, y, 0, grad_input=gradient),
        by_output=True,
    ),
    "elu": Activation(
        forward=lambda x, out: functional.elu(x, inplace=True),
        backward=lambda gradient, y: aten.elu_backward.grad_input(gradient, 1, 1, 1, True, y, grad_input=gradient),
        by_output=True,
    ),
    "tanh": Activation(
        forward=lambda x, out: torch.tanh_(x),
        backward=lambda gradient, y: aten.tanh_backward.grad_input(gradient, y, grad_input=gradient),
        by_output=True,
    ),
    "gelu": Activation(
        forward=lambda x, out: aten.gelu.out(x, out=out),
        backward=lambda gradient, x: aten.gelu_backward.grad_input(gradient, x, grad_input=gradient),
        by_output=False,
    ),
    "silu": Activation(
        forward=lambda x, out: aten.silu.out(x, out=out),
        backward=lambda gradient, x: aten.silu_backward.grad_input(gradient, x, grad_input=gradient),
        by_output=False,
    ),
}

"""Layers whose parameters carry a leading dimension of members, so that one matrix product trains them all."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": functional.relu,
    "elu": functional.elu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "tanh": torch.tanh,
}


class StackedLinear(nn.Module):
    """K linear layers side by side; member k maps inputs_K[k] values to outputs_K[k], padded to the largest with zeros.

    Padding is exact: a padded weight is 0 and, as long as nothing downstream of a padded output reaches the loss, its
    gradient is 0 too. Each member's initial weights come from its own generator alone, as torch.nn.Linear draws them
    (uniform within 1 / sqrt(inputs)).
    """

    def __init__(self, inputs_K: Sequence[int], outputs_K: Sequence[int], generators_K: Sequence[torch.Generator]):
        super().__init__()
        members = len(generators_K)
        weight_KIO = torch.zeros(members, max(inputs_K), max(outputs_K))
        bias_K1O = torch.zeros(members, 1, max(outputs_K))
        for k, (inputs, outputs, generator) in enumerate(zip(inputs_K, outputs_K, generators_K, strict=True)):
            bound = 1 / math.sqrt(inputs)
            weight_KIO[k, :inputs, :outputs].uniform_(-bound, bound, generator=generator)
            bias_K1O[k, 0, :outputs].uniform_(-bound, bound, generator=generator)
        self.weight_KIO = nn.Parameter(weight_KIO)
        self.bias_K1O = nn.Parameter(bias_K1O)

    def forward(self, x_KBI: Tensor) -> Tensor:
        """Map (K, B, I) to (K, B, O)."""
        return torch.baddbmm(self.bias_K1O, x_KBI, self.weight_KIO)


class StackedMLP(nn.Module):
    """K multilayer perceptrons: linear layers with the activation after each one but, where asked, the last."""

    def __init__(
        self,
        widths: Sequence[Sequence[int]],
        activation: str,
        generators_K: Sequence[torch.Generator],
        activate_last: bool = False,
    ):
        """Args: widths: for each layer boundary, the K members' widths."""
        super().__init__()
        pairs = itertools.pairwise(widths)
        self.layers = nn.ModuleList(StackedLinear(inputs, outputs, generators_K) for inputs, outputs in pairs)
        self.activation = ACTIVATIONS[activation]
        self.activated = len(self.layers) if activate_last else len(self.layers) - 1

    def forward(self, x_KBI: Tensor) -> Tensor:
        """Map (K, B, I) to (K, B, O)."""
        for index, layer in enumerate(self.layers):
            x_KBI = layer(x_KBI)
            if index < self.activated:
                x_KBI = self.activation(x_KBI)
        return x_KBI

"""Networks whose parameters carry a leading dimension of members, so that one product trains them all."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.spec.trial import NetworkSpec
from pipeline.vae.kernels import ROWS_OF_ANY, is_wide, wide_linear

Generators = Sequence[torch.Generator]
Widths = Sequence[int]

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
    (uniform within 1 / sqrt(inputs)). A bias in front of a batch normalization would only be taken away again.
    """

    def __init__(self, inputs_K: Widths, outputs_K: Widths, generators_K: Generators, bias: bool = True):
        super().__init__()
        members = len(generators_K)
        weight_KIO = torch.zeros(members, max(inputs_K), max(outputs_K))
        bias_K1O = torch.zeros(members, 1, max(outputs_K))
        for k, (inputs, outputs, generator) in enumerate(zip(inputs_K, outputs_K, generators_K, strict=True)):
            bound = 1 / math.sqrt(inputs)
            weight_KIO[k, :inputs, :outputs].uniform_(-bound, bound, generator=generator)
            bias_K1O[k, 0, :outputs].uniform_(-bound, bound, generator=generator)
        self.weight_KIO = nn.Parameter(weight_KIO)
        self.bias_K1O = nn.Parameter(bias_K1O) if bias else None

    def forward(self, x_KBI: Tensor) -> Tensor:
        """Map (K, B, I) to (K, B, O)."""
        if not torch.is_grad_enabled() and is_wide(self.weight_KIO, ROWS_OF_ANY):
            return wide_linear(x_KBI, self.weight_KIO, self.bias_K1O)
        if self.bias_K1O is None:
            return torch.bmm(x_KBI, self.weight_KIO)
        return torch.baddbmm(self.bias_K1O, x_KBI, self.weight_KIO)


class StackedBatchNorm(nn.Module):
    """Batch normalization (Ioffe and Szegedy 2015) of K members' features, each by its own batch."""

    running_mean_KO: Tensor
    running_variance_KO: Tensor

    def __init__(self, members: int, features: int, affine: bool = True):
        super().__init__()
        self.scale_KO = nn.Parameter(torch.ones(members, features)) if affine else None
        self.shift_KO = nn.Parameter(torch.zeros(members, features)) if affine else None
        self.register_buffer("running_mean_KO", torch.zeros(members, features))
        self.register_buffer("running_variance_KO", torch.ones(members, features))

    def forward(self, x_BKO: Tensor) -> Tensor:
        """Normalize (B, K, O) or (B, K, O, H, W) over all but members and features."""
        flat = x_BKO.reshape(len(x_BKO), -1, *x_BKO.shape[3:])
        normal = functional.batch_norm(
            flat,
            self.running_mean_KO.view(-1),
            self.running_variance_KO.view(-1),
            None if self.scale_KO is None else self.scale_KO.reshape(-1),
            None if self.shift_KO is None else self.shift_KO.reshape(-1),
            training=self.training,
        )
        return normal.view_as(x_BKO)


class StackedMLP(nn.Module):
    """K multilayer perceptrons: linear layers with the activation after each one but, unless asked, the last."""

    def __init__(
        self, widths: Sequence[Widths], network: NetworkSpec, generators_K: Generators, activate_last: bool = False
    ):
        """Args: widths: for each layer boundary, the K members' widths."""
        super().__init__()
        pairs = list(itertools.pairwise(widths))
        activated = pairs if activate_last else pairs[:-1]
        self.activated = len(activated)
        self.layers = nn.ModuleList(
            StackedLinear(inputs, outputs, generators_K, bias=not (network.batch_norm and index < self.activated))
            for index, (inputs, outputs) in enumerate(pairs)
        )
        self.activation = ACTIVATIONS[network.activation]
        norms = [StackedBatchNorm(len(generators_K), max(outputs)) for _, outputs in activated]
        self.norms = nn.ModuleList(norms if network.batch_norm else [])

    def forward(self, x_KBI: Tensor) -> Tensor:
        """Map (K, B, I) to (K, B, O)."""
        for index, layer in enumerate(self.layers):
            x_KBI = layer(x_KBI)
            if index < self.activated:
                if self.norms:
                    x_KBI = self.norms[index](x_KBI.transpose(0, 1)).transpose(0, 1)
                x_KBI = self.activation(x_KBI)
        return x_KBI

"""Layers of K models side by side, so that one product trains them all."""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from vae_study.config.model import NetworkConfig
from vae_study.vae.kernels import ROWS_OF_ANY, is_wide, wide_linear

Generators = Sequence[torch.Generator]
Widths = Sequence[int]


def activation_of(network: NetworkConfig) -> Callable[[Tensor], Tensor]:
    """The activation, which torch.nn.functional has by the name that the config uses."""
    activation: Callable[[Tensor], Tensor] = getattr(functional, network.activation)
    return activation


class StackedLinear(nn.Module):
    """K linear layers side by side; model k maps inputs_K[k] values to outputs_K[k], padded to the largest with zeros.

    Padding is exact: a padded weight is 0 and, as long as nothing downstream of a padded output reaches the loss, its
    gradient is 0 too. Each model's initial weights come from its own generator alone, as torch.nn.Linear draws them
    (uniform within 1 / sqrt(inputs)). In front of a batch normalization a bias has no effect and is left out.
    """

    def __init__(self, inputs_K: Widths, outputs_K: Widths, generators_K: Generators, bias: bool = True):
        super().__init__()
        models = len(generators_K)
        weight_KIO = torch.zeros(models, max(inputs_K), max(outputs_K))
        bias_K1O = torch.zeros(models, 1, max(outputs_K))
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
    """Batch normalization (Ioffe and Szegedy 2015) of K models' features, each by its own batch."""

    running_mean_KO: Tensor
    running_variance_KO: Tensor

    def __init__(self, models: int, features: int, affine: bool = True):
        super().__init__()
        self.scale_KO = nn.Parameter(torch.ones(models, features)) if affine else None
        self.shift_KO = nn.Parameter(torch.zeros(models, features)) if affine else None
        self.register_buffer("running_mean_KO", torch.zeros(models, features))
        self.register_buffer("running_variance_KO", torch.ones(models, features))

    def forward(self, x_BKO: Tensor) -> Tensor:
        """Normalize (B, K, O) or (B, K, O, H, W) over all but models and features."""
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
        self, widths: Sequence[Widths], network: NetworkConfig, generators_K: Generators, activate_last: bool = False
    ):
        """Args: widths: of the input and of each layer, for K models."""
        super().__init__()
        pairs = list(itertools.pairwise(widths))
        activated = pairs if activate_last else pairs[:-1]
        self.activated = len(activated)
        self.layers = nn.ModuleList(
            StackedLinear(inputs, outputs, generators_K, bias=not (network.batch_norm and index < self.activated))
            for index, (inputs, outputs) in enumerate(pairs)
        )
        self.activation = activation_of(network)
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


def place_rows(by_place_KBPI: Tensor, shared_KBC: Tensor) -> Tensor:
    """What each place of an example has, behind what all of its places share, as rows: (K, B P, C + I)."""
    shared_KBPC = shared_KBC[:, :, None].expand(-1, -1, by_place_KBPI.shape[2], -1)
    return torch.cat([shared_KBPC, by_place_KBPI], dim=3).flatten(1, 2)


class PlaceRows(nn.Module):
    """Codes of P places, behind what all places share, as rows: (K, B, C + Z P) to (K, B P, C + Z)."""

    def __init__(self, shared: int, places: int):
        super().__init__()
        self.shared, self.places = shared, places

    def forward(self, z_KBI: Tensor) -> Tensor:
        """Rearrange."""
        code_KBPZ = torch.unflatten(z_KBI[..., self.shared :], 2, (-1, self.places)).mT
        return place_rows(code_KBPZ, z_KBI[..., : self.shared])


class PlaceBias(nn.Module):
    """Adds to the maps of each of K models what each place has by itself: so a decoder can tell where it is.

    A convolution cannot, but near the edge. It is learned from 0 on, as the constant that NVAE's decoder starts from
    (Vahdat and Kautz 2020).
    """

    def __init__(self, places: int, width: int, models: int):
        super().__init__()
        self.bias_KPO = nn.Parameter(torch.zeros(models, places, width))

    def forward(self, x_KNO: Tensor) -> Tensor:
        """Add it to the rows of the places of each example, (K, B P, O)."""
        by_place_KBPO = torch.unflatten(x_KNO, 1, (-1, self.bias_KPO.shape[1])) + self.bias_KPO[:, None]
        return by_place_KBPO.flatten(1, 2)


KERNEL = 3
# On a CPU, up to this many outputs per group, torch's grouped convolution is several times slower than `_shifted`.
FEW_OUTPUTS = 4


class StackedConv(nn.Module):
    """K convolutions of 3x3 side by side, each with its own weights, as one grouped convolution."""

    def __init__(self, inputs: int, outputs: int, generators_K: Generators, stride: int, bias: bool):
        super().__init__()
        bound = 1 / math.sqrt(inputs * KERNEL**2)
        shape = (outputs, inputs, KERNEL, KERNEL)
        weights = [torch.empty(shape).uniform_(-bound, bound, generator=one) for one in generators_K]
        biases = [torch.empty(outputs).uniform_(-bound, bound, generator=one) for one in generators_K]
        self.weight_KOI33 = nn.Parameter(torch.stack(weights))
        self.bias_KO = nn.Parameter(torch.stack(biases)) if bias else None
        self.stride = stride

    def forward(self, x_BKIHW: Tensor) -> Tensor:
        """Map (B, K, I, H, W) to (B, K, O, H / stride, W / stride), sizes rounded up."""
        is_cpu = x_BKIHW.device.type == "cpu"
        if is_cpu and self.stride == 1 and self.weight_KOI33.shape[1] <= FEW_OUTPUTS:
            return self._shifted(x_BKIHW)
        models = x_BKIHW.shape[1]
        convolved = functional.conv2d(
            x_BKIHW.flatten(1, 2),
            self.weight_KOI33.flatten(0, 1),
            None if self.bias_KO is None else self.bias_KO.flatten(),
            stride=self.stride,
            padding=KERNEL // 2,
            groups=models,
        )
        return convolved.view(len(convolved), models, -1, *convolved.shape[2:])

    def _shifted(self, x_BKIHW: Tensor) -> Tensor:
        """The same convolution by one matrix product over the channels and a sum of nine shifted maps."""
        batch, models, _, height, width = x_BKIHW.shape
        # Turned, as the map that is shifted up takes the pixel below.
        turned_KOI33 = self.weight_KOI33.flip(3, 4)
        weight_KJI = turned_KOI33.permute(0, 1, 3, 4, 2).reshape(models, -1, x_BKIHW.shape[2])
        maps_BKJP = torch.matmul(weight_KJI, x_BKIHW.flatten(3))
        total = functional.fold(maps_BKJP.flatten(0, 1), (height, width), KERNEL, padding=KERNEL // 2)
        total = total.view(batch, models, -1, height, width)
        return total if self.bias_KO is None else total + self.bias_KO[..., None, None]


def halved_sizes(size: tuple[int, int], times: int) -> list[tuple[int, int]]:
    """Height and width before and after each of some convolutions of stride 2."""
    sizes = [size]
    for _ in range(times):
        height, width = sizes[-1]
        sizes.append(((height + 1) // 2, (width + 1) // 2))
    return sizes

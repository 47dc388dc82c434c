"""Networks of K models side by side, so that one product trains them all: layers, encoders and decoders."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from vae_study.config.model import NetworkConfig
from vae_study.data import Dataset, DatasetInfo
from vae_study.data.pixels import slices_of
from vae_study.data.windows import Windows
from vae_study.vae.kernels import ROWS_OF_ANY, is_wide, wide_linear
from vae_study.vae.sequence_networks import (
    RecurrentDecoder,
    RecurrentEncoder,
    StepRows,
    TemporalConvDecoder,
    TemporalConvEncoder,
)

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


@dataclass(frozen=True, kw_only=True)
class DataShape:
    """Sizes of the data.

    Attributes:
        features: D.
        image: Channels, height and width where the features are pixels, channel by channel and row by row; else None.
        classes: Number of labels that occur among the training rows.
        sequence: Steps and features of each step, where the features are a window of a time series; else None.
        may_miss: Whether values may be missing, which are NaN.
        has_ends: Whether sequences differ in length, so that their scores are means over the values that are there.
    """

    features: int
    image: tuple[int, int, int] | None = None
    classes: int = 0
    sequence: tuple[int, int] | None = None
    may_miss: bool = False
    has_ends: bool = False


def shape_of(data: DatasetInfo) -> DataShape:
    """The shape of a data set. Without its rows, values that are masked may be missing."""
    image = None
    if data.image_shape is not None:
        *channels, height, width = data.image_shape
        image = (channels[0] if channels else 1, height, width)
    is_masked = data.preprocessing.missing == "mask"
    return DataShape(
        features=len(data.feature_names),
        image=image,
        classes=len(data.classes),
        sequence=data.sequence_shape,
        may_miss=is_masked and (not isinstance(data, Dataset) or _misses(data)),
        has_ends=data.has_ends,
    )


def _misses(data: Dataset) -> bool:
    found = [split.x_ND for split in data.splits.values()]
    if any(isinstance(x_ND, Windows) and x_ND.has_ends for x_ND in found):
        return True
    every = (x_ND.rows_RF if isinstance(x_ND, Windows) else x_ND for x_ND in found)
    return any(bool(np.isnan(x_ND[rows]).any()) for x_ND in every for rows in slices_of(x_ND))


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


class ConvEncoder(nn.Module):
    """Convolutions that halve height and width, then hidden layers; `extra` inputs join after the convolutions."""

    def __init__(self, image: tuple[int, int, int], extra: int, network: NetworkConfig, generators_K: Generators):
        super().__init__()
        self.image, models = image, len(generators_K)
        channels = [image[0], *network.channels]
        pairs = list(itertools.pairwise(channels))
        bias = not network.batch_norm
        self.convolutions = nn.ModuleList(StackedConv(a, b, generators_K, 2, bias) for a, b in pairs)
        self.norms = nn.ModuleList(StackedBatchNorm(models, b) for _, b in pairs) if network.batch_norm else None
        self.sizes = halved_sizes(image[1:], len(pairs))
        self.hidden_inputs = channels[-1] * math.prod(self.sizes[-1]) + extra
        widths = [self.hidden_inputs, *network.hidden]
        self.hidden = StackedMLP([[w] * models for w in widths], network, generators_K, activate_last=True)
        self.activation = activation_of(network)
        self.outputs = widths[-1]

    def forward(self, x_KBI: Tensor) -> Tensor:
        """Map (K, B, D + extra) to (K, B, hidden)."""
        pixels = math.prod(self.image)
        x = x_KBI[..., :pixels].transpose(0, 1).reshape(x_KBI.shape[1], -1, *self.image)
        for index, convolution in enumerate(self.convolutions):
            x = convolution(x)
            x = self.activation(self.norms[index](x) if self.norms else x)
        flat_KBI = x.flatten(2).transpose(0, 1)
        hidden: Tensor = self.hidden(torch.cat([flat_KBI, x_KBI[..., pixels:]], dim=-1))
        return hidden


class ConvDecoder(nn.Module):
    """The mirror image of ConvEncoder: hidden layers, then convolutions that double height and width."""

    def __init__(
        self,
        inputs_K: Sequence[int],
        image: tuple[int, int, int],
        outputs: int,
        network: NetworkConfig,
        generators_K: Generators,
    ):
        """Decode K codes of inputs_K values to `outputs` numbers for each feature of an image."""
        super().__init__()
        models = len(generators_K)
        self.sizes = halved_sizes(image[1:], len(network.channels))[::-1]
        channels = [*network.channels[::-1], image[0] * outputs]
        self.start = (channels[0], *self.sizes[0])
        widths = [list(inputs_K), *([w] * models for w in (*network.hidden[::-1], math.prod(self.start)))]
        self.hidden = StackedMLP(widths, network, generators_K, activate_last=True)
        pairs = list(itertools.pairwise(channels))
        biases = [not network.batch_norm] * (len(pairs) - 1) + [True]
        convolutions = [StackedConv(*pair, generators_K, 1, bias) for pair, bias in zip(pairs, biases, strict=True)]
        self.convolutions = nn.ModuleList(convolutions)
        norms = [StackedBatchNorm(models, b) for _, b in pairs[:-1]]
        self.norms = nn.ModuleList(norms if network.batch_norm else [])
        self.activation = activation_of(network)
        # Of all layers these take the most numbers for an example: as many maps as before, of four times the size.
        self.widest = max(a * math.prod(size) for (a, _), size in zip(pairs, self.sizes[1:], strict=True))

    def forward(self, z_KBI: Tensor) -> Tensor:
        """Map (K, B, I) to (K, B, outputs * D)."""
        x = self.hidden(z_KBI).transpose(0, 1).reshape(z_KBI.shape[1], -1, *self.start)
        last = len(self.convolutions) - 1
        for index, convolution in enumerate(self.convolutions):
            larger = functional.interpolate(x.flatten(1, 2), size=self.sizes[index + 1], mode="nearest")
            x = convolution(larger.view(*x.shape[:3], *self.sizes[index + 1]))
            if index < last:
                x = self.activation(self.norms[index](x) if self.norms else x)
        decoded_KBE: Tensor = x.flatten(2).transpose(0, 1)
        return decoded_KBE


def _filled_in(network: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    """What a network gets for (K, B, I) with NaN where a value is missing: 0 there."""
    return (torch.where(inputs[0].isnan(), 0.0, inputs[0]),)


def make_encoder(
    shape: DataShape, extra: int, network: NetworkConfig, generators_K: Generators, is_by_step: bool = False
) -> tuple[nn.Module, int]:
    """The encoder that the config asks for, from (K, B, D + extra) to its last hidden layer, and that layer's width.

    By step, that layer is of each step of each example, (K, B T, width).
    """
    if network.kind == "recurrent":
        assert shape.sequence is not None
        encoder = RecurrentEncoder(shape.sequence, extra, network, shape.may_miss, generators_K, is_by_step)
        return encoder, encoder.outputs
    if network.kind == "temporal_conv":
        return _temporal_encoder(shape, extra, network, generators_K, is_by_step)
    made, width = _plain_encoder(shape, extra, network, generators_K)
    if shape.may_miss:
        # A hook: the weights have the same names as those of a model that was trained on complete rows.
        made.register_forward_pre_hook(_filled_in)
    return made, width


def _temporal_encoder(
    shape: DataShape, extra: int, network: NetworkConfig, generators_K: Generators, is_by_step: bool
) -> tuple[nn.Module, int]:
    assert shape.sequence is not None
    of_layers = (network.channels, activation_of(network), shape.may_miss, generators_K, is_by_step)
    convolutions = TemporalConvEncoder(shape.sequence, extra, *of_layers)
    widths = [convolutions.outputs, *network.hidden]
    per_model = [[width] * len(generators_K) for width in widths]
    hidden = StackedMLP(per_model, network, generators_K, activate_last=True)
    return nn.Sequential(convolutions, hidden), widths[-1]


def _plain_encoder(
    shape: DataShape, extra: int, network: NetworkConfig, generators_K: Generators
) -> tuple[nn.Module, int]:
    if network.kind == "conv":
        assert shape.image is not None
        encoder = ConvEncoder(shape.image, extra, network, generators_K)
        return encoder, encoder.outputs
    widths = [shape.features + extra, *network.hidden]
    per_model = [[width] * len(generators_K) for width in widths]
    return StackedMLP(per_model, network, generators_K, activate_last=True), widths[-1]


def make_decoder(
    inputs_K: Sequence[int],
    shape: DataShape,
    outputs: int,
    network: NetworkConfig,
    generators_K: Generators,
    shared: int | None = None,
) -> nn.Module:
    """The decoder that the config asks for: maps codes (K, B, I) to `outputs` numbers for each of D features.

    Args:
        inputs_K: Values of each model's code; by step, of one step.
        shape: Sizes of the data.
        outputs: Numbers for each feature.
        network: Its config.
        generators_K: Each model's source of initial weights.
        shared: None, or by step the number of values in front of the code that all steps get.
    """
    if shape.sequence is not None and network.kind in ("recurrent", "temporal_conv"):
        decoder = _sequence_decoder(inputs_K, shape.sequence, outputs, network, generators_K, shared is not None)
        return decoder if shared is None else nn.Sequential(StepRows(shared, shape.sequence[0]), decoder)
    if network.kind == "conv":
        assert shape.image is not None
        return ConvDecoder(inputs_K, shape.image, outputs, network, generators_K)
    widths = [list(inputs_K), *([w] * len(generators_K) for w in (*network.hidden[::-1], shape.features * outputs))]
    return StackedMLP(widths, network, generators_K)


def _sequence_decoder(
    inputs_K: Sequence[int],
    sequence: tuple[int, int],
    outputs: int,
    network: NetworkConfig,
    generators_K: Generators,
    is_by_step: bool,
) -> nn.Module:
    if network.kind == "recurrent":
        return RecurrentDecoder(inputs_K, sequence, outputs, network, generators_K, is_by_step)
    widths = [list(inputs_K), *([w] * len(generators_K) for w in network.hidden[::-1])]
    hidden = StackedMLP(widths, network, generators_K, activate_last=True)
    of_layers = (network.channels[::-1], activation_of(network), generators_K, is_by_step)
    return nn.Sequential(hidden, TemporalConvDecoder(widths[-1], sequence, outputs, *of_layers))

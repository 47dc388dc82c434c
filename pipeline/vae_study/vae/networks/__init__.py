"""Encoders and decoders of K models side by side, and the shapes of data that they are made for."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from vae_study.config.model import NetworkConfig
from vae_study.data import Dataset, DatasetInfo
from vae_study.data.pixels import slices_of
from vae_study.data.windows import Windows
from vae_study.vae.networks.layers import (
    Generators,
    PlaceBias,
    PlaceRows,
    StackedBatchNorm,
    StackedConv,
    StackedMLP,
    activation_of,
    halved_sizes,
    place_rows,
)
from vae_study.vae.networks.residual import InParts, ResidualDecoder, ResidualEncoder, Size, patches_of, sizes_of
from vae_study.vae.sequence_networks import (
    RecurrentDecoder,
    RecurrentEncoder,
    TemporalConvDecoder,
    TemporalConvEncoder,
)


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


def map_sizes(image: tuple[int, int, int], network: NetworkConfig) -> list[Size]:
    """Height and width of an image, and of the maps of each stage of `conv` or `residual`."""
    stages, size = len(network.channels), image[1:]
    return halved_sizes(size, stages) if network.kind == "conv" else sizes_of(size, patches_of(size, stages))


class ConvEncoder(nn.Module):
    """Convolutions that halve height and width, then hidden layers, of all places together or of each by itself.

    `extra` inputs join after the convolutions.
    """

    def __init__(
        self,
        image: tuple[int, int, int],
        extra: int,
        network: NetworkConfig,
        generators_K: Generators,
        is_by_place: bool = False,
    ):
        super().__init__()
        self.image, models, self.is_by_place = image, len(generators_K), is_by_place
        channels = [image[0], *network.channels]
        pairs = list(itertools.pairwise(channels))
        bias = not network.batch_norm
        self.convolutions = nn.ModuleList(StackedConv(a, b, generators_K, 2, bias) for a, b in pairs)
        self.norms = nn.ModuleList(StackedBatchNorm(models, b) for _, b in pairs) if network.batch_norm else None
        self.sizes = halved_sizes(image[1:], len(pairs))
        self.hidden_inputs = channels[-1] * (1 if is_by_place else math.prod(self.sizes[-1])) + extra
        widths = [self.hidden_inputs, *network.hidden]
        self.hidden = StackedMLP([[w] * models for w in widths], network, generators_K, activate_last=True)
        self.activation = activation_of(network)
        self.outputs = widths[-1]

    def forward(self, x_KBI: Tensor) -> Tensor:
        """Map (K, B, D + extra) to (K, B, hidden), or by place to (K, B h w, hidden)."""
        pixels = math.prod(self.image)
        x = x_KBI[..., :pixels].transpose(0, 1).reshape(x_KBI.shape[1], -1, *self.image)
        for index, convolution in enumerate(self.convolutions):
            x = convolution(x)
            x = self.activation(self.norms[index](x) if self.norms else x)
        others_KBC = x_KBI[..., pixels:]
        if self.is_by_place:
            rows: Tensor = self.hidden(place_rows(x.flatten(3).permute(1, 0, 3, 2), others_KBC))
            return rows
        flat_KBI = x.flatten(2).transpose(0, 1)
        hidden: Tensor = self.hidden(torch.cat([flat_KBI, others_KBC], dim=-1))
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
        is_by_place: bool = False,
    ):
        """Decode K codes of inputs_K values to `outputs` numbers for each feature of an image."""
        super().__init__()
        models = len(generators_K)
        self.sizes = halved_sizes(image[1:], len(network.channels))[::-1]
        channels = [*network.channels[::-1], image[0] * outputs]
        self.start = (channels[0], *self.sizes[0])
        places = math.prod(self.sizes[0]) if is_by_place else 1
        hidden = (*network.hidden[::-1], math.prod(self.start) // places)
        widths = [list(inputs_K), *([w] * models for w in hidden)]
        self.hidden = StackedMLP(widths, network, generators_K, activate_last=True)
        self.own = PlaceBias(places, channels[0], models) if is_by_place else None
        pairs = list(itertools.pairwise(channels))
        biases = [not network.batch_norm] * (len(pairs) - 1) + [True]
        convolutions = [StackedConv(*pair, generators_K, 1, bias) for pair, bias in zip(pairs, biases, strict=True)]
        self.convolutions = nn.ModuleList(convolutions)
        norms = [StackedBatchNorm(models, b) for _, b in pairs[:-1]]
        self.norms = nn.ModuleList(norms if network.batch_norm else [])
        self.activation = activation_of(network)
        # Of all layers these take the most numbers for an example: as many maps as before, of four times the size.
        maps = [a * math.prod(size) for (a, _), size in zip(pairs, self.sizes[1:], strict=True)]
        self.widest = max(*maps, places * max(hidden))

    def forward(self, z_KBI: Tensor) -> Tensor:
        """Map (K, B, I), or by place (K, B h w, I), to (K, B, outputs * D)."""
        x = self.hidden(z_KBI)
        if self.own is not None:
            x = self.own(x)
            x = x.view(len(x), -1, *self.sizes[0], x.shape[2]).permute(1, 0, 4, 2, 3)
        else:
            x = x.transpose(0, 1).reshape(x.shape[1], -1, *self.start)
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
    shape: DataShape, extra: int, network: NetworkConfig, generators_K: Generators, is_by_place: bool = False
) -> tuple[nn.Module, int]:
    """The encoder that the config asks for, from (K, B, D + extra) to its last hidden layer, and that layer's width.

    By place, that layer is of each step or place of the smallest maps of each example, (K, B P, width).
    """
    if network.kind == "recurrent":
        assert shape.sequence is not None
        encoder = RecurrentEncoder(shape.sequence, extra, network, shape.may_miss, generators_K, is_by_place)
        return encoder, encoder.outputs
    if network.kind == "temporal_conv":
        return _temporal_encoder(shape, extra, network, generators_K, is_by_place)
    made, width = _plain_encoder(shape, extra, network, generators_K, is_by_place)
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
    hidden, width = _hidden_layers(convolutions.outputs, network, generators_K)
    return nn.Sequential(convolutions, hidden), width


def _hidden_layers(inputs: int, network: NetworkConfig, generators_K: Generators) -> tuple[StackedMLP, int]:
    """An encoder's hidden layers, and the width of the last."""
    widths = [inputs, *network.hidden]
    per_model = [[width] * len(generators_K) for width in widths]
    return StackedMLP(per_model, network, generators_K, activate_last=True), widths[-1]


def _plain_encoder(
    shape: DataShape, extra: int, network: NetworkConfig, generators_K: Generators, is_by_place: bool
) -> tuple[nn.Module, int]:
    if network.kind == "conv":
        assert shape.image is not None
        encoder = ConvEncoder(shape.image, extra, network, generators_K, is_by_place)
        return encoder, encoder.outputs
    if network.kind == "residual":
        assert shape.image is not None
        of_maps = shape.image, network.channels, activation_of(network), generators_K
        maps = ResidualEncoder(*of_maps, is_by_place=is_by_place)
        places = math.prod(maps.sizes[-1]) if is_by_place else 1
        hidden, width = _hidden_layers(maps.outputs // places + extra, network, generators_K)
        layers = maps, hidden
        return InParts(*_with_hidden(maps, places, network), *layers) if is_by_place else nn.Sequential(*layers), width
    return _hidden_layers(shape.features + extra, network, generators_K)


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
        inputs_K: Values of each model's code; by place, of one step or place.
        shape: Sizes of the data.
        outputs: Numbers for each feature.
        network: Its config.
        generators_K: Each model's source of initial weights.
        shared: None, or by place the number of values in front of the code that all places get.
    """
    if shape.sequence is not None and network.kind in ("recurrent", "temporal_conv"):
        decoder = _sequence_decoder(inputs_K, shape.sequence, outputs, network, generators_K, shared is not None)
        return decoder if shared is None else nn.Sequential(PlaceRows(shared, shape.sequence[0]), decoder)
    if network.kind == "conv":
        assert shape.image is not None
        of_maps = ConvDecoder(inputs_K, shape.image, outputs, network, generators_K, shared is not None)
        return of_maps if shared is None else nn.Sequential(PlaceRows(shared, math.prod(of_maps.sizes[0])), of_maps)
    if network.kind == "residual":
        assert shape.image is not None
        maps = ResidualDecoder(shape.image, outputs, network.channels, activation_of(network), generators_K)
        places = 1 if shared is None else math.prod(maps.start[:2])
        widths = [list(inputs_K), *([w] * len(generators_K) for w in (*network.hidden[::-1], maps.inputs // places))]
        hidden = StackedMLP(widths, network, generators_K)
        if shared is None:
            return nn.Sequential(hidden, maps)
        own = PlaceBias(places, maps.start[2], len(generators_K))
        layers = PlaceRows(shared, places), hidden, own, nn.Unflatten(1, (-1, places)), nn.Flatten(2), maps
        return InParts(*_with_hidden(maps, places, network), *layers)
    widths = [list(inputs_K), *([w] * len(generators_K) for w in (*network.hidden[::-1], shape.features * outputs))]
    return StackedMLP(widths, network, generators_K)


def _with_hidden(maps: ResidualEncoder | ResidualDecoder, places: int, network: NetworkConfig) -> tuple[int, int]:
    """The numbers of `in_parts`, of maps and of hidden layers at each place together."""
    wide = [places * width for width in network.hidden]
    return maps.numbers + 2 * sum(wide), max(maps.largest, *wide, 0)


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

"""An encoder and a decoder by the kind of network that a spec asks for."""

from collections.abc import Sequence

from torch import nn

from pipeline.errors import UserError
from pipeline.spec.trial import NetworkSpec
from pipeline.vae.convolutions import ConvDecoder, ConvEncoder
from pipeline.vae.networks import Generators, StackedMLP
from pipeline.vae.shape import DataShape


def make_encoder(shape: DataShape, extra: int, network: NetworkSpec, generators_K: Generators) -> tuple[nn.Module, int]:
    """A module from (K, B, D + extra) to the last hidden layer, and that layer's width."""
    if network.kind == "conv":
        encoder = ConvEncoder(_image(shape), extra, network, generators_K)
        return encoder, encoder.outputs
    widths = [shape.features + extra, *network.hidden]
    per_member = [[width] * len(generators_K) for width in widths]
    return StackedMLP(per_member, network, generators_K, activate_last=True), widths[-1]


def make_decoder(
    inputs_K: Sequence[int], shape: DataShape, outputs: int, network: NetworkSpec, generators_K: Generators
) -> nn.Module:
    """A module from codes (K, B, I) to `outputs` numbers for each of D features."""
    if network.kind == "conv":
        return ConvDecoder(inputs_K, _image(shape), outputs, network, generators_K)
    widths = [list(inputs_K), *([w] * len(generators_K) for w in (*network.hidden[::-1], shape.features * outputs))]
    return StackedMLP(widths, network, generators_K)


def _image(shape: DataShape) -> tuple[int, int, int]:
    if shape.image is None:
        raise UserError("model.network.kind: came 'conv', expected 'mlp': the features of this data are no pixels")
    return shape.image

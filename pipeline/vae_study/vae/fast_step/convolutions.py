"""Convolutional encoders and decoders of G models, forward and backward, as few large matrix products on a CPU.

Images are (G, C, H, W, B), the minibatch last: a shift of an image moves whole runs of B numbers, and a convolution is
one product with the shifted images. Nearest upsampling by 2 and a convolution of 3x3 are together a transposed
convolution of 4x4 with stride 2 (each of four output pixels takes 2x2 inputs, not 3x3 of the larger image; Shi et al.
2016): four products of nine, and no larger image.
"""

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from vae_study.vae.fast_step.layers import MLP, Workspace
from vae_study.vae.kernels import Derivative
from vae_study.vae.networks import ConvDecoder, ConvEncoder
from vae_study.vae.networks.layers import KERNEL, StackedConv

# The part of input pixel c in output pixel 2c + d, d = -1 ... 2, of a row that is doubled and convolved by three
# weights: their sums, (4, 3). Of both directions together: (16, 9).
DOUBLED = torch.tensor([[0.0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])
DOUBLED_BOTH = torch.kron(DOUBLED, DOUBLED)
TAPS = len(DOUBLED)
Part = tuple[slice, slice]


def _overlap(tap: int, small: int, large: int) -> Part:
    """Where small pixel c and large pixel 2c + tap - 1 both exist: the slices of the small and of the large row."""
    first, stop = 1 if tap == 0 else 0, min(small, (large - tap) // 2 + 1)
    start = 2 * first + tap - 1
    return slice(first, stop), slice(start, start + 2 * (stop - first), 2)


def _overlaps(taps: int, small: tuple[int, int], large: tuple[int, int]) -> list[tuple[Part, Part]]:
    """For each of taps x taps shifts, where they overlap in a small and in a large image."""
    rows, columns = ([_overlap(tap, *pair) for tap in range(taps)] for pair in zip(small, large, strict=True))
    return [((row[0], column[0]), (row[1], column[1])) for row, column in itertools.product(rows, columns)]


def _zero_around(image: Tensor, part: Part) -> None:
    """Set (..., H, W, B) to 0 outside of a part."""
    for axis, inside in zip((-3, -2), part, strict=True):
        size = image.shape[axis]
        for start, length in ((0, inside.start), (inside.stop, size - inside.stop)):
            if length:
                image.narrow(axis, start, length).zero_()


def _transpose_into(out_GXY: Tensor, values_GYX: Tensor) -> Tensor:
    # torch transposes two dimensions quickly, three not.
    for out_XY, values_YX in zip(out_GXY, values_GYX, strict=True):
        out_XY.copy_(values_YX.T)
    return out_GXY


class Convolution:
    """The base of both kinds of layer: their parameters, and the images that they read and write.

    Attributes:
        out: (G, O, h, w, B).
        gradient: Of `out`; whoever comes next writes it.
    """

    def __init__(
        self, layer: StackedConv, inside: tuple[int, int], outside: tuple[int, int], workspace: Workspace, taps: int
    ):
        self.weight, self.weight_gradient = workspace.own(layer.weight_KOI33)
        assert layer.bias_KO is not None, "only a layer in front of a batch normalization has no bias"
        self.bias_GO, self.bias_gradient_GO = workspace.own(layer.bias_KO)
        self.models, self.outputs, self.inputs = self.weight.shape[:3]
        self.inside, self.outside, self.rows = inside, outside, workspace.rows
        self.out, self.gradient = (workspace.take(self.outputs, *outside, self.rows) for _ in range(2))
        small, large = sorted((inside, outside))
        self.overlaps = _overlaps(taps, small, large)

    def sum_bias(self) -> None:
        """Write the bias's gradient."""
        torch.sum(self.gradient.flatten(2), 2, out=self.bias_gradient_GO)


class Halving(Convolution):
    """A convolution of 3x3 and stride 2: the product of its weights with nine shifted images of every input channel."""

    def __init__(self, layer: StackedConv, inside: tuple[int, int], outside: tuple[int, int], workspace: Workspace):
        super().__init__(layer, inside, outside, workspace, KERNEL)
        self.shifted = workspace.take(KERNEL**2, self.inputs, *outside, self.rows)
        self.flat = self.shifted.view(self.models, KERNEL**2 * self.inputs, -1)
        self.matrix_GOJ, self.matrix_gradient_GOJ = (workspace.take(self.outputs, self.flat.shape[1]) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Map (G, I, H, W, B) to (G, O, h, w, B)."""
        for index, (small, large) in enumerate(self.overlaps):
            shifted = self.shifted[:, index]
            _zero_around(shifted, small)
            shifted[:, :, *small].copy_(x[:, :, *large])
        self._taps_first(self.matrix_GOJ).copy_(self.weight)
        torch.baddbmm(self.bias_GO[..., None], self.matrix_GOJ, self.flat, out=self.out.flatten(2))
        return self.out

    def _taps_first(self, matrix_GOJ: Tensor) -> Tensor:
        """A matrix in the weight's shape."""
        view = matrix_GOJ.view(self.models, self.outputs, KERNEL, KERNEL, self.inputs)
        return view.permute(0, 1, 4, 2, 3)

    def backward(self, into: Tensor | None) -> None:
        """Write the parameters' gradients, and that of the inputs to `into` unless it is None."""
        self.sum_bias()
        gradient_GON = self.gradient.flatten(2)
        torch.bmm(gradient_GON, self.flat.mT, out=self.matrix_gradient_GOJ)
        self.weight_gradient.copy_(self._taps_first(self.matrix_gradient_GOJ))
        if into is None:
            return
        torch.bmm(self.matrix_GOJ.mT, gradient_GON, out=self.flat)
        into.zero_()
        for index, (small, large) in enumerate(self.overlaps):
            into[:, :, *large].add_(self.shifted[:, index, :, *small])


class Doubling(Convolution):
    """Nearest upsampling by 2 and a convolution of 3x3: one product gives sixteen images, which are added shifted."""

    def __init__(self, layer: StackedConv, inside: tuple[int, int], outside: tuple[int, int], workspace: Workspace):
        super().__init__(layer, inside, outside, workspace, TAPS)
        self.images = workspace.take(TAPS**2, self.outputs, *inside, self.rows)
        self.flat = self.images.view(self.models, TAPS**2 * self.outputs, -1)
        self.matrix, self.matrix_gradient = (workspace.take(TAPS**2, self.outputs, self.inputs) for _ in range(2))
        self.doubled = DOUBLED_BOTH.to(self.weight).expand(self.models, -1, -1)

    def forward(self, x: Tensor) -> Tensor:
        """Map (G, I, h, w, B) to (G, O, 2h, 2w, B)."""
        self.x_GIN = x.flatten(2)
        torch.bmm(self.doubled, self.weight.flatten(3).flatten(1, 2).mT, out=self.matrix.flatten(2))
        torch.bmm(self.matrix.flatten(1, 2), self.x_GIN, out=self.flat)
        bias, middle = self.bias_GO[..., None, None, None], (1, 2)
        for down, right in itertools.product(middle, middle):
            # Of each output pixel one of these is the first part.
            _, large = self.overlaps[TAPS * down + right]
            torch.add(self.images[:, TAPS * down + right], bias, out=self.out[:, :, *large])
        for index, (small, large) in self._outer():
            self.out[:, :, *large].add_(self.images[:, index, :, *small])
        return self.out

    def _outer(self) -> Iterator[tuple[int, tuple[Part, Part]]]:
        for index, both in enumerate(self.overlaps):
            if not {*divmod(index, TAPS)} <= {1, 2}:
                yield index, both

    def backward(self, into: Tensor) -> None:
        """Write the parameters' gradients, and that of the inputs to `into`."""
        self.sum_bias()
        for index, (small, large) in enumerate(self.overlaps):
            image = self.images[:, index]
            _zero_around(image, small)
            image[:, :, *small].copy_(self.gradient[:, :, *large])
        torch.bmm(self.flat, self.x_GIN.mT, out=self.matrix_gradient.flatten(1, 2))
        weight_gradient_GJ9 = torch.bmm(self.matrix_gradient.flatten(2).mT, self.doubled)
        self.weight_gradient.copy_(weight_gradient_GJ9.view_as(self.weight_gradient))
        torch.bmm(self.matrix.flatten(1, 2).mT, self.flat, out=into.flatten(2))


class Activated:
    """The activation after a convolution."""

    def __init__(self, activation: Derivative, like: Tensor, workspace: Workspace):
        self.activation = activation
        self.out = None if activation.by_output else workspace.take(*like.shape[1:])

    def forward(self, x: Tensor) -> Tensor:
        """Apply it, in place if the derivative is one of the output."""
        self.kept, y = x, x if self.out is None else self.out
        self.activation.forward(x, y)
        return y

    def backward(self, gradient: Tensor) -> None:
        """Multiply a gradient by the derivative, in place."""
        self.activation.backward(gradient, self.kept)


class Encoder:
    """As networks.ConvEncoder. Attributes: layers: those of the MLP after the convolutions."""

    def __init__(self, encoder: ConvEncoder, activation: Derivative, workspace: Workspace):
        self.pixels, channels = math.prod(encoder.image), encoder.image[0]
        self.image = workspace.take(channels, *encoder.image[1:], workspace.rows)
        self.convolutions = list[Halving]()
        self.activations = list[Activated]()
        for layer, pair in zip(encoder.convolutions, itertools.pairwise(encoder.sizes), strict=True):
            assert isinstance(layer, StackedConv)
            self.convolutions.append(Halving(layer, *pair, workspace))
            self.activations.append(Activated(activation, self.convolutions[-1].out, workspace))
        self.flat_size = self.convolutions[-1].out[0, ..., 0].numel()
        extra = encoder.hidden_inputs - self.flat_size
        self.flat_GBI = workspace.take_rows(self.flat_size + extra)
        self.hidden = MLP(encoder.hidden, activation, workspace)
        self.layers = self.hidden.layers

    def forward(self, x_GBI: Tensor) -> Tensor:
        """Map (G, B, D + extra) to (G, B, hidden)."""
        x = self.image
        _transpose_into(x.flatten(1, 3), x_GBI[..., : self.pixels])
        for convolution, activated in zip(self.convolutions, self.activations, strict=True):
            x = activated.forward(convolution.forward(x))
        _transpose_into(self.flat_GBI[..., : self.flat_size], x.flatten(1, 3))
        self.flat_GBI[..., self.flat_size :].copy_(x_GBI[..., self.pixels :])
        return self.hidden.forward(self.flat_GBI)

    def backward(self, gradient_GBO: Tensor) -> None:
        """Write the parameters' gradients, given that of the outputs, which is overwritten."""
        gradient_GBI = self.hidden.backward(gradient_GBO)
        if self.layers:
            out_GBI = self.hidden.input_gradients[0]
            self.layers[0].input_gradient(gradient_GBI, out_GBI)
            gradient_GBI = out_GBI
        _transpose_into(self.convolutions[-1].gradient.flatten(1, 3), gradient_GBI[..., : self.flat_size])
        for index in reversed(range(len(self.convolutions))):
            convolution = self.convolutions[index]
            self.activations[index].backward(convolution.gradient)
            convolution.backward(self.convolutions[index - 1].gradient if index else None)


class Decoder:
    """As networks.ConvDecoder. Attributes: layers: those of the MLP in front of the convolutions."""

    def __init__(self, decoder: ConvDecoder, activation: Derivative, workspace: Workspace):
        self.hidden = MLP(decoder.hidden, activation, workspace)
        self.layers = self.hidden.layers
        self.image, self.gradient = (workspace.take(*decoder.start, workspace.rows) for _ in range(2))
        self.flat_gradient_GBI = workspace.lend_rows(len(self.layers), math.prod(decoder.start))
        self.convolutions = list[Doubling]()
        for layer, pair in zip(decoder.convolutions, itertools.pairwise(decoder.sizes), strict=True):
            assert isinstance(layer, StackedConv)
            self.convolutions.append(Doubling(layer, *pair, workspace))
        self.activations = [Activated(activation, one.out, workspace) for one in self.convolutions[:-1]]
        self.out_GBE = workspace.take_rows(self.convolutions[-1].out[0, ..., 0].numel())

    def forward(self, z_GBI: Tensor) -> Tensor:
        """Map (G, B, I) to (G, B, outputs * D)."""
        x = self.image
        _transpose_into(x.flatten(1, 3), self.hidden.forward(z_GBI))
        for index, convolution in enumerate(self.convolutions):
            x = convolution.forward(x)
            if index < len(self.activations):
                x = self.activations[index].forward(x)
        return _transpose_into(self.out_GBE, x.flatten(1, 3))

    def backward(self, gradient_GBE: Tensor) -> Tensor:
        """Write the parameters' gradients, given that of the outputs.

        Returns:
            The gradient of the first layer's outputs before their activation.
        """
        _transpose_into(self.convolutions[-1].gradient.flatten(1, 3), gradient_GBE)
        for index in reversed(range(len(self.convolutions))):
            convolution = self.convolutions[index]
            if index < len(self.activations):
                self.activations[index].backward(convolution.gradient)
            convolution.backward(self.convolutions[index - 1].gradient if index else self.gradient)
        _transpose_into(self.flat_gradient_GBI, self.gradient.flatten(1, 3))
        return self.hidden.backward(self.flat_gradient_GBI)

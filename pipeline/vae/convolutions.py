"""Convolutional encoders and decoders of K members at once, by grouped convolution."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.spec.trial import NetworkSpec
from pipeline.vae.networks import ACTIVATIONS, Generators, StackedBatchNorm, StackedMLP

KERNEL = 3
# A grouped convolution with so few outputs a group takes a multiple of its arithmetic's time on a CPU.
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
        if self.stride == 1 and self.weight_KOI33.shape[1] <= FEW_OUTPUTS:
            return self._shifted(x_BKIHW)
        members = x_BKIHW.shape[1]
        convolved = functional.conv2d(
            x_BKIHW.flatten(1, 2),
            self.weight_KOI33.flatten(0, 1),
            None if self.bias_KO is None else self.bias_KO.flatten(),
            stride=self.stride,
            padding=KERNEL // 2,
            groups=members,
        )
        return convolved.view(len(convolved), members, -1, *convolved.shape[2:])

    def _shifted(self, x_BKIHW: Tensor) -> Tensor:
        """The same by one product over the channels and a sum of nine shifted maps."""
        batch, members, _, height, width = x_BKIHW.shape
        outputs, pad = self.weight_KOI33.shape[1], KERNEL // 2
        weight_KJI = self.weight_KOI33.permute(0, 1, 3, 4, 2).reshape(members, outputs * KERNEL**2, -1)
        maps_BKJP = torch.matmul(weight_KJI, x_BKIHW.flatten(3))
        maps = maps_BKJP.view(batch, members, outputs, KERNEL, KERNEL, height, width)
        padded = functional.pad(maps, (pad, pad, pad, pad))
        shifts = itertools.product(range(KERNEL), range(KERNEL))
        total = torch.stack([padded[..., i, j, i : i + height, j : j + width] for i, j in shifts]).sum(dim=0)
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

    def __init__(self, image: tuple[int, int, int], extra: int, network: NetworkSpec, generators_K: Generators):
        super().__init__()
        self.image, members = image, len(generators_K)
        channels = [image[0], *network.channels]
        pairs = list(itertools.pairwise(channels))
        bias = not network.batch_norm
        self.convolutions = nn.ModuleList(StackedConv(a, b, generators_K, 2, bias) for a, b in pairs)
        self.norms = nn.ModuleList(StackedBatchNorm(members, b) for _, b in pairs) if network.batch_norm else None
        height, width = halved_sizes(image[1:], len(pairs))[-1]
        widths = [channels[-1] * height * width + extra, *network.hidden]
        self.hidden = StackedMLP([[w] * members for w in widths], network, generators_K, activate_last=True)
        self.activation = ACTIVATIONS[network.activation]
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
        network: NetworkSpec,
        generators_K: Generators,
    ):
        """Decode K codes of inputs_K values to `outputs` numbers for each feature of an image."""
        super().__init__()
        members = len(generators_K)
        self.sizes = halved_sizes(image[1:], len(network.channels))[::-1]
        channels = [*network.channels[::-1], image[0] * outputs]
        self.start = (channels[0], *self.sizes[0])
        widths = [list(inputs_K), *([w] * members for w in (*network.hidden[::-1], math.prod(self.start)))]
        self.hidden = StackedMLP(widths, network, generators_K, activate_last=True)
        pairs = list(itertools.pairwise(channels))
        biases = [not network.batch_norm] * (len(pairs) - 1) + [True]
        convolutions = [StackedConv(*pair, generators_K, 1, bias) for pair, bias in zip(pairs, biases, strict=True)]
        self.convolutions = nn.ModuleList(convolutions)
        norms = [StackedBatchNorm(members, b) for _, b in pairs[:-1]]
        self.norms = nn.ModuleList(norms if network.batch_norm else [])
        self.activation = ACTIVATIONS[network.activation]
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

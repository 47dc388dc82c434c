"""Encoders and decoders of images by residual blocks with group normalization, K models side by side.

Their stages work at one size each. The first stage reads the image in patches, each the next one in patches of 2x2
maps: so a stage is at most half as high and wide as the one before. The larger the image, the larger the first patches,
so that the last stage has at most LAST_PIXELS pixels whatever the image's size.

Normalization is of each example by itself (Wu and He 2018). So the rows of a minibatch can be computed some after the
others, and `in_parts` bounds the memory that they take at any time.
"""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from vae_study.vae.kernels import ROWS_PER_BLOCK
from vae_study.vae.networks.layers import KERNEL, Generators, StackedLinear, place_rows

# Most pixels of the last stage's maps: 8x8 of a square image.
LAST_PIXELS = 64
# Fewest channels that are normalized together, unless a stage has fewer.
GROUP = 8
# Copies of a stage's maps that a step keeps for its way back: inputs and outputs of each layer of a block.
COPIES = 8
# Numbers that a training step of all models keeps in an encoder or a decoder, by the type of device: 256 MiB, 8 GiB.
KEPT_NUMBERS, KEPT_ON_A_GPU = 2**26, 2**31
# Of rows that are more than these, so many parts are kept, and the others are computed again on the way back.
PARTS_KEPT = 4
# Numbers of the largest map of a block of rows at inference.
READ_NUMBERS = 2**24
Size = tuple[int, int]
Activation = Callable[[Tensor], Tensor]


def patches_of(image: Size, stages: int) -> list[int]:
    """Height and width of the patches that each stage reads: powers of 2, of 2 but for the first stage."""
    halved = 0
    while math.prod(_divided(image, 2**halved)) > LAST_PIXELS:
        halved += 1
    return [2 ** max(1, halved - stages + 1), *[2] * (stages - 1)]


def sizes_of(image: Size, patches: Sequence[int]) -> list[Size]:
    """Height and width of the image and of each stage's maps, rounded up."""
    return list(itertools.accumulate(patches, _divided, initial=image))


def _divided(size: Size, by: int) -> Size:
    return -(-size[0] // by), -(-size[1] // by)


def groups_of(channels: int) -> int:
    """How many groups of equal size the channels are normalized in: as many as have GROUP channels or more."""
    return next(count for count in range(max(1, channels // GROUP), 0, -1) if channels % count == 0)


class StackedMapConv(nn.Module):
    """K convolutions of 3x3 over maps, each with its own weights, drawn as torch.nn.Conv2d draws them."""

    def __init__(self, channels: int, generators_K: Generators):
        super().__init__()
        bound = 1 / math.sqrt(channels * KERNEL**2)
        shape = (channels, channels, KERNEL, KERNEL)
        weights = [torch.empty(shape).uniform_(-bound, bound, generator=one) for one in generators_K]
        biases = [torch.empty(channels).uniform_(-bound, bound, generator=one) for one in generators_K]
        self.weight_KOI33, self.bias_KO = nn.Parameter(torch.stack(weights)), nn.Parameter(torch.stack(biases))

    def forward(self, x_BJHW: Tensor) -> Tensor:
        """Map (B, K I, H, W) to (B, K O, H, W)."""
        weight, bias = self.weight_KOI33.flatten(0, 1), self.bias_KO.flatten()
        return functional.conv2d(x_BJHW, weight, bias, padding=KERNEL // 2, groups=len(self.bias_KO))


class StackedGroupNorm(nn.Module):
    """Group normalization (Wu and He 2018) of K models' maps, each with its own scale and shift."""

    def __init__(self, channels: int, models: int):
        super().__init__()
        self.scale_KO, self.shift_KO = (nn.Parameter(make(models, channels)) for make in (torch.ones, torch.zeros))
        self.groups = groups_of(channels)

    def forward(self, x_BJHW: Tensor) -> Tensor:
        """Normalize (B, K O, H, W)."""
        if torch.is_grad_enabled() and not x_BJHW.requires_grad:
            # With the channels last, torch 2.13 crashes on the way back of an input that needs no gradient.
            x_BJHW = x_BJHW.clone(memory_format=torch.contiguous_format)
        scale, shift = self.scale_KO.flatten(), self.shift_KO.flatten()
        return functional.group_norm(x_BJHW, len(self.scale_KO) * self.groups, scale, shift)


class ResidualBlock(nn.Module):
    """Maps, and what two convolutions add to them, each behind a normalization and the activation (He et al. 2016)."""

    def __init__(self, channels: int, activation: Activation, generators_K: Generators):
        super().__init__()
        self.first, self.second = (StackedMapConv(channels, generators_K) for _ in range(2))
        self.norms = nn.ModuleList(StackedGroupNorm(channels, len(generators_K)) for _ in range(2))
        self.activation = activation

    def forward(self, x_BJHW: Tensor) -> Tensor:
        """Map (B, K O, H, W) to the same."""
        inner = self.first(self.activation(self.norms[0](x_BJHW)))
        added: Tensor = x_BJHW + self.second(self.activation(self.norms[1](inner)))
        return added


def _maps_of(x_KBHWC: Tensor) -> Tensor:
    """As convolutions take them, (B, K C, H, W). Of one model no number moves: its channels are the innermost."""
    maps_BKCHW = x_KBHWC.permute(1, 0, 4, 2, 3)
    return maps_BKCHW[:, 0] if len(x_KBHWC) == 1 else maps_BKCHW.flatten(1, 2)


def _pixels_of(x_BJHW: Tensor, models: int) -> Tensor:
    """The reverse of `_maps_of`."""
    return torch.unflatten(x_BJHW, 1, (models, -1)).permute(1, 0, 3, 4, 2)


def _folded(x_KBHWC: Tensor, patch: int) -> Tensor:
    """The patches of maps as rows, (K, B h w, patch patch C), in whole runs of a row of a patch; 0 beyond the edge."""
    short = [-size % patch for size in x_KBHWC.shape[2:4]]
    x_KBHWC = functional.pad(x_KBHWC, (0, 0, 0, short[1], 0, short[0])) if any(short) else x_KBHWC
    runs = torch.unflatten(torch.unflatten(x_KBHWC, 3, (-1, patch)), 2, (-1, patch)).flatten(5)
    return runs.transpose(3, 4).flatten(4).flatten(1, 3)


def _unfolded(x_KNP: Tensor, patch: int, small: Size, size: Size) -> Tensor:
    """Rows as the patches that they are in maps of this size, (K, B, H, W, C): the reverse of `_folded`."""
    runs = torch.unflatten(torch.unflatten(x_KNP, 2, (patch, -1)), 1, (-1, *small)).transpose(3, 4)
    x_KBHWC = torch.unflatten(runs, 5, (patch, -1)).flatten(4, 5).flatten(2, 3)
    return x_KBHWC[:, :, : size[0], : size[1]]


def _image_folded(x_KBCHW: Tensor, patch: int) -> Tensor:
    """As `_folded` of an image, whose channels are the outermost: (K, B h w, C patch patch)."""
    short = [-size % patch for size in x_KBCHW.shape[3:]]
    x_KBCHW = functional.pad(x_KBCHW, (0, short[1], 0, short[0])) if any(short) else x_KBCHW
    patches = torch.unflatten(torch.unflatten(x_KBCHW, 4, (-1, patch)), 3, (-1, patch))
    return patches.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(1, 3)


def _image_unfolded(x_KNP: Tensor, patch: int, small: Size, size: Size) -> Tensor:
    """The reverse of `_image_folded`, (K, B, D)."""
    patches = torch.unflatten(torch.unflatten(x_KNP, 2, (-1, patch, patch)), 1, (-1, *small))
    image_KBCHW = patches.permute(0, 1, 4, 2, 5, 3, 6).flatten(5).flatten(3, 4)
    return image_KBCHW[..., : size[0], : size[1]].flatten(2)


def in_parts(network: Callable[[Tensor], Tensor], x_KBI: Tensor, numbers: int, largest: int) -> Tensor:
    """What a network that takes each row by itself says of (K, B, I), in bounded memory.

    In training, rows whose numbers exceed a bound are computed in parts. Of a part that is not kept, only inputs and
    outputs are stored, and the rest is computed again on the way back (Chen et al. 2016). At inference each block of
    rows is computed by itself, so that a row has the same bits in any company.

    Args:
        network: Maps (K, B, I) to (K, B, O).
        x_KBI: Its inputs.
        numbers: That it keeps of one row of one model for the way back.
        largest: Those of its largest map.
    """
    models, rows, _ = x_KBI.shape
    is_cpu = x_KBI.device.type == "cpu"
    if not torch.is_grad_enabled():
        at_once = max(1, min(ROWS_PER_BLOCK, 2 ** int(math.log2(max(1, READ_NUMBERS // largest)))))
        parts = [x_KBI] if not is_cpu or rows <= at_once else list(torch.split(x_KBI, at_once, dim=1))
        found = [network(part) for part in parts]
        return found[0] if len(found) == 1 else torch.cat(found, dim=1)
    kept = (KEPT_NUMBERS if is_cpu else KEPT_ON_A_GPU) // (models * numbers)
    if rows <= kept:
        return network(x_KBI)
    parts = list(torch.split(x_KBI, max(1, kept // PARTS_KEPT), dim=1))
    again = len(parts) - (PARTS_KEPT - 1)
    found = [
        checkpoint(network, part, use_reentrant=False, preserve_rng_state=False) if index < again else network(part)
        for index, part in enumerate(parts)
    ]
    return torch.cat(found, dim=1)


class InParts(nn.Sequential):
    """Layers that take each row by itself, one after the other, as `in_parts`."""

    def __init__(self, numbers: int, largest: int, *layers: nn.Module):
        """Take the layers; numbers and largest are those of `in_parts` for all of them together."""
        super().__init__(*layers)
        self.numbers, self.largest = numbers, largest

    def forward(self, x_KBI: Tensor) -> Tensor:
        """Map (K, B, I) to (K, B, O), or to as many rows more as an example has places."""
        return in_parts(super().forward, x_KBI, self.numbers, self.largest)


class ResidualEncoder(nn.Module):
    """Stages of a residual block each, down to small maps; what comes behind the pixels is passed on beside these."""

    def __init__(
        self,
        image: tuple[int, int, int],
        channels: Sequence[int],
        activation: Activation,
        generators_K: Generators,
        patches: Sequence[int] = (),
        is_by_place: bool = False,
    ):
        """Args: patches: of each stage; by default those of `patches_of`."""
        super().__init__()
        self.image, models, self.is_by_place = image, len(generators_K), is_by_place
        self.patches = list(patches) or patches_of(image[1:], len(channels))
        self.sizes = sizes_of(image[1:], self.patches)
        read = zip((image[0], *channels), self.patches, channels, strict=False)
        widths = [([inputs * patch**2] * models, [outputs] * models) for inputs, patch, outputs in read]
        self.downs = nn.ModuleList(StackedLinear(*pair, generators_K) for pair in widths)
        self.blocks = nn.ModuleList(ResidualBlock(width, activation, generators_K) for width in channels)
        self.norm, self.activation = StackedGroupNorm(channels[-1], models), activation
        self.outputs = channels[-1] * math.prod(self.sizes[-1])
        self.largest, self.numbers = _numbers(image, channels, self.sizes)

    def forward(self, x_KBI: Tensor) -> Tensor:
        """Map (K, B, D + extra) to (K, B, C h w + extra), or by place to (K, B h w, extra + C)."""
        pixels = math.prod(self.image)
        maps_KBO = in_parts(self._maps, x_KBI[..., :pixels], self.numbers, self.largest)
        if self.is_by_place:
            by_place_KBPC = torch.unflatten(maps_KBO, 2, (math.prod(self.sizes[-1]), -1))
            return place_rows(by_place_KBPC, x_KBI[..., pixels:])
        return maps_KBO if x_KBI.shape[2] == pixels else torch.cat([maps_KBO, x_KBI[..., pixels:]], dim=2)

    def _maps(self, x_KBD: Tensor) -> Tensor:
        models, x = len(x_KBD), torch.unflatten(x_KBD, 2, self.image)
        for index, (down, block, patch) in enumerate(zip(self.downs, self.blocks, self.patches, strict=True)):
            rows_KNI = _folded(x, patch) if index else _image_folded(x, patch)
            maps = block(_maps_of(down(rows_KNI).unflatten(1, (-1, *self.sizes[index + 1]))))
            x = _pixels_of(maps, models)
        return _pixels_of(self.activation(self.norm(maps)), models).flatten(2)


class ResidualDecoder(nn.Module):
    """The mirror image of ResidualEncoder: small maps, and stages that each write a larger one in patches."""

    def __init__(
        self,
        image: tuple[int, int, int],
        outputs: int,
        channels: Sequence[int],
        activation: Activation,
        generators_K: Generators,
        patches: Sequence[int] = (),
    ):
        """Decode the smallest maps to `outputs` numbers for each feature of an image; `patches` as of the encoder."""
        super().__init__()
        patches, models = list(patches) or patches_of(image[1:], len(channels)), len(generators_K)
        sizes = sizes_of(image[1:], patches)
        self.patches, self.sizes, widths = patches[::-1], sizes[::-1], channels[::-1]
        written = zip(widths, (*widths[1:], image[0] * outputs), self.patches, strict=True)
        pairs = [([inputs] * models, [outputs * patch**2] * models) for inputs, outputs, patch in written]
        self.blocks = nn.ModuleList(ResidualBlock(width, activation, generators_K) for width in widths)
        self.ups = nn.ModuleList(StackedLinear(*pair, generators_K) for pair in pairs)
        self.norm, self.activation = StackedGroupNorm(widths[-1], models), activation
        self.start = (*self.sizes[0], widths[0])
        self.inputs = math.prod(self.start)
        self.largest, self.numbers = _numbers((image[0] * outputs, *image[1:]), channels, sizes)

    def forward(self, z_KBI: Tensor) -> Tensor:
        """Map (K, B, C h w) to (K, B, outputs * D)."""
        return in_parts(self._maps, z_KBI, self.numbers, self.largest)

    def _maps(self, x_KBI: Tensor) -> Tensor:
        models, x_KBHWC = len(x_KBI), torch.unflatten(x_KBI, 2, self.start)
        for index, (block, up) in enumerate(zip(self.blocks, self.ups, strict=True)):
            maps, is_last = block(_maps_of(x_KBHWC)), index == len(self.blocks) - 1
            maps = self.activation(self.norm(maps)) if is_last else maps
            rows_KNO = up(_pixels_of(maps, models).flatten(1, 3))
            to = (self.patches[index], self.sizes[index], self.sizes[index + 1])
            x_KBHWC = _image_unfolded(rows_KNO, *to) if is_last else _unfolded(rows_KNO, *to)
        return x_KBHWC


def _numbers(image: tuple[int, int, int], channels: Sequence[int], sizes: Sequence[Size]) -> tuple[int, int]:
    """Of one row: the numbers of the largest map, and about those that a step keeps of all."""
    maps = [width * math.prod(size) for width, size in zip(channels, sizes[1:], strict=True)]
    pixels = math.prod(image)
    return max(pixels, *maps), 2 * pixels + COPIES * sum(maps)

"""Some members of a pack at a time, as many as the cache of a CPU takes, as models of their own."""

import copy
import math
from typing import Any, NamedTuple

from torch import nn

from pipeline.vae.convolutions import ConvDecoder
from pipeline.vae.families import Family
from pipeline.vae.networks import StackedLinear

# Numbers of the widest activations. Of convolutional nets, four members of small images fit, and one of large ones:
# eight of 28x28 pixels at once took 1.6 to 2.5 times as long as one by one.
SLICE_NUMBERS = 2**20


class Slice(NamedTuple):
    """Members of a pack in a row, and a model whose parameters and statistics are views of theirs."""

    members: slice
    model: Family


def slices_of(model: Family, rows: int) -> list[Slice]:
    """All members of a model in slices that are best for batches of so many rows; on a GPU they are one.

    When members join or leave, others have to be made.
    """
    members = len(model.models)
    is_cpu = model.code_mask_KZ.device.type == "cpu"
    largest = max(1, SLICE_NUMBERS // (rows * widest(model))) if is_cpu else members
    if members <= largest:
        return [Slice(slice(0, members), model)] if members else []
    return [Slice(part, _part(model, part)) for part in even_slices(members, largest)]


def even_slices(members: int, largest: int) -> list[slice]:
    """Members in slices of nearly the same size."""
    count = math.ceil(members / math.ceil(members / largest))
    return [slice(start, min(start + count, members)) for start in range(0, members, count)]


def widest(model: Family) -> int:
    """The most numbers that a layer takes or gives for one example."""
    wide = [max(layer.weight_KIO.shape[1:]) for layer in model.modules() if isinstance(layer, StackedLinear)]
    return max(wide + [decoder.widest for decoder in model.modules() if isinstance(decoder, ConvDecoder)])


def _part(model: Family, members: slice) -> Family:
    """A copy of the modules, with views in the place of all that has a row a member."""
    rows: tuple[Any, ...] = (*model.buffers(), model.models, model.noise_sizes_K)
    views = {id(value): value[members] for value in rows}
    views |= {id(parameter): nn.Parameter(parameter.data[members]) for parameter in model.parameters()}
    return copy.deepcopy(model, views)

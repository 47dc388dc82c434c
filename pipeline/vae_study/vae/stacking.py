"""Stack K models into one: what each is made from, how far its training is, how it is added and taken out.

Each tensor of a stacked model has a row for each of the K models, padded to the largest latent size.
"""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vae_study.config.model import ModelConfig, TrialConfig
from vae_study.vae.families import make_family
from vae_study.vae.families.base import Family
from vae_study.vae.networks import ConvDecoder, DataShape
from vae_study.vae.networks.layers import Generators, StackedLinear
from vae_study.vae.sequence_networks import RecurrentDecoder, RecurrentEncoder, TemporalConvDecoder, TemporalConvEncoder

STREAMS = ("weights", "batches", "evaluation", "samples", "corruption", "probability")
# These continue for the whole training; the others start again for each measurement.
LASTING_STREAMS = ("batches", "corruption")
# Latent sizes that share a batch are padded to a multiple of this. A CPU rounds products with one column, or with
# columns that do not fill whole SIMD vectors, differently for one model and for several.
LATENT_BLOCK = 8
# Numbers of the widest activations. Of convolutional nets, four models of small images fit, and one of large ones:
# eight of 28x28 pixels at once took 1.6 to 2.5 times as long as one by one.
CHUNK_NUMBERS = 2**20
# The networks whose widest layer is not one of their linear layers.
WIDE = (ConvDecoder, RecurrentEncoder, RecurrentDecoder, TemporalConvEncoder, TemporalConvDecoder)
# Models of one batch may differ in some values of these; the key has the defaults in their place.
_OWN = ModelConfig()


@dataclass(frozen=True, kw_only=True)
class ModelSetup:
    """What one model is made from: its configuration, and the seed of everything random in it."""

    config: TrialConfig
    seed: int

    def generator(self, stream: str, device: torch.device | str = "cpu") -> torch.Generator:
        """A random generator for one of STREAMS. Streams are independent: a new one does not change the others."""
        words = np.random.SeedSequence([self.seed, STREAMS.index(stream)]).generate_state(2, np.uint32)
        return torch.Generator(device).manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)


@dataclass
class Progress:
    """How far one model's training is, except for its parameters and statistics.

    Attributes:
        schedule_2T: KL weights and learning rates of each step of its whole budget.
        generators: The random streams that live as long as its training, by name.
        epoch: Epochs done.
    """

    schedule_2T: NDArray[np.float64]
    generators: dict[str, torch.Generator]
    epoch: int = 0


def compatibility_key(config: TrialConfig) -> str:
    """Two trials of one study can be trained in one batch if and only if they have the same key.

    They agree in family, network, likelihood, kinds of code and of corruption, codebook, batch size and precision, and
    in whether the loss has a similarity. Latent size, starting or fixed sigma, level of corruption, labels that are
    told, weights of the similarity and of `vae_gan`'s terms, objective, optimizer settings, budget and seed are each
    model's own. What a study has in common, its data and score, is not in the key.
    """
    corruption = config.model.corruption.model_copy(update={"level": _OWN.corruption.level})
    own = {"latent_dim": _OWN.latent_dim, "sigma": _OWN.sigma, "corruption": corruption, "labels": _OWN.labels}
    own |= {"ms_ssim": float(config.model.ms_ssim > 0), "gan": _OWN.gan}
    training = config.training
    return f"{training.batch_size} {training.precision} {config.model.model_copy(update=own).model_dump_json()}"


def padded_latent_dim(capacity: int | None, configs: Sequence[ModelConfig]) -> int:
    """The latent size that models are padded to: the capacity in whole LATENT_BLOCKs, or else the largest of these."""
    if capacity is None:
        return max(config.latent_dim for config in configs)
    return -(-capacity // LATENT_BLOCK) * LATENT_BLOCK


def stack_models(
    configs: Sequence[ModelConfig], shape: DataShape, generators_K: Generators, latent_capacity: int
) -> Family:
    """K models that are padded as if one of them had `latent_capacity` latent dimensions.

    Args:
        configs: Of the models, none with more latent dimensions than that.
        shape: Sizes of the data.
        generators_K: Each model's source of initial weights.
        latent_capacity: The latent size that rows are padded to.
    """
    if max(config.latent_dim for config in configs) == latent_capacity:
        return make_family(configs, shape, generators_K)
    largest = configs[0].model_copy(update={"latent_dim": latent_capacity})
    padded = make_family([*configs, largest], shape, [*generators_K, torch.Generator()])
    for parameter in padded.parameters():
        parameter.data = parameter.data[:-1].clone()
    keep_models(padded, range(len(configs)))
    return padded


def keep_models(model: Family, kept: Sequence[int]) -> None:
    """Keep some of the stacked models, in this order. The parameters are left to the optimizer, which holds them."""
    for module, name, value_K in _buffers(model):
        setattr(module, name, value_K[list(kept)])
    model.configs = [model.configs[k] for k in kept]
    model.noise_sizes_K = [model.noise_sizes_K[k] for k in kept]
    model.code_parts_K = [model.code_parts_K[k] for k in kept]


def append_models(model: Family, other: Family) -> None:
    """Append other models. The parameters are left to the optimizer, which holds them."""
    for (module, name, value_K), (_, _, more_K) in zip(_buffers(model), _buffers(other), strict=True):
        setattr(module, name, torch.cat([value_K, more_K]))
    model.configs = [*model.configs, *other.configs]
    model.noise_sizes_K = [*model.noise_sizes_K, *other.noise_sizes_K]
    model.code_parts_K = [*model.code_parts_K, *other.code_parts_K]


def _buffers(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """All statistics and masks, each with the module that has it; every one of them has a row for each model."""
    for module in model.modules():
        for name, value_K in list(module.named_buffers(recurse=False, remove_duplicate=False)):
            yield module, name, value_K


class Chunk(NamedTuple):
    """Consecutive models of a batch: which, and a stacked model whose parameters and statistics are views of theirs."""

    models: slice
    model: Family


def chunks_of(model: Family, rows: int) -> list[Chunk]:
    """All models in chunks that fit into the cache of a CPU with minibatches of this many rows; on a GPU one chunk.

    Chunks hold views: make new ones when models join or leave.
    """
    models = len(model.configs)
    largest = models
    if model.code_mask_KZ.device.type == "cpu":
        # A CPU convolves grouped maps more slowly than those of one model after the other.
        is_alone = model.network.kind == "residual"
        largest = 1 if is_alone else max(1, CHUNK_NUMBERS // (rows * widest(model)))
    if models <= largest:
        return [Chunk(slice(0, models), model)] if models else []
    return [Chunk(part, _views(model, part)) for part in even_chunks(models, largest)]


def even_chunks(models: int, largest: int) -> list[slice]:
    """Chunks of nearly the same size, none larger than `largest`."""
    count = math.ceil(models / math.ceil(models / largest))
    return [slice(start, min(start + count, models)) for start in range(0, models, count)]


def widest(model: Family) -> int:
    """The most inputs or outputs that a layer has for one example."""
    wide = [max(layer.weight_KIO.shape[1:]) for layer in model.modules() if isinstance(layer, StackedLinear)]
    return max(wide + [network.widest for network in model.modules() if isinstance(network, WIDE)])


def _views(model: Family, models: slice) -> Family:
    """A copy of the modules that has views of some models' rows."""
    rows: tuple[Any, ...] = (*model.buffers(), model.configs, model.noise_sizes_K, model.code_parts_K)
    views = {id(value): value[models] for value in rows}
    views |= {id(parameter): nn.Parameter(parameter.data[models]) for parameter in model.parameters()}
    return copy.deepcopy(model, views)


def own_part(stacked: Mapping[str, Tensor], k: int, config: ModelConfig, shape: DataShape) -> dict[str, Tensor]:
    """One model's rows of stacked tensors, as views without their padding.

    Args:
        stacked: Tensors of shapes (K, ...); those of the name `.../parameter` are padded as that parameter is.
        k: Which model.
        config: Its own.
        shape: Sizes of the data.
    """
    shapes = _unpadded_shapes(config, shape)
    own = {}
    for name, value_K in stacked.items():
        _, _, of_model = name.partition("/")
        sizes = shapes[of_model] if of_model else value_K.shape[1:]
        own[name] = value_K[k][tuple(slice(0, size) for size in sizes)]
    return own


@lru_cache(maxsize=128)
def _unpadded_shapes(config: ModelConfig, shape: DataShape) -> Mapping[str, torch.Size]:
    """The shapes of the parameters and statistics of a model that is not stacked with larger ones."""
    alone = make_family([config], shape, [torch.Generator()])
    return {name: value.shape[1:] for name, value in alone.state_dict().items()}


def require_same_kind(expected: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> None:
    """Raise ValueError if two states differ in a tensor's name, shape or dtype."""
    if expected.keys() != got.keys():
        odd = sorted(expected.keys() ^ got.keys())[0]
        raise ValueError(f"{odd}: the state of another model has it, or lacks it")
    for name, value in expected.items():
        if (value.shape, value.dtype) != (got[name].shape, got[name].dtype):
            kinds = [f"{tuple(one.shape)} {one.dtype}" for one in (got[name], value)]
            raise ValueError(f"{name}: got {kinds[0]}, expected {kinds[1]}: the state of another model or device")

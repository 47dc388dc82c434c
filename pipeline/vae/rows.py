"""The rows of a stacked model, one a member: made, added and taken away."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from pipeline.spec.trial import ModelSpec
from pipeline.vae.families import Family, make_family
from pipeline.vae.networks import Generators
from pipeline.vae.shape import DataShape

# Where several latent sizes share a pack they are padded to a multiple of this. A CPU rounds products with a single
# column, or with columns that are not side by side in whole vectors, in another way for one member than for several.
LATENT_BLOCK = 8


def latent_columns(capacity: int | None, models: Sequence[ModelSpec]) -> int:
    """The latent size that members are padded to: whole blocks up to a capacity, or else the largest of the first."""
    if capacity is None:
        return max(model.latent_dim for model in models)
    return -(-capacity // LATENT_BLOCK) * LATENT_BLOCK


def make_rows(models: Sequence[ModelSpec], shape: DataShape, generators_K: Generators, latent_capacity: int) -> Family:
    """K models that are padded as if one of them had `latent_capacity` latent dimensions.

    Args:
        models: The members, none with more dimensions than that.
        shape: Sizes of the data.
        generators_K: Each member's source of initial weights.
        latent_capacity: The latent size that rows are padded to.
    """
    if max(model.latent_dim for model in models) == latent_capacity:
        return make_family(models, shape, generators_K)
    largest = models[0].model_copy(update={"latent_dim": latent_capacity})
    padded = make_family([*models, largest], shape, [*generators_K, torch.Generator()])
    for parameter in padded.parameters():
        parameter.data = parameter.data[:-1].clone()
    keep_rows(padded, range(len(models)))
    return padded


def keep_rows(model: Family, rows: Sequence[int]) -> None:
    """Keep some members of a model in this order, but for the parameters, which are the optimizer's."""
    for module, name, value_K in _buffers(model):
        setattr(module, name, value_K[list(rows)])
    model.models = [model.models[row] for row in rows]
    model.noise_sizes_K = [model.noise_sizes_K[row] for row in rows]


def append_rows(model: Family, other: Family) -> None:
    """Put another model's members behind a model's own, but for the parameters, which are the optimizer's."""
    for (module, name, value_K), (_, _, more_K) in zip(_buffers(model), _buffers(other), strict=True):
        setattr(module, name, torch.cat([value_K, more_K]))
    model.models = [*model.models, *other.models]
    model.noise_sizes_K = [*model.noise_sizes_K, *other.noise_sizes_K]


def _buffers(model: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    """All statistics and masks, each with the module that has it; every one of them has a row for each member."""
    for module in model.modules():
        for name, value_K in list(module.named_buffers(recurse=False, remove_duplicate=False)):
            yield module, name, value_K

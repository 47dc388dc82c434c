"""A member between two epochs: all that the rest of its training depends on, as tensors by name."""

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.spec.trial import ModelSpec
from pipeline.vae.families import make_family
from pipeline.vae.shape import DataShape

if TYPE_CHECKING:
    from pipeline.vae.population import Population

State = dict[str, Tensor]
EPOCH, STEPS = "epoch", "steps"


def member_state(population: "Population", member: int) -> State:
    """A copy of one member on the host: the same tensors alone and in whatever pack, interchangeable between them.

    Returns:
        By name, without the dimension of members and without padding: `model/...` (parameters and running statistics),
        Adam's `mean/...` and `square/...` of each parameter, the Lagrange `multiplier`, the states of the generators
        `random/...` (bytes), and the number of `epoch` and `steps` done.
    """
    own = {name: _copy(row) for name, row in _own_parts(population, member).items()}
    random = {name: generator.get_state() for name, generator in _generators(population, member).items()}
    epoch = population.epochs_K[member]
    position = {EPOCH: torch.tensor(epoch), STEPS: torch.tensor(epoch * population.steps_per_epoch)}
    return {**own, **random, **position}


def restore_member(population: "Population", member: int, state: Mapping[str, Tensor]) -> None:
    """Go on from where `member_state` was taken, with the same specification and data.

    On the same kind of device training ends with the bits that it would have ended with undisturbed. The other members
    are not touched, and may be at any other epoch.

    Args:
        population: Is left as it was where an error is raised.
        member: Whose place the state takes.
        state: What `member_state` gave.

    Raises:
        ValueError: It is the state of another model, of another budget, or of a generator on another kind of device.
    """
    _require_same_kind(member_state(population, member), state)
    epoch, steps = int(state[EPOCH]), int(state[STEPS])
    if steps != epoch * population.steps_per_epoch or epoch > population.members[member].spec.training.epochs:
        raise ValueError(f"{steps} steps in {epoch} epochs: the state of a training with another budget or batch size")
    population.progress_K[member].epoch = epoch
    for name, generator in _generators(population, member).items():
        generator.set_state(state[name])
    for name, row in _own_parts(population, member).items():
        row.copy_(state[name])


def _parts(population: "Population") -> State:
    """What members have side by side, shapes (K, ...): the population's own tensors, not copies."""
    model, adam = population.model, population.adam
    names = [name for name, _ in model.named_parameters()]
    parts = {f"model/{name}": value for name, value in model.state_dict().items()}
    for name, (mean, square) in zip(names, adam.moments(), strict=True):
        parts |= {f"mean/{name}": mean, f"square/{name}": square}
    return {**parts, "multiplier": population.objective.multiplier_K}


def _own_parts(population: "Population", member: int) -> State:
    """One member's tensors without padding, which lies behind its own numbers in every dimension."""
    shapes = _lone_shapes(population.members[member].spec.model, population.model.shape)
    own = {}
    for name, value_K in _parts(population).items():
        _, _, of_model = name.partition("/")
        shape = shapes[of_model] if of_model else value_K.shape[1:]
        own[name] = value_K[member][tuple(slice(0, size) for size in shape)]
    return own


@lru_cache(maxsize=128)
def _lone_shapes(model: ModelSpec, shape: DataShape) -> Mapping[str, torch.Size]:
    """The shapes of a member's parameters and statistics where it is alone."""
    alone = make_family([model], shape, [torch.Generator()])
    return {name: value.shape[1:] for name, value in alone.state_dict().items()}


def _generators(population: "Population", member: int) -> dict[str, torch.Generator]:
    generators = population.progress_K[member].generators
    return {f"random/{stream}": generator for stream, generator in generators.items()}


def _copy(row: Tensor) -> Tensor:
    return row.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _require_same_kind(expected: Mapping[str, Tensor], came: Mapping[str, Tensor]) -> None:
    if expected.keys() != came.keys():
        odd = sorted(expected.keys() ^ came.keys())[0]
        raise ValueError(f"{odd}: the state of another model has it, or lacks it")
    for name, value in expected.items():
        if (value.shape, value.dtype) != (came[name].shape, came[name].dtype):
            kinds = [f"{tuple(one.shape)} {one.dtype}" for one in (came[name], value)]
            raise ValueError(f"{name}: came {kinds[0]}, expected {kinds[1]}: the state of another model or device")

"""The search space: ranges, choices, conditions (`when`), and the short names of parameters."""

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Discriminator, Field, PlainValidator, Tag

from vae_study.config.base import CHOICES_TAG, MOST_CHOICES, RANGE_TAG, ConfigPart, FromList
from vae_study.config.model import TrialConfig


def _value(given: Any) -> Any:
    """A scalar, or a tuple of scalars (a list of hidden widths, say)."""
    if isinstance(given, list | tuple):
        return tuple(_value(item) for item in given)
    if not isinstance(given, bool | int | float | str) or (isinstance(given, float) and not math.isfinite(given)):
        raise ValueError("a finite number, a word, true or false, or a list of these")
    return given


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


# A plain validator: each member of a union would report an error of its own.
Value = Annotated[Any, PlainValidator(_value)]
Configuration = Annotated[Mapping[str, Value], Field(min_length=1)]
_SEVERAL = BeforeValidator(lambda given: given if isinstance(given, list | tuple) else [given])
When = Mapping[str, Annotated[tuple[Value, ...], FromList, _SEVERAL]]

# Optional prefixes of a parameter's name. `kind` needs its prefix: without one it would be ambiguous.
OPTIONAL_PREFIXES = ("model", "objective")
# Parameters of which every combination is checked before a study starts: what may be in the loss, what likelihoods
# there are, and how large a model is, beside the numbers of which only the smallest counts.
TARGETS = ("family", "code", "latent", "objective.kind")
LIKELIHOODS = ("likelihood", "sigma", "learned_sigma")
KINDS = ("family", "network.kind", "network.hidden", "latent")
SIZES = ("family", "network.kind", "network.hidden", "network.channels")


class Range(ConfigPart):
    """Numbers from `low` to `high`, both included; `log` searches their logarithm.

    `type` is by default int for a parameter that takes whole numbers; load_config sets it.
    """

    low: float
    high: float
    log: bool = False
    type: Literal["float", "int"] = "float"
    when: When = Field(default_factory=dict)

    def ends(self) -> tuple[Value, ...]:
        """The values to check: if they are valid, all others are."""
        return (int(self.low), int(self.high)) if self.type == "int" else (self.low, self.high)

    def contains(self, value: Value) -> bool:
        """Whether the search can draw this value."""
        is_inside = _is_number(value) and self.low <= value <= self.high
        return is_inside and (self.type == "float" or float(value).is_integer())


class Choices(ConfigPart):
    """One of several values."""

    choices: Annotated[tuple[Value, ...], FromList, Field(min_length=1, max_length=MOST_CHOICES)]
    when: When = Field(default_factory=dict)

    def ends(self) -> tuple[Value, ...]:
        """The values to check: if they are valid, all others are."""
        return self.choices

    def contains(self, value: Value) -> bool:
        """Whether the search can draw this value."""
        return self.meant_by(value) is not None

    def meant_by(self, value: Value) -> Value | None:
        """The choice that equals a value (1 equals 1.0, but not true), or None."""
        same_kind = (choice for choice in self.choices if _is_number(choice) == _is_number(value))
        return next((choice for choice in same_kind if choice == value), None)


def _tag(value: Any) -> str:
    given = value if isinstance(value, Mapping) else getattr(value, "__dict__", {})
    return CHOICES_TAG if "choices" in given else RANGE_TAG


Parameter = Annotated[Annotated[Range, Tag(RANGE_TAG)] | Annotated[Choices, Tag(CHOICES_TAG)], Discriminator(_tag)]


def _leaves(part: type[BaseModel], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name, field in part.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _leaves(inner, (*path, name))
        else:
            yield (*path, name)


def _short_names() -> dict[str, tuple[str, ...]]:
    names: dict[str, tuple[str, ...]] = {}
    for path in _leaves(TrialConfig, ()):
        may_be_short = path[0] in OPTIONAL_PREFIXES and path[1:] != ("kind",)
        short = ".".join(path[1:] if may_be_short else path)
        names[short if short not in names else ".".join(path)] = path
    return names


#: The canonical name of every parameter of a trial (as in MLflow's params), and its path in a TrialConfig.
PARAMETER_PATHS: Mapping[str, tuple[str, ...]] = _short_names()


def canonical_name(name: str) -> str | None:
    """The short name of a parameter given by its short or its full dotted name; None if there is no such parameter."""
    if name in PARAMETER_PATHS:
        return name
    return next((short for short, path in PARAMETER_PATHS.items() if ".".join(path) == name), None)


def takes_whole_numbers(name: str) -> bool:
    """Whether a parameter, by its canonical name, is of type int."""
    part: Any = TrialConfig
    for key in PARAMETER_PATHS[name]:
        part = part.model_fields[key].annotation
    return part is int


def spelled_in(mapping: Mapping[Any, Any], key: Any) -> Any:
    """The key as `mapping` has it: by its full dotted name, or as a number where `key` is text; else `key` itself."""
    if key in mapping:
        return key
    return next((given for given in mapping if key in (str(given), canonical_name(str(given)))), key)


def with_values(trial: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a trial's plain dictionary with parameters set by their canonical names."""
    filled = {key: dict(part) for key, part in trial.items()}
    for name, value in values.items():
        *parents, leaf = PARAMETER_PATHS[name]
        place = filled
        for key in parents:
            place[key] = dict(place.get(key, {}))
            place = place[key]
        place[leaf] = value
    return filled


def is_active(parameter: Range | Choices, values: Mapping[str, Any]) -> bool:
    """Whether the conditions of a parameter hold for the values drawn so far."""
    return all(name in values and values[name] in allowed for name, allowed in parameter.when.items())


def reachable(search: Mapping[str, Range | Choices], names: Collection[str]) -> list[dict[str, Any]]:
    """Every combination of values of `names` that the search can draw, with the values that their conditions name."""
    found: list[dict[str, Any]] = [{}]
    for name in _with_conditions(search, names):
        parameter = search[name]
        found = [
            {**values, **chosen}
            for values in found
            for chosen in ([{name: end} for end in parameter.ends()] if is_active(parameter, values) else [{}])
        ]
    return found


def combinations(search: Mapping[str, Range | Choices], names: Collection[str]) -> int:
    """At most how many combinations `reachable` has."""
    return math.prod(len(search[name].ends()) for name in _with_conditions(search, names))


def _with_conditions(search: Mapping[str, Range | Choices], names: Collection[str]) -> list[str]:
    """Those of `names` that are searched and all that their conditions name, in branch order."""
    order, needed = in_branch_order(search), set(names) & set(search)
    for name in reversed(order):
        if name in needed:
            needed |= set(search[name].when)
    return [name for name in order if name in needed]


def in_branch_order(search: Mapping[str, Range | Choices]) -> list[str]:
    """Parameter names, each after the parameters that its conditions name.

    Raises:
        ValueError: The conditions are circular.
    """
    ordered: list[str] = []
    waiting = list(search)
    while waiting:
        ready = [name for name in waiting if all(parent in ordered for parent in search[name].when)]
        if not ready:
            raise ValueError(f"the conditions of {', '.join(waiting)} are circular")
        ordered += ready
        waiting = [name for name in waiting if name not in ready]
    return ordered

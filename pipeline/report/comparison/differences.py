"""What the specs of several studies say differently."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Whose values are shown as one: a parameter's range is a thing of its own.
WHOLE = "search."
NOT_COMPARED = ("study",)
# What makes a nat of one study another thing than a nat of the other.
OF_UNITS = ("model.likelihood", "model.sigma", "model.learned_sigma", "search.likelihood", "search.model.likelihood")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A key of the spec that not all studies have the same value of.

    Attributes:
        key: Its dotted name.
        values: As text, in the order of the studies; None where a study does not have the key.
    """

    key: str
    values: tuple[str | None, ...]


def differences(specs: Mapping[str, Mapping[str, Any]]) -> tuple[Difference, ...]:
    """What differs between the specs of several studies, in the order of the first that has it."""
    flat = [dict(_flat(spec)) for spec in specs.values()]
    keys = dict.fromkeys(key for one in flat for key in one if key not in NOT_COMPARED)
    return tuple(
        Difference(key=key, values=tuple(_text(one[key]) if key in one else None for one in flat))
        for key in keys
        if len({json.dumps(one[key], default=str, sort_keys=True) if key in one else None for one in flat}) > 1
    )


def of_data(found: Sequence[Difference]) -> list[str]:
    """The keys that change which rows a study sees, and in which units; not where the data lie."""
    return [one.key for one in found if one.key.startswith("data.") and one.key not in ("data.path", "data.source")]


def of_units(found: Sequence[Difference]) -> list[str]:
    """The keys that change what a nat is."""
    return [one.key for one in found if one.key in OF_UNITS]


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, part in value.items():
        name = f"{prefix}{key}"
        if isinstance(part, Mapping) and part and prefix != WHOLE:
            yield from _flat(part, f"{name}.")
        else:
            yield name, part


def _text(value: Any) -> str:
    """A value as people write it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(value[key])}" for key in sorted(value))
    if isinstance(value, list | tuple):
        is_flat = not any(isinstance(part, str | list | tuple | Mapping) for part in value)
        return json.dumps(value) if is_flat else "; ".join(map(_text, value))
    return value if isinstance(value, str) else json.dumps(value, default=str)

"""Settings from the command line, on top of a study file: `--set key=value`."""

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML

from pipeline.errors import UserError
from pipeline.spec.problems import Path
from pipeline.spec.searching import PARAMETER_PATHS, canonical_name, spelled_in


@dataclass(frozen=True)
class Override:
    """One setting: as it was written, and the key path that it set."""

    text: str
    path: Path


def apply_override(document: Any, text: str) -> Override:
    """Put one "key=value" into a document, in place; a value of null removes the key.

    Raises:
        UserError: There is no "=", the value is not YAML, or the key leads through something that is not a mapping.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"--set {text}: expected key=value, such as training.epochs=20")
    path = _path(key.strip())
    try:
        parsed = YAML(typ="safe").load(value)
    except Exception:  # Beside YAMLError, ruamel lets pass what a constructor or Python itself throws.
        raise UserError(f"--set {text}: the value is not valid YAML") from None
    try:
        _assign(document, path, parsed)
    except TypeError:
        raise UserError(f"--set {text}: {key} leads through a key that holds no keys") from None
    return Override(text, path)


def _path(key: str) -> Path:
    """The key path of a dotted key; a searched parameter's own dotted name is one key of it."""
    if key in PARAMETER_PATHS:
        return PARAMETER_PATHS[key]
    head, _, rest = key.partition(".")
    if head != "search" or not rest:
        return tuple(key.split("."))
    spellings = [*PARAMETER_PATHS, *map(".".join, PARAMETER_PATHS.values())]
    name = max((name for name in spellings if f"{rest}.".startswith(f"{name}.")), key=len, default=None)
    if name is None:
        return ("search", rest)
    # What is left is a key of a range or of choices, and after `when` another parameter's dotted name.
    field, _, condition = rest[len(name) + 1 :].partition(".")
    return ("search", canonical_name(name) or name, *filter(None, (field, condition)))


def _assign(document: MutableMapping[str, Any], path: Path, value: Any) -> None:
    *parents, leaf = (str(key) for key in path)
    place: Any = document
    for key in parents:
        key = spelled_in(place, key)
        if place.get(key) is None:
            place[key] = {}
        place = place[key]
        if not isinstance(place, Mapping):
            raise TypeError(key)
    leaf = spelled_in(place, leaf)
    if value is None:
        place.pop(leaf, None)
    else:
        place[leaf] = value

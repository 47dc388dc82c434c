"""What may stand in a study file, in an option or in a table: plausible, odd and hostile."""

import copy
import datetime
import io
import math
import random
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel
from ruamel.yaml import YAML
from vae_study.config.search_space import PARAMETER_PATHS
from vae_study.config.study import StudyConfig
from vae_study.metrics import RULES, SCORES, STEERING

Document = dict[Any, Any]
Path = tuple[str, ...]

NUMBERS = [0, 1, 2, 3, 8, 100, 0.1, 0.5, 0.9, 1.0, -1, -0.5, 1e-9, 1e-300, 1e9, 1e30, 1e308, 10**9, 10**20, 2**63]
ODD_NUMBERS = [math.nan, math.inf, -math.inf, -0.0, 5e-324, 10**400]
WORDS = ["", "none", "a", "true", "null", "é", "\u202e", "a b", "x" * 3000, "../..", "%s{}", "'", '"']
WORDS += ["-", "0x10", "\x07"]
CHOSEN = [*STEERING, *SCORES, *RULES, "tpe", "gp", "pareto", "asha", "conv", "mlp", "bernoulli", "gaussian"]
CHOSEN += ["vector_quantized", "hierarchical", "conditional", "autoencoder", "linear", "cyclical", "minimize", "max"]
CHOSEN += ["auto", "time"]
CHOSEN += ["stratified", "group", "quantile", "robust", "median", "one_hot", "capacity", "constrained", "label", "kind"]
CHOSEN += ["beta_tc", "dip"]
NESTED = [[], {}, [1, 2], [[1]], [None], {"a": 1}, {"low": 1, "high": 3}, {"choices": [1]}, [[]] * 300, [{}], {"": {}}]
OTHERS = [None, True, False, datetime.date(2020, 1, 2), b"bytes"]
# Pieces of text that mean something in YAML, or nothing.
PIECES = ["\t", "&a [*a]", "*a", "!!python/object:os.system x", "!!set {a}", "!!binary AA==", "\x00", "%YAML 9.9\n"]
PIECES += ["<<: *x", "? [a]\n: b\n", "\ufeff", "'", '"', "]" * 50, "[" * 3000, "{" * 500, "0x" + "f" * 5000, "9" * 5000]
PIECES += ["1e400", ".nan", "- ", ": ", "#", "\n\n", "\r", "trials: 1\n", "{a: b}", "|", ">", "@", "`"]
PIECES += ["!!int 0x" + "f" * 5000, "---\n"]


def value(chance: random.Random) -> Any:
    """Any value."""
    kinds = [NUMBERS, ODD_NUMBERS, WORDS, CHOSEN, NESTED, OTHERS]
    return copy.deepcopy(chance.choice(chance.choices(kinds, [6, 1, 2, 5, 2, 1])[0]))


def _paths(part: type[BaseModel], path: Path = ()) -> Iterator[Path]:
    for name, field in part.model_fields.items():
        yield (*path, name)
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from _paths(inner, (*path, name))


PATHS = [*_paths(StudyConfig)]


def parameter(chance: random.Random) -> Any:
    """Of a search space."""
    numbers = sorted(chance.sample(NUMBERS, 2))
    found: Any = chance.choice(
        [
            {"low": numbers[0], "high": numbers[1]},
            {"low": numbers[1], "high": numbers[0], "log": True},
            {"choices": [value(chance) for _ in range(chance.randint(0, 4))]},
            {"choices": chance.choices([[8], [16, 4], [2] * 300, "mlp", "conv", "linear", 3, 0.5], k=3)},
            {"choices": [*range(chance.choice([10, 5000]))]},
            value(chance),
        ]
    )
    if isinstance(found, dict) and chance.random() < 0.3:
        found[chance.choice(["type", "log", "when", "typ"])] = chance.choice(
            ["int", "float", True, {chance.choice([*PARAMETER_PATHS]): [value(chance)]}, value(chance)]
        )
    return found


def changed(document: Document, chance: random.Random) -> None:
    """Change one thing, in place."""
    kind = chance.random()
    if kind < 0.35:
        search = document.setdefault("search", {})
        if isinstance(search, dict):
            name = chance.choice([*PARAMETER_PATHS, *map(".".join, PARAMETER_PATHS.values()), "betta", *WORDS])
            search[name] = parameter(chance)
        return
    path = chance.choice(PATHS)
    if chance.random() < 0.1:
        path = (*path, chance.choice(["no_such_key", *WORDS]))
    place = document
    for key in path[:-1]:
        inner = place.setdefault(key, {})
        if not isinstance(inner, dict):
            return
        place = inner
    if kind < 0.45:
        place.pop(path[-1], None)
    else:
        place[path[-1]] = value(chance)


def setting(chance: random.Random) -> str:
    """The text of a --set option."""
    path = ".".join(chance.choice(PATHS))
    if chance.random() < 0.3:
        path = f"search.{chance.choice([*PARAMETER_PATHS])}"
    shown = chance.choice([inline(value(chance)), inline(parameter(chance)), chance.choice(PIECES)])
    forms = [f"{path}={shown}", path, f"={shown}", f"{path}..x={shown}"]
    return chance.choices(forms, [12, 1, 1, 1])[0].replace("\x00", "")


def inline(content: Any) -> str:
    """YAML in one line."""
    return written(content, flow=True).replace("\n...", "").strip().replace("\n", " ")


def written(content: Any, *, flow: bool | None = None) -> str:
    """Content as YAML."""
    yaml, text = YAML(typ="safe", pure=True), io.StringIO()
    yaml.default_flow_style, yaml.width = flow, 10**9
    yaml.dump(content, text)
    return text.getvalue()


def garbled(text: str, chance: random.Random) -> bytes:
    """Text with some pieces inserted, repeated or removed."""
    for _ in range(chance.randint(1, 3)):
        start = chance.randrange(len(text) + 1)
        end = min(len(text), start + chance.randrange(40))
        piece = chance.choice([chance.choice(PIECES), text[start:end] * 2, ""])
        text = text[:start] + piece + text[end:]
    data = text.encode(chance.choices(["utf-8", "utf-16", "latin-1"], [8, 1, 1])[0], "replace")
    return damaged(data, chance) if chance.random() < 0.2 else data


def damaged(data: bytes, chance: random.Random) -> bytes:
    """Bytes of which some are others, missing or twice there."""
    found = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(found) + 1)
        match chance.randrange(4):
            case 0:
                found[start : start + 1] = chance.randbytes(1)
            case 1:
                del found[start:]
            case 2:
                found[start:start] = chance.randbytes(chance.randint(1, 200))
            case _:
                found[start:start] = found[: chance.randrange(200)]
    return bytes(found)

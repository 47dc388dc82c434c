"""The keys of a study file with type, default, meaning and example, and the JSON schema of study files for editors."""

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vae_study.config.base import ConfigPart, parts_in
from vae_study.config.study import StudyConfig

#: Of keys whose default is no value that a user would write.
EXAMPLES: Mapping[str, Any] = {
    "study": "machines",
    "data.source": "csv",
    "data.path": "sensors.csv",
    "data.columns": ["pressure", "flow"],
    "data.exclude": ["id"],
    "data.label": "fault",
    "data.factors": ["shape", "scale", "angle"],
    "data.anomaly_labels": [1],
    "data.clip": 5,
    "data.missing_values": ["?", -9999],
    "data.decimal": ",",
    "data.thousands": ".",
    "data.signs": ["$", "%"],
    "data.header": True,
    "data.separator": ";",
    "data.comment": "#",
    "data.encoding": "cp1252",
    "data.arrays.x": "X",
    "data.arrays.y": "y",
    "data.layout": "series",
    "data.categories.columns": ["merchant"],
    "data.split.column": "time",
    "data.sequence.time": "ts",
    "data.sequence.series": "machine",
    "data.sequence.window": 64,
    "data.sequence.longest": 500,
    "data.sequence.max_gap": "5s",
    "data.sequence.resample": "1s",
    "model.code": "deterministic",
    "objective.capacity_nats": 20,
    "objective.delta_nats": 12,
    "objective.gamma": 10,
    "search": {"beta": {"low": 0.1, "high": 4, "log": True}, "model.network.activation": {"choices": ["relu", "silu"]}},
    "objectives": [{"metric": "val/elbo", "direction": "maximize"}],
    "objectives.metric": "val/elbo",
    "objectives.direction": "maximize",
    "objectives.reference": 200,
    "constraints": [{"metric": "val/active_units", "at_least": 2}],
    "constraints.metric": "val/active_units",
    "constraints.at_least": 2,
    "constraints.at_most": 20,
    "sampler.seed": 1,
    "early_stopping.min_epochs": 5,
    "enqueue": [{"beta": 1, "latent_dim": 8}],
    "warm_start": "machines-2025",
    "stop_when.flat_for": "20 trials",
    "anomaly.score": "residual_mahalanobis",
    "anomaly.prevalence": 0.001,
    "anomaly.alarms": {"per_1000": 10},
    "champion.by": "val/auroc",
}
BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
_ATTRIBUTE = re.compile(r"^ {4}(\w[\w, ]*): (.*)$")


@dataclass(frozen=True, kw_only=True)
class Key:
    """A key of a study file.

    Attributes:
        name: Dotted, such as "data.split.seed". Of a list of mappings, the name goes on as if there were one.
        type: What it takes, in words.
        default: As JSON; empty where the key is required, "null" where its absence means something of its own.
        meaning: What it does, with its unit.
        example: A value, as JSON.
    """

    name: str
    type: str
    default: str
    meaning: str
    example: str


def study_schema() -> dict[str, Any]:
    """The JSON schema of study files, with the meaning of each key."""
    schema = StudyConfig.model_json_schema()
    parts = {part.__name__: part for part in _every_part(StudyConfig)}
    for name, section in {**schema["$defs"], StudyConfig.__name__: schema}.items():
        section["description"] = _summary(parts[name])
        for key, found in section["properties"].items():
            found.pop("title", None)
            if meaning := meanings(parts[name]).get(key):
                found["description"] = meaning
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "A study file of vae-study"}


def keys() -> tuple[Key, ...]:
    """All keys of a study file, a section's keys after each other."""
    schema = study_schema()
    return tuple(_keys(schema, schema, ""))


def _keys(section: Mapping[str, Any], schema: Mapping[str, Any], prefix: str) -> Iterator[Key]:
    for key, found in section["properties"].items():
        name, inner = f"{prefix}{key}", _section(found, schema)
        if inner is None or name in EXAMPLES:
            default = json.dumps(found["default"]) if "default" in found else ""
            example = json.dumps(EXAMPLES.get(name, found.get("default")))
            meaning = found.get("description") or section.get("description", "")
            yield Key(name=name, type=_type(found, schema), default=default, meaning=meaning, example=example)
        if inner is not None:
            yield from _keys(inner, schema, f"{name}.")


def _section(found: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The section that a key holds, or a list of which it holds; None if it holds values."""
    for one in (found, found.get("items", {}), *found.get("anyOf", ())):
        if "$ref" in one:
            inner: Mapping[str, Any] = schema["$defs"][one["$ref"].rpartition("/")[2]]
            return inner
    return None


def _type(found: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """A type in words, such as "whole number, at least 1, or null"."""
    if "anyOf" in found:
        return " or ".join(dict.fromkeys(_type(one, schema) for one in found["anyOf"]))
    if "enum" in found or "const" in found:
        return " ".join(f"`{value}`" for value in found.get("enum", [found.get("const")]))
    if "$ref" in found:
        return "mapping"
    match found.get("type"):
        case "integer" | "number" as kind:
            bounds = (f"{words} {found[end]:g}" for end, words in BOUNDS.items() if end in found)
            return ", ".join([{"integer": "whole number", "number": "number"}[kind], *bounds])
        case "array":
            items = found.get("items", {})
            return f"list of {_type(items, schema)}" if items else "list"
        case "object":
            return "mapping"
        case "string":
            return "text"
        case "boolean":
            return "`true` `false`"
        case "null":
            return "null"
    return "any value"


def _every_part(part: type[ConfigPart]) -> Iterator[type[ConfigPart]]:
    yield part
    for field in part.model_fields.values():
        for inner in parts_in(field.annotation):
            yield from _every_part(inner)  # type: ignore[arg-type]


def _summary(part: type[ConfigPart]) -> str:
    """A section's docstring up to its attributes, in one line."""
    return " ".join((inspect.getdoc(part) or "").partition("\nAttributes:")[0].split())


def meanings(part: type[ConfigPart]) -> dict[str, str]:
    """What each key of a section means, from the attributes of its docstring."""
    found: dict[str, str] = {}
    names: list[str] = []
    for line in (inspect.getdoc(part) or "").partition("\nAttributes:\n")[2].splitlines():
        if start := _ATTRIBUTE.match(line):
            names = start[1].split(", ")
            found |= dict.fromkeys(names, start[2])
        elif line.strip():
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found

"""A spec's search section as Optuna suggestions."""

import json
from collections.abc import Mapping
from typing import Any

import optuna

from pipeline.spec.searching import Choices, Range, in_branch_order, is_active


def suggest(trial: optuna.Trial, search: Mapping[str, Range | Choices]) -> dict[str, Any]:
    """Ask for a value of every parameter whose branch is taken, conditions first."""
    values: dict[str, Any] = {}
    for name in in_branch_order(search):
        if is_active(search[name], values):
            values[name] = _suggest_one(trial, name, search[name])
    return values


def _suggest_one(trial: optuna.Trial, name: str, parameter: Range | Choices) -> Any:
    if isinstance(parameter, Choices):
        return decoded(trial.suggest_categorical(name, [_encoded(value) for value in parameter.choices]))
    if parameter.type == "int":
        return trial.suggest_int(name, int(parameter.low), int(parameter.high), log=parameter.log)
    return trial.suggest_float(name, parameter.low, parameter.high, log=parameter.log)


# Optuna's stores keep scalars only; a list, such as hidden widths, is kept as its JSON text.
_LIST = "list:"


def _encoded(value: Any) -> Any:
    return _LIST + json.dumps(value) if isinstance(value, tuple) else value


def decoded(value: Any) -> Any:
    """A choice as the spec has it, from how Optuna keeps it."""
    return tuple(json.loads(value[len(_LIST) :])) if isinstance(value, str) and value.startswith(_LIST) else value

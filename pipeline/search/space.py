"""A spec's search section as Optuna suggestions."""

import json
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from pipeline.spec.searching import Choices, Range, in_branch_order, is_active

Search = Mapping[str, Range | Choices]


def suggest(trial: optuna.Trial, search: Search) -> dict[str, Any]:
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


def distribution(parameter: Range | Choices) -> BaseDistribution:
    """What Optuna keeps beside a suggested value."""
    if isinstance(parameter, Choices):
        return CategoricalDistribution([_encoded(value) for value in parameter.choices])
    if parameter.type == "int":
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log)
    return FloatDistribution(parameter.low, parameter.high, log=parameter.log)


def fits(search: Search, values: Mapping[str, Any]) -> bool:
    """Whether the search could have come to a configuration: its branches, and each value."""
    active = {name for name, parameter in search.items() if is_active(parameter, values)}
    return active == set(values) and all(search[name].contains(value) for name, value in values.items())


def stored(search: Search, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the search as Optuna keeps them: of the parameter's type, or the very choice that is meant."""
    return {name: _stored_one(search[name], value) for name, value in values.items()}


def _stored_one(parameter: Range | Choices, value: Any) -> Any:
    if isinstance(parameter, Choices):
        return _encoded(parameter.meant_by(value))
    return int(value) if parameter.type == "int" else float(value)


# Optuna's stores keep scalars only; a list, such as hidden widths, is kept as its JSON text.
_LIST = "list:"


def _encoded(value: Any) -> Any:
    return _LIST + json.dumps(value) if isinstance(value, tuple) else value


def decoded(value: Any) -> Any:
    """A choice as the spec has it, from how Optuna keeps it."""
    return tuple(json.loads(value[len(_LIST) :])) if isinstance(value, str) and value.startswith(_LIST) else value

"""Checks of what steers a search: the metrics that it follows, its constraints, early stopping and first tries."""

from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.spec.problems import Path, Problem
from pipeline.spec.schema import StudySpec
from pipeline.spec.searching import PARAMETER_PATHS, Choices, Range, canonical_name, is_active


def followed_metrics(spec: StudySpec) -> Iterator[tuple[Path, str]]:
    """Every metric by which trials are ranked, chosen or stopped, and where the spec names it."""
    for index, objective in enumerate(spec.objectives):
        yield ("objectives", index, "metric"), objective.metric
    for index, constraint in enumerate(spec.constraints):
        yield ("constraints", index, "metric"), constraint.metric
    if spec.early_stopping.compares_one_metric:
        yield ("early_stopping", "metric"), spec.early_stopping.metric
    if spec.champion.by is not None:
        yield ("champion", "by"), spec.champion.by


def steering_problems(spec: StudySpec) -> list[Problem]:
    """What is wrong with constraints, early stopping and first tries; the search itself must be valid."""
    return [*_bounds(spec), *_first_rung(spec), *_first_tries(spec)]


def _bounds(spec: StudySpec) -> Iterator[Problem]:
    named = [constraint.name for constraint in spec.constraints]
    highest = {one.metric: one.at_most for one in spec.constraints if one.at_most is not None}
    for index, one in enumerate(spec.constraints):
        path: Path = ("constraints", index)
        if one.name in named[:index]:
            yield Problem(path, f"came {one.name!r} again, expected each bound of a metric once")
        elif one.at_least is not None and one.at_least > highest.get(one.metric, one.at_least):
            limit = highest[one.metric]
            yield Problem((*path, "at_least"), f"came {one.at_least:g}, expected no more than at_most ({limit:g})")


def _first_rung(spec: StudySpec) -> Iterator[Problem]:
    first, searched = spec.early_stopping.min_epochs, spec.search.get("training.epochs")
    longest = max(searched.ends()) if searched else spec.training.epochs
    if spec.early_stopping.kind != "none" and first is not None and first >= longest:
        path: Path = ("early_stopping", "min_epochs")
        yield Problem(path, f"came {first}, expected fewer than training.epochs ({longest})")


def _first_tries(spec: StudySpec) -> Iterator[Problem]:
    for index, configuration in enumerate(spec.enqueue):
        for name, value in configuration.items():
            path: Path = ("enqueue", index, name)
            if name in spec.search:
                yield from _first_try(path, spec.search[name], value, configuration)
            else:
                message = "is not searched" if name in PARAMETER_PATHS else "unknown parameter"
                yield Problem(path, message, expected_one_of=tuple(spec.search))


def _first_try(
    path: Path, parameter: Range | Choices, value: Any, configuration: Mapping[str, Any]
) -> Iterator[Problem]:
    if not is_active(parameter, configuration):
        needed = " and ".join(f"{parent} {_either(allowed)}" for parent, allowed in parameter.when.items())
        yield Problem(path, f"came {value!r}, which only a configuration with {needed} uses; expected that, or none")
    elif parameter.contains(value):
        return
    elif isinstance(parameter, Choices):
        yield Problem(path, f"came {value!r}", expected_one_of=tuple(map(str, parameter.choices)))
    else:
        kind = "whole number" if parameter.type == "int" else "number"
        yield Problem(path, f"came {value!r}, expected a {kind} from {parameter.low:g} to {parameter.high:g}")


def _either(values: tuple[Any, ...]) -> str:
    return " or ".join(map(str, values))


def canonical_enqueue(given: Any) -> tuple[Any, list[Problem]]:
    """The configurations to be tried first, with their parameters by canonical names."""
    if not isinstance(given, list | tuple):
        return given, []
    problems: list[Problem] = []
    configurations: list[Any] = []
    for index, configuration in enumerate(given):
        if isinstance(configuration, Mapping):
            named = {canonical_name(str(name)) or str(name): value for name, value in configuration.items()}
            if len(named) < len(configuration):
                problems.append(Problem(("enqueue", index), "names a parameter twice"))
            configuration = named
        configurations.append(configuration)
    return configurations, problems

"""What can only be checked once the parts of a spec are seen together."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from pipeline.spec.data import CLASS_SOURCES, DataSpec, SplitSpec
from pipeline.spec.metrics import WITH_RATE
from pipeline.spec.problems import Path, Problem, from_validation
from pipeline.spec.schema import StudySpec
from pipeline.spec.searching import (
    PARAMETER_PATHS,
    Choices,
    Range,
    canonical_name,
    in_branch_order,
    reachable,
    with_values,
)
from pipeline.spec.steering import followed_metrics, steering_problems
from pipeline.spec.trial import TrialSpec


def problems_of(spec: StudySpec) -> list[Problem]:
    """Everything that is wrong with a spec whose parts are each valid; its search names must be canonical."""
    found = [problem for name, parameter in spec.search.items() for problem in _parameter(spec, name, parameter)]
    found = found or [
        *_resources(spec),
        *_branches(spec),
        *_objectives(spec),
        *_data(spec),
        *_labels(spec),
        *steering_problems(spec),
    ]
    return found or [*_rates(spec), *_targets(spec)]


def canonical_search(search: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The search section with every parameter, also inside `when`, by its canonical name."""
    named: dict[str, Any] = {}
    problems: list[Problem] = []
    for given, parameter in search.items():
        name = canonical_name(str(given))
        if name is None:
            path: Path = ("search", str(given))
            problems.append(Problem(path, "unknown parameter", expected_one_of=tuple(PARAMETER_PATHS)))
        elif name in named:
            problems.append(Problem(("search", str(given)), f"{name} is searched twice"))
        else:
            named[name] = _canonical_when(parameter)
    return named, problems


def _canonical_when(parameter: Any) -> Any:
    if not isinstance(parameter, Mapping) or not isinstance(parameter.get("when"), Mapping):
        return parameter
    when = {canonical_name(str(name)) or name: values for name, values in parameter["when"].items()}
    return {**parameter, "when": when}


def _parameter(spec: StudySpec, name: str, parameter: Range | Choices) -> Iterator[Problem]:
    path: Path = ("search", name)
    if _is_set(spec, PARAMETER_PATHS[name]):
        fixed_at = ".".join(PARAMETER_PATHS[name])
        yield Problem(path, f"is searched, and also fixed at {fixed_at}; remove one of the two (search.{name}=null)")
    if isinstance(parameter, Range):
        yield from _range(path, parameter)
    yield from _conditions(spec, name, parameter)
    yield from _values(spec, name, parameter)


def _is_set(part: Any, path: Path) -> bool:
    for key in path:
        if key not in part.model_fields_set:
            return False
        part = getattr(part, str(key))
    return True


def _range(path: Path, parameter: Range) -> Iterator[Problem]:
    if parameter.low >= parameter.high:
        yield Problem((*path, "low"), f"came {parameter.low:g}, expected a number below high ({parameter.high:g})")
    if parameter.log and parameter.low <= 0:
        yield Problem((*path, "low"), f"came {parameter.low:g}, expected a number above 0, as log is true")
    for end in ("low", "high"):
        value = getattr(parameter, end)
        if parameter.type == "int" and not float(value).is_integer():
            yield Problem((*path, end), f"came {value:g}, expected a whole number, as type is int")


def _conditions(spec: StudySpec, name: str, parameter: Range | Choices) -> Iterator[Problem]:
    for parent, allowed in parameter.when.items():
        path: Path = ("search", name, "when", parent)
        searched = spec.search.get(parent)
        if searched is None:
            yield Problem(path, "is not a searched parameter", expected_one_of=tuple(spec.search))
        elif not isinstance(searched, Choices):
            yield Problem(path, "is a range; a condition needs a parameter with choices")
        else:
            for value in allowed:
                if value not in searched.choices:
                    yield Problem(path, f"came {value!r}", expected_one_of=tuple(map(str, searched.choices)))


def _values(spec: StudySpec, name: str, parameter: Range | Choices) -> Iterator[Problem]:
    keys: tuple[str | int, ...] = ("low", "high") if isinstance(parameter, Range) else ("choices",) * 1_000
    for key, value in zip(keys, parameter.ends(), strict=False):
        try:
            TrialSpec.model_validate(with_values(spec.fixed(), {name: value}))
        except ValidationError as error:
            yield from (Problem(("search", name, key), p.message, p.expected_one_of) for p in from_validation(error))


def _branches(spec: StudySpec) -> Iterator[Problem]:
    try:
        in_branch_order(spec.search)
    except ValueError as error:
        yield Problem(("search",), str(error))


def _resources(spec: StudySpec) -> Iterator[Problem]:
    if not spec.resources.cpu and not spec.resources.gpu:
        yield Problem(("resources",), "cpu and gpu are both 0, expected something that a worker occupies")


def _objectives(spec: StudySpec) -> Iterator[Problem]:
    metrics = [objective.metric for objective in spec.objectives]
    for index, metric in enumerate(metrics):
        if metric in metrics[:index]:
            yield Problem(("objectives", index, "metric"), f"came {metric!r} again, expected each metric once")


def _data(spec: StudySpec) -> Iterator[Problem]:
    split = spec.data.split
    total = split.train + split.validation + split.test
    if abs(total - 1) > 1e-6:
        yield Problem(("data", "split"), f"train, validation and test add up to {total:g}, expected 1")
    yield from _split_column(split)
    if spec.data.scale == "quantile" and spec.data.clip is not None:
        yield Problem(("data", "clip"), f"came {spec.data.clip:g}, expected none, as scale quantile stays in [0, 1]")
    likelihoods = spec.search.get("likelihood")
    used = likelihoods.choices if isinstance(likelihoods, Choices) else (spec.model.likelihood,)
    if "bernoulli" in used:
        yield from _beyond_unit(spec.data)


def _split_column(split: SplitSpec) -> Iterator[Problem]:
    path: Path = ("data", "split", "column")
    needs_column = split.by in ("group", "time")
    if needs_column and split.column is None:
        yield Problem(path, f"is missing; split.by {split.by} needs the column with the {split.by}s")
    if not needs_column and split.column is not None:
        yield Problem(path, f"came {split.column!r}, which only split.by group and time use; expected none")


def _beyond_unit(data: DataSpec) -> Iterator[Problem]:
    """A Bernoulli's values are shares."""
    needs = "as likelihood bernoulli needs values in [0, 1]"
    if data.scale not in ("unit", "quantile"):
        yield Problem(("data", "scale"), f"came {data.scale!r}, expected 'unit' or 'quantile', {needs}")
    elif data.scale == "unit" and data.clip is not None:
        yield Problem(
            ("data", "clip"), f"came {data.clip:g}, which lets negative values through, expected none, {needs}"
        )


def _labels(spec: StudySpec) -> Iterator[Problem]:
    """What can be said before the data are read: the labels of some files may turn out to be 0 and 1."""
    labels = spec.data.anomaly_labels
    if labels or (labels is None and spec.data.source not in CLASS_SOURCES):
        return
    for path, metric in followed_metrics(spec):
        if metric == "val/auroc":
            yield Problem(path, "came 'val/auroc', expected a rule that needs no labels, or data.anomaly_labels")


def _rates(spec: StudySpec) -> Iterator[Problem]:
    """A study that may train a point code cannot rank its trials by what such a code has not."""
    if spec.always_has_rate():
        return
    without = "which a point code (autoencoder, denoising with code point) does not have"
    for path, metric in followed_metrics(spec):
        if metric in WITH_RATE:
            yield Problem(path, f"came {metric!r}, {without}")


def _targets(spec: StudySpec) -> Iterator[Problem]:
    """A target for the KL needs a family that is trained by its KL."""
    for values in reachable(spec.search, ("family", "code", "objective.kind")):
        trial = spec.trial(values)
        if trial.objective.kind != "beta" and not trial.model.is_trained_by_kl:
            family = trial.model.family
            path: Path = ("search", "objective.kind") if "objective.kind" in spec.search else ("objective", "kind")
            yield Problem(path, f"came {trial.objective.kind!r}, expected 'beta' for {family}, which no KL trains")
            return

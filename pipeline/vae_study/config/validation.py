"""Checks that need several parts of a config at once."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from vae_study.config.base import Path, Problem, from_validation
from vae_study.config.data import WHOLE, SequenceConfig, SplitConfig
from vae_study.config.model import TrialConfig
from vae_study.config.search_space import (
    LIKELIHOODS,
    PARAMETER_PATHS,
    SIZES,
    TARGETS,
    Choices,
    Range,
    combinations,
    is_active,
    reachable,
    takes_whole_numbers,
    with_values,
)
from vae_study.config.study import StudyConfig
from vae_study.metrics import metric_of

# Of the parameters whose combinations are looked through before a study starts.
MOST_COMBINATIONS = 10_000
ANNEALING = ("objective", "kl_annealing")


def problems_of(config: StudyConfig) -> list[Problem]:
    """Every error of a config whose sections are each valid. Searched parameters must have their short names."""
    found = [problem for name, parameter in config.search.items() for problem in _parameter(config, name, parameter)]
    found = found or [
        *_sections(config),
        *_data(config),
        *_labels(config),
        *_bounds(config),
        *_first_rung(config),
        *_unused(config),
        *_enqueued(config),
    ]
    return found or [*_rates(config), *_targets(config), *_minibatches(config), *_precision(config)]


def _parameter(config: StudyConfig, name: str, parameter: Range | Choices) -> Iterator[Problem]:
    path: Path = ("search", name)
    if _is_set(config, PARAMETER_PATHS[name]):
        fixed_at = ".".join(PARAMETER_PATHS[name])
        yield Problem(path, f"is searched, and also fixed at {fixed_at}; remove one of the two (search.{name}=null)")
    wrong = [*_range(path, parameter)] if isinstance(parameter, Range) else []
    yield from wrong
    yield from _conditions(config, name, parameter)
    if not wrong:
        yield from _values(config, name, parameter)


def _is_set(part: Any, path: Path) -> bool:
    for key in path:
        if key not in part.model_fields_set:
            return False
        part = getattr(part, str(key))
    return True


def _range(path: Path, parameter: Range) -> Iterator[Problem]:
    if parameter.type == "float" and takes_whole_numbers(str(path[-1])):
        yield Problem((*path, "type"), f"got 'float', expected 'int', as {path[-1]} takes whole numbers only")
    if parameter.low >= parameter.high:
        yield Problem((*path, "low"), f"got {parameter.low:g}, expected a number below high ({parameter.high:g})")
    if parameter.log and parameter.low <= 0:
        yield Problem((*path, "low"), f"got {parameter.low:g}, expected a number above 0, as log is true")
    for end in ("low", "high"):
        value = getattr(parameter, end)
        if parameter.type == "int" and not float(value).is_integer():
            yield Problem((*path, end), f"got {value:g}, expected a whole number")


def _conditions(config: StudyConfig, name: str, parameter: Range | Choices) -> Iterator[Problem]:
    for parent, allowed in parameter.when.items():
        path: Path = ("search", name, "when", parent)
        searched = config.search.get(parent)
        if searched is None:
            yield Problem(path, "is not a searched parameter", expected_one_of=tuple(config.search))
        elif not isinstance(searched, Choices):
            yield Problem(path, "is a range; a condition needs a parameter with choices")
        else:
            for value in allowed:
                if value not in searched.choices:
                    yield Problem(path, f"got {value!r}", expected_one_of=tuple(map(str, searched.choices)))


def _values(config: StudyConfig, name: str, parameter: Range | Choices) -> Iterator[Problem]:
    keys = ("low", "high") if isinstance(parameter, Range) else ("choices",) * len(parameter.choices)
    for key, value in zip(keys, parameter.ends(), strict=True):
        try:
            TrialConfig.model_validate(with_values(config.fixed(), {name: value}))
        except ValidationError as error:
            yield from (Problem(("search", name, key), p.message, p.expected_one_of) for p in from_validation(error))


def _sections(config: StudyConfig) -> Iterator[Problem]:
    if not config.resources.cpu and not config.resources.gpu:
        yield Problem(("resources",), "cpu and gpu are both 0, expected something that a worker occupies")
    try:
        counts = {group: combinations(config.search, group) for group in (TARGETS, LIKELIHOODS, SIZES)}
    except ValueError as error:
        yield Problem(("search",), str(error))
        return
    for group, count in counts.items():
        if count > MOST_COMBINATIONS:
            names = ", ".join(name for name in group if name in config.search)
            what = f"the choices of {names}, and of what their conditions name, have {count:,} combinations"
            yield Problem(("search",), f"{what}; expected at most {MOST_COMBINATIONS:,}, since a study checks each")
    metrics = [objective.metric for objective in config.objectives]
    for index, metric in enumerate(metrics):
        if metric in metrics[:index]:
            yield Problem(("objectives", index, "metric"), f"got {metric!r} again, expected each metric once")


def _data(config: StudyConfig) -> Iterator[Problem]:
    data, split = config.data, config.data.split
    total = split.train + split.validation + split.test
    if abs(total - 1) > 1e-6:
        yield Problem(("data", "split"), f"train, validation and test add up to {total:g}, expected 1")
    path: Path = ("data", "split", "column")
    needs_column = split.by in ("group", "time") and data.sequence is None
    if data.sequence is not None:
        yield from _sequence(data.sequence, split, data.missing)
        if data.factors:
            yield Problem(("data", "factors"), f"got {list(data.factors)}, expected none with data.sequence")
        if data.contamination:
            said = f"got {data.contamination:g}, expected 0 with data.sequence, whose examples are no single rows"
            yield Problem(("data", "contamination"), said)
    elif needs_column and split.column is None:
        yield Problem(path, f"is missing; split.by {split.by} needs the column with the {split.by}s")
    if data.sequence is None and not needs_column and split.column is not None:
        yield Problem(path, f"got {split.column!r}, which only split.by group and time use; expected none")
    if data.layout == "mvtec" and data.source != "images":
        yield Problem(("data", "layout"), f"got 'mvtec', expected 'images' or 'series' for source {data.source}")
    if split.by == "folder" and data.layout != "mvtec":
        yield Problem(("data", "split", "by"), "got 'folder', which needs source images and layout mvtec")
    if data.scale == "quantile" and data.clip is not None:
        yield Problem(("data", "clip"), f"got {data.clip:g}, expected none, as scale quantile stays in [0, 1]")
    if both := sorted({*map(str, data.unlabelled)} & {*map(str, data.anomaly_labels or ())}):
        yield Problem(("data", "unlabelled"), f"got {both[0]!r}, which data.anomaly_labels has as well")
    if data.scale != "unit" and (config.model.ms_ssim or "ms_ssim" in config.search):
        needs = "as model.ms_ssim needs values in [0, 1]"
        yield Problem(("data", "scale"), f"got {data.scale!r}, expected 'unit', {needs}")
    likelihoods = config.search.get("likelihood")
    if "bernoulli" in (likelihoods.choices if isinstance(likelihoods, Choices) else (config.model.likelihood,)):
        needs = "as likelihood bernoulli needs values in [0, 1]"
        if data.scale not in ("unit", "quantile"):
            yield Problem(("data", "scale"), f"got {data.scale!r}, expected 'unit' or 'quantile', {needs}")
        elif data.scale == "unit" and data.clip is not None:
            negative = "which lets negative values through, expected none"
            yield Problem(("data", "clip"), f"got {data.clip:g}, {negative}, {needs}")


def _sequence(sequence: SequenceConfig, split: SplitConfig, missing: str) -> Iterator[Problem]:
    if sequence.window == WHOLE:
        yield from _whole(sequence, split, missing)
        return
    if sequence.longest is not None:
        expected = f"expected none: only with data.sequence.window {WHOLE} is a series as long as it is"
        yield Problem(("data", "sequence", "longest"), f"got {sequence.longest}, {expected}")
    if split.by not in ("group", "time"):
        whole = "'group', which keeps each series in one split, or 'time', the earliest rows for training"
        yield Problem(("data", "split", "by"), f"got {split.by!r}, expected with data.sequence {whole}")
    if split.by == "group" and sequence.series is None:
        yield Problem(("data", "sequence", "series"), "is missing; split.by group needs the column with the series")
    yield from _no_split_column(split)
    if missing == "median":
        yield Problem(("data", "missing"), "got 'median', expected 'refuse' or 'mask' with data.sequence")


def _whole(sequence: SequenceConfig, split: SplitConfig, missing: str) -> Iterator[Problem]:
    """Of series that are one example each."""
    whole = f"with data.sequence.window {WHOLE}"
    if sequence.series is None:
        yield Problem(("data", "sequence", "series"), f"is missing; {whole} it names the column with the series")
    if sequence.stride != 1:
        yield Problem(("data", "sequence", "stride"), f"got {sequence.stride}, expected none {whole}")
    if split.by not in ("random", "group"):
        reason = "each series in one split by chance: series of all splits may be of the same time"
        yield Problem(("data", "split", "by"), f"got {split.by!r}, expected {whole} 'random' or 'group', {reason}")
    yield from _no_split_column(split)
    if missing != "mask":
        reason = "as shorter series are filled up behind their end"
        yield Problem(("data", "missing"), f"got {missing!r}, expected 'mask' {whole}, {reason}")


def _no_split_column(split: SplitConfig) -> Iterator[Problem]:
    if split.column is not None:
        expected = "expected none: data.sequence names the columns of times and series"
        yield Problem(("data", "split", "column"), f"got {split.column!r}, {expected}")


def _labels(config: StudyConfig) -> Iterator[Problem]:
    """Metrics that need labels where there can be none."""
    if config.data.may_have_anomalies:
        return
    for path, metric in followed_metrics(config):
        if "labels" in metric_of(metric).needs:
            yield Problem(path, f"got {metric!r}, expected a rule that needs no labels, or data.anomaly_labels")


def _rates(config: StudyConfig) -> Iterator[Problem]:
    """Metrics that need a KL, in a study that may train a deterministic code."""
    if config.always_has_rate():
        return
    without = "which a deterministic code (autoencoder, denoising with code deterministic) does not have"
    for path, metric in followed_metrics(config):
        if "rate" in metric_of(metric).needs:
            yield Problem(path, f"got {metric!r}, {without}")


def _targets(config: StudyConfig) -> Iterator[Problem]:
    """Kinds of objective other than `beta` need a family that has the KL in its loss, and some one code."""
    path: Path = ("search", "objective.kind") if "objective.kind" in config.search else ("objective", "kind")
    for values in reachable(config.search, TARGETS):
        trial = config.trial(values)
        kind, model = trial.objective.kind, trial.model
        if kind != "beta" and not model.is_trained_by_kl:
            yield Problem(path, f"got {kind!r}, expected 'beta' for {model.family}, whose loss has no KL")
            return
        if trial.objective.compares_rows and not model.has_normal_code:
            each = {"step": "step", "map": "place"}.get(model.latent)
            what = f"latent {model.latent}, which has a code for each {each}" if each else model.family
            yield Problem(path, f"got {kind!r}, which compares one code of each row; expected another kind for {what}")
            return


def _minibatches(config: StudyConfig) -> Iterator[Problem]:
    """A kind of objective that compares the rows of a minibatch needs two of them."""
    sizes, name = config.search.get("training.batch_size"), "training.batch_size"
    smallest = min(sizes.ends()) if sizes else config.training.batch_size
    kinds = (config.trial(values).objective for values in reachable(config.search, ("objective.kind",)))
    if smallest < 2 and (kind := next((one.kind for one in kinds if one.compares_rows), None)):
        path: Path = ("search", name) if sizes else ("training", "batch_size")
        yield Problem(path, f"got 1, expected at least 2 for objective.kind {kind}, which compares a minibatch's rows")


def _precision(config: StudyConfig) -> Iterator[Problem]:
    if "tf32" in config.precisions() and not config.resources.gpu:
        is_searched = "training.precision" in config.search
        path: Path = ("search", "training.precision", "choices") if is_searched else ("training", "precision")
        yield Problem(path, "got 'tf32' with resources.gpu 0, expected 'float32' or 'bf16': only GPUs multiply in TF32")


def followed_metrics(config: StudyConfig) -> Iterator[tuple[Path, str]]:
    """Every metric by which trials are ranked, chosen or stopped, with the key path that names it."""
    for index, objective in enumerate(config.objectives):
        yield ("objectives", index, "metric"), objective.metric
    for index, constraint in enumerate(config.constraints):
        yield ("constraints", index, "metric"), constraint.metric
    if config.early_stopping.compares_one_metric:
        yield ("early_stopping", "metric"), config.early_stopping.metric
    if config.champion.by is not None:
        yield ("champion", "by"), config.champion.by


def _bounds(config: StudyConfig) -> Iterator[Problem]:
    named = [constraint.name for constraint in config.constraints]
    highest = {one.metric: one.at_most for one in config.constraints if one.at_most is not None}
    for index, one in enumerate(config.constraints):
        path: Path = ("constraints", index)
        if one.name in named[:index]:
            yield Problem(path, f"got {one.name!r} again, expected each bound of a metric once")
        elif one.at_least is not None and one.at_least > highest.get(one.metric, one.at_least):
            limit = highest[one.metric]
            yield Problem((*path, "at_least"), f"got {one.at_least:g}, expected no more than at_most ({limit:g})")


def _first_rung(config: StudyConfig) -> Iterator[Problem]:
    first, searched = config.early_stopping.min_epochs, config.search.get("training.epochs")
    longest = max(searched.ends()) if searched else config.training.epochs
    if config.early_stopping.kind != "none" and first is not None and first >= longest:
        path: Path = ("early_stopping", "min_epochs")
        yield Problem(path, f"got {first}, expected fewer than training.epochs ({longest})")


def _unused(config: StudyConfig) -> Iterator[Problem]:
    """What a sweep has no use for, where every trial is one."""
    if config.objective.kind != "sweep" or "objective.kind" in config.search:
        return
    instead = "is not used by objective.kind sweep, whose betas are those of objective.sweep; remove it"
    unused = [name for name, path in PARAMETER_PATHS.items() if path[:2] in (("objective", "beta"), ANNEALING)]
    for name in unused:
        if name in config.search:
            yield Problem(("search", name), instead)
        elif _is_set(config, PARAMETER_PATHS[name]):
            yield Problem(PARAMETER_PATHS[name], instead)


def _enqueued(config: StudyConfig) -> Iterator[Problem]:
    for index, configuration in enumerate(config.enqueue):
        for name, value in configuration.items():
            path: Path = ("enqueue", index, name)
            if name in config.search:
                yield from _enqueued_value(path, config.search[name], value, configuration)
            else:
                message = "is not searched" if name in PARAMETER_PATHS else "unknown parameter"
                yield Problem(path, message, expected_one_of=tuple(config.search))


def _enqueued_value(
    path: Path, parameter: Range | Choices, value: Any, configuration: Mapping[str, Any]
) -> Iterator[Problem]:
    if not is_active(parameter, configuration):
        needed = " and ".join(
            f"{parent} {' or '.join(map(str, allowed))}" for parent, allowed in parameter.when.items()
        )
        yield Problem(path, f"got {value!r}, which is used only with {needed}; set that too, or remove it")
    elif parameter.contains(value):
        return
    elif isinstance(parameter, Choices):
        yield Problem(path, f"got {value!r}", expected_one_of=tuple(map(str, parameter.choices)))
    else:
        kind = "whole number" if parameter.type == "int" else "number"
        yield Problem(path, f"got {value!r}, expected a {kind} from {parameter.low:g} to {parameter.high:g}")

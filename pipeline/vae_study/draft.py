"""A study file from a look at the data: what each column is for, and a net, a search and a budget that fit."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np

from vae_study.config.data import DataConfig
from vae_study.config.study import STUDY_NAME
from vae_study.data import Dataset, Table, build_dataset, read_table
from vae_study.data.inspection import date_columns, identifiers, named_like_labels
from vae_study.data.sources import PYTHON, find_source, times_of
from vae_study.data.sources.mvtec import LAYOUT, has_layout
from vae_study.errors import TooManyValues, UserError

# A label has two values, and the rarer one is at most this share of the rows.
MOST_ANOMALOUS = 0.4
# A column with a value this many interquartile ranges from its median is scaled by these.
FAR = 30
SAMPLE_ROWS = 100_000
TRIALS, STEPS = 32, 2000
LEAST_EPOCHS, MOST_EPOCHS = 10, 300
SMALLEST_BATCH, LARGEST_BATCH = 16, 256
NARROWEST, WIDEST, LARGEST_CODE = 32, 256, 32
# Convolutions halve an image twice; of larger ones, residual blocks read patches.
SMALLEST_IMAGE, LARGEST_CONV = 8, 96
# How images whose folders say which are for test are split.
BY_FOLDER = {"by": "folder", "train": 0.8, "validation": 0.1, "test": 0.1}
LEFT_OUT = "left out of the features"
# Where the comments begin.
COMMENTS = 44


class Setting(NamedTuple):
    """A key of the section `data`, its value, and why."""

    key: str
    value: Any
    why: str


def draft_study(location: str, name: str | None = None, label: str | None = None) -> tuple[str, str]:
    """Write a study file from a look at the data; nothing is written to a disk.

    Args:
        location: A file, a folder, a URI, the name of a bundled data set, or `python:module:function`.
        name: The study's name; by default that of the file.
        label: The column that says which rows are anomalous; by default one that is called like that and has two
            values.

    Returns:
        The study's name, and the text of the file. Every choice has a comment.

    Raises:
        UserError: The data cannot be read.
    """
    source = find_source(location)
    where: dict[str, Any] = {"source": location if source.name == PYTHON or not source.paths else source.name}
    if source.paths:
        where["path"] = location
    if source.name == "images" and has_layout(Path(location)):
        where |= {"layout": LAYOUT, "split": BY_FOLDER}
    times = times_of(DataConfig.model_validate(where))
    table, ids = _readable(where, times)
    times += date_columns(table)
    chosen = [*_label(table, label), *_split(times), *_others(table, times, ids)]
    config, data, kept = _first_that_works(where, chosen, label)
    name = name or _name(location)
    lines = [
        f"# Written by `vae-study init {location}`. Before it runs: vae-study check {name}.yaml",
        f"study: {name}",
        "data:",
        *(f"  {key}: {_plain(value)}" for key, value in where.items()),
        *(_line(f"  {one.key}: {_plain(one.value)}", one.why) for one in kept),
        *_model(data, config),
    ]
    return name, "\n".join(lines) + "\n"


def _readable(where: Mapping[str, Any], times: Sequence[str]) -> tuple[Table, list[str]]:
    """The table without its times, and without columns of text that have too many values to be read: these, too."""
    ids: list[str] = []
    while True:
        try:
            return read_table(DataConfig.model_validate({**where, "exclude": [*times, *ids]})), ids
        except TooManyValues as error:
            ids.append(error.column)


def _first_that_works(
    where: Mapping[str, Any], chosen: Sequence[Setting], label: str | None
) -> tuple[DataConfig, Dataset, list[Setting]]:
    """The data by the chosen settings; without a split by time, and without a guessed label, if that cannot be.

    Raise UserError if nothing works.
    """
    attempts: list[tuple[str, ...]] = [(), ("split",)]
    if label is None:
        attempts.append(("split", "label", "anomaly_labels"))
    while True:
        without = attempts.pop(0)
        kept = [one for one in chosen if one.key not in without]
        left_out = [one.value["column"] for one in chosen if one.key == "split" and "split" in without]
        if left_out:
            columns = [*next((one.value for one in kept if one.key == "exclude"), []), *left_out]
            kept = [*(one for one in kept if one.key != "exclude"), Setting("exclude", columns, LEFT_OUT)]
        config = DataConfig.model_validate({**where, **{one.key: one.value for one in kept}})
        try:
            return config, build_dataset(read_table(config), config), kept
        except UserError:
            if not attempts:
                raise


def _label(table: Table, asked: str | None) -> Iterator[Setting]:
    for name in [asked] if asked else named_like_labels(table):
        counts = _values(table, name)
        rarer = min(counts, key=lambda value: counts[value], default=None)
        share = counts[rarer] / sum(counts.values()) if rarer is not None else 1
        if asked and not counts:
            known = ", ".join((*table.feature_names, *table.category_names)[:20])
            raise UserError(f"--label: got {asked!r}, expected a column: {known}")
        if asked or (len(counts) == 2 and share <= MOST_ANOMALOUS):
            how = "named by --label" if asked else "called like a label, with two values"
            yield Setting("label", name, how)
            yield Setting("anomaly_labels", [rarer], f"the rarest value: {counts[rarer]:,} rows, {share:.2%}")
            return


def _values(table: Table, name: str) -> dict[Any, int]:
    """The values of a column with their numbers of rows."""
    if name in table.feature_names:
        place = table.feature_names.index(name)
        x_N = table.x_ND[:, place]
        values, counts = np.unique(x_N[~np.isnan(x_N)], return_counts=True)
        plain = [int(value) + table.origin(place) if value == int(value) else float(value) for value in values]
        return dict(zip(plain, counts.tolist(), strict=True))
    if name in table.category_names:
        place = table.category_names.index(name)
        code_N = table.code_NC[:, place]
        count_V = np.bincount(code_N[code_N >= 0], minlength=len(table.categories[place]))
        truth = {"True": True, "False": False} if table.category_kind(place) == "numbers" else {}
        return {truth.get(text, text): int(n) for text, n in zip(table.categories[place], count_V, strict=True)}
    return {}


def _split(times: Sequence[str]) -> Iterator[Setting]:
    if times:
        why = "times: the earliest rows are for training, the latest for test; without this, a random split"
        yield Setting("split", {"by": "time", "column": times[0]}, why)


def _others(table: Table, times: Sequence[str], ids: Sequence[str]) -> Iterator[Setting]:
    # Arrays and images have no columns to leave out.
    found = identifiers(table) if table.read_as else []
    excluded = [*ids, *(name for name, *_ in found if name not in times), *times[1:]]
    if excluded:
        yield Setting("exclude", excluded, f"{LEFT_OUT}: nearly all values are distinct, as of an identifier, or times")
    missing = int(np.isnan(table.x_ND).sum())
    if missing:
        yield Setting("missing", "median", f"{missing:,} missing values; each such column gets an indicator as well")
    if table.image_shape is None:
        far = _far(table)
        why = f"column {far!r} has values far from all others" if far else "mean 0 and variance 1"
        yield Setting("scale", "robust" if far else "standard", why)


def _far(table: Table) -> str | None:
    """The first column with a value that is far from all others, in its interquartile ranges."""
    for place, name in enumerate(table.feature_names):
        x_N = table.x_ND[:SAMPLE_ROWS, place]
        low, middle, high = np.nanquantile(x_N, [0.25, 0.5, 0.75]) if (~np.isnan(x_N)).any() else (0, 0, 0)
        if high > low and np.nanmax(np.abs(x_N - middle)) > FAR * (high - low):
            return name
    return None


def _model(data: Dataset, config: DataConfig) -> Iterator[str]:
    rows, features = len(data.splits["train"].row_N), len(data.feature_names)
    shape = data.image_shape
    if shape is not None and min(shape[-2:]) >= SMALLEST_IMAGE:
        is_large = min(shape[-2:]) > LARGEST_CONV
        network = "{kind: residual, channels: [16, 32, 32, 32]}" if is_large else "{kind: conv}"
        yield _line(f"model: {{network: {network}, likelihood: bernoulli}}", "images; values from 0 to 1")
    else:
        wide = int(np.clip(2 ** np.ceil(np.log2(2 * features)), NARROWEST, WIDEST))
        yield _line(f"model: {{network: {{hidden: [{wide}, {wide // 2}]}}}}", f"for {features:,} features")
    batch = min(rows, int(np.clip(2 ** int(np.log2(max(rows / 8, 1))), SMALLEST_BATCH, LARGEST_BATCH)))
    epochs = int(np.clip(round(STEPS / (rows // batch)), LEAST_EPOCHS, MOST_EPOCHS))
    about = f"{epochs * (rows // batch):,} steps on the {rows:,} normal rows of train"
    yield _line(f"training: {{batch_size: {batch}, epochs: {epochs}}}", about)
    largest = int(np.clip(features // 2, 2, LARGEST_CODE))
    yield "search:"
    yield _line("  beta: {low: 0.01, high: 4, log: true}", "weight of the KL")
    if largest > 2:
        yield _line(f"  latent_dim: {{low: 2, high: {largest}, log: true, type: int}}", "latent dimensions")
    else:
        yield _line("  latent_dim: {choices: [1, 2]}", "latent dimensions")
    yield _line("  kl_annealing.schedule: {choices: [none, linear, cyclical]}", "how that weight rises")
    yield "  kl_annealing.warmup: {low: 0.1, high: 0.5, when: {kl_annealing.schedule: [linear]}}"
    yield _line("  free_bits.kind: {choices: [none, per_dimension]}", "KL that costs nothing")
    yield "  free_bits.nats: {low: 0.05, high: 0.5, when: {free_bits.kind: [per_dimension]}}"
    yield "  training.learning_rate: {low: 5.0e-4, high: 5.0e-3, log: true}"
    yield _line(f"trials: {TRIALS}", "more find a better frontier; the same command continues with more")


def _line(setting: str, why: str) -> str:
    return f"{setting.ljust(COMMENTS)}  # {why}"


def _plain(value: Any) -> str:
    """A value as YAML on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_plain(one)}" for key, one in value.items()) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(_plain, value)) + "]"
    is_word = isinstance(value, str) and re.fullmatch(r"[A-Za-z_]\w*", value)
    is_safe = is_word and value.lower() not in ("null", "true", "false", "yes", "no", "on", "off", "y", "n")
    return value if is_safe else json.dumps(value, ensure_ascii=False)


def _name(location: str) -> str:
    """A valid study name from that of the data."""
    stem = PurePath(location.rstrip("/").rpartition(":")[2]).name.partition(".")[0]
    name = re.sub(r"[^\w.-]+", "-", stem).strip("-._")[:100]
    return name if re.fullmatch(STUDY_NAME, name) else "study"

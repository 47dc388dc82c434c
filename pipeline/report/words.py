"""How numbers, metrics and parameters are written for a reader. Plain text; escaping is the templates' task."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.report.tables.frames import Interval

NONE = "–"
SPLITS = {"val": "validation", "test": "test", "train": "training"}
METRICS = {
    "reconstruction": "reconstruction",
    "kl": "KL",
    "elbo": "ELBO",
    "iwae": "importance-weighted bound",
    "squared_error": "squared error",
    "active_units": "active units",
    "auroc": "AUROC",
    "auprc": "average precision",
    "kl_weight": "KL weight",
    "probe_accuracy": "probe accuracy",
    "perplexity": "codebook perplexity",
}
NATS = ("reconstruction", "kl", "elbo", "iwae", "loss")
PARAMETERS = {"latent_dim": "latent size"}
SCORES = {
    "elbo": "negative ELBO",
    "reconstruction": "reconstruction",
    "kl": "KL",
    "reconstruction_probability": "reconstruction probability",
    "squared_error": "squared error",
}
SCORES_IN_NATS = ("elbo", "reconstruction", "kl", "reconstruction_probability")


@dataclass(frozen=True)
class Words:
    """A figure's caption and its alternative text."""

    caption: str = ""
    alt: str = ""


def metric_name(metric: str) -> str:
    """Such as "validation KL" for val/kl."""
    split, _, name = metric.rpartition("/")
    return f"{SPLITS.get(split, split)} {METRICS.get(name, name.replace('_', ' '))}".strip()


def metric_unit(metric: str) -> str:
    """Such as "nats" for val/kl; empty for a metric without unit."""
    return "nats" if metric.rpartition("/")[2] in NATS else ""


def axis_label(metric: str) -> str:
    """A metric's name, with its unit where it has one."""
    unit = metric_unit(metric)
    return f"{metric_name(metric)} ({unit} per example)" if unit else metric_name(metric)


def digits_of(metric: str) -> int:
    """Decimals that a metric deserves."""
    kind = metric.rpartition("/")[2]
    return 3 if kind.startswith(("auroc", "auprc", "probe")) else 0 if kind == "active_units" else 2


def hypervolume_unit(metrics: Iterable[str]) -> str:
    """Such as "nats²" for two metrics in nats; empty where a metric is in something else."""
    units = [metric_unit(metric) for metric in metrics]
    return units[0] + ("", "²", "³")[len(units) - 1] if all(units) and 0 < len(units) < 4 else ""


def parameter_name(name: str) -> str:
    """Such as "latent size" for latent_dim."""
    return PARAMETERS.get(name, name)


def score_label(score: str) -> str:
    """An anomaly score's name, with its unit where it has one."""
    name = SCORES.get(score, score.replace("_", " "))
    return f"{name} (nats per example)" if score in SCORES_IN_NATS else name


def number(value: float, digits: int = 2) -> str:
    """A number with a true minus sign and thousands apart, a dash where it is unknown."""
    if not math.isfinite(value):
        return NONE if math.isnan(value) else ("∞" if value > 0 else "−∞")
    return f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", "−")


def significant(value: float, digits: int = 3) -> str:
    """A parameter's value, to so many significant digits, without trailing zeros."""
    return f"{value:.{digits}g}".replace("-", "−") if math.isfinite(value) else number(value)


def interval(auroc: Interval, digits: int = 3) -> str:
    """Such as "0.912 [0.870, 0.947]"; the interval is left out where it is unknown."""
    if not math.isfinite(auroc.low):
        return number(auroc.value, digits)
    return f"{number(auroc.value, digits)} [{number(auroc.low, digits)}, {number(auroc.high, digits)}]"


def cell(column: str, value: Any) -> str:
    """A table's cell, with the digits that its column deserves."""
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return NONE
    if isinstance(value, bool | str) or not isinstance(value, int | float):
        return str(value)
    kind = column.rpartition("/")[2]
    if "/" not in column or kind not in METRICS:
        return significant(value) if isinstance(value, float) else str(value)
    return number(float(value), digits_of(column))


def count(size: int, one: str, many: str | None = None) -> str:
    """Such as "1 trial" or "1,200 trials"."""
    return f"{size:,} {one if size == 1 else many or one + 's'}"


def listing(items: Iterable[str]) -> str:
    """Such as "a, b and c"."""
    *head, last = [*items] or [""]
    return f"{', '.join(head)} and {last}" if head else last


def trial_list(trials: Sequence[int], most: int = 12) -> str:
    """Such as "trials 3, 8 and 41"; a long list is cut and counted."""
    shown = [str(trial) for trial in trials[:most]]
    if len(trials) > most:
        shown.append(f"{len(trials) - most} more")
    return f"trial{'s' if len(trials) != 1 else ''} {listing(shown)}"


def hours(value: float) -> str:
    """A length of time in the unit that reads best."""
    if value >= 1:
        return f"{number(value, 1)} hours"
    return f"{number(value * 60, 1)} minutes" if value * 60 >= 1 else f"{number(value * 3600, 1)} seconds"

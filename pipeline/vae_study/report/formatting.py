"""How metrics, numbers and lists are written for a reader, and how templates of sentences are filled in.

The result is plain text; the pages' templates escape it.
"""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from vae_study.metrics import AREAS, DETECTOR_LABELS, METRICS, SCORES, SPLITS, last_part, metric_of
from vae_study.report.frames import Interval

NONE = "–"
# From here on a number is easier to read by its power of ten.
LONGEST = 1e9
PARAMETERS = {"latent_dim": "latent size"}


@dataclass(frozen=True)
class Words:
    """A figure's caption and its alternative text."""

    caption: str = ""
    alt: str = ""


def metric_name(metric: str) -> str:
    """Such as "validation KL" for val/kl, or "test AUROC of KL" for test_auroc/kl."""
    split, _, name = metric.rpartition("/")
    if split.endswith(tuple(f"_{area}" for area in AREAS)):
        return f"{metric_name(split.replace('_', '/'))} of {score_name(name)}"
    return f"{SPLITS.get(split, split)} {metric_of(name).label}".strip()


def metric_unit(metric: str) -> str:
    """Such as "nats" for val/kl; empty for a metric without unit."""
    return metric_of(metric).unit


def axis_label(metric: str) -> str:
    """A metric's name, with its unit where it has one."""
    unit = metric_unit(metric)
    return f"{metric_name(metric)} ({unit} per example)" if unit else metric_name(metric)


def short_label(metric: str) -> str:
    """A metric's name without its split, with its unit where it has one, such as "KL (nats)"."""
    row = metric_of(metric)
    return f"{row.label} ({row.unit})" if row.unit else row.label


def digits_of(metric: str) -> int:
    """Decimals that a metric is shown with."""
    return metric_of(metric).digits


def hypervolume_unit(metrics: Iterable[str]) -> str:
    """Such as "nats²" for two metrics in nats; empty where a metric is in something else."""
    units = [metric_unit(metric) for metric in metrics]
    return units[0] + ("", "²", "³")[len(units) - 1] if all(units) and 0 < len(units) < 4 else ""


def parameter_name(name: str) -> str:
    """Such as "latent size" for latent_dim."""
    return PARAMETERS.get(name, name)


def score_name(score: str) -> str:
    """An anomaly score's name."""
    return SCORES[score].label if score in SCORES else score.replace("_", " ")


def score_label(score: str) -> str:
    """An anomaly score's name, with its unit where it has one."""
    unit = SCORES[score].unit if score in SCORES else ""
    return f"{score_name(score)} ({unit} per example)" if unit else score_name(score)


def detector_name(name: str) -> str:
    """A rule, an ensemble or the baseline."""
    return DETECTOR_LABELS.get(name) or metric_name(name)


def number(value: float, digits: int = 2) -> str:
    """A number with a true minus sign and thousands apart, a dash where it is unknown."""
    if not math.isfinite(value):
        return NONE if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if abs(value) >= LONGEST:
        return significant(value)
    return f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", "−")


def significant(value: float, digits: int = 3) -> str:
    """A parameter's value, to this many significant digits, without trailing zeros."""
    return f"{value:.{digits}g}".replace("-", "−") if math.isfinite(value) else number(value)


def quantity(value: float) -> str:
    """A value in a user's unit: four significant digits, but never fewer than it has before the point."""
    if not math.isfinite(value) or value == 0 or abs(value) >= LONGEST:
        return number(value, 0)
    decimals = 3 - math.floor(math.log10(abs(value)))
    if decimals > 7:
        return significant(value)
    text = number(value, max(decimals, 0))
    return text.rstrip("0").rstrip(".") if "." in text else text


def percent(share: float) -> str:
    """Such as "12.5 %"; a dash where it is unknown."""
    return f"{number(100 * share, 1)} %" if math.isfinite(share) else NONE


def interval(auroc: Interval, digits: int = 3) -> str:
    """Such as "0.912 [0.870, 0.947]"; the interval is left out where it is unknown."""
    if not math.isfinite(auroc.low):
        return number(auroc.value, digits)
    return f"{number(auroc.value, digits)} [{number(auroc.low, digits)}, {number(auroc.high, digits)}]"


def cell(column: str, value: Any) -> str:
    """A table's cell, with the digits of its column."""
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return NONE
    if isinstance(value, bool | str) or not isinstance(value, int | float):
        return str(value)
    if "/" not in column or last_part(column) not in METRICS:
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


def paragraphs(template: str, **values: Any) -> list[str]:
    """The paragraphs of a text template, each on one line; an empty line of the template ends a paragraph."""
    return _split(_environment().get_template(template).render(values))


def sentences(template: str, macro: str, *values: Any) -> str:
    """The sentences of one macro of a text template, on one line; empty where it has nothing to say."""
    return " ".join(_split(getattr(_environment().get_template(template).module, macro)(*values)))


def captions(figure: str) -> Callable[[Any], Words]:
    """What makes a figure's caption and alternative text of its numbers, by the figure's macro in captions.txt."""

    def words(table: Any) -> Words:
        return Words(*_split(getattr(_environment().get_template("captions.txt").module, figure)(table)))

    return words


def _split(text: str) -> list[str]:
    lines = (re.sub(r"[ \n]+", " ", part).strip() for part in re.split(r"\n[ \n]*\n", text))
    return [line for line in lines if line]


@cache
def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("vae_study.report"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # A user's name may have empty lines, which must not end a paragraph.
        finalize=lambda value: " ".join(str(value).splitlines()),
    )
    found.tests["known"] = math.isfinite
    named = (count, number, significant, percent, interval, hours, listing, score_label)
    found.filters.update({function.__name__: function for function in named})
    found.filters.update(
        trials=trial_list, metric=metric_name, unit=metric_unit, digits=digits_of, parameter=parameter_name,
        score=score_name, detector=detector_name, median=np.median,
    )  # fmt: skip
    return found

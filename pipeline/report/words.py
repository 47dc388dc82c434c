"""How numbers and lists are written for a reader. Plain text; escaping is the templates' task."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.report.names import METRICS, digits_of, last_part
from pipeline.report.tables.frames import Interval

NONE = "–"
# From here on a number is easier to read by its power of ten.
LONGEST = 1e9


@dataclass(frozen=True)
class Words:
    """A figure's caption and its alternative text."""

    caption: str = ""
    alt: str = ""


def number(value: float, digits: int = 2) -> str:
    """A number with a true minus sign and thousands apart, a dash where it is unknown."""
    if not math.isfinite(value):
        return NONE if math.isnan(value) else ("∞" if value > 0 else "−∞")
    if abs(value) >= LONGEST:
        return significant(value)
    return f"{round(value, digits) + 0.0:,.{digits}f}".replace("-", "−")


def significant(value: float, digits: int = 3) -> str:
    """A parameter's value, to so many significant digits, without trailing zeros."""
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
    """A table's cell, with the digits that its column deserves."""
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

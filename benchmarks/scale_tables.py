"""The tables of benchmarks/scale.py, from what it has measured."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import log
from typing import Any

import numpy as np

# Of a study's calls: what counts as its beginning, and as its end.
PART = 0.1
CALLS = {"ask": "an ask", "report": "a report of 4 epochs", "end": "a trial's end"}
Cells = Callable[[Mapping[str, Any], Sequence[Mapping[str, Any]]], Iterator[str]]


def parts(seconds: Sequence[float]) -> list[float]:
    """Median and 99th percentile at the beginning and at the end, milliseconds."""
    size = max(1, round(PART * len(seconds)))
    some = seconds[:size], seconds[-size:]
    return [1000 * float(np.percentile(one, level)) for one in some for level in (50, 99)]


def table(found: Sequence[Mapping[str, Any]], names: Sequence[str], cells: Cells) -> Iterator[str]:
    """A row a study."""
    about = ["sampler", "trials", "slots"]
    yield "| " + " | ".join([*about, *names]) + " |"
    yield "|" + "---|" * (len(about) + len(names))
    for one in found:
        yield f"| {one['sampler']} | {one['trials']:,} | {one['slots']} | " + " | ".join(cells(one, found)) + " |"


def calls(one: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What a study's calls take at its beginning and at its end."""
    for kind in CALLS:
        first, first_99, last, last_99 = one["calls"][kind]
        yield f"{first:.1f} ({first_99:.1f}) → {last:.1f} ({last_99:.1f})"
    yield f"{one['least']['report']:.2f}"


def totals(one: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What a study takes; its growth is that of the driver's CPU time a trial since the smallest study of its kind."""
    yield f"{1000 * one['cpu'] / one['measured']:.1f}"
    yield from (f"{1000 * seconds / one['measured']:.1f}" for seconds in one["threads"].values())
    yield f"{one['least']['MLflow']:.1f}"
    yield f"{one['reports']:.1f}"
    yield f"{1000 * one['servers'] / one['measured']:.1f}"
    yield f"{one['opening']:.1f}"
    least = min((other for other in found if alike(one, other)), key=lambda other: int(other["trials"]))
    yield growth(least, one) if least is not one else ""
    yield "{:,.0f} → {:,.0f}".format(*one["memory"])
    yield from (f"{size:,.0f}" for size in one["sizes"].values())


def alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two studies differ in nothing but their length."""
    return (one["sampler"], one["slots"]) == (other["sampler"], other["slots"])


def growth(least: Mapping[str, Any], one: Mapping[str, Any]) -> str:
    """How many times the CPU time a trial, against log n."""
    a_trial = [study["cpu"] / study["measured"] for study in (least, one)]
    return f"{a_trial[1] / a_trial[0]:.2f} (log n: {log(one['trials']) / log(least['trials']):.2f})"

"""The description of a study that has ended."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.choosing import Pick
from pipeline.search.pareto import frontier_of
from pipeline.tracking.description.layouts import fitting, heading, joined
from pipeline.tracking.description.links import to_comparison, to_picture, to_study, to_trial, to_trials, to_view
from pipeline.tracking.description.markdown import cell, escaped, interval, table
from pipeline.tracking.description.plan import of_family
from pipeline.tracking.views import shown_parameters

MOST_PARAMETERS, MOST_COMPARED = 3, 8
ARROWS = {"minimize": "↓", "maximize": "↑"}
BASELINE = "input_knn"


def result_note(
    spec: Mapping[str, Any],
    name: str,
    data: Mapping[str, Any],
    trials: pd.DataFrame,
    choices: pd.DataFrame,
    rule: str,
    champion: Pick | None,
    is_complete: bool = True,
    picture: str | None = None,
) -> str:
    """The description of a study that has ended: the model to take, the frontier, where to look further.

    Args:
        spec: The resolved spec, plain.
        name: The study's name.
        data: The data summary.
        trials: A row a trial, as in `StudyRecord`.
        choices: A row a detector, as in `StudyRecord`; may be empty.
        rule: The rule that chose.
        champion: What it chose.
        is_complete: Whether the study did all that it was asked for.
        picture: The frontier's, as an artifact of the parent run; the UI shows it as large as it is, so at most about
            700 pixels wide.

    Returns:
        Markdown with placeholders, for `filled`.
    """
    objectives = [objective["metric"] for objective in spec["objectives"]]
    signs = [1.0 if objective["direction"] == "minimize" else -1.0 for objective in spec["objectives"]]
    frontier = frontier_of(trials, objectives, signs)
    about = {one["rule"]: one for one in choices.to_dict("records")}
    score = f"`vae-study score {name} DATA` scores new rows with it; " if champion and is_complete else ""
    head = [
        *([] if is_complete else [f"**Interrupted**; `vae-study resume {name}` goes on with it."]),
        _verdict(rule, champion, about),
        _counts(spec, data, trials, frontier),
        *_baseline(about),
        f"{score}`vae-study report {name}` writes the report again.",
    ]
    parts = [
        "\n".join(head),
        to_picture("The frontier", picture) if picture else "",
        _links(trials, frontier, champion),
    ]
    last = _detectors(choices)
    return fitting(lambda rows: joined([*parts, _frontier(spec, frontier, champion, rows), last if rows else ""]))


def _verdict(rule: str, champion: Pick | None, about: Mapping[Any, Any]) -> str:
    if champion is None:
        return "**No trial was chosen**: none has finished."
    found, test = about.get(rule), ""
    if found is not None and math.isfinite(found["auroc"]):
        test = f" Test AUROC **{interval(found['auroc'], found['auroc_low'], found['auroc_high'])}**."
    return (
        f"The model to take: **{to_trial(champion.trial)}**, scored by `{champion.score}`, "
        f"best by `{rule}` ({champion.value:.4g}).{test}"
    )


def _counts(spec: Mapping[str, Any], data: Mapping[str, Any], trials: pd.DataFrame, frontier: pd.DataFrame) -> str:
    states = trials["state"].value_counts()
    told = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    axes = " and ".join(f"`{objective['metric']}`" for objective in spec["objectives"])
    size = f"{len(frontier)} on the frontier of {axes}" if len(spec["objectives"]) > 1 else f"the best by {axes}"
    return f"{len(trials)} trials {of_family(spec)} on {escaped(data['source'])}: {told or 'none'}; {size}."


def _baseline(about: Mapping[Any, Any]) -> list[str]:
    found = about.get(BASELINE)
    if found is None or not math.isfinite(found["auroc"]):
        return []
    value = interval(found["auroc"], found["auroc_low"], found["auroc_high"])
    return [f"Without any model, the distance to the nearest training rows has a test AUROC of {value}."]


def _links(trials: pd.DataFrame, frontier: pd.DataFrame, champion: Pick | None) -> str:
    compared = _spread(frontier["trial"].tolist(), MOST_COMPARED, champion)
    links = [
        to_view("trials, best first"),
        to_view("charts", "CHART"),
        *([to_comparison("finalists side by side", compared)] if len(compared) > 1 else []),
        to_study("the study's curves", "model-metrics"),
        to_study("files and report", "artifacts"),
        *([to_trials("what failed", "failed")] if trials["state"].eq("failed").any() else []),
    ]
    return " · ".join(links)


def _frontier(spec: Mapping[str, Any], frontier: pd.DataFrame, champion: Pick | None, most: int) -> str:
    """A row a trial of the frontier, in the order of its first objective; of many, some from end to end."""
    if frontier.empty or not most:
        return ""
    shown = _spread(frontier["trial"].tolist(), most, champion)
    names = [name for name in shown_parameters(spec) if name in frontier][:MOST_PARAMETERS]
    metrics = {one["metric"]: f"`{one['metric']}` {ARROWS[one['direction']]}" for one in spec["objectives"]}
    auroc = f"val_auroc/{champion.score}" if champion else ""
    if auroc in frontier:
        metrics[auroc] = f"`{auroc}` ↑"
    rows = [
        [_marked(int(row["trial"]), champion), *(_cell(column, row[column]) for column in [*names, *metrics])]
        for row in frontier[frontier["trial"].isin(shown)].to_dict("records")
    ]
    left = len(frontier) - len(rows)
    more = f"\n\nand {left} more of the frontier between these, in `trials.parquet`" if left else ""
    return f"{heading('The frontier')}\n\n{table(['trial', *map(escaped, names), *metrics.values()], rows)}{more}"


def _marked(number: int, champion: Pick | None) -> str:
    return f"**{to_trial(number)}**" if champion and champion.trial == number else to_trial(number)


def _cell(column: str, value: Any) -> str:
    return f"{value:.3f}" if column.startswith("val_auroc/") and pd.notna(value) else cell(value)


def _spread(numbers: Sequence[int], most: int, champion: Pick | None) -> list[int]:
    """Some of many, evenly from the first to the last, and the champion."""
    places = np.linspace(0, len(numbers) - 1, min(most, len(numbers))).round().astype(int)
    kept = {numbers[place] for place in places}
    if champion is not None and champion.trial in numbers:
        kept.add(champion.trial)
    return [number for number in numbers if number in kept]


def _detectors(choices: pd.DataFrame) -> str:
    """What each rule and ensemble detects, the best on test rows first; nothing where there are no labels."""
    if choices.empty or not choices["auroc"].notna().any():
        return ""
    rows = [
        [
            f"`{one['rule']}`",
            to_trial(int(one["trial"])) if pd.notna(one["trial"]) else "",
            f"`{one['score']}`" if isinstance(one["score"], str) else "",
            "yes" if one["needs_labels"] else "no",
            interval(one["auroc"], one["auroc_low"], one["auroc_high"]),
        ]
        for one in choices.sort_values("auroc", ascending=False).to_dict("records")
    ]
    header = ["detector", "trial", "score", "needs labels", "test AUROC"]
    return f"{heading('What the study can detect anomalies with')}\n\n{table(header, rows)}"

"""The description of a study's run in MLflow: Markdown, the verdict first, since the UI shows only four lines at once.

The texts are in templates/*.md. Links are relative to the page, so that they work on any server, behind any prefix.
They have placeholders for the ids of runs, which are not known before a run is in MLflow.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from vae_study.metrics import BASELINE, DEFAULT_SCORE, DETECTOR_LABELS, RULES, SCORES, SIGNS, sign_of
from vae_study.selection.comparison import baseline_verdicts
from vae_study.selection.ranking import Selection, frontier_of
from vae_study.tracking import schema
from vae_study.tracking.schema import trial_name

# Characters; MLflow cuts a longer tag in the middle of a word.
LONGEST_NOTE = 8000
# Likewise of an experiment's tag.
LONGEST_VIEW = 5000
#: The query for a study's trials, with a placeholder.
TRIALS = f"tags.`{schema.PARENT}` = '{{parent}}' and tags.`{schema.KIND}` = 'trial'"
# Numbers of table rows to try: the first text that fits into LONGEST_NOTE is used.
ROWS = (20, 12, 6, 3, 0)
MOST_PARAMETERS, MOST_COMPARED = 3, 8
ARROWS = {"minimize": "↓", "maximize": "↑"}
DASH = "–"
LONGEST_TEXT = 60
# ASCII punctuation that has a meaning in Markdown, HTML or a placeholder, or that makes a link or a picture without
# further marks: an address, a name after @, a word between colons. An underscore within a word does nothing.
_MARKS = re.compile(r"[^\w\s.,/+=%'-]|(?<![a-zA-Z0-9])_|_(?![a-zA-Z0-9])", re.ASCII)
_HOST = re.compile(r"\bwww\.", re.IGNORECASE)
_PLACEHOLDER = re.compile(r"\{(?:run:([\w.-]+)|(experiment)|(parent))\}")
_LINK = re.compile(r"\[([^\[\]]*)\]\(([^()\s]*)\)")
# Of the ids of MLflow's runs and experiments.
LONGEST_ID = 36


def plan_note(config: Mapping[str, Any], name: str, data: Mapping[str, Any], rule: str) -> str:
    """The description of a running study: what is searched, on what data, how many trials.

    Args:
        config: The resolved config, plain.
        name: The study's name.
        data: The data summary.
        rule: The rule that chooses the champion.

    Returns:
        Markdown with placeholders, for `filled`.
    """
    epochs, early = config["training"].get("epochs"), config.get("early_stopping", {}).get("kind", "none")
    each = f"{epochs} epochs each" if epochs else "each with epochs of its own"
    return _fitting(
        "plan.md",
        config=config,
        name=name,
        data=data,
        family=_family(config),
        epochs=each if early == "none" else f"{each} unless {early} stops them",
        order=ranking(rule, config["anomaly"]["score"]),
        searched=[[escaped(one), *_searched(config["search"][one])] for one in shown_parameters(config)],
    )


def result_note(
    config: Mapping[str, Any],
    name: str,
    data: Mapping[str, Any],
    trials: pd.DataFrame,
    choices: pd.DataFrame,
    rule: str,
    champion: Selection | None,
    is_complete: bool = True,
    picture: str | None = None,
    stopped: str = "",
) -> str:
    """The description of a study that has ended: the recommended model, the frontier, where to look further.

    Args:
        config: The resolved config, plain.
        name: The study's name.
        data: The data summary.
        trials: One row per trial, as in `StudyRecord`.
        choices: One row per detector, as in `StudyRecord`; may be empty.
        rule: The rule that chose.
        champion: What it chose.
        is_complete: Whether the study has all its trials.
        picture: The frontier's, as an artifact of the parent run; the UI shows it in its own size, so at most about
            700 pixels wide.
        stopped: Why it ended with fewer trials than its config asks for; empty if it did not.

    Returns:
        Markdown with placeholders, for `filled`.
    """
    objectives = {one["metric"]: one["direction"] for one in config["objectives"]}
    frontier = frontier_of(trials, [*objectives], [SIGNS[direction] for direction in objectives.values()])
    columns = [one for one in shown_parameters(config) if one in frontier][:MOST_PARAMETERS]
    arrows = {metric: ARROWS[direction] for metric, direction in objectives.items()}
    if champion and (auroc := f"val_auroc/{champion.score}") in frontier:
        arrows[auroc] = ARROWS["maximize"]
    cells = {
        int(row["trial"]): [
            f"**{to_trial(champion.trial)}**"
            if champion and champion.trial == row["trial"]
            else to_trial(row["trial"]),
            *(cell(row[column], 3 if column.startswith("val_auroc/") else None) for column in [*columns, *arrows]),
        ]
        for row in frontier.to_dict("records")
    }
    known = [one for one in choices.to_dict("records") if math.isfinite(one["auroc"])]
    return _fitting(
        "result.md",
        name=name,
        data=data,
        family=_family(config),
        objectives=[*objectives],
        states=trials["state"].value_counts().to_dict(),
        rule=rule,
        champion=champion,
        collapsed=SCORES[champion.score].collapsed if champion and _is_collapsed(trials, champion) else "",
        is_complete=is_complete,
        stopped=stopped,
        picture=picture,
        alarms=next((_alarms(one) for one in known if one["rule"] == rule), ""),
        auroc={one["rule"]: _interval(one) for one in known},
        baseline=BASELINE,
        baseline_label=DETECTOR_LABELS[BASELINE],
        verdicts=baseline_verdicts(known),
        order=ranking(rule, champion.score if champion else None),
        compared=_spread([*cells], MOST_COMPARED, champion),
        frontier_size=len(cells),
        frontier_header=["trial", *map(escaped, columns), *(f"`{metric}` {arrow}" for metric, arrow in arrows.items())],
        frontier_rows=lambda most: [cells[number] for number in _spread([*cells], most, champion)] if most else [],
        detectors=_detectors(choices) if known else [],
    )


def _is_collapsed(trials: pd.DataFrame, champion: Selection) -> bool:
    return "val/collapsed" in trials and bool(
        trials.loc[trials["trial"] == champion.trial, "val/collapsed"].eq(1).any()
    )


def _spread(numbers: Sequence[int], most: int, champion: Selection | None) -> list[int]:
    """At most `most` of some numbers, evenly from the first to the last, and the champion."""
    index = np.linspace(0, len(numbers) - 1, min(most, len(numbers))).round().astype(int)
    kept = {numbers[one] for one in index} | ({champion.trial} if champion else set())
    return [number for number in numbers if number in kept]


def _detectors(choices: pd.DataFrame) -> list[list[str]]:
    """What each rule and ensemble detects, the best on test rows first."""
    return [
        [
            f"`{one['rule']}`",
            to_trial(int(one["trial"])) if pd.notna(one["trial"]) else "",
            f"`{one['score']}`" if isinstance(one["score"], str) else "",
            "yes" if one["needs_labels"] else "no",
            _interval(one),
            cell(one.get("average_precision"), 3),
            cell(one.get("alarm_precision"), 3),
        ]
        for one in choices.sort_values("auroc", ascending=False).to_dict("records")
    ]


def _alarms(detector: Mapping[Any, Any]) -> str:
    """Its average precision, and how many alarms within the study's budget are real; empty if that is unknown."""
    alarms, precision = (detector.get(name, math.nan) for name in ("alarms", "alarm_precision"))
    if math.isnan(precision):
        return ""
    average = f" Average precision **{detector['average_precision']:.3f}** (by chance {detector['prevalence']:.3f});"
    return f"{average} of {alarms:.0f} alarms on test, {alarms * precision:.4g} are real."


def _interval(detector: Mapping[Any, Any]) -> str:
    """Its test AUROC, such as "0.912 [0.870, 0.947]"; a dash if it is unknown."""
    value, low, high = (detector[name] for name in ("auroc", "auroc_low", "auroc_high"))
    return cell(value, 3) if math.isnan(low) or math.isnan(high) else f"{value:.3f} [{low:.3f}, {high:.3f}]"


def _family(config: Mapping[str, Any]) -> str:
    return config["model"].get("family") or "several model families"


def _searched(parameter: Mapping[str, Any]) -> tuple[str, str]:
    """The values of a searched parameter, and the branches that have it."""
    if "choices" in parameter:
        values = escaped(", ".join(map(str, parameter["choices"])))
    else:
        values = f"{parameter['low']:g} to {parameter['high']:g}" + (", log" if parameter.get("log") else "")
    branches = [f"{name} is {' or '.join(map(str, given))}" for name, given in parameter.get("when", {}).items()]
    return values, escaped(", ".join(branches))


def shown_parameters(config: Mapping[str, Any]) -> list[str]:
    """The searched parameters, the most important first: those with a short name, then those of every trial."""
    search, first = config["search"], [name for name in schema.SHORT_NAMES if name in config["search"]]
    rest = [name for name in search if name not in first]
    return [*first, *sorted(rest, key=lambda name: bool(search[name].get("when")))]


def ranking(rule: str, score: str | None) -> tuple[str, bool]:
    """The metric that a rule ranks by, and whether less of it is better; `score` is the champion's anomaly score."""
    found = RULES[rule]
    name = f"{found.metric}{score or found.score or DEFAULT_SCORE}" if found.metric.endswith("/") else found.metric
    return name, sign_of(found.metric) > 0


def filled(text: str, run_ids: Mapping[str, str], experiment_id: str, parent_id: str) -> str:
    """A text with its placeholders replaced: `{run:KEY}`, `{experiment}` and `{parent}`.

    A link to an unknown run becomes plain text.

    Args:
        text: Markdown of this module.
        run_ids: Of the runs beneath the parent, by the keys that they were started with, such as `trial-0007`.
        experiment_id: The parent's.
        parent_id: The parent run's.
    """

    def kept(link: re.Match[str]) -> str:
        keys = [found[1] for found in _PLACEHOLDER.finditer(link[2]) if found[1]]
        return link[0] if all(key in run_ids for key in keys) else link[1]

    def put(found: re.Match[str]) -> str:
        return run_ids.get(found[1], "") if found[1] else experiment_id if found[2] else parent_id

    return _PLACEHOLDER.sub(put, _LINK.sub(kept, text))


def longest(text: str) -> int:
    """How many characters a text has at most once it is filled."""
    return len(_PLACEHOLDER.sub("x" * LONGEST_ID, text))


def to_trial(number: int) -> str:
    """A link to a trial's run, by its name."""
    name = trial_name(number)
    return f"[{name}](#/experiments/{{experiment}}/runs/{{run:{name}}}?{schema.UI_VIEW})"


def to_study(label: str, tab: str) -> str:
    """A link to one page of the parent run: `model-metrics`, `system-metrics` or `artifacts`."""
    return f"[{label}](#/experiments/{{experiment}}/runs/{{parent}}/{tab}?{schema.UI_VIEW})"


def to_trials(
    label: str, state: str | None = None, order: tuple[str, bool] | None = None, mode: str | None = None
) -> str:
    """A link to the study's trials.

    Args:
        label: The link's text.
        state: Only the trials in this state.
        order: A metric to order them by, and whether the least comes first; by default the latest comes first.
        mode: "CHART" for charts in place of a table.
    """
    query = TRIALS + (f" and tags.`{schema.STATE}` = '{state}'" if state else "")
    words = f"{schema.UI_VIEW}&searchFilter={quote(query, safe='{}')}"
    if order:
        words += f"&orderByKey={quote(f'metrics.`{order[0]}`')}&orderByAsc={str(order[1]).lower()}"
    if mode:
        words += f"&compareRunsMode={mode}"
    return f"[{label}](#/experiments/{{experiment}}/runs?{words})"


def to_view(label: str) -> str:
    """A link to the study's trials with the columns and the order of `trials_view`."""
    return f"[{label}](#/experiments/{{experiment}}/runs?{schema.UI_VIEW}&viewStateShareKey={{parent}})"


def trials_view(config: Mapping[str, Any], rule: str, champion: Selection | None) -> str:
    """What MLflow's page of runs shows of the study's trials: their columns and order, as JSON with placeholders.

    Args:
        config: The resolved config, plain.
        rule: The rule that chose.
        champion: What it chose.
    """
    order, is_ascending = ranking(rule, champion.score if champion else None)
    areas = [f"{split}_auroc/{champion.score}" for split in ("val", "test")] if champion else []
    metrics = dict.fromkeys([order, *(one["metric"] for one in config["objectives"]), "val/elbo", *areas])
    view = {
        "searchFilter": TRIALS,
        "orderByKey": f"metrics.`{order}`",
        "orderByAsc": is_ascending,
        "selectedColumns": [
            *(f"params.`{name}`" for name in shown_parameters(config)),
            *(f"metrics.`{name}`" for name in metrics),
            f"tags.`{schema.STATE}`",
        ],
    }
    text = json.dumps(view)
    return text if longest(text) <= LONGEST_VIEW else json.dumps({**view, "selectedColumns": []})


def to_comparison(label: str, numbers: Sequence[int]) -> str:
    """A link to MLflow's own comparison of some trials."""
    runs = ",".join(f"%22{{run:{trial_name(number)}}}%22" for number in numbers)
    return f"[{label}](#/compare-runs?runs=%5B{runs}%5D&experiments=%5B%22{{experiment}}%22%5D&{schema.UI_VIEW})"


def to_picture(alt: str, path: str) -> str:
    """A picture that is an artifact of the parent run; the UI shows it in its own size."""
    return f"![{alt}](get-artifact?path={quote(path)}&run_uuid={{parent}})"


def _fitting(template: str, **values: Any) -> str:
    """The longest text that MLflow takes: a template with as many rows in each table as fit."""
    page, text = _environment().get_template(template), ""
    for rows in ROWS:
        text = re.sub(r"\n{3,}", "\n\n", page.render(values, rows=rows)).strip()
        if longest(text) <= LONGEST_NOTE:
            return text
    return text.partition("\n\n")[0]


@cache
def _environment() -> Environment:
    found = Environment(
        loader=PackageLoader("vae_study.tracking"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    found.filters["escaped"] = escaped
    found.globals |= {
        one.__name__: one for one in (to_trial, to_trials, to_view, to_study, to_comparison, to_picture, table)
    }
    return found


def escaped(text: Any, longest: int = LONGEST_TEXT) -> str:
    """A user's text so that Markdown shows it as it is; a long one is cut, and what cannot be printed is a space."""
    words = " ".join("".join(letter if letter.isprintable() else " " for letter in str(text)).split())
    shown = words if len(words) <= longest else words[: longest - 1] + "…"
    marked = _MARKS.sub(lambda mark: f"&#{ord(mark[0])};" if mark[0].isascii() else mark[0], shown)
    return _HOST.sub(lambda host: f"{host[0][:-1]}&#46;", marked)


def cell(value: Any, decimals: int | None = None) -> str:
    """A value in a table, with these decimals or four significant digits; a dash for a missing one."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return DASH
    if decimals is not None:
        return f"{value:.{decimals}f}"
    return f"{value:.4g}" if isinstance(value, float) else escaped(value)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already; empty if it has no rows."""
    # The UI leaves no room between columns.
    head, *lines = (f"| {' | &ensp;'.join(cells)} |" for cells in (header, *rows))
    return "\n".join([head, "|" + "---|" * len(header), *lines]) if lines else ""

"""Lays tables, figures and sentences out as one HTML file and as Markdown. Every value is escaped by the templates."""

import base64
import io
import json
import math
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from ruamel.yaml import YAML

from pipeline.report import prose, words
from pipeline.report.figures import Panel
from pipeline.report.tables import Interval, Missing, StudyTables
from pipeline.report.tables.frontier import objective_signs

FRONTIER_METRICS = ("val/reconstruction", "val/kl", "val/elbo", "val/auroc", "test/auroc", "val/active_units")
TRIAL_METRICS = ("val/reconstruction", "val/kl", "val/elbo", "val/auroc", "test/auroc")
MOST_ROWS = 1000
MARKDOWN = re.compile(r"([\\`*\[\]|~#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table as it is printed: headings, and rows of cells that are text already.

    Attributes:
        marked: The first cell of the chosen trial's row; empty where there is none.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: str = ""


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A number to see at once, with its name and a remark."""

    name: str
    value: str
    remark: str = ""


def html(tables: StudyTables, panels: Mapping[str, Panel]) -> str:
    """The report as one file that loads nothing."""
    return _environment(autoescape=True).get_template("report.html").render(_context(tables, panels))


def markdown(tables: StudyTables, panels: Mapping[str, Panel]) -> str:
    """The same content in Markdown, with the pictures in figures/."""
    return _environment(autoescape=False).get_template("report.md").render(_context(tables, panels))


def _environment(autoescape: bool) -> Environment:
    environment = Environment(
        loader=PackageLoader("pipeline.report"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(base64=_base64, breakable=_breakable, md=escape_markdown, fenced=fenced)
    return environment


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _breakable(name: str) -> Markup:
    """A heading that may break after a dot or an underscore, so that long parameter names leave columns narrow."""
    return Markup(re.sub(r"([._])", r"\1<wbr>", str(escape(name))))


def _context(tables: StudyTables, panels: Mapping[str, Panel]) -> dict[str, Any]:
    return {
        "tables": tables,
        "record": tables.record,
        "data": {"source": None, "features": None, "sha256": None, **tables.record.data},
        "panels": panels,
        "overview": prose.overview(tables),
        "cautions": prose.cautions(tables),
        "facts": facts(tables),
        "first_objective": words.metric_name(next(iter(objective_signs(tables.record.spec)))),
        "frontier": trial_grid(tables, tables.frontier, FRONTIER_METRICS),
        "trials": trial_grid(tables, tables.trials.head(MOST_ROWS), TRIAL_METRICS, states=True),
        "trials_left_out": max(0, len(tables.trials) - MOST_ROWS),
        "choices": choice_grid(tables),
        "thresholds": threshold_grid(tables),
        "failures": failure_grid(tables),
        "splits": split_grid(tables.record.data),
        "versions": version_grid(tables.record.environment),
        "spec": yaml_text(tables.record.spec),
        "commands": commands(tables.record.name),
    }


def facts(tables: StudyTables) -> tuple[Fact, ...]:
    """The study's main numbers."""
    s = tables.summary
    chosen = words.NONE if s.champion_trial is None else str(s.champion_trial)
    rule = f"by {words.metric_name(s.champion_rule)}" if s.champion_rule else ""
    elbo = f"nats, trial {s.best_elbo_trial}" if s.best_elbo_trial is not None else ""
    others = [f"{n:,} {state}" for state, n in s.states.items() if n and state != "finished"]
    sure = f"95 % interval {words.number(s.test_auroc.low, 3)} to {words.number(s.test_auroc.high, 3)}"
    in_nats = all(words.metric_unit(metric) for metric in objective_signs(tables.record.spec))
    return (
        Fact(name="Trials finished", value=f"{s.states['finished']:,}", remark=", ".join(others)),
        Fact(name="On the frontier", value=f"{s.frontier_size:,}", remark="not dominated by any finished trial"),
        Fact(name="Best validation ELBO", value=words.number(s.best_elbo_nats), remark=elbo),
        Fact(name="Chosen trial", value=chosen, remark=rule),
        Fact(
            name="Test AUROC", value=words.number(s.test_auroc.value, 3), remark=sure * math.isfinite(s.test_auroc.low)
        ),
        Fact(name="Hypervolume", value=words.number(s.hypervolume), remark="nats²" * in_nats),
    )


def trial_grid(tables: StudyTables, trials: pd.DataFrame, metrics: tuple[str, ...], states: bool = False) -> Grid:
    """A row a trial: its number, state, searched parameters and metrics; columns that no trial has are left out."""
    metrics = tuple(metric for metric in metrics if metric in trials.columns and trials[metric].notna().any())
    columns = (*(("state",) if states else ()), *tables.parameters, *metrics)
    rows = (_trial_cells(row, columns) for row in trials.to_dict("records"))
    champion = tables.summary.champion_trial
    marked = "" if champion is None else str(champion)
    return Grid(head=("trial", *map(_heading, columns)), rows=tuple(rows), marked=marked)


def _heading(column: str) -> str:
    unit = words.metric_unit(column)
    name = words.metric_name(column) if "/" in column else column
    return f"{name} ({unit})" if unit else name


def _trial_cells(row: Mapping[Any, Any], columns: tuple[str, ...]) -> tuple[str, ...]:
    return (str(int(row["trial"])), *(_trial_cell(row, column) for column in columns))


def _trial_cell(row: Mapping[Any, Any], column: str) -> str:
    if column != "test/auroc":
        return words.cell(column, row[column])
    value, low, high = (float(row.get(f"test/{name}", math.nan)) for name in ("auroc", "auroc_low", "auroc_high"))
    return words.interval(Interval(value=value, low=low, high=high))


def choice_grid(tables: StudyTables) -> Grid:
    """What each rule would take."""
    rows = (
        (
            words.metric_name(c.rule) + (" (the study’s rule)" if c.chosen else ""),
            str(c.trial),
            words.cell(c.rule, c.value),
            words.interval(c.test_auroc),
        )
        for c in tables.choices
    )
    return Grid(head=("rule", "trial", "its value", "test AUROC (95 % interval)"), rows=tuple(rows))


def threshold_grid(tables: StudyTables) -> Grid:
    """What flagging above each threshold does on the test split."""
    names = ("percentile", "threshold", "precision", "recall", "false_alarm_rate")
    head = ("percentile of normal validation scores", "threshold", "precision", "recall", "false-alarm rate")
    table = pd.DataFrame() if isinstance(tables.scores, Missing) else tables.scores.thresholds
    rows = (
        (words.significant(row["percentile"]), *(words.number(row[name], 3) for name in names[1:]))
        for row in table.to_dict("records")
    )
    return Grid(head=head, rows=tuple(rows))


def failure_grid(tables: StudyTables) -> Grid:
    """Failed trials by failure class, the most frequent first."""
    by_size = sorted(tables.failures.items(), key=lambda item: (-len(item[1]), item[0]))
    rows = ((kind, str(len(trials)), ", ".join(map(str, trials))) for kind, trials in by_size)
    return Grid(head=("failure", "trials", "their numbers"), rows=tuple(rows))


def split_grid(data: Mapping[str, Any]) -> Grid:
    """Rows and anomalies of each split."""
    splits = data.get("splits") or {}
    keys = ("rows", "anomalies")
    rows = ((str(name), *(words.cell(key, part.get(key)) for key in keys)) for name, part in splits.items())
    return Grid(head=("split", *keys), rows=tuple(rows))


def version_grid(environment: Mapping[str, str]) -> Grid:
    """Package versions and the like."""
    rows = ((str(name), str(version)) for name, version in sorted(environment.items()))
    return Grid(head=("package", "version"), rows=tuple(rows))


def commands(name: str) -> tuple[tuple[str, str], ...]:
    """What to type, and what it does. Without the tracking URI, which may hold a password or a local path."""
    quoted = shlex.quote(name)
    return (
        (f"vae-study run spec.yaml --name {quoted}", "runs the study again, from the spec below, saved as spec.yaml"),
        (f"vae-study report {quoted}", "writes this report again from the tracking store"),
        (f"vae-study score {quoted} DATA", "scores new rows with the chosen model"),
    )


def yaml_text(spec: Mapping[str, Any]) -> str:
    """The spec as YAML, keys in the order of the spec."""
    writer, buffer = YAML(typ="safe", pure=True), io.StringIO()
    writer.default_flow_style = None
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    writer.width = 100
    writer.dump(json.loads(json.dumps(spec, default=str)), buffer)
    return buffer.getvalue()


def escape_markdown(text: object) -> str:
    """Text that Markdown and the HTML in it leave as it is, on one line."""
    one_line = " ".join(str(text).split())
    return MARKDOWN.sub(r"\\\1", str(escape(one_line)).replace("&#39;", "'").replace("&#34;", '"'))


def fenced(text: str, language: str = "") -> str:
    """A code block whose fence is longer than any in the text."""
    fence = "`" * max(3, *(len(run) + 1 for run in re.findall("`+", text) or [""]))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"

"""Tables as they are printed: headings and cells as text, for HTML and Markdown alike."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.report import words
from pipeline.report.tables import Interval, Missing, StudyTables
from pipeline.report.tables.frontier import objective_signs

TRIAL_METRICS = ("val/reconstruction", "val/kl", "val/elbo", "val/auroc", "test/auroc")
FRONTIER_METRICS = (*TRIAL_METRICS, "test/probe_accuracy", "val/perplexity", "val/active_units")


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table as it is printed: headings, and rows of cells that are text already.

    Attributes:
        marked: The first cell of the chosen trial's row; empty where there is none.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: str = ""


def trial_grid(tables: StudyTables, trials: pd.DataFrame, metrics: tuple[str, ...], states: bool = False) -> Grid:
    """A row a trial: number, state, searched parameters, metrics and objectives; empty columns are left out."""
    metrics = tuple(dict.fromkeys((*metrics, *objective_signs(tables.record.spec))))
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


def confirmation_grids(tables: StudyTables) -> tuple[tuple[str, Grid], ...]:
    """For each metric its title and a row a trial: the study's own value, and what it is over all seeds."""
    found = tables.confirmation
    if isinstance(found, Missing):
        return ()
    return tuple(
        (_heading(metric), _spread_grid(metric, spread, tables.summary.champion_trial))
        for metric, spread in found.spreads.items()
    )


def _spread_grid(metric: str, spread: pd.DataFrame, champion: int | None) -> Grid:
    kinds = ("original", "mean", "deviation", "low", "high")
    rows = (
        (str(row["trial"]), str(row["seeds"]), *(words.number(row[kind], words.digits_of(metric)) for kind in kinds))
        for row in spread.to_dict("records")
    )
    head = ("trial", "seeds", "original", "mean", "standard deviation", "lowest", "highest")
    return Grid(head=head, rows=tuple(rows), marked="" if champion is None else str(champion))


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

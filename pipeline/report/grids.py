"""Tables as they are printed: headings and cells as text, for HTML and Markdown alike."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from pipeline.report import names, words
from pipeline.report.tables import Failure, Interval, Missing, StudyTables
from pipeline.report.tables.frontier import objective_signs
from pipeline.report.tables.scored import followed_score, meant, trial_auroc
from pipeline.tracking.record import StudyRecord

OF_TRIALS = ("val/reconstruction", "val/kl", "val/elbo", "val/auroc", "test/auroc")
OF_FRONTIER = ("test/probe_accuracy", "val/perplexity", "val/active_units")
# More rows than these nobody reads; frontier.csv has them all.
MOST_OF_FRONTIER = 200


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table as it is printed: headings, and rows of cells that are text already.

    Attributes:
        marked: The first cell of what was chosen; empty where there is none.
        heat: How dark each cell but the first of a row is shaded, 0 to 1; empty where none is.
        left_out: Rows that are not printed.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: str = ""
    heat: tuple[tuple[float, ...], ...] = ()
    left_out: int = 0


def frontier_grid(tables: StudyTables) -> Grid:
    """The frontier's trials, their AUROC that of the chosen model's score; of very many, some evenly along it."""
    record, members = tables.record, tables.frontier
    places = np.unique(np.linspace(0, max(len(members) - 1, 0), MOST_OF_FRONTIER).round().astype(int))
    is_shown = np.isin(np.arange(len(members)), places) | members["trial"].isin([tables.summary.champion_trial])
    areas = {f"{split}/auroc": trial_auroc(record, split) for split in ("val", "test")}
    metrics = tuple(areas.get(metric, metric) for metric in OF_TRIALS)
    shown = _trial_grid(tables, members[is_shown], (*metrics, *OF_FRONTIER), ())
    return replace(shown, left_out=int((~is_shown).sum()))


def trial_grid(tables: StudyTables, trials: pd.DataFrame) -> Grid:
    """Trials in any state, which have the AUROC of the followed score only, and what is remarkable about some."""
    about = ["state"]
    if tables.stopping is not None:
        trials = trials.assign(epochs=trials["trial"].map(tables.stopping.trained_by_trial).astype("Int64"))
        about.append("epochs")
    if tables.constraints.violating:
        kept = trials["feasible"].ne(False).map({True: "yes", False: "no"})
        trials = trials.assign(feasible=kept.where(trials["state"].isin(["finished", "stopped"])))
        about.append("feasible")
    if tables.preemptions.trials:
        about.append("preemptions")
    return _trial_grid(tables, trials, OF_TRIALS, tuple(about))


def _trial_grid(tables: StudyTables, trials: pd.DataFrame, metrics: tuple[str, ...], about: tuple[str, ...]) -> Grid:
    """A row a trial: number, state, searched parameters, metrics and objectives; empty columns are left out."""
    metrics = tuple(dict.fromkeys((*metrics, *objective_signs(tables.record.spec))))
    metrics = tuple(metric for metric in metrics if metric in trials.columns and trials[metric].notna().any())
    columns = (*about, *tables.parameters, *metrics)
    rows = (_trial_cells(tables, row, columns) for row in trials.to_dict("records"))
    champion = tables.summary.champion_trial
    marked = "" if champion is None else str(champion)
    return Grid(head=("trial", *(_heading(tables, column) for column in columns)), rows=tuple(rows), marked=marked)


def _heading(tables: StudyTables, column: str) -> str:
    if column in ("val/auroc", "test/auroc"):
        return named_auroc(tables.record, column)
    unit = names.metric_unit(column)
    name = names.metric_name(column) if "/" in column else column
    return f"{name} ({unit})" if unit else name


def named_auroc(record: StudyRecord, metric: str) -> str:
    """An AUROC of the followed score; named so where a page speaks of more scores than that one."""
    name = names.metric_name(metric)
    if record.champion is None or record.champion.score is None:
        return name
    return f"{name} of {names.score_name(meant(record, record.champion.trial, followed_score(record)))}"


def _trial_cells(tables: StudyTables, row: Mapping[Any, Any], columns: tuple[str, ...]) -> tuple[str, ...]:
    return (str(int(row["trial"])), *(_trial_cell(tables, row, column) for column in columns))


def _trial_cell(tables: StudyTables, row: Mapping[Any, Any], column: str) -> str:
    """With its interval where one is known: every trial has that of the followed score, the chosen one its own."""
    if column.startswith("test_auroc/") and row["trial"] == tables.summary.champion_trial:
        return words.interval(tables.summary.test_auroc)
    if column != "test/auroc":
        return words.cell(column, row[column])
    value, low, high = (float(row.get(f"test/{name}", math.nan)) for name in ("auroc", "auroc_low", "auroc_high"))
    return words.interval(Interval(value=value, low=low, high=high))


def confirmation_grids(tables: StudyTables) -> tuple[tuple[str, Grid], ...]:
    """For each metric its title and a row a trial: the study's own value, and what it is over all seeds."""
    found = tables.confirmation
    if isinstance(found, Missing):
        return ()
    return tuple(
        (_heading(tables, metric), _spread_grid(metric, spread, tables.summary.champion_trial))
        for metric, spread in found.spreads.items()
    )


def _spread_grid(metric: str, spread: pd.DataFrame, champion: int | None) -> Grid:
    kinds = ("original", "mean", "deviation", "low", "high")
    rows = (
        (str(row["trial"]), str(row["seeds"]), *(words.number(row[kind], names.digits_of(metric)) for kind in kinds))
        for row in spread.to_dict("records")
    )
    head = ("trial", "seeds", "original", "mean", "standard deviation", "lowest", "highest")
    return Grid(head=head, rows=tuple(rows), marked="" if champion is None else str(champion))


def importance_grid(tables: StudyTables) -> Grid:
    """How much each parameter explains of each target, the most important first."""
    found = tables.importances
    if isinstance(found, Missing):
        return Grid(head=(), rows=())
    rows = (
        (names.parameter_name(parameter), *(words.percent(float(share)) for share in share_T), f"{trials:,}")
        for parameter, share_T, trials in zip(found.parameters, found.share_PT, found.trials_P, strict=True)
    )
    return Grid(head=("parameter", *map(names.metric_name, found.targets), "trials"), rows=tuple(rows))


def failure_grid(tables: StudyTables) -> Grid:
    """Failed trials by class and reason; a study of an earlier version has no reasons, and may have no epochs."""
    columns = {
        "failure": [failure.kind for failure in tables.failures],
        "trials": [str(len(failure.trials)) for failure in tables.failures],
        "their numbers": [", ".join(map(str, failure.trials)) for failure in tables.failures],
    }
    if any(failure.epochs for failure in tables.failures):
        columns["epochs trained"] = [_range(failure.epochs) for failure in tables.failures]
    if any(failure.reasons for failure in tables.failures):
        columns["reason"] = [_why(failure) for failure in tables.failures]
    return Grid(head=tuple(columns), rows=tuple(zip(*columns.values(), strict=True)))


def _range(epochs: tuple[int, int] | None) -> str:
    if epochs is None:
        return words.NONE
    return f"{epochs[0]:,}" if epochs[0] == epochs[1] else f"{epochs[0]:,} to {epochs[1]:,}"


def _why(failure: Failure) -> str:
    return failure.reason or (f"{failure.reasons:,} other reasons" if failure.reasons else words.NONE)


def split_grid(data: Mapping[str, Any]) -> Grid:
    """Rows and anomalies of each split."""
    splits = data.get("splits") or {}
    keys = ("rows", "anomalies")
    rows = ((str(name), *(words.cell(key, part.get(key)) for key in keys)) for name, part in splits.items())
    return Grid(head=("split", *keys), rows=tuple(rows))


def version_grid(environment: Mapping[str, str]) -> Grid:
    """Package versions and the like; the commits have a table of their own."""
    known = sorted((str(name), str(value)) for name, value in environment.items())
    rows = (row for row in known if not row[0].endswith(("_commit", "_is_clean")))
    return Grid(head=("package", "version"), rows=tuple(rows))

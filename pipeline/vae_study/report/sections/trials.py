"""The tables of trials: the frontier, all of them, and the best ones trained again with further seeds."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Picture

from vae_study.metrics import LABEL_FREE_DEFAULTS, RULES, shown_in
from vae_study.report.figure import Figure, Grid
from vae_study.report.formatting import (
    axis_label,
    captions,
    cell,
    digits_of,
    interval,
    metric_name,
    metric_unit,
    number,
    score_name,
)
from vae_study.report.frames import Interval, Missing, devices, numbers, row_of, scalar, trial_numbers
from vae_study.report.frontier import objective_signs
from vae_study.report.sections.outcomes import constraints, early_stopping, preemptions
from vae_study.report.style import CHOSEN, INK, NORMAL, figure
from vae_study.report.tables import StudyTables, auroc_metric, followed_score, meant, trial_auroc
from vae_study.selection.ranking import ranked
from vae_study.tracking.record import StudyRecord

OF_TRIALS, OF_FRONTIER = shown_in("trials"), shown_in("frontier")
# More rows than these are not useful to read; frontier.csv and trials.parquet have them all.
MOST_OF_FRONTIER, MOST_OF_TRIALS = 200, 1000


def frontier_grid(tables: StudyTables) -> Grid:
    """The frontier's trials and the chosen one, with the AUROC of its score; of very many, some evenly along it."""
    record, members, chosen = tables.record, tables.frontier, tables.summary.champion_trial
    is_dominated = chosen is not None and len(members) > 0 and chosen not in trial_numbers(members)
    if is_dominated and chosen is not None:
        first, sign = next(iter(objective_signs(record.config).items()))
        members = pd.concat([members, row_of(record, chosen)])
        members = members.iloc[np.argsort(sign * numbers(members, first), kind="stable")].reset_index(drop=True)
    spread = np.unique(np.linspace(0, max(len(members) - 1, 0), MOST_OF_FRONTIER).round().astype(int))
    is_shown = np.isin(np.arange(len(members)), spread) | members["trial"].isin([chosen])
    areas = {f"{split}/auroc": trial_auroc(record, split) for split in ("val", "test")}
    metrics = tuple(areas.get(metric, metric) for metric in OF_TRIALS)
    shown = _trial_grid(tables, members[is_shown], (*metrics, *OF_FRONTIER), ())
    order, more = metric_name(next(iter(objective_signs(record.config)))), int((~is_shown).sum())
    kept = "satisfies the constraints, so there is no frontier."
    none = kept if tables.of(constraints).none_kept else "has all objectives, so there is no frontier yet."
    return replace(
        shown,
        label=f"The frontier’s trials{' and the chosen one, which is dominated' * is_dominated}, sorted by {order}; "
        "AUROC with its 95 % interval where it is known",
        left_out=f"{more} more are in frontier.csv." if more else "",
        missing=f"No finished trial {none}",
    )


def trial_grid(tables: StudyTables) -> Grid:
    """Trials in any state, which have the AUROC of the followed score only, and what else the study knows of each."""
    trials, about, stopping = tables.trials.head(MOST_OF_TRIALS), ["state"], tables.of(early_stopping)
    if stopping is not None:
        trials = trials.assign(epochs=trials["trial"].map(stopping.trained_by_trial).astype("Int64"))
        about.append("epochs")
    if tables.of(constraints).violating:
        kept = trials["feasible"].ne(False).map({True: "yes", False: "no"})
        trials = trials.assign(feasible=kept.where(trials["state"].isin(["finished", "pruned"])))
        about.append("feasible")
    if tables.of(preemptions).trials:
        about.append("preemptions")
    if len(devices(tables.record)) > 1:
        about.append("device")
    shown = {"sweep": tables.summary.kept, "retrains": tables.summary.retrained}
    for name in [name for name, count in shown.items() if count]:
        trials = trials.assign(**{name: pd.Series(numbers(trials, name), trials.index).astype("Int64")})
        about.append(name)
    more = len(tables.trials) - len(trials)
    return replace(
        _trial_grid(tables, trials, OF_TRIALS, tuple(about)),
        label="Every trial at its last epoch; a pruned trial’s values are those of a model still in training",
        left_out=f"{more} more are in trials.parquet." if more else "",
        missing="No trial has started yet.",
    )


def running_grid(tables: StudyTables) -> Grid:
    """The trials that are being trained, with their metrics after their last epoch so far."""
    running = tables.trials[tables.trials["state"].eq("running")]
    return replace(
        _trial_grid(tables, running, OF_TRIALS, ()), label="In training, at the last epoch so far", marked=""
    )


def _trial_grid(tables: StudyTables, trials: pd.DataFrame, metrics: tuple[str, ...], about: tuple[str, ...]) -> Grid:
    """One row per trial: number, state, searched parameters, metrics and objectives; empty columns are left out."""
    metrics = tuple(dict.fromkeys((*metrics, *objective_signs(tables.record.config))))
    metrics = tuple(metric for metric in metrics if metric in trials.columns and trials[metric].notna().any())
    columns = (*about, *tables.parameters, *metrics)
    rows = (
        (str(int(row["trial"])), *(_trial_cell(tables, row, column) for column in columns))
        for row in trials.to_dict("records")
    )
    champion = tables.summary.champion_trial
    marked = "" if champion is None else str(champion)
    head = ("trial", *(heading(tables, column) for column in columns))
    return Grid(head=head, rows=tuple(rows), marked=marked, is_wide=True, has_links=True)


def heading(tables: StudyTables, column: str) -> str:
    """A column's name, with its unit where it has one."""
    record, name = tables.record, metric_name(column) if "/" in column else column
    if column in ("val/auroc", "test/auroc") and record.champion is not None and record.champion.score is not None:
        name += f" of {score_name(meant(record, record.champion.trial, followed_score(record)))}"
    unit = metric_unit(column)
    return f"{name} ({unit})" if unit else name


def _trial_cell(tables: StudyTables, row: Mapping[Any, Any], column: str) -> str:
    """A cell; an AUROC comes with its interval if that is known."""
    if column.startswith("test_auroc/") and row["trial"] == tables.summary.champion_trial:
        return interval(tables.summary.test_auroc)
    if column != "test/auroc":
        return cell(column, row[column])
    value, low, high = (float(row.get(f"test/{name}", math.nan)) for name in ("auroc", "auroc_low", "auroc_high"))
    return interval(Interval(value=value, low=low, high=high))


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """The best trials and their repetitions.

    Attributes:
        metric: Which is drawn.
        trials: The chosen one first, then from better to worse by the rule that chose it.
        chosen: The chosen trial; None where there is none.
        dots: One row per trial and seed with a finite value: `trial`, `value`, `original` (from the study itself).
        spreads: By metric, one row per trial: `trial`, `seeds` (with a finite value, also the original), `original`,
            and over these seeds `mean`, `deviation` (of a sample; NaN for a single seed), `low`, `high`.
    """

    metric: str
    trials: tuple[int, ...]
    chosen: int | None
    dots: pd.DataFrame
    spreads: dict[str, pd.DataFrame]


def confirmation(record: StudyRecord) -> Confirmation | Missing:
    """Test AUROC and validation ELBO over seeds; validation reconstruction where there is neither."""
    first, last = LABEL_FREE_DEFAULTS
    known = [
        metric
        for metric in (auroc_metric(record, "test"), first, last)
        if np.isfinite(numbers(record.confirmations, metric)).any()
    ]
    shown = [metric for metric in known if metric != last] or known
    if not shown:
        return Missing("No trial has been trained again with further seeds.")
    trials = _ordered(record)
    values = {metric: _values(record, trials, metric) for metric in shown}
    return Confirmation(
        metric=shown[0],
        trials=trials,
        chosen=record.champion.trial if record.champion else None,
        dots=values[shown[0]],
        spreads={metric: _spread(record, trials, values[metric], metric) for metric in shown},
    )


def _ordered(record: StudyRecord) -> tuple[int, ...]:
    """The repeated trials, the chosen one first, then as its rule ranks them; those that it cannot rank come last."""
    repeated, champion = dict.fromkeys(trial_numbers(record.confirmations)), record.champion
    if champion is None:
        return tuple(repeated)
    score = (record.config.get("anomaly") or {}).get("score")
    found = ranked(record.trials, champion.rule, score) if champion.rule in RULES else []
    rank = {selection.trial: index for index, selection in enumerate(found)}
    return tuple(sorted(repeated, key=lambda trial: (trial != champion.trial, rank.get(trial, len(rank)), trial)))


def _values(record: StudyRecord, trials: Sequence[int], metric: str) -> pd.DataFrame:
    originals = record.trials[record.trials["trial"].isin(trials)]
    frames = [
        pd.DataFrame({"trial": frame["trial"].astype(int), "value": numbers(frame, metric), "original": original})
        for frame, original in ((originals, True), (record.confirmations, False))
    ]
    together = pd.concat(frames, ignore_index=True)
    known: pd.DataFrame = together.loc[np.isfinite(together["value"].to_numpy())]
    return known.reset_index(drop=True)


def _spread(record: StudyRecord, trials: Sequence[int], values: pd.DataFrame, metric: str) -> pd.DataFrame:
    by_trial = values.groupby("trial")["value"]
    found = by_trial.agg(seeds="count", mean="mean", deviation="std", low="min", high="max").reindex(list(trials))
    found.insert(1, "original", [scalar(row_of(record, trial), metric) for trial in trials])
    return found.rename_axis("trial").reset_index().fillna({"seeds": 0}).astype({"seeds": int})


def draw_confirmation(table: Confirmation) -> Picture:
    """One row per trial, a dot for each seed, a ring around the study's own and a bar at the mean."""
    drawn = figure(0.38 * len(table.trials) + 1.15)
    axes = drawn.add_subplot()
    height = {trial: -i for i, trial in enumerate(table.trials)}
    own = table.dots[table.dots["original"].eq(True)]
    for dots, name in ((table.dots[table.dots["original"].eq(False)], "further seed"), (own, "")):
        if len(dots):
            axes.scatter(dots["value"], dots["trial"].map(height), s=26, color=NORMAL, alpha=0.8, linewidths=0,
                         zorder=3, label=name)  # fmt: skip
    if len(own):
        axes.scatter(own["value"], own["trial"].map(height), s=80, facecolors="none", edgecolors=CHOSEN,
                     linewidths=1.6, zorder=4, label="the study’s own")  # fmt: skip
    spread = table.spreads[table.metric]
    rows = [height[trial] for trial in spread["trial"]]
    axes.scatter(spread["mean"], rows, s=260, marker="|", color=INK, linewidths=1.6, zorder=2, label="mean")
    names = [f"trial {trial}{' (chosen)' if trial == table.chosen else ''}" for trial in table.trials]
    axes.set_yticks(list(height.values()), names)
    axes.set(ylim=(0.6 - len(table.trials), 0.6), xlabel=axis_label(table.metric))
    axes.grid(False, axis="y")
    axes.margins(x=0.06)
    drawn.legend(loc="outside upper left", ncols=3, handletextpad=0.3, columnspacing=1.2)
    return drawn


def confirmation_grids(tables: StudyTables) -> tuple[Grid, ...]:
    """For each metric one row per trial: the study's own value, and what it is over all seeds."""
    found = tables.of(confirmation)
    if isinstance(found, Missing):
        return ()
    kinds = ("original", "mean", "deviation", "low", "high")
    return tuple(
        Grid(
            label=f"Over seeds, with the study’s own seed: {heading(tables, metric)}",
            head=("trial", "seeds", "original", "mean", "standard deviation", "lowest", "highest"),
            rows=tuple(
                (str(row["trial"]), str(row["seeds"]), *(number(row[kind], digits_of(metric)) for kind in kinds))
                for row in spread.to_dict("records")
            ),
            marked="" if found.chosen is None else str(found.chosen),
        )
        for metric, spread in found.spreads.items()
    )


CONFIRMATION = Figure(
    name="confirmation",
    numbers=lambda tables: tables.of(confirmation),
    draw=draw_confirmation,
    words=captions("confirmation"),
    is_optional=True,
)

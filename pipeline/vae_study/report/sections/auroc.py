"""How detection depends on the reconstruction: AUROC along the frontier, and of all finished trials."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Picture

from vae_study.report import interactive, style
from vae_study.report.figure import Figure
from vae_study.report.formatting import (
    Words,
    axis_label,
    digits_of,
    metric_name,
    number,
    score_name,
)
from vae_study.report.frames import Missing, numbers, with_state
from vae_study.report.frontier import PLANE, frontier, marks, objective_signs
from vae_study.report.interactive import Interactive, Json, SampledTrials, axis, brief, of_metric
from vae_study.report.style import NORMAL
from vae_study.report.tables import auroc_metric, followed_score, meant
from vae_study.tracking.record import StudyRecord

NO_AUROC = "No finished trial has a validation AUROC, for which labelled anomalies are needed."


def _rows(record: StudyRecord, trials: pd.DataFrame, **metrics: str) -> pd.DataFrame:
    """One row per trial that measured the first two of the metrics: `trial`, the metrics, `frontier`, `champion`."""
    values = {name: numbers(trials, metric) for name, metric in metrics.items()}
    rows = pd.DataFrame({"trial": trials["trial"].astype(int), **values, **marks(record, trials)})
    known = np.isfinite(rows[[*metrics][:2]].to_numpy()).all(axis=1)
    kept: pd.DataFrame = rows.loc[known].reset_index(drop=True)
    return kept


@dataclass(frozen=True, kw_only=True)
class FrontierAuroc:
    """AUROC against reconstruction, or against the first objective where that is none of a study's.

    Attributes:
        across: The metric across.
        test: One row per trial of the frontier with an AUROC on test, of the followed score: `trial`, `across`,
            `auroc`, `low` and `high` (95 % bootstrap interval, NaN where unknown), `champion`; ordered by `across`.
        validation: One row per finished trial: `trial`, `across`, `auroc`, `frontier`, `champion`; not of the test
            split, since one compares trials here.
        validation_metric: Which AUROC that is.
        test_score: The score of the AUROC on test, which trials follow while they train.
    """

    across: str
    test: pd.DataFrame
    validation: pd.DataFrame
    validation_metric: str
    test_score: str

    @property
    def test_label(self) -> str:
        """What the axis of the AUROC on test says."""
        return f"test AUROC of {score_name(self.test_score)}, 95 % interval"

    @property
    def panels(self) -> list[pd.DataFrame]:
        """The tables that have rows."""
        return [rows for rows in (self.test, self.validation) if len(rows)]


def frontier_auroc(record: StudyRecord) -> FrontierAuroc | Missing:
    """The AUROC of trials against an objective; `Missing` if no finished trial has one on validation."""
    metric, objectives = auroc_metric(record, "val"), objective_signs(record.config)
    followed = followed_score(record)
    across = next((name for name in (PLANE[0], *objectives) if name in objectives), PLANE[0])
    validation = _rows(record, with_state(record, "finished"), across=across, auroc=metric)
    if validation.empty:
        return Missing(NO_AUROC)
    ends = {"low": "test/auroc_low", "high": "test/auroc_high"}
    test = _rows(record, frontier(record), across=across, auroc="test/auroc", **ends)
    return FrontierAuroc(
        across=across,
        test=test.sort_values("across", kind="stable", ignore_index=True),
        validation=validation.sort_values("across", kind="stable", ignore_index=True),
        validation_metric=metric,
        test_score=meant(record, record.champion.trial, followed) if record.champion else followed,
    )


def draw_frontier_auroc(table: FrontierAuroc) -> Picture:
    """On the left the frontier on test with intervals, on the right all finished trials on validation."""
    drawn = style.figure(3.3)
    panels = drawn.subplots(1, len(table.panels), sharex=True, squeeze=False)[0]
    if len(table.test):
        ends = np.abs(table.test[["low", "high"]].to_numpy().T - table.test["auroc"].to_numpy())
        panels[0].errorbar(table.test["across"], table.test["auroc"], yerr=np.nan_to_num(ends), fmt="o", markersize=4.5,
                           color=NORMAL, elinewidth=1.2, linewidth=0, zorder=3)  # fmt: skip
        panels[0].set_ylabel(style.wrapped(table.test_label, 28))
    finished = table.validation
    style.scatter_groups(panels[-1], finished["across"], finished["auroc"], finished["frontier"])
    panels[-1].set_ylabel(metric_name(table.validation_metric).replace(" of ", "\nof "))
    for axes, rows in zip(panels, table.panels, strict=True):
        chosen = rows[rows["champion"]]
        style.ring(axes, chosen["across"], chosen["auroc"], "chosen")
        axes.set_xlabel(axis_label(table.across).replace(" (", "\n("))
    style.legend_above(panels[-1], 3)
    return drawn


def describe_frontier_auroc(table: FrontierAuroc) -> Words:
    """Caption and alternative text, with the trial of the highest AUROC."""
    caption = "All finished trials on validation. The best reconstruction is not always the best detector."
    if len(table.test):
        first = "First the frontier’s trials on the test split, with the score that trials follow during training."
        caption = f"{first} Then a{caption[1:]}"
    best = table.validation.iloc[int(table.validation["auroc"].argmax())]
    highest = f"the highest {metric_name(table.validation_metric)}, {number(float(best['auroc']), 3)}"
    where = number(float(best["across"]), digits_of(table.across))
    alt = f"Scatter plots of AUROC against {metric_name(table.across)}; {highest}, is at {where}."
    return Words(caption, alt)


def interactive_frontier_auroc(table: FrontierAuroc, sampled: SampledTrials) -> Interactive:
    """The frontier on test with its intervals, and all finished trials on validation."""
    traces: list[Json] = []
    if len(test := table.test):
        error = {"type": "data", "symmetric": False, "array": brief(test["high"] - test["auroc"], 3),
                 "arrayminus": brief(test["auroc"] - test["low"], 3), "thickness": 1.2, "width": 0}  # fmt: skip
        marker: Json = {"size": 8, "color": "var(--accent)"}
        traces.append(_dots(test, sampled, marker, error_y=error, showlegend=False))
    last = len(traces)
    for on_frontier, name, marker in interactive.MARKED_GROUPS:
        some = table.validation[table.validation["frontier"].eq(on_frontier)]
        some = some[sampled.is_sampled(some["trial"])]
        traces.append(_dots(some, sampled, marker, name=name, **interactive.in_panel(last)))
    layout, named = {}, False
    labels = [interactive.broken(table.test_label)] * last + [
        interactive.broken(style.axis_name(table.validation_metric))
    ]
    for i, (rows, label) in enumerate(zip(table.panels, labels, strict=True)):
        if len(chosen := rows[rows["champion"]]):
            panel = {**interactive.in_panel(i, "chosen"), "showlegend": not named}
            traces.append(_dots(chosen, sampled, interactive.CHOSEN_RING, name="chosen", **panel))
            named = True
        layout[f"xaxis{interactive.panel_number(i)}"] = axis(of_metric(table.across))
        layout[f"yaxis{interactive.panel_number(i)}"] = axis(label)
    return Interactive(traces=tuple(traces), layout=layout, height=330, columns=len(labels))


def _dots(rows: pd.DataFrame, sampled: SampledTrials, marker: Json, **more: object) -> Json:
    return interactive.dots(sampled, rows["trial"], rows["across"], rows["auroc"], marker, **more)


FRONTIER_AUROC = Figure(
    name="frontier_auroc",
    numbers=lambda tables: tables.of(frontier_auroc),
    draw=draw_frontier_auroc,
    words=describe_frontier_auroc,
    interactive=interactive_frontier_auroc,
)

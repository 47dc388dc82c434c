"""How the search and the training progressed: the hypervolume by trial, and the frontier's trials by epoch."""

import math
import textwrap
from dataclasses import dataclass

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Picture
from matplotlib.ticker import MaxNLocator

from vae_study.metrics import shown_in
from vae_study.report import interactive, style
from vae_study.report.figure import Figure
from vae_study.report.formatting import (
    Words,
    count,
    hypervolume_unit,
    listing,
    metric_name,
    number,
    short_label,
    significant,
    trial_list,
)
from vae_study.report.frames import Missing, finite, numbers, row_of, trial_numbers, with_state
from vae_study.report.frontier import (
    HypervolumeHistory,
    frontier,
    hypervolume_history,
    minimized_objectives,
    objective_signs,
)
from vae_study.report.interactive import Interactive, Json, View, axis, brief, panel_number, said, thinned
from vae_study.report.style import NORMAL, STEPS
from vae_study.selection.ranking import feasible
from vae_study.tracking.record import StudyRecord


def draw_hypervolume(table: HypervolumeHistory) -> Picture:
    """Hypervolume after each finished trial."""
    drawn = style.figure(2.9)
    axes = drawn.add_subplot()
    axes.step(table.trial_N, table.hypervolume_N, where="post", color=NORMAL)
    axes.fill_between(table.trial_N, table.hypervolume_N, step="post", color=NORMAL, alpha=0.10, linewidth=0)
    axes.plot(table.trial_N[-1:], table.hypervolume_N[-1:], "o", color=NORMAL, markersize=5)
    axes.set(xlabel="trial number", ylabel=_upwards(table))
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_formatter(lambda value, _: number(value, 0 if table.hypervolume_N.max() >= 5 else 2))
    return drawn


def _upwards(table: HypervolumeHistory) -> str:
    unit = hypervolume_unit(table.reference)
    return f"hypervolume ({unit})" if unit else "hypervolume"


def describe_hypervolume(table: HypervolumeHistory) -> Words:
    """Caption and alternative text, with the reference point."""
    reference = listing(f"{metric_name(metric)} {number(value)}" for metric, value in table.reference.items())
    last = table.hypervolume_N[-1]
    reached = int(np.argmax(table.hypervolume_N >= 0.99 * last))
    epochs = ""
    if table.epochs_N is not None:
        epochs = f"; the trials up to that number trained {count(int(table.epochs_N[reached]), 'epoch')}"
    what = (
        "The hypervolume dominated by the frontier"
        if len(table.reference) > 1
        else "How far the best trial lies beyond the reference point"
    )
    caption = (
        f"{what}, after each finished trial. Larger is better. A flat end means that "
        f"more trials would probably change little. 99 % of the final {number(last)} was reached with trial "
        f"{table.trial_N[reached]}{epochs}. Fixed reference point: {reference}."
    )
    steps = f"from {number(table.hypervolume_N[0])} to {number(last)}"
    return Words(caption, f"Step curve of the hypervolume over {count(len(table.trial_N), 'finished trial')}, {steps}.")


def interactive_hypervolume(table: HypervolumeHistory) -> Interactive:
    """The hypervolume over trial numbers or over epochs, as the reader chooses."""
    # Steps that gain nothing are seen without a point of their own.
    gains = np.flatnonzero(np.diff(table.hypervolume_N, prepend=-1.0) > 0)
    kept = np.union1d(gains[thinned(len(gains))], [len(table.trial_N) - 1])
    told = [f"trial {table.trial_N[i]}<br>hypervolume <b>{number(float(table.hypervolume_N[i]))}</b>" for i in kept]
    views = tuple(
        View(label=name, changes={0: {"x": brief(x_N[kept])}}, layout={"xaxis": axis(name)})
        for name, x_N in {"trial number": table.trial_N, "epochs trained": table.epochs_N}.items()
        if x_N is not None
    )
    y = brief(table.hypervolume_N[kept])
    trace = interactive.lines([], y, "var(--accent)", 2, "hv", text=told, hoverinfo="text")
    layout = {"yaxis": axis(_upwards(table), rangemode="tozero")}
    return Interactive(traces=(trace,), layout=layout, height=300, views=views, switch="Over")


HYPERVOLUME = Figure(
    name="hypervolume",
    numbers=lambda tables: tables.of(hypervolume_history),
    draw=draw_hypervolume,
    words=describe_hypervolume,
    interactive=lambda table, sampled: interactive_hypervolume(table),
)

TERMS, TERMS_WITHOUT_RATE = shown_in("training"), shown_in("training without rate")
MOST_CURVES = 7


@dataclass(frozen=True, kw_only=True)
class TrainingCurves:
    """Epoch by epoch, some trials of the frontier and the chosen one.

    Attributes:
        trials: Their numbers, from the frontier's one end to the other.
        names: What a legend calls each of them.
        chosen: The chosen trial, if it is among them.
        terms: Which metrics the curves have; those that no trial measured are left out.
        order: The objective that the trials are ordered by, the best first.
        curves: Columns `trial`, `epoch` and the terms; NaN where a trial did not measure one.
        frontier_size: How many trials the frontier has; those left out lie between those here.
        is_dominated: Whether the chosen trial is among them without being on the frontier.
        is_frontier: False where there is a single objective, so that the frontier says little: then the best trials.
    """

    trials: tuple[int, ...]
    names: tuple[str, ...]
    chosen: int | None
    terms: tuple[str, ...]
    order: str
    curves: pd.DataFrame
    frontier_size: int
    is_dominated: bool
    is_frontier: bool

    @property
    def heights(self) -> list[float]:
        """Of the terms' panels from the top, each in parts of a panel of full height."""
        return [0.5 if term == "train/kl_weight" else 1.0 for term in self.terms]


def training_curves(record: StudyRecord, most: int = MOST_CURVES) -> TrainingCurves | Missing:
    """What at most `most` trials measured after each epoch, see `spread_over_frontier`."""
    shown = spread_over_frontier(record, most)
    if shown.empty:
        return Missing("No trial of the frontier has a history of its epochs.")
    trials, objectives = trial_numbers(shown), objective_signs(record.config)
    history = record.history[record.history["trial"].isin(trials)].drop_duplicates(["trial", "epoch"], keep="last")
    has_rate = np.isfinite(numbers(history, "val/kl")).any()
    terms = tuple(
        term for term in (TERMS if has_rate else TERMS_WITHOUT_RATE) if np.isfinite(numbers(history, term)).any()
    )
    if not terms:
        return Missing("The histories of the frontier's trials hold none of the metrics that are drawn here.")
    curves = pd.DataFrame({name: finite(numbers(history, name)) for name in ("trial", "epoch", *terms)})
    chosen, members = record.champion.trial if record.champion else None, trial_numbers(frontier(record))
    return TrainingCurves(
        trials=trials,
        names=tuple(map(_curve_name, trials, numbers(shown, "beta").tolist())),
        chosen=chosen if chosen in trials else None,
        terms=terms,
        order=next(iter(objectives)),
        curves=curves.astype({"trial": int}),
        frontier_size=len(members),
        is_dominated=chosen in trials and chosen not in members,
        is_frontier=len(objectives) > 1,
    )


def _curve_name(trial: int, beta: float) -> str:
    return f"{trial}" if math.isnan(beta) else f"{trial}, β {significant(beta, 2)}"


def spread_over_frontier(record: StudyRecord, most: int) -> pd.DataFrame:
    """At most `most` trials with a history, evenly over the frontier, its ends and the chosen trial included.

    The chosen trial is among them even if it is dominated. With a single objective, the best finished, feasible trials,
    the best first. No row where there is no history.
    """
    members = frontier(record)
    if len(objective_signs(record.config)) == 1:
        members = _by_first_objective(record, feasible(with_state(record, "finished"))).head(most)
    chosen = record.champion.trial if record.champion else None
    if chosen is not None and chosen not in trial_numbers(members):
        members = _by_first_objective(record, pd.concat([members, row_of(record, chosen)]))
    members = members[members["trial"].isin(record.history["trial"])].reset_index(drop=True)
    kept = thinned(len(members), most)
    if chosen in (trials := trial_numbers(members)) and (at := trials.index(chosen)) not in kept:
        # The inner one nearest to the chosen trial gives way to it.
        inner = kept[1:-1]
        inner[np.abs(inner - at).argmin()] = at
    return members.iloc[kept]


def _by_first_objective(record: StudyRecord, trials: pd.DataFrame) -> pd.DataFrame:
    """Those with a finite first objective, the best first."""
    values = minimized_objectives(trials, record.config)[:, 0]
    return trials.iloc[np.argsort(values, kind="stable")[: np.isfinite(values).sum()]]


def draw_curves(table: TrainingCurves) -> Picture:
    """A panel per term, a line per trial, dark at the end of the frontier where the first objective is best."""
    drawn = style.figure(1.25 * sum(table.heights) + 1.1)
    panels = drawn.subplots(len(table.terms), 1, sharex=True, height_ratios=table.heights, squeeze=False)[:, 0]
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.88, max(len(table.trials), 2)))
    for axes, term in zip(panels, table.terms, strict=True):
        for colour, trial, name in zip(colours, table.trials, table.names, strict=False):
            rows = table.curves[table.curves["trial"].eq(trial)]
            own = {"linewidth": 2.6, "zorder": 3} if trial == table.chosen else {"linewidth": 1.3}
            label = f"trial {name}{' (chosen)' * (trial == table.chosen)}"
            axes.plot(rows["epoch"], rows[term], color=colour, label=label, **own)
        axes.set_ylabel(textwrap.fill(short_label(term), 14))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=term == "val/active_units"))
        if term == "train/kl_weight":
            axes.set(ylim=(-0.08, 1.08), yticks=[0, 0.5, 1])
    panels[-1].set_xlabel("epoch")
    panels[-1].xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    drawn.align_ylabels(panels)
    style.legend_above(panels[0], 3, handlelength=1.2, columnspacing=1.4, handletextpad=0.8)
    return drawn


def interactive_curves(table: TrainingCurves) -> Interactive:
    """Panels one above the other over one axis of epochs; a click on a name in the legend hides the trial."""
    traces, last = [], max(len(table.trials) - 1, 1)
    for i, (trial, name) in enumerate(zip(table.trials, table.names, strict=True)):
        rows = table.curves[table.curves["trial"].eq(trial)]
        rows = rows.iloc[thinned(len(rows))]
        # Dark to light as in the picture; the other way round in dark mode.
        colour, is_chosen = f"scale({round((1 - i / last) * (STEPS - 1))})", trial == table.chosen
        label = f"trial {name}{' (chosen)' * is_chosen}"
        for panel, term in enumerate(table.terms):
            traces.append(interactive.lines(
                brief(rows["epoch"]), brief(rows[term], 4), colour, 3.2 if is_chosen else 1.6, name=label,
                hoverinfo="x+y+name", **{**interactive.in_panel(panel, label), "xaxis": "x"},
            ))  # fmt: skip
    layout: Json = {"xaxis": axis("epoch", anchor=f"y{panel_number(len(table.terms) - 1)}")}
    parts = np.array(table.heights) / sum(table.heights)
    for panel, (term, part, top) in enumerate(zip(table.terms, parts, 1 - parts.cumsum() + parts, strict=True)):
        domain = [round(top - 0.85 * part, 4), round(top, 4)]
        layout[f"yaxis{panel_number(panel)}"] = axis(said(short_label(term)), domain=domain, nticks=5, tickformat="~g")
    return Interactive(traces=tuple(traces), layout=layout, height=100 + 115 * len(table.terms))


def describe_training(table: TrainingCurves) -> Words:
    """Caption and alternative text, with the trials that are drawn."""
    shown = len(table.trials) - table.is_dominated
    which = "All" if shown == table.frontier_size else f"{shown} of the {table.frontier_size}"
    order = f"by {metric_name(table.order)} from best to worst, as in the legend"
    caption = f"{which} trials of the frontier" if table.frontier_size > 1 else "The frontier’s only trial"
    if not table.is_frontier:
        caption = f"The best {count(shown, 'finished trial')}"
    caption += " and the chosen trial, which is dominated" * table.is_dominated
    caption += f", {order}." if len(table.trials) > 1 else "."
    caption += " The thicker line is the chosen trial." * (table.chosen is not None)
    if "train/kl_weight" in table.terms:
        caption += " The weight at the bottom multiplies the KL in the loss: compare trials only where it stays at 1."
    if "val/active_units" in table.terms:
        caption += " A latent dimension is active if its posterior mean varies from example to example."
    alt = f"Curves by epoch of {listing(map(metric_name, table.terms))}, of {trial_list(table.trials)}."
    return Words(caption, alt)


TRAINING = Figure(
    name="training",
    numbers=lambda tables: tables.of(training_curves),
    draw=draw_curves,
    words=describe_training,
    interactive=lambda table, sampled: interactive_curves(table),
)

"""The finished trials over the searched parameters: parallel coordinates, and one parameter at a time."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure as Picture
from numpy.typing import NDArray

from vae_study.report import interactive, style
from vae_study.report.figure import Figure
from vae_study.report.formatting import Words, count, listing, metric_name, parameter_name, significant
from vae_study.report.frames import Floats, Missing, finite, numbers, with_state
from vae_study.report.frontier import marks
from vae_study.report.interactive import Interactive, Json, SampledTrials, View, axis, brief, said
from vae_study.report.parameters import Coordinate, coordinates
from vae_study.report.sections.importances import importances
from vae_study.report.style import GREY, PAPER, STEPS, axis_name, short, value_limits, wrapped
from vae_study.report.tables import StudyTables, auroc_metric, targets
from vae_study.tracking.record import StudyRecord

# Where a line runs that has no value on an axis, in parts of the axes' height.
ABSENT = -0.12
MOST_SLICES = 12


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """Parallel coordinates (Inselberg 1985): one line per finished trial.

    Attributes:
        axes: The searched parameters, then the objectives, then the AUROC where it is known, each from the lowest to
            the highest value of the finished trials, or from the first to the last choice.
        trial_N: The trials' numbers.
        frontier_N: Whether each is on the frontier.
        colour_N: The AUROC, else the first objective; NaN where unknown.
        colour_metric: Which of the two.
    """

    axes: tuple[Coordinate, ...]
    trial_N: NDArray[np.int64]
    frontier_N: NDArray[np.bool_]
    colour_N: Floats
    colour_metric: str

    @property
    def values_NA(self) -> Floats:
        """One row per trial, NaN where a branch does not have the parameter, or where it was not measured."""
        return np.column_stack([one.value_N for one in self.axes])

    @property
    def has_absent(self) -> bool:
        """Whether some trial has no value on some axis."""
        return bool(np.isnan(self.values_NA).any())

    @cached_property
    def heights_NA(self) -> Floats:
        """Where each trial's line crosses each axis, from 0 at the bottom to 1 at the top, or ABSENT."""
        heights_NA = np.column_stack([_heights(one) for one in self.axes])
        return np.where(np.isfinite(heights_NA), heights_NA, ABSENT)

    @property
    def ticks(self) -> Iterator[tuple[int, float, str]]:
        """Each axis' index with the heights and names of every choice, or of a number's two ends."""
        for i, one in enumerate(self.axes):
            ends = np.unique([one.low, one.high])
            value_T = ends if one.choices is None else np.arange(len(one.choices), dtype=np.float64)
            names = map(significant, ends) if one.choices is None else (short(name, 12) for name in one.choices)
            for height, name in zip(_heights(replace(one, value_N=value_T)), names, strict=True):
                yield i, float(height), name


def _heights(axis: Coordinate) -> Floats:
    low, high = axis.scaled_ends
    return (axis.scaled_N - low) / (high - low) if high > low else np.where(np.isfinite(axis.value_N), 0.5, np.nan)


def parallel(record: StudyRecord) -> Parallel | Missing:
    """The finished trials over all axes that any of them has a value on."""
    finished, metrics = with_state(record, "finished"), targets(record)
    axes = []
    for c in coordinates(record, finished):
        low, high = (c.low, c.high) if c.choices else value_limits(c.value_N)
        axes.append(replace(c, low=low, high=high))
    for metric in metrics:
        if np.isfinite(value_N := finite(numbers(finished, metric))).any():
            low, high = value_limits(value_N)
            axes.append(Coordinate(name=metric, is_log=False, choices=None, value_N=value_N, low=low, high=high))
    if not axes:
        return Missing("No finished trial has measured an objective, so there are no parallel coordinates.")
    auroc = auroc_metric(record, "val")
    colour = auroc if auroc in metrics else metrics[0]
    return Parallel(
        axes=tuple(axes),
        trial_N=finished["trial"].to_numpy(np.int64),
        frontier_N=marks(record, finished)["frontier"].to_numpy(bool),
        colour_N=finite(numbers(finished, colour)),
        colour_metric=colour,
    )


def draw_parallel(table: Parallel) -> Picture:
    """An upright axis per parameter or metric, a line per trial; the frontier's thicker and on top."""
    drawn, size = style.figure(4.2), len(table.axes)
    axes = drawn.add_subplot()
    for on_frontier, width, alpha in ((False, 0.7, 0.35), (True, 1.5, 0.95)):
        some = table.frontier_N == on_frontier
        paths = [np.column_stack([np.arange(size), row]) for row in table.heights_NA[some]]
        lines = LineCollection(paths, cmap=style.scale(), linewidths=width, alpha=alpha, zorder=2 + on_frontier)
        lines.set_array(table.colour_N[some])
        lines.set_clim(*style.colour_limits(table.colour_metric, table.colour_N))
        axes.add_collection(lines)
    style.colour_bar(axes, lines, metric_name(table.colour_metric))
    for i in range(size):
        axes.axvline(i, color=GREY, linewidth=0.8, zorder=1, ymin=0, ymax=1)
    box = {"facecolor": PAPER, "alpha": 0.75, "edgecolor": "none", "pad": 0.6}
    for i, height, text in table.ticks:
        axes.text(i + 0.04, height, text, fontsize=7, va="center", bbox=box, zorder=5)
    names = [wrapped(short(axis_name(one.name), 40), 14) for one in table.axes]
    is_turned = size >= 8
    axes.set_xticks(range(size), names, fontsize=7.5, rotation=30 * is_turned, ha="right" if is_turned else "center")
    axes.set(xlim=(-0.1, size - 0.6), ylim=(ABSENT - 0.05 if table.has_absent else -0.05, 1.05))
    axes.set_yticks([ABSENT] if table.has_absent else [], ["none"] if table.has_absent else [])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return drawn


def describe_parallel(table: Parallel) -> Words:
    """Caption and alternative text."""
    colour = metric_name(table.colour_metric)
    caption = f"Each line is a finished trial, coloured by its {colour}. Lines of the frontier are thicker."
    if table.has_absent:
        caption += " Lines of trials without a parameter run along the bottom of its axis."
    names = listing(axis_name(one.name) for one in table.axes)
    return Words(caption, f"Parallel coordinates of {count(len(table.trial_N), 'finished trial')} over {names}.")


def interactive_parallel(table: Parallel, sampled: SampledTrials) -> Interactive:
    """Lines in as many colours as the scale has steps, since one trace has one colour; the frontier's on top."""
    low, high = style.colour_limits(table.colour_metric, table.colour_N)
    some_N, size = sampled.is_one_of_few(table.trial_N), len(table.axes)
    step_N = np.clip((table.colour_N - low) / ((high - low) or 1.0) * STEPS, 0, STEPS - 1)
    shade_N = np.nan_to_num(step_N, nan=-1).astype(np.int64)
    traces = []
    for on_frontier, shade in ((is_on, shade) for is_on in (False, True) for shade in range(-1, STEPS)):
        if (kept := some_N & (table.frontier_N == on_frontier) & (shade_N == shade)).any():
            traces.append(_lines(table, kept, sampled, shade, on_frontier))
    # An invisible point carries the colour scale beside the lines.
    traces.append({"type": "scatter", "mode": "markers", "x": [None], "y": [None], "hoverinfo": "skip",
                   "marker": {"color": [0], "coloraxis": "coloraxis"}})  # fmt: skip
    label = {"showarrow": False, "xanchor": "left", "font": {"size": 10.5}, "bgcolor": "var(--card)", "opacity": 0.85}
    texts = [(i, brief([height])[0], said(text)) for i, height, text in table.ticks]
    texts += [(0, ABSENT, "none")] * table.has_absent
    names = [interactive.broken(short(axis_name(one.name), 40), 12) for one in table.axes]
    upright = {"type": "line", "y0": 0, "y1": 1, "line": {"color": "var(--soft)", "width": 1}}
    ends = brief((low, high))
    layout: Json = {
        "showlegend": False,
        "xaxis": {"tickvals": list(range(size)), "ticktext": names, "range": [-0.15, size - 0.5], "showgrid": False,
                  "ticks": "", "showline": False, "fixedrange": True, "tickangle": 0, "tickfont": {"size": 10.5}},
        "yaxis": {"visible": False, "range": [ABSENT - 0.06 if table.has_absent else -0.06, 1.06], "fixedrange": True},
        "shapes": [{**upright, "x0": i, "x1": i} for i in range(size)],
        "annotations": [{"x": x, "y": y, "text": text, **label} for x, y, text in texts],
        "coloraxis": {"colorscale": "scale", "cmin": ends[0], "cmax": ends[1], "colorbar": {"outlinewidth": 0}},
    }  # fmt: skip
    note = f"Coloured by {metric_name(table.colour_metric)}."
    if len(sampled.few) < len(table.trial_N):
        note += f" {int(some_N.sum()):,} of {len(table.trial_N):,} trials are shown here."
    return Interactive(traces=tuple(traces), layout=layout, height=460, brush=True, note=note, least_width=74 * size)


def _lines(table: Parallel, kept: NDArray[np.bool_], sampled: SampledTrials, shade: int, on_frontier: bool) -> Json:
    """The kept lines as one trace of one colour, a gap after each."""
    size = len(table.axes)
    x = [*range(size), None] * int(kept.sum())
    y = [value for row in table.heights_NA[kept] for value in (*brief(row, 4), None)]
    rows = [row for row in sampled.rows(table.trial_N[kept]) for _ in range(size + 1)]
    colour, width = f"scale({shade})" if shade >= 0 else "var(--faint)", 2.2 if on_frontier else 0.9
    return interactive.lines(x, y, colour, width, customdata=rows, opacity=1.0 if on_frontier else 0.45)


PARALLEL = Figure(
    name="parallel",
    numbers=lambda tables: tables.of(parallel),
    draw=draw_parallel,
    words=describe_parallel,
    interactive=interactive_parallel,
)


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One target of the finished trials against one searched parameter.

    Attributes:
        parameter: Its column.
        target: The metric.
        is_log: Whether the parameter was searched on a log scale.
        choices: Of a categorical parameter, as text, in the order of the config; None of a number.
        x_N: The parameter's values; the index of the choice of a categorical one.
        y_N: The target.
        trial_N: The trials' numbers; those that lack one of the two are left out.
        frontier_N, chosen_N: Whether each is on the frontier, and whether it is the chosen one.
    """

    parameter: str
    target: str
    is_log: bool
    choices: tuple[str, ...] | None
    x_N: Floats
    y_N: Floats
    trial_N: NDArray[np.int64]
    frontier_N: NDArray[np.bool_]
    chosen_N: NDArray[np.bool_]

    @property
    def spread_N(self) -> Floats:
        """Positions across; those of a categorical parameter are jittered, always in the same way."""
        if self.choices is None:
            return self.x_N
        return self.x_N + np.random.default_rng(0).uniform(-0.22, 0.22, len(self.x_N))


def slices(record: StudyRecord) -> tuple[Slice, ...]:
    """Every searched parameter against every target, where any finished trial has both."""
    return tuple(_slices(record))


def _slices(record: StudyRecord) -> Iterator[Slice]:
    finished, metrics = with_state(record, "finished"), targets(record)
    is_N = {name: values.to_numpy(bool) for name, values in marks(record, finished).items()}
    trial_N = finished["trial"].to_numpy(np.int64)
    for c in coordinates(record, finished):
        for target in metrics:
            y_N = numbers(finished, target)
            if (known := np.isfinite(c.value_N) & np.isfinite(y_N)).any():
                yield Slice(parameter=c.name, target=target, is_log=c.is_log, choices=c.choices, x_N=c.value_N[known],
                            y_N=y_N[known], trial_N=trial_N[known], frontier_N=is_N["frontier"][known],
                            chosen_N=is_N["champion"][known])  # fmt: skip


def by_target(tables: StudyTables) -> dict[str, tuple[Slice, ...]] | Missing:
    """Slices by target, the AUROC first if it is known; of each target the most important parameters first."""
    matters = tables.of(importances)
    order = {} if isinstance(matters, Missing) else {name: i for i, name in enumerate(matters.parameters)}
    found: dict[str, list[Slice]] = {}
    for table in sorted(tables.of(slices), key=lambda table: order.get(table.parameter, len(order))):
        found.setdefault(table.target, []).append(table)
    first = sorted(found, key=lambda target: "auroc" not in target)
    none = Missing("No finished trial has both a searched parameter and an objective.")
    return {target: tuple(found[target]) for target in first} or none


def draw_slices(tables: Mapping[str, Sequence[Slice]]) -> Picture:
    """The first target against each parameter; the frontier's trials in colour."""
    shown = next(iter(tables.values()))[:MOST_SLICES]
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    drawn = style.figure(1.75 * rows + 0.4)
    panels = drawn.subplots(rows, columns, sharey=True, squeeze=False)
    for axes, table in zip(panels.flat, shown, strict=False):
        style.scatter_groups(axes, table.spread_N, table.y_N, table.frontier_N, (14, 18))
        style.ring(axes, table.spread_N[table.chosen_N], table.y_N[table.chosen_N], "chosen")
        axes.set_xlabel(f"{short(parameter_name(table.parameter), 28)}{' (log)' * table.is_log}", fontsize=9)
        axes.tick_params(labelsize=8)
        if table.choices is not None:
            names = [wrapped(short(choice), 9) for choice in table.choices]
            axes.set_xticks(range(len(names)), names, fontsize=7)
            axes.set_xlim(-0.6, len(names) - 0.4)
        elif table.is_log:
            style.log_scale(axes, "x")
    for axes in panels.flat[len(shown) :]:
        axes.set_visible(False)
    drawn.supylabel(metric_name(shown[0].target), fontsize=10)
    style.legend_above(panels[0, 0], 3)
    return drawn


def describe_slices(tables: Mapping[str, Sequence[Slice]]) -> Words:
    """Caption and alternative text; the caption warns that a slice hides the other parameters."""
    first = next(iter(tables.values()))
    shown, left_out = first[:MOST_SLICES], max(0, len(first) - MOST_SLICES)
    caption = (
        "Finished trials by one parameter at a time. The other parameters differ between the dots, so an effect may be "
        "hidden."
    )
    if left_out:
        caption += f" {count(left_out, 'parameter')} that matter less are not drawn."
    names = listing(parameter_name(table.parameter) for table in shown)
    return Words(caption, f"Scatter plots of {metric_name(shown[0].target)} against {names}.")


def interactive_slices(tables: Mapping[str, Sequence[Slice]], sampled: SampledTrials) -> Interactive:
    """A panel per parameter; the target is the reader's choice."""
    first, *_ = shown = [some[:MOST_SLICES] for some in tables.values()]
    panel_of = {table.parameter: panel for panel, table in enumerate(first)}
    layout: Json = {}
    for panel, table in enumerate(first):
        layout[f"xaxis{interactive.panel_number(panel)}"] = _across(table)
        layout[f"yaxis{interactive.panel_number(panel)}"] = {"nticks": 4}
    most = max(len(table.trial_N) for table in first)
    return Interactive(
        traces=tuple(trace for panel, table in enumerate(first) for trace in _groups(table, sampled, panel)),
        layout=layout,
        height=170,
        columns=3,
        views=tuple(_target(some, sampled, panel_of) for some in shown),
        switch="Metric",
        is_shared=True,
        note=f"{len(sampled.few):,} of {most:,} trials are shown here." if most > len(sampled.few) else "",
    )


def _groups(table: Slice, sampled: SampledTrials, panel: int) -> Iterator[Json]:
    """A trace for each of MARKED_GROUPS, and one for the ring of the chosen trial."""
    for on_frontier, name, marker in interactive.MARKED_GROUPS:
        some = sampled.is_one_of_few(table.trial_N) & (table.frontier_N == on_frontier)
        points = table.trial_N[some], table.spread_N[some], table.y_N[some]
        yield interactive.dots(sampled, *points, marker, name=name, **interactive.in_panel(panel, name))
    chosen = table.trial_N[table.chosen_N], table.spread_N[table.chosen_N], table.y_N[table.chosen_N]
    ring = {**interactive.CHOSEN_RING, "size": 13}
    yield interactive.dots(sampled, *chosen, ring, name="chosen", **interactive.in_panel(panel, "chosen"))


def _across(table: Slice) -> Json:
    label = said(short(parameter_name(table.parameter), 28))
    if table.choices is None:
        return axis(label, table.is_log, interactive.padded(table.x_N, table.is_log))
    names = [said(short(choice, 14)) for choice in table.choices]
    return axis(label, limits=(-0.6, len(names) - 0.4), tickvals=list(range(len(names))), ticktext=names)


def _target(tables: Sequence[Slice], sampled: SampledTrials, panel_of: Mapping[str, int]) -> View:
    """What changes with the target: the values and the trials, since some trials lack a metric."""
    changes, layout = {}, {}
    limits = interactive.padded(np.concatenate([table.y_N for table in tables]), False)
    for table in tables:
        if (panel := panel_of.get(table.parameter)) is not None:
            traces = list(_groups(table, sampled, panel))
            for i, trace in enumerate(traces):
                changes[panel * len(traces) + i] = {key: trace[key] for key in ("x", "y", "customdata")}
            layout[f"yaxis{interactive.panel_number(panel)}"] = axis("", limits=limits)
    return View(label=metric_name(tables[0].target), changes=changes, layout=layout)


SLICES = Figure(
    name="slices",
    numbers=by_target,
    draw=draw_slices,
    words=describe_slices,
    interactive=interactive_slices,
)

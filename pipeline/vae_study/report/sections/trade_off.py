"""The trade-off: all trials in the plane of two metrics, or over their numbers where there is one objective."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture
from matplotlib.ticker import MaxNLocator

from vae_study.metrics import shown_in
from vae_study.report import interactive, style
from vae_study.report.figure import Figure
from vae_study.report.formatting import Words, axis_label, count, digits_of, listing, metric_name, number
from vae_study.report.frames import Floats, Missing, numbers
from vae_study.report.interactive import Interactive, Json, SampledTrials, View, axis, brief, lines, of_metric, said
from vae_study.report.parameters import search_range, short_name
from vae_study.report.plane import Plane, plane
from vae_study.report.style import FAINT, GREY, INK, LABELS, NORMAL, PAPER
from vae_study.selection.ranking import Selection
from vae_study.tracking.record import ChampionRecord, StudyRecord

# Parts of the axes where the legend may be, so that no line is named under it.
LEGEND = [(x, y) for x in (0.7, 0.8, 0.9, 1.0) for y in (0.84, 0.92, 1.0)]
# Marks under and over the finished trials' dots: in a picture as matplotlib takes them, on the page as plotly.js does.
Marks = Mapping[str, tuple[Json, Json]]
UNDER: Marks = {
    "pruned": ({"marker": "x", "color": FAINT}, {"symbol": "x-thin-open", "size": 6, "color": "var(--faint)"}),
    "running": ({"marker": "+", "color": GREY}, {"symbol": "cross-thin-open", "size": 7, "color": "var(--soft)"}),
    "waiting": ({"marker": "2", "color": GREY}, {"symbol": "y-up-open", "size": 7, "color": "var(--soft)"}),
    # Recognizable by its shape alone for readers who do not see colours.
    "constraint violated": (
        {"marker": "v", "s": 30, "facecolors": "none", "edgecolors": INK, "linewidths": 0.9, "zorder": 3},
        {"symbol": "triangle-down-open", "size": 8, "color": "var(--ink)"},
    ),
}
OVER: Marks = {
    "chosen": (
        {"s": 190, "facecolors": "none", "edgecolors": style.CHOSEN, "linewidths": 1.8, "zorder": 5},
        {**interactive.CHOSEN_RING, "size": 19},
    ),
    "knee": (
        {"s": 170, "marker": "D", "facecolors": "none", "edgecolors": INK, "linewidths": 1.0, "zorder": 5},
        {"symbol": "diamond-open", "size": 19, "color": "var(--ink)", "line": {"width": 1.5}},
    ),
}


def _marked(table: Plane, points: pd.DataFrame, marks: Marks) -> Iterator[tuple[str, pd.DataFrame, Json, Json]]:
    """The groups of points that there are: name, rows, and the mark of each in a picture and on the page."""
    for group, (picture, page) in marks.items():
        which = {
            "constraint violated": points["state"].eq("finished") & ~points["feasible"],
            "chosen": points["champion"],
            "knee": points["trial"].eq(-1 if table.knee is None else table.knee),
        }.get(group, points["state"].eq(group))
        name = f"chosen: trial {''.join(map(str, points.loc[which, 'trial']))}" if group == "chosen" else group
        if which.any():
            thin = {"s": 20, "linewidths": 1, "zorder": 2}
            yield name, points[which], {**thin, **picture}, {"line": {"width": 1.2}, **page}


def draw_plane(table: Plane) -> Picture:
    """Every trial by two metrics, over lines of equal ELBO where there are such; or by one, with the best so far."""
    drawn = style.figure(3.6 if table.is_strip else 4.9)
    axes = drawn.add_subplot()
    across = "trial number" if table.is_strip else axis_label(table.metrics[0])
    axes.set(ylim=table.y, xlabel=across, ylabel=axis_label(table.metrics[-1]))
    if table.is_strip:
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
        axes.margins(x=0.04)
    else:
        axes.set(xlim=table.x, autoscale_on=False)
    if table.has_elbo:
        axes.grid(False)
        _equal_elbo(axes, table)
    if len(table.best) > 1:
        axes.step(table.best["x"], table.best["y"], where="post", color=GREY, linewidth=1.1, label="best so far")
    for index, path in enumerate(table.sweeps):
        axes.plot(path["x"], path["y"], color=FAINT, linewidth=0.9, zorder=1, label="" if index else "path of a sweep")
    _scatter(axes, table, UNDER)
    _finished(axes, table)
    if table.objectives_are_the_axes and len(line := _frontier(table.points)):
        axes.plot(line["x"], line["y"], color=INK, linewidth=1.1, zorder=3, label="frontier")
    _scatter(axes, table, OVER)
    if not table.has_elbo:
        style.legend_above(axes, columnspacing=1.2)
    elif axes.get_legend_handles_labels()[0]:
        axes.legend(loc="upper right")
    return drawn


def _scatter(axes: Axes, table: Plane, marks: Marks) -> None:
    for name, some, mark, _ in _marked(table, table.points, marks):
        axes.scatter(some["x"], some["y"], label=name, **mark)


def _finished(axes: Axes, table: Plane) -> None:
    """The finished, feasible trials, coloured by their AUROC where that is known; the frontier's are larger."""
    points = table.points[table.points["state"].eq("finished") & table.points["feasible"]]
    known = np.isfinite(points["auroc"])
    for on_frontier, size in ((False, 30), (True, 58)):
        some = points[~known & points["frontier"].eq(on_frontier)]
        axes.scatter(some["x"], some["y"], s=size, color=NORMAL, edgecolors=PAPER, linewidths=0.6, zorder=4)
    if known.any():
        some = points[known]
        edges = list(np.where(some["frontier"], INK, PAPER))
        low, high = style.colour_limits(table.auroc_metric, some["auroc"].to_numpy())
        dots = axes.scatter(some["x"], some["y"], s=np.where(some["frontier"], 58, 30), c=some["auroc"], vmin=low,
                            vmax=high, cmap=style.scale(), edgecolors=edges, linewidths=0.7, zorder=4)  # fmt: skip
        style.colour_bar(axes, dots, metric_name(table.auroc_metric))


def _frontier(points: pd.DataFrame) -> pd.DataFrame:
    return points[points["frontier"]].sort_values(["x", "y"])


def elbo_totals(table: Plane) -> list[float]:
    """Some negative ELBOs whose lines cross the view, nats."""
    (left, right), (bottom, top) = table.x, table.y
    return [float(total) for total in MaxNLocator(6).tick_values(left + bottom, right + top)]


def _equal_elbo(axes: Axes, table: Plane) -> None:
    """ELBO = -(reconstruction + KL), so equal ELBO is a straight line; each is named where there is most room."""
    corner, size = np.array([table.x[0], table.y[0]]), np.array([np.ptp(table.x), np.ptp(table.y)])
    taken = np.vstack([(table.points[["x", "y"]].to_numpy() - corner) / size, LEGEND])
    along = np.linspace(0.03, 0.97, 48)
    for total in elbo_totals(table):
        axes.plot(table.x, [total - end for end in table.x], color="#dbe0e5", linewidth=0.9, zorder=0)
        line = np.column_stack([along, (total - table.x[0] - along * size[0] - table.y[0]) / size[1]])
        line = line[(line > 0.06).all(axis=1) & (line < 0.94).all(axis=1)]
        room = np.linalg.norm(line[:, None] - taken[None], axis=2).min(axis=1)
        if len(line) and room.max() > 0.08:
            x, y = corner + line[room.argmax()] * size
            axes.text(x, y, f"ELBO {number(-total, 0)}", rotation=-45, transform_rotates_text=True, fontsize=8,
                      rotation_mode="anchor", ha="center", va="bottom", color=GREY, zorder=1)  # fmt: skip


def describe_plane(table: Plane) -> Words:
    """Caption and alternative text: what each mark means, and how many trials are not drawn."""
    points, parts = table.points, [_better(table), *_legend(table)]
    if len(table.best) > 1:
        parts.append("The line is the best so far.")
    if table.sweeps:
        parts.append("A thin line joins the models that one sweep of beta kept, in the order of their betas.")
    if table.knee is not None:
        where = "the frontier’s point farthest from the line between its ends"
        parts.append(f"The diamond is the knee, trial {table.knee}: {where}.")
    outside = int((~(points["x"].between(*table.x) & points["y"].between(*table.y))).sum())
    if outside:
        parts.append(f"Outside the view: {count(outside, 'trial')} far from the others.")
    members, size, metric = points[points["frontier"]], count(len(points), "trial"), table.metrics[-1]
    if table.is_strip:
        best = [number(float(value), digits_of(metric)) for value in table.best["y"].tail(1)]
        reached = f"; the best finished one reached {best[0]}" if best else ""
        return Words(" ".join(parts), f"{size} by {metric_name(metric)}{reached}.")
    alt = f"Scatter plot of {size}: {metric_name(metric)} against {metric_name(table.metrics[0])}."
    if len(members):
        spans = []
        for column, name in zip("xy", table.metrics, strict=True):
            low, high = (number(float(end), digits_of(name)) for end in (members[column].min(), members[column].max()))
            spans.append(f"{low} to {high} of {axis_label(name)}")
        alt += f" The frontier of {count(len(members), 'trial')} spans {listing(spans)}."
    return Words(" ".join(parts), alt)


def _better(table: Plane) -> str:
    """Where the better trials are."""
    if table.has_elbo:
        return "Left: better reconstruction. Down: lower KL. Along a grey line, the ELBO is constant."
    if table.is_strip:
        where = "lower" if table.smaller_is_better[0] else "higher"
        return f"The study has one objective, so trials are in the order of their numbers; {where} is better."
    across, upwards = table.smaller_is_better
    return f"Better is {'left' if across else 'right'} and {'down' if upwards else 'up'}."


def _legend(table: Plane) -> Iterator[str]:
    """What the marks mean, and which trials are not drawn."""
    points = table.points
    drawn = {state: int(points["state"].eq(state).sum()) for state in ("finished", "pruned", "running", "waiting")}
    violating = int((points["state"].eq("finished") & ~points["feasible"]).sum())
    if drawn["finished"] > violating:
        which = " that satisfies the constraints" * bool(violating)
        yield f"Each dot is a finished trial{which}; the larger ones form the frontier."
        known = points["auroc"].notna().any()
        yield f"The colour is the {metric_name(table.auroc_metric)}." if known else "No AUROC is known."
    if violating:
        violate = "violates" if violating == 1 else "violate"
        yield f"Open triangles: {count(violating, 'finished trial')} that {violate} a constraint."
    if drawn["pruned"]:
        yield f"Crosses: {count(drawn['pruned'], 'trial')} pruned, with their last values."
    if drawn["running"]:
        yield f"Plus signs: {count(drawn['running'], 'trial')} still running."
    if drawn["waiting"]:
        yield f"Three-pointed stars: {count(drawn['waiting'], 'trial')} waiting to be resumed."
    if table.off_plane:
        yield f"Not drawn: {listing(f'{n:,} {state}' for state, n in table.off_plane.items())}."


def interactive_plane(table: Plane, sampled: SampledTrials) -> Interactive:
    """Every trial with its configuration, coloured by what the reader chooses."""
    points = table.points[sampled.is_sampled(table.points["trial"])]
    traces = list(_lines(table, points))
    traces += [_dots(name, some, sampled, mark) for name, some, _, mark in _marked(table, points, UNDER)]
    done = points[points["state"].eq("finished") & points["feasible"]]
    coloured: dict[int, list[int | None]] = {}
    for name, on_frontier, size in (("finished", False, 8), ("on the frontier", True, 12)):
        if len(some := done[done["frontier"].eq(on_frontier)]):
            coloured[len(traces)] = sampled.rows(some["trial"])
            mark = {"size": size, "color": "var(--accent)", "line": {"width": 0.7, "color": "var(--card)"}}
            traces.append(_dots(name, some, sampled, mark))
    views = _colour_views(sampled, coloured, table.auroc_metric)
    for index in coloured if views else ():
        dots = traces[index]
        # A grey dot for the legend, since the dots of the figure differ in colour.
        key = {"type": "scatter", "mode": "markers", "name": dots["name"], "x": [None], "y": [None]}
        traces.append({**key, "marker": {"size": dots["marker"]["size"], "color": "var(--soft)"}})
        traces[index] = {**dots, "showlegend": False, "marker": {**dots["marker"], "coloraxis": "coloraxis"}}
    traces += [_dots(name, some, sampled, mark) for name, some, _, mark in _marked(table, points, OVER)]
    across = "trial number" if table.is_strip else of_metric(table.metrics[0])
    layout = {
        "xaxis": axis(across, limits=table.x, showgrid=not table.has_elbo),
        "yaxis": axis(of_metric(table.metrics[-1]), limits=table.y, showgrid=not table.has_elbo),
        "annotations": list(_elbo_names(table)) if table.has_elbo else [],
    }
    note = f"{len(points):,} of {sampled.total:,} trials are shown here, all of the frontier among them."
    return Interactive(
        traces=tuple(traces),
        layout=layout,
        height=520,
        views=views,
        switch="Colour",
        note=note if len(points) < sampled.total else "",
    )


def _dots(name: str, points: pd.DataFrame, sampled: SampledTrials, mark: Json) -> Json:
    return interactive.dots(sampled, points["trial"], points["x"], points["y"], mark, name=said(name))


def _lines(table: Plane, points: pd.DataFrame) -> Iterator[Json]:
    """The best so far, lines of equal ELBO, all one trace and drawn well beyond the view, and the frontier."""
    if len(table.best) > 1:
        x, y = brief(table.best["x"]), brief(table.best["y"])
        yield lines(x, y, "var(--soft)", 1.5, "hv", name="best so far", hoverinfo="skip")
    if table.has_elbo:
        ends = table.x[0] - (wide := np.ptp(table.x) + np.ptp(table.y)), table.x[1] + wide
        xy = [(end, total - end) for total in elbo_totals(table) for end in (*ends, np.nan)]
        x, y = (brief(values, 7) for values in zip(*xy, strict=True))
        yield lines(x, y, "var(--line)", 1.2, name="equal ELBO", hoverinfo="skip", showlegend=False)
    if table.sweeps:
        xy = [row for path in table.sweeps for row in (*path.itertuples(index=False), (np.nan, np.nan))]
        x, y = (brief(values) for values in zip(*xy, strict=True))
        yield lines(x, y, "var(--faint)", 1.2, name="path of a sweep", hoverinfo="skip")
    if table.objectives_are_the_axes and len(line := _frontier(points)):
        yield lines(brief(line["x"]), brief(line["y"]), "var(--ink)", 1.5, name="frontier", hoverinfo="skip")


def _elbo_names(table: Plane) -> Iterator[Json]:
    """Each line is named at its upper end, where few trials are, or at its lower one where the axis leaves no room."""
    (left, right), (bottom, top) = table.x, table.y
    least = left + 0.15 * (right - left)
    for total in elbo_totals(table):
        upper = (total - top, top) if total - top < right else (right, total - right)
        lower = (right, total - right) if total - right > bottom else (total - bottom, bottom)
        x, y = upper if upper[0] > least else lower
        if x > least and bottom <= y <= top:
            at: Json = dict(zip(("x", "y"), brief((x, y)), strict=True))
            yield {**at, "xanchor": "right", "yanchor": "bottom" if y == bottom else "top", "showarrow": False,
                   "text": f"ELBO {number(-total, 0)}", "font": {"size": 11, "color": "var(--soft)"}}  # fmt: skip


def _colour_views(sampled: SampledTrials, coloured: Mapping[int, list[Any]], auroc: str) -> tuple[View, ...]:
    """AUROC, beta, latent size, active units and family, where the trials differ in them.

    Args:
        sampled: The trials of the figure.
        coloured: For each trace that is coloured its index, and the rows of its points.
        auroc: The metric of the AUROC.
    """
    trials, views = sampled.trials, []
    shown = trials.iloc[sorted({row for rows in coloured.values() for row in rows})]
    family = short_name("family", list(trials.columns)) or ""
    for name in (auroc, "beta", "latent_dim", *shown_in("colour"), family):
        if name in trials.columns and shown[name].nunique() > 1:
            values, known = numbers(trials, name), numbers(shown, name)
            if len(known := known[np.isfinite(known)]):
                is_log = bool(search_range(sampled.record, name).get("log")) and bool((known > 0).all())
                values, scale = _number_scale(name, values, known, is_log)
            else:
                values, scale = _choice_scale(trials[name])
            scale["colorbar"] |= {"outlinewidth": 0}
            changes = {i: {"marker": {"color": brief(values[rows])}} for i, rows in coloured.items()}
            views.append(View(label=style.axis_name(name), changes=changes, layout={"coloraxis": scale}))
    return tuple(views)


def _number_scale(name: str, values: Floats, known: Floats, is_log: bool) -> tuple[Floats, Json]:
    """Values and the scale of their colours; both in powers of ten where the parameter was searched on a log scale."""
    ends = np.array(style.colour_limits(name, known))
    bar: Json = {"tickvals": None, "ticktext": None}
    if is_log:
        ticks = style.log_ticks(*ends)
        bar = {"tickvals": brief(np.log10(ticks)), "ticktext": [f"{tick:g}" for tick in ticks]}
        ends, values = np.log10(ends), np.log10(values, where=values > 0, out=np.full(len(values), np.nan))
    low, high = brief(ends)
    return values, {"colorscale": "scale", "cmin": low, "cmax": high, "colorbar": bar}


def _choice_scale(column: "pd.Series[str]") -> tuple[Floats, Json]:
    """A colour for each category, from a palette for the colour-blind."""
    names = sorted({str(value) for value in column.dropna()})[: len(LABELS)]
    values = np.array([names.index(str(v)) if str(v) in names else np.nan for v in column], dtype=np.float64)
    steps = np.linspace(0, 1, len(names) + 1)
    scale = [[end, LABELS[i]] for i in range(len(names)) for end in brief(steps[i : i + 2])]
    bar = {"tickvals": list(range(len(names))), "ticktext": [said(name, 16) for name in names]}
    return values, {"colorscale": scale, "cmin": -0.5, "cmax": len(names) - 0.5, "colorbar": bar}


TRADE_OFF = Figure(
    name="plane",
    numbers=lambda tables: tables.of(plane),
    draw=draw_plane,
    words=describe_plane,
    interactive=interactive_plane,
)


def frontier_png(
    name: str,
    config: Mapping[str, Any],
    trials: pd.DataFrame,
    reference: Mapping[str, float],
    champion: Selection | None = None,
) -> bytes | None:
    """The trade-off of a study that has not been read back, without its knee; None where no trial has measured it.

    Args:
        name: The study's name.
        config: The resolved config, plain.
        trials: One row per trial.
        reference: The hypervolume's reference point.
        champion: The chosen trial, which is marked.
    """
    # The trade-off needs nothing of what the chosen trial has stored.
    none, none_00 = pd.DataFrame(), np.empty((0, 0), np.float32)
    chosen = None if champion is None else ChampionRecord(
        trial=champion.trial, rule="", score=champion.score, scores=none, inputs_ND=none_00,
        reconstructions_ND=none_00, input_is_anomaly_N=np.empty(0, np.bool_), samples_MD=none_00,
    )  # fmt: skip
    record = StudyRecord(
        name=name, config=config, data={}, environment={}, trials=trials, history=none, reference=reference,
        champion=chosen, tracking_uri="", experiment_id="", run_id="",
    )  # fmt: skip
    table = Missing("") if trials.empty else plane(record)
    if isinstance(table, Missing):
        return None
    return style.png(lambda: draw_plane(replace(table, knee=None)), dots_per_inch=100)

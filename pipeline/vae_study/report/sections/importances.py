"""Which searched parameters matter: importances by functional ANOVA, and the two that matter most."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations

import numpy as np
import optuna
from matplotlib.figure import Figure as Picture
from matplotlib.ticker import MaxNLocator, PercentFormatter
from numpy.typing import NDArray
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial
from sklearn.ensemble import ExtraTreesRegressor

from vae_study.report import interactive, style
from vae_study.report.figure import Figure, Grid
from vae_study.report.formatting import (
    Words,
    axis_label,
    count,
    digits_of,
    metric_name,
    number,
    parameter_name,
    percent,
)
from vae_study.report.frames import Floats, Missing, numbers, with_state
from vae_study.report.interactive import Interactive, Json, SampledTrials, axis, brief, said
from vae_study.report.parameters import Coordinate, coordinates
from vae_study.report.style import INK, NORMAL, PAPER, short
from vae_study.report.tables import StudyTables, targets
from vae_study.tracking.record import StudyRecord

Mask = NDArray[np.bool_]

# With fewer trials, a forest mostly fits noise.
LEAST_TRIALS = 16
# Deeper trees change the second decimal and take minutes with thousands of trials; so do more.
TREES, DEPTH, SEED = 32, 6, 0
# As in the plane: what lies farther from the middle than this many interquartile ranges counts as an outlier.
FARTHEST = 4.5


@dataclass(frozen=True, kw_only=True)
class Importances:
    """How much of a target's variation each searched parameter explains on its own (Hutter, Hoos, Leyton-Brown 2014).

    A forest is fitted to the finished trials and averaged over the whole search, every other parameter evenly spread
    on its own scale. The share is the variance of that average along the parameter (section 3.2 of the paper, the
    main effect) over the forest's whole variance, averaged over its trees. What parameters do together is in none of
    the shares, so they need not add up to 1. A branch's parameter is judged among the trials in which it was active,
    so its share is of their variation alone.

    Attributes:
        parameters: Columns of the searched parameters, the most important on average first.
        targets: The objectives, then the AUROC of validation where it is known.
        share_PT: The shares, 0 to 1; NaN where fewer than LEAST_TRIALS have both, or where one of the two is constant.
        trials_P: Finished trials that have the parameter.
    """

    parameters: tuple[str, ...]
    targets: tuple[str, ...]
    share_PT: Floats
    trials_P: NDArray[np.int64]


def importances(record: StudyRecord) -> Importances | Missing:
    """Importances over the finished trials, by functional ANOVA; outliers are clipped to the bulk's range."""
    finished, metrics = with_state(record, "finished"), targets(record)
    found = coordinates(record, finished)
    if len(finished) < LEAST_TRIALS:
        return Missing(f"Importances need at least {LEAST_TRIALS} finished trials; this study has {len(finished)}.")
    if not found:
        return Missing("The finished trials differ in no searched parameter, so there are no importances.")
    share_PT = np.full((len(found), len(metrics)), np.nan)
    y_NT = np.column_stack([near(numbers(finished, metric)) for metric in metrics])
    active_PN = np.isfinite([coordinate.value_N for coordinate in found])
    for mask_N in np.unique(active_PN, axis=0):
        own = np.flatnonzero((active_PN == mask_N).all(axis=1))
        others = np.setdiff1d(np.flatnonzero(active_PN[:, mask_N].all(axis=1)), own)
        together = [found[p] for p in (*own, *others)]
        share_PT[own] = _shares(together, mask_N, y_NT[mask_N])[: len(own)]
    order = np.argsort(-np.nan_to_num(share_PT).mean(axis=1), kind="stable")
    return Importances(
        parameters=tuple(found[p].name for p in order),
        targets=metrics,
        share_PT=share_PT[order],
        trials_P=active_PN.sum(axis=1)[order].astype(np.int64),
    )


def near(value_N: Floats) -> Floats:
    """Values clipped to the bulk's range, so that one diverged trial does not dominate; NaN where not finite."""
    known = value_N[np.isfinite(value_N)]
    if not len(known):
        return np.full(len(value_N), np.nan)
    first, third = np.quantile(known, [0.25, 0.75])
    room = FARTHEST * (third - first) or np.inf
    middle = (first + third) / 2
    return np.where(np.isfinite(value_N), np.clip(value_N, middle - room, middle + room), np.nan)


def _shares(together: Sequence[Coordinate], mask_N: Mask, y_NT: Floats) -> Floats:
    """The share of each parameter for each target among the trials of the mask, which have all of them: (P, T)."""
    x_PN = np.stack([coordinate.scaled_N for coordinate in together])[:, mask_N]
    varying = [p for p, x_N in enumerate(x_PN) if len(np.unique(x_N)) > 1]
    shares_PT = np.full((len(together), y_NT.shape[1]), np.nan)
    if varying:
        study = _study({str(p): _distribution(together[p], x_PN[p]) for p in varying}, x_PN)
        for t, y_N in enumerate(y_NT.T):
            known = y_N[np.isfinite(y_N)]
            if len(known) >= LEAST_TRIALS and np.ptp(known) > 0:
                found = get_param_importances(
                    study,
                    evaluator=FanovaImportanceEvaluator(n_trees=TREES, max_depth=DEPTH, seed=SEED),
                    target=partial(_value, y_N),
                    normalize=False,
                )
                shares_PT[varying, t] = [found[str(p)] for p in varying]
    return shares_PT


def _value(y_N: Floats, trial: FrozenTrial) -> float:
    return float(y_N[trial.number])


def _distribution(coordinate: Coordinate, x_N: Floats) -> BaseDistribution:
    """Uniform on the parameter's own scale; choices that no trial took are left out."""
    if coordinate.choices is not None:
        return CategoricalDistribution(np.unique(x_N).tolist())
    return FloatDistribution(*coordinate.scaled_ends)


def _study(distributions: dict[str, BaseDistribution], x_PN: Floats) -> optuna.Study:
    """The trials as Optuna's importances read them; the targets follow later, by a trial's number."""
    # Do not log that a study was created in memory. Set for the whole process: a temporary filter is not thread-safe.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=ExperimentalWarning)
    study = optuna.create_study()
    for x_P in x_PN.T:
        params = {name: float(x_P[int(name)]) for name in distributions}
        study.add_trial(optuna.create_trial(params=params, distributions=distributions, value=0.0))
    return study


def draw_importances(table: Importances) -> Picture:
    """A panel per target, a bar per parameter, the most important on average on top."""
    size = len(table.parameters)
    drawn = style.figure(0.3 * size + 1.0)
    panels = drawn.subplots(1, len(table.targets), sharey=True, squeeze=False)[0]
    for axes, metric, share_P in zip(panels, table.targets, table.share_PT.T, strict=True):
        known_P = np.nan_to_num(share_P)
        axes.barh(range(size), known_P, color=NORMAL, height=0.62)
        for i, text in enumerate(_shares_as_text(share_P)):
            axes.text(known_P[i], i, f" {text}", va="center", fontsize=8, color=INK)
        axes.set_title(style.wrapped(metric_name(metric), 44 // len(table.targets)), fontsize=8.5)
        axes.set(xlim=(0, 1.3 * max(known_P.max(), 0.1)), ylim=(size - 0.4, -0.6))
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.xaxis.set_major_locator(MaxNLocator(3))
        axes.grid(False, axis="y")
    panels[0].set_yticks(range(size), [short(parameter_name(name), 24) for name in table.parameters])
    return drawn


def _shares_as_text(share_P: Floats, unknown: str = "too few") -> list[str]:
    return [percent(share) if math.isfinite(share) else unknown for share in share_P.tolist()]


def describe_importances(table: Importances) -> Words:
    """Caption and alternative text, with the most important parameter of each target."""
    caption = (
        "The share of a metric’s variance over the finished trials that one parameter explains alone, averaged over "
        "the other parameters. It depends on the searched ranges: with a wide range, a parameter matters more than "
        "with a narrow one."
    )
    alt = f"Bars of the importance of {count(len(table.parameters), 'parameter')}."
    for target, share_P in zip(table.targets, table.share_PT.T, strict=True):
        if np.isfinite(share_P).any():
            top = int(np.nanargmax(share_P))
            name, share = parameter_name(table.parameters[top]), percent(float(share_P[top]))
            alt += f" For {metric_name(target)} it is {name} first, with {share}."
    return Words(caption, alt)


def interactive_importances(table: Importances) -> Interactive:
    """A panel per target, a bar per parameter; the number of trials behind it on hover."""
    names = [said(short(parameter_name(name), 24)) for name in table.parameters]
    traces: list[Json] = []
    layout: Json = {"showlegend": False}
    for panel, (metric, share_P) in enumerate(zip(table.targets, table.share_PT.T, strict=True)):
        told = zip(names, _shares_as_text(share_P, "unknown: too few trials"), table.trials_P, strict=True)
        hover = [f"<b>{name}</b><br>{share}<br>{trials:,} finished trials have it" for name, share, trials in told]
        traces.append({
            "type": "bar", "orientation": "h", "x": brief(np.nan_to_num(share_P), 3), "y": names, "hovertext": hover,
            "hoverinfo": "text", "text": _shares_as_text(share_P), "textposition": "outside", "cliponaxis": False,
            "textfont": {"size": 11}, "marker": {"color": "var(--accent)"}, **interactive.in_panel(panel),
        })  # fmt: skip
        highest = max(np.nanmax(share_P), 0.1) if np.isfinite(share_P).any() else 1.0
        label, limits = interactive.broken(metric_name(metric)), (0, 1.3 * highest)
        layout[f"xaxis{interactive.panel_number(panel)}"] = axis(label, limits=limits, tickformat=".0%", nticks=4)
        layout[f"yaxis{interactive.panel_number(panel)}"] = {"type": "category", "autorange": "reversed"}
    return Interactive(
        traces=tuple(traces),
        layout=layout,
        height=60 + 26 * len(names),
        columns=min(3, len(table.targets)),
        is_shared=True,
    )


def importance_grid(tables: StudyTables) -> Grid:
    """How much each parameter explains of each target, the most important first."""
    found = tables.of(importances)
    if isinstance(found, Missing):
        return Grid()
    rows = (
        (parameter_name(parameter), *map(percent, share_T.tolist()), f"{trials:,}")
        for parameter, share_T, trials in zip(found.parameters, found.share_PT, found.trials_P, strict=True)
    )
    return Grid(
        label="Share of each metric’s variance that a parameter explains alone, and the finished trials that have it",
        head=("parameter", *map(metric_name, found.targets), "trials"),
        rows=tuple(rows),
    )


IMPORTANCES = Figure(
    name="importances",
    numbers=lambda tables: tables.of(importances),
    draw=draw_importances,
    words=describe_importances,
    interactive=lambda table, sampled: interactive_importances(table),
)

ELBO = "val/elbo"
# Of the contour's grid, and of the trees of its surface.
GRID, SURFACE_TREES, LEAF = 40, 200, 3


@dataclass(frozen=True, kw_only=True)
class Contour:
    """A smooth surface through the finished trials; where there are none near, it is a guess.

    Attributes:
        parameters: Which are across and upwards.
        target: The metric.
        is_log: For each of the two, whether it was searched on a log scale.
        x_G, y_H: The grid's values across and upwards, evenly spaced on the parameter's own scale.
        mean_HG: The surface, in the target's unit.
        x_N, y_N, value_N, trial_N: The trials that it is fitted to.
    """

    parameters: tuple[str, str]
    target: str
    is_log: tuple[bool, bool]
    x_G: Floats
    y_H: Floats
    mean_HG: Floats
    x_N: Floats
    y_N: Floats
    value_N: Floats
    trial_N: NDArray[np.int64]

    @property
    def levels(self) -> Floats:
        """Round values that hold the surface and the trials, evenly spaced; at least two."""
        low, high = style.value_limits(np.concatenate([self.mean_HG.ravel(), self.value_N]))
        levels = np.asarray(MaxNLocator(12).tick_values(low, high), dtype=np.float64)
        return levels if len(levels) > 1 else np.array([low, low + 1.0])


def contour(record: StudyRecord, found: Importances | Missing) -> Contour | Missing:
    """The ELBO, else the first objective, over the two numeric parameters that `found` puts first."""
    if isinstance(found, Missing):
        return found
    finished = with_state(record, "finished")
    target = ELBO if np.isfinite(numbers(finished, ELBO)).any() else found.targets[0]
    value_N = numbers(finished, target)
    for pair in combinations(_by_importance(coordinates(record, finished), found), 2):
        known: Mask = np.isfinite(pair[0].value_N) & np.isfinite(pair[1].value_N) & np.isfinite(value_N)
        if known.sum() >= LEAST_TRIALS:
            break
    else:
        return Missing(f"No two numeric parameters vary together over {LEAST_TRIALS} finished trials.")
    scaled_N2 = np.column_stack([c.scaled_N for c in pair])[known]
    grids = [np.linspace(scaled_N.min(), scaled_N.max(), GRID) for scaled_N in scaled_N2.T]
    # Extremely randomized trees (Geurts, Ernst, Wehenkel 2006): smooth on average, and of any number of trials.
    forest = ExtraTreesRegressor(n_estimators=SURFACE_TREES, min_samples_leaf=LEAF, random_state=SEED)
    points = np.column_stack([grid.ravel() for grid in np.meshgrid(*grids)])
    x_G, y_H = (np.exp(grid) if c.is_log else grid for c, grid in zip(pair, grids, strict=True))
    return Contour(
        parameters=(pair[0].name, pair[1].name),
        target=target,
        is_log=(pair[0].is_log, pair[1].is_log),
        x_G=x_G,
        y_H=y_H,
        mean_HG=forest.fit(scaled_N2, near(value_N)[known]).predict(points).reshape(GRID, GRID),
        x_N=pair[0].value_N[known],
        y_N=pair[1].value_N[known],
        value_N=value_N[known],
        trial_N=finished["trial"].to_numpy(np.int64)[known],
    )


def _by_importance(found: Sequence[Coordinate], table: Importances) -> list[Coordinate]:
    """The numbers among them that vary, the most important first."""
    numeric = [c for c in found if c.choices is None and len(np.unique(c.value_N[np.isfinite(c.value_N)])) > 1]
    return sorted(numeric, key=lambda c: table.parameters.index(c.name))


def draw_contour(table: Contour) -> Picture:
    """The surface as filled levels, over it the trials in the same colours."""
    drawn = style.figure(4.2)
    axes, levels = drawn.add_subplot(), table.levels
    filled = axes.contourf(table.x_G, table.y_H, table.mean_HG, levels=levels, cmap=style.scale(), alpha=0.85)
    axes.contour(table.x_G, table.y_H, table.mean_HG, levels=levels, colors=PAPER, linewidths=0.5, linestyles="solid")
    axes.use_sticky_edges = False
    axes.scatter(table.x_N, table.y_N, c=table.value_N, s=26, cmap=style.scale(), vmin=levels[0], vmax=levels[-1],
                 edgecolors=PAPER, linewidths=0.8, zorder=3)  # fmt: skip
    for which, name, is_log in zip("xy", table.parameters, table.is_log, strict=True):
        if is_log:
            style.log_scale(axes, which)
        axes.set(**{f"{which}label": f"{parameter_name(name)}{' (log scale)' * is_log}"})
    style.colour_bar(axes, filled, axis_label(table.target))
    axes.grid(False)
    axes.margins(0.03)
    return drawn


def describe_contour(table: Contour) -> Words:
    """Caption and alternative text."""
    x, y = map(parameter_name, table.parameters)
    caption = (
        f"A smooth surface fitted to the {count(len(table.trial_N), 'finished trial')} (dots, coloured by their own "
        "values), over the two most important numeric parameters. Far from the dots it is not reliable."
    )
    low, high = (number(float(end), digits_of(table.target)) for end in (table.value_N.min(), table.value_N.max()))
    alt = f"Contour plot of {metric_name(table.target)} over {x} and {y}; the trials span {low} to {high}."
    return Words(caption, alt)


def interactive_contour(table: Contour, sampled: SampledTrials) -> Interactive:
    """The surface with its value on hover, and the trials over it."""
    levels, some_N = table.levels, sampled.is_one_of_few(table.trial_N)
    low, high, step = brief([levels[0], levels[-1], levels[1] - levels[0]])
    # The contour has no `coloraxis`: plotly.js 4.1 hangs on a contour that shares one.
    surface: Json = {
        "type": "contour", "x": brief(table.x_G, 4), "y": brief(table.y_H, 4),
        "z": [brief(row, 4) for row in table.mean_HG], "autocontour": False,
        "contours": {"coloring": "fill", "start": low, "end": high, "size": step},
        "colorscale": "scale", "zmin": low, "zmax": high, "showscale": False,
        "line": {"width": 0.5, "color": "var(--card)"}, "opacity": 0.85, "hoverinfo": "z",
    }  # fmt: skip
    marker = {"size": 9, "color": brief(table.value_N[some_N]), "coloraxis": "coloraxis",
              "line": {"width": 1.2, "color": "var(--card)"}}  # fmt: skip
    points = table.trial_N[some_N], table.x_N[some_N], table.y_N[some_N]
    layout: Json = {"coloraxis": {"colorscale": "scale", "cmin": low, "cmax": high, "colorbar": {"outlinewidth": 0}}}
    for which, name, is_log, value_N in zip("xy", table.parameters, table.is_log, (table.x_N, table.y_N), strict=True):
        limits = interactive.padded(value_N, is_log)
        layout[f"{which}axis"] = axis(said(parameter_name(name)), is_log, limits, showgrid=False)
    note = f"Colour: {metric_name(table.target)}. Hover over the surface for its value."
    dots = interactive.dots(sampled, *points, marker, showlegend=False)
    return Interactive(traces=(surface, dots), layout=layout, height=460, note=note)


CONTOUR = Figure(
    name="contour",
    numbers=lambda tables: contour(tables.record, tables.of(importances)),
    draw=draw_contour,
    words=describe_contour,
    interactive=interactive_contour,
)

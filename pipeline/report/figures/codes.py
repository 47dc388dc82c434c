"""Pictures of the code: where the test examples lie in it, and what each dimension costs."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from pipeline.report.captions_model import MOST_BARS
from pipeline.report.figures.style import ANOMALY, FAINT, INK, LABELS, NORMAL, PAPER, figure
from pipeline.report.tables import LatentMap, LatentUse


def draw_latent_map(table: LatentMap) -> Figure:
    """Normal examples as dots, in the colour of their label, and anomalies as crosses."""
    points = _in_rows(table) if table.on_a_line else table.points
    drawn = figure(max(1.6, 0.34 * points["y"].round().nunique() + 1.0) if table.on_a_line else 4.6)
    axes = drawn.add_subplot()
    size = float(np.clip(6000 / len(points), 5, 22))
    for name, colour, some in _groups(table, points):
        label = "" if table.labels else name
        axes.scatter(some["x"], some["y"], s=size, color=colour, alpha=0.75, linewidths=0, label=label)
    anomalies = points[points["anomaly"]]
    if len(anomalies):
        axes.scatter(anomalies["x"], anomalies["y"], s=1.4 * size, marker="x", color=ANOMALY, linewidths=0.9,
                     label="anomaly")  # fmt: skip
    _finish(axes, table, points)
    if axes.get_legend_handles_labels()[0]:
        drawn.legend(loc="outside upper left", ncols=2, markerscale=1.5, handletextpad=0.1)
    return drawn


def _groups(table: LatentMap, points: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame]]:
    normal = points[~points["anomaly"]]
    if not table.labels:
        return [("normal", NORMAL, normal)] if len(normal) else []
    pairs = zip(table.labels, LABELS, strict=False)
    return [(label[:16], colour, normal[normal["label"] == label]) for label, colour in pairs]


def _in_rows(table: LatentMap) -> pd.DataFrame:
    """A row for each label and one for the anomalies, the examples of each spread a little, always in the same way."""
    rows = table.points["label"].map({label: i for i, label in enumerate(table.labels)}).fillna(0)
    rows = rows.where(~table.points["anomaly"], max(len(table.labels), 1))
    spread = np.random.default_rng(0).uniform(-0.28, 0.28, len(rows))
    return table.points.assign(y=-(rows.to_numpy(np.float64)) + spread)


def _finish(axes: Axes, table: LatentMap, points: pd.DataFrame) -> None:
    if table.on_a_line:
        axes.set_xlabel("code")
        axes.set_yticks([-i for i in range(len(table.labels))], [label[:16] for label in table.labels])
        return
    if table.method == "pca":
        axes.set(xlabel="first direction", ylabel="second direction")
    if table.method == "tsne":
        axes.set(xticks=[], yticks=[])
    middles = points[~points["anomaly"]].groupby("label")[["x", "y"]].median()
    for label in table.labels:
        x, y = float(middles["x"][label]), float(middles["y"][label])
        text = axes.text(x, y, label[:16], ha="center", va="center", fontsize=10, fontweight="bold")
        text.set(path_effects=[withStroke(linewidth=3, foreground=PAPER)], zorder=5)


def draw_latent_use(table: LatentUse) -> Figure:
    """Bars, the dearest dimension first; dark where it is active."""
    shown = min(len(table.kl_nats_R), MOST_BARS)
    drawn = figure(2.7)
    axes = drawn.add_subplot()
    active = np.ones(shown, dtype=bool) if table.is_active_R is None else table.is_active_R[:shown]
    axes.bar(range(shown), table.kl_nats_R[:shown], color=[NORMAL if is_active else FAINT for is_active in active])
    axes.set_xticks(range(shown), [str(dimension) for dimension in table.dimension_R[:shown]])
    axes.tick_params(axis="x", labelsize=9 if shown <= 24 else 6.5, length=0)
    axes.set(xlabel="latent dimension", ylabel="KL (nats)", xlim=(-0.7, max(shown, 6) - 0.3))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.grid(False, axis="x")
    if table.is_active_R is not None and not active.any():
        axes.set_title("no dimension is active", color=INK)
    return drawn

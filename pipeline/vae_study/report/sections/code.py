"""The chosen model's code: where test examples lie in it and what a dimension costs; trials whose code collapsed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from vae_study.metrics import ACTIVE_VARIANCE, COLLAPSED_KL, FULL_KL_WEIGHT
from vae_study.report.figure import Figure
from vae_study.report.formatting import captions
from vae_study.report.frames import (
    Floats,
    Missing,
    kept_by_sweeps,
    numbers,
    row_of,
    scalar,
    texts,
    trial_numbers,
    with_state,
)
from vae_study.report.frontier import frontier
from vae_study.report.parameters import has_rate, search_range, searched_parameters, setting
from vae_study.report.sections.choices import Choice
from vae_study.report.style import ANOMALY, FAINT, INK, LABELS, NORMAL, PAPER, figure
from vae_study.report.tables import NO_CHAMPION
from vae_study.tracking.record import StudyRecord

# A latent map with more labels than these is drawn without label colours.
MOST_LABELS = 12
MOST_BARS = 40


@dataclass(frozen=True, kw_only=True)
class LatentMap:
    """The posterior means of the test examples in two dimensions.

    Attributes:
        points: One row per example: `x`, `y`, `anomaly`, `label` (text; empty where the labels are not distinguished).
        labels: The labels of the normal examples, where they are at least two and at most MOST_LABELS.
        method: "pca", "tsne" or empty where unknown.
        on_a_line: Whether all lie on a line, as those of a single latent dimension do.
        left_out: Examples without a finite position.
    """

    points: pd.DataFrame
    labels: tuple[str, ...]
    method: str
    on_a_line: bool
    left_out: int


@dataclass(frozen=True, kw_only=True)
class LatentUse:
    """The KL of each latent dimension, the largest first.

    Attributes:
        dimension_R: Numbers of the dimensions, from 1.
        kl_nats_R: KL of each, nats per example, over the test's normal examples.
        is_active_R: Whether its posterior mean varies; None where that is unknown.
        latent: The setting: `window`, or `step` or `map` where a dimension counts at each of them.
    """

    dimension_R: NDArray[np.int64]
    kl_nats_R: Floats
    is_active_R: NDArray[np.bool_] | None
    latent: str = "window"

    @property
    def shown(self) -> int:
        """How many dimensions are drawn."""
        return min(len(self.kl_nats_R), MOST_BARS)


@dataclass(frozen=True, kw_only=True)
class CodeFacts:
    """Numbers about the chosen model's code; NaN where unknown.

    Attributes:
        probe_accuracy: Share of the normal test examples whose label a linear classifier on the posterior means finds.
        probe_share: Share of the training labels that it was shown.
        label_accuracy: Share of them whose label the model itself finds.
        told_share: Share of the training labels that the model was told.
        perplexity: How many codebook entries are in use, as exp of their usage's entropy: on test, else on validation.
        codebook_size: Entries that there are; 0 where unknown.
    """

    probe_accuracy: float
    probe_share: float
    label_accuracy: float
    told_share: float
    perplexity: float
    codebook_size: int


def code_facts(record: StudyRecord) -> CodeFacts:
    """The accuracies and the codebook's perplexity of the chosen trial."""
    trial = record.champion.trial if record.champion else -1
    row = row_of(record, trial)
    perplexity = [scalar(row, f"{split}/perplexity") for split in ("test", "val")]
    share = (record.config.get("diagnostics") or {}).get("probe_labels")
    return CodeFacts(
        probe_accuracy=scalar(row, "test/probe_accuracy"),
        probe_share=np.nan if share is None else float(share),
        label_accuracy=scalar(row, "test/label_accuracy"),
        told_share=float(setting(record, trial, "labels.share") or np.nan),
        perplexity=perplexity[0] if np.isfinite(perplexity[0]) else perplexity[1],
        codebook_size=int(setting(record, trial, "codebook.size") or 0),
    )


def latent_map(record: StudyRecord) -> LatentMap | Missing:
    """The map of the chosen model's test examples; `Missing` if it stored none."""
    champion = record.champion
    if champion is None:
        return Missing(NO_CHAMPION)
    position_N2 = np.asarray(() if champion.latent_map_N2 is None else champion.latent_map_N2, np.float64)
    test = champion.scores[champion.scores["split"].eq("test")].reset_index(drop=True)
    known_N = np.isfinite(position_N2).all(axis=1) if position_N2.shape == (len(test), 2) else np.zeros(0, dtype=bool)
    if not known_N.any():
        return Missing("The chosen model stored no map of its code.")
    points = pd.DataFrame({"x": position_N2[:, 0], "y": position_N2[:, 1], "anomaly": test["anomaly"].eq(True)})
    points["label"] = texts(test["label"]) if "label" in test else ""
    points = points.loc[np.flatnonzero(known_N)].reset_index(drop=True)
    labels = _labels(points)
    return LatentMap(
        points=points if labels else points.assign(label=""),
        labels=labels,
        method=str((record.config.get("diagnostics") or {}).get("latent_map") or ""),
        on_a_line=bool(np.ptp(points["y"]) == 0),
        left_out=int((~known_N).sum()),
    )


def _labels(points: pd.DataFrame) -> tuple[str, ...]:
    """The labels of normal examples: numbers in order, then text in order; none unless there are 2 to MOST_LABELS."""

    def order(text: str) -> tuple[float, str]:
        try:
            return float(text), text
        except ValueError:
            return float("inf"), text

    found = sorted(set(points.loc[~points["anomaly"], "label"]), key=order)
    return tuple(found) if 2 <= len(found) <= MOST_LABELS else ()


def latent_use(record: StudyRecord) -> LatentUse | Missing:
    """The KL of each dimension; `Missing` for discrete codes, which all cost the same."""
    champion = record.champion
    if champion is None:
        return Missing(NO_CHAMPION)
    kl_R = np.asarray(() if champion.kl_per_dimension_R is None else champion.kl_per_dimension_R, np.float64)
    if not has_rate(record, champion.trial):
        return Missing("A deterministic code has no rate, so there is no KL to share out over its dimensions.")
    if not np.isfinite(kl_R).any():
        return Missing("The chosen model stored no KL of its latent dimensions.")
    if setting(record, champion.trial, "family") == "vector_quantized":
        return Missing(
            f"Each of the {len(kl_R)} discrete codes costs {np.nanmean(kl_R):.2f} nats whatever the example, the "
            "logarithm of the codebook’s size, so there is no KL to compare."
        )
    order = np.argsort(np.where(np.isfinite(kl_R), -kl_R, np.inf), kind="stable")[: np.isfinite(kl_R).sum()]
    variance_Z = np.asarray(() if champion.latent_variance_Z is None else champion.latent_variance_Z)
    is_active_R = variance_Z[order] > ACTIVE_VARIANCE if len(variance_Z) == len(kl_R) else None
    latent = str(setting(record, champion.trial, "latent") or "window")
    return LatentUse(dimension_R=order + 1, kl_nats_R=kl_R[order], is_active_R=is_active_R, latent=latent)


def draw_latent_map(table: LatentMap) -> Picture:
    """Normal examples as dots, in the colour of their label, and anomalies as crosses."""
    points = _in_rows(table) if table.on_a_line else table.points
    drawn = figure(max(1.6, 0.34 * points["y"].round().nunique() + 1.0) if table.on_a_line else 4.6)
    axes = drawn.add_subplot()
    size = float(np.clip(6000 / len(points), 5, 22))
    normal, anomalies = points[~points["anomaly"]], points[points["anomaly"]]
    groups = [
        (colour, "", normal[normal["label"] == label]) for label, colour in zip(table.labels, LABELS, strict=False)
    ]
    for colour, name, some in groups or [(NORMAL, "normal", normal)] * bool(len(normal)):
        axes.scatter(some["x"], some["y"], s=size, color=colour, alpha=0.75, linewidths=0, label=name)
    if len(anomalies):
        axes.scatter(anomalies["x"], anomalies["y"], s=1.4 * size, marker="x", color=ANOMALY, linewidths=0.9,
                     label="anomaly")  # fmt: skip
    if table.on_a_line:
        axes.set_xlabel("code")
        axes.set_yticks([-i for i in range(len(table.labels))], [label[:16] for label in table.labels])
    else:
        _name_groups(axes, table, normal)
    if axes.get_legend_handles_labels()[0]:
        drawn.legend(loc="outside upper left", ncols=2, markerscale=1.5, handletextpad=0.1)
    return drawn


def _in_rows(table: LatentMap) -> pd.DataFrame:
    """A row for each label and one for the anomalies, the examples of each spread a little, always in the same way."""
    rows = table.points["label"].map({label: i for i, label in enumerate(table.labels)}).fillna(0)
    rows = rows.where(~table.points["anomaly"], max(len(table.labels), 1))
    spread = np.random.default_rng(0).uniform(-0.28, 0.28, len(rows))
    return table.points.assign(y=-(rows.to_numpy(np.float64)) + spread)


def _name_groups(axes: Axes, table: LatentMap, normal: pd.DataFrame) -> None:
    """Names the axes, and writes each label at the middle of its examples."""
    if table.method == "pca":
        axes.set(xlabel="first direction", ylabel="second direction")
    if table.method == "tsne":
        axes.set(xticks=[], yticks=[])
    middles = normal.groupby("label")[["x", "y"]].median()
    for label in table.labels:
        x, y = float(middles["x"][label]), float(middles["y"][label])
        text = axes.text(x, y, label[:16], ha="center", va="center", fontsize=10, fontweight="bold")
        text.set(path_effects=[withStroke(linewidth=3, foreground=PAPER)], zorder=5)


def draw_latent_use(table: LatentUse) -> Picture:
    """Bars, the dimension with the largest KL first; dark where it is active."""
    shown, drawn = table.shown, figure(2.7)
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


LATENT_MAP = Figure(
    name="latent_map", numbers=lambda tables: tables.of(latent_map), draw=draw_latent_map, words=captions("latent_map")
)
LATENT_USE = Figure(
    name="latent_use", numbers=lambda tables: tables.of(latent_use), draw=draw_latent_use, words=captions("latent_use")
)
EDGE_SHARE = 0.05


@dataclass(frozen=True, kw_only=True)
class Edge:
    """A good trial whose parameter lies within 5 % of an end of the searched range, so that better may lie beyond.

    Attributes:
        parameter: The searched parameter, of which the trial has this value.
        end: "lower" or "upper".
        limit: That end of the range.
    """

    parameter: str
    end: str
    limit: float
    value: float
    trial: int


@dataclass(frozen=True, kw_only=True)
class Collapse:
    """Finished trials with a collapsed code: as they stored it, else no active unit or a KL below 0.05 nats.

    Attributes:
        trials: Their numbers.
        known: Finished trials of which it is known.
        smallest_beta: The smallest beta among them, NaN where there is none.
        with_kl: Whether any finished trial has a KL.
        swept: How many of them are on the path of a sweep of beta.
        swept_beta: The smallest beta among those, NaN where there is none.
    """

    trials: tuple[int, ...]
    known: int
    smallest_beta: float
    with_kl: bool
    swept: int
    swept_beta: float


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """Trials that ended before their KL weight had reached 1, so that their KL is that of another objective.

    Attributes:
        finished, pruned: Their numbers, by how they ended.
        frontier: Those of them on the frontier.
    """

    finished: tuple[int, ...]
    pruned: tuple[int, ...]
    frontier: tuple[int, ...]


def warm_up(record: StudyRecord) -> WarmUp:
    """Find the trials whose KL weight never reached 1; cyclical schedules and sweeps of beta are no warm-up."""
    history = record.history.assign(weight=numbers(record.history, "train/kl_weight"))
    highest = history.groupby("trial")["weight"].max()
    objective = record.config.get("objective") or {}
    schedule = _settings(record, "kl_annealing.schedule", (objective.get("kl_annealing") or {}).get("schedule"))
    kind = _settings(record, "objective.kind", objective.get("kind"))
    rising = record.trials[(schedule != "cyclical") & (kind != "sweep")]
    short = rising[rising["trial"].isin(highest.index[highest < FULL_KL_WEIGHT])]
    finished, pruned = (short[short["state"].eq(state)] for state in ("finished", "pruned"))
    members = finished[finished["trial"].isin(frontier(record)["trial"])]
    return WarmUp(finished=trial_numbers(finished), pruned=trial_numbers(pruned), frontier=trial_numbers(members))


def _settings(record: StudyRecord, name: str, fixed: object) -> "pd.Series[Any]":
    """What each trial has of a parameter that may be searched, or else is fixed."""
    own = record.trials.get(name, pd.Series(None, index=record.trials.index, dtype=object))
    return own.where(own.notna(), fixed)


def collapse(record: StudyRecord) -> Collapse:
    """The finished trials with a collapsed code."""
    finished = with_state(record, "finished")
    stored, units, kl_nats = (numbers(finished, f"val/{name}") for name in ("collapsed", "active_units", "kl"))
    derived = (units < 1) | (kl_nats < COLLAPSED_KL)
    collapsed = finished[np.where(np.isfinite(stored), stored >= 0.5, derived)]
    kept = kept_by_sweeps(record)
    swept = collapsed[collapsed["trial"].isin({*kept["trial"], *kept["sweep"]})]
    return Collapse(
        trials=trial_numbers(collapsed),
        known=int(np.isfinite([stored, units, kl_nats]).any(axis=0).sum()),
        smallest_beta=_smallest_beta(collapsed),
        with_kl=bool(np.isfinite(kl_nats).any()),
        swept=len(swept),
        swept_beta=_smallest_beta(swept),
    )


def _smallest_beta(trials: pd.DataFrame) -> float:
    # Of a Series without a value, the least is NaN.
    return float(pd.Series(numbers(trials, "beta")).min())


def edges(record: StudyRecord, choices: Sequence[Choice]) -> tuple[Edge, ...]:
    """Where the trials that the rules take lie at the edge of the search."""
    trials = dict.fromkeys(trial for choice in choices if choice.kind == "rule" for trial in choice.trials)
    found = (_edge(record, name, trial) for trial in trials for name in searched_parameters(record))
    return tuple(edge for edge in found if edge is not None)


def _edge(record: StudyRecord, name: str, trial: int) -> Edge | None:
    rule, value = search_range(record, name), scalar(row_of(record, trial), name)
    if "low" not in rule or "high" not in rule or not np.isfinite(value):
        return None
    low, high = float(rule["low"]), float(rule["high"])
    scale = np.log if rule.get("log") and low > 0 and value > 0 else float
    share = (scale(value) - scale(low)) / (scale(high) - scale(low)) if high > low else 0.5
    if EDGE_SHARE < share < 1 - EDGE_SHARE:
        return None
    end, limit = ("lower", low) if share <= EDGE_SHARE else ("upper", high)
    return Edge(parameter=name, end=end, limit=limit, value=value, trial=trial)

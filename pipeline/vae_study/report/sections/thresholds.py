"""The chosen model's anomaly scores on the test split, and what flagging above a threshold does."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Picture
from matplotlib.ticker import PercentFormatter

from vae_study.anomaly import conformal, detection
from vae_study.report.figure import Figure, Grid
from vae_study.report.formatting import NONE, captions, count, number, percent, score_label, significant
from vae_study.report.frames import Floats, Missing
from vae_study.report.interactive import Interactive, Json, Slider, axis, brief, said, thinned
from vae_study.report.style import ANOMALY, INK, NORMAL, PAGE_COLOURS, figure
from vae_study.report.tables import NO_CHAMPION, StudyTables, meaning, split_scores, why_undefined
from vae_study.tracking.record import StudyRecord

# How many interquartile ranges of the normal scores a histogram shows at most on either side of them.
WIDEST_VIEW = 40.0
# Where more than this share of the anomalies is beyond the view, the axis is stretched instead.
MOST_OUTSIDE = 0.25
BINS, MOST_THRESHOLDS = 40, 160


@dataclass(frozen=True, kw_only=True)
class Scores:
    """The chosen model's anomaly scores on the test split; higher is more anomalous.

    Attributes:
        score: Which score, such as "elbo"; for a code without rate, that is the reconstruction.
        normal_N, anomaly_N: Scores of the normal and of the anomalous test examples.
        thresholds: Columns `percentile`, `threshold`, `precision`, `recall`, `false_alarm_rate`, `drifted`; the
            percentiles are of the scores of normal validation examples. No row where there are none.
        without_score: Test examples whose score is not finite, which all numbers here leave out.
        view: Limits that hold the bulk of the scores and all thresholds.
        stretch: The middle and the width around which the axis is stretched, the median and the interquartile range of
            the normal scores, where many anomalies are far away; else None.
    """

    score: str
    normal_N: Floats
    anomaly_N: Floats
    thresholds: pd.DataFrame
    without_score: int
    view: tuple[float, float]
    stretch: tuple[float, float] | None

    def across(self, value: Floats) -> Floats:
        """Where scores are on the axis: they themselves, or asinh((score - middle) / width) where it is stretched."""
        return value if self.stretch is None else np.arcsinh((value - self.stretch[0]) / self.stretch[1])

    @property
    def bins(self) -> Floats:
        """The edges of the bins, evenly spaced on the axis."""
        low, high = self.across(np.array(self.view)).tolist()
        return np.linspace(low, high, BINS + 1)

    def shares(self, value_N: Floats) -> Floats:
        """The share of some scores in each bin; the outermost bins have all that is outside."""
        inside_N = np.clip(self.across(value_N), *self.bins[[0, -1]])
        return np.histogram(inside_N, self.bins)[0] / max(len(value_N), 1)

    @property
    def ticks(self) -> tuple[Floats, list[str]]:
        """Where a stretched axis is labelled, and with which scores: 0, and 1, 2 and 5 times powers of ten."""
        low, high = self.view
        powers = [factor * 10.0**power for power in range(-3, 39) for factor in (1, 2, 5)]
        kept: list[float] = []
        for value in sorted([0.0, *powers, *(-power for power in powers)], key=abs, reverse=True):
            at = self.across(np.array([value, *kept]))
            if low <= value <= high and (np.abs(at[1:] - at[0]) > 0.07 * np.ptp(self.bins)).all():
                kept.append(value)
        return self.across(np.array(kept)), [f"{value:g}" for value in kept]


def scores(record: StudyRecord) -> Scores | Missing:
    """The chosen model's scores and what a threshold on them would give."""
    champion = record.champion
    if champion is None:
        return Missing(NO_CHAMPION)
    test, validation = (split_scores(record, champion, split) for split in ("test", "validation"))
    if test.empty:
        return Missing("The chosen model has stored no anomaly score of a test example.")
    held_out = validation.loc[~validation["anomaly"], "score"].to_numpy()
    is_anomaly, score = test["anomaly"].to_numpy(), test["score"].to_numpy()
    thresholds = detection.threshold_table(held_out, is_anomaly, score) if len(held_out) else pd.DataFrame()
    view, stretch = _view(score[~is_anomaly], score[is_anomaly], thresholds)
    return Scores(
        score=meaning(record, champion),
        normal_N=score[~is_anomaly],
        anomaly_N=score[is_anomaly],
        thresholds=thresholds,
        without_score=int(champion.scores["split"].eq("test").sum()) - len(test),
        view=view,
        stretch=stretch,
    )


def _view(
    normal_N: Floats, anomaly_N: Floats, thresholds: pd.DataFrame
) -> tuple[tuple[float, float], tuple[float, float] | None]:
    """The limits of the view, outliers left out, and how it is stretched; see `Scores`."""
    score_N = np.concatenate([normal_N, anomaly_N])
    first, middle, third = np.quantile(normal_N if len(normal_N) else score_N, [0.25, 0.5, 0.75])
    room = WIDEST_VIEW * (third - first) or np.inf

    def near(values: Floats) -> Floats:
        kept: Floats = values[(values >= first - room) & (values <= third + room)]
        return kept

    low, high = np.quantile(near(score_N), [0.0, 0.98])
    marked = thresholds["threshold"].to_numpy(np.float64) if len(thresholds) else np.empty(0)
    high = near(marked).max(initial=high)
    stretch = None
    if third > first and len(anomaly_N) and (anomaly_N > high).mean() > MOST_OUTSIDE:
        low, high = score_N.min(), max(np.quantile(anomaly_N, 0.98), marked.max(initial=high))
        stretch = float(middle), float(third - first)
    margin = 0.02 * (high - low) or 1.0
    return (float(low - margin * (stretch is None)), float(high + margin)), stretch


def promised(record: StudyRecord) -> pd.DataFrame | Missing:
    """`conformal.promises` for the chosen model on test; both classes have to be in the test split."""
    champion = record.champion
    if champion is None:
        return Missing(NO_CHAMPION)
    test, validation = (split_scores(record, champion, split) for split in ("test", "validation"))
    held_out = validation.loc[~validation["anomaly"], "score"].to_numpy()
    why = why_undefined(record) or ("" if len(held_out) else "no normal validation example")
    if why:
        return Missing(f"What p-values promise cannot be compared: {why}.")
    return conformal.promises(held_out, test["anomaly"].to_numpy(), test["score"].to_numpy())


def draw_scores(table: Scores) -> Picture:
    """Shares of normal and anomalous test examples by score, with the thresholds."""
    drawn = figure(3.3)
    axes, bins = drawn.add_subplot(), table.bins
    for values, colour, name in ((table.normal_N, NORMAL, "normal"), (table.anomaly_N, ANOMALY, "anomaly")):
        if len(values):
            label = f"{name} ({len(values):,} test examples)"
            axes.stairs(table.shares(values), bins, color=colour, alpha=0.22, fill=True)
            axes.stairs(table.shares(values), bins, color=colour, linewidth=1.4, label=label)
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.set(xlim=bins[[0, -1]].tolist(), xlabel=_score_axis(table), ylabel="share of the class")
    axes.set_ylim(bottom=0, top=axes.get_ylim()[1] * 1.18)
    if table.stretch:
        axes.set_xticks(*table.ticks)
    for n, (percentile, at) in enumerate(_thresholds(table)):
        axes.axvline(at, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        # One below the other, since thresholds may be close.
        axes.annotate(f"{percentile:g} %", (at, 1), (3, -2 - 9 * n), xycoords=("data", "axes fraction"),
                      textcoords="offset points", fontsize=8, verticalalignment="top")  # fmt: skip
    drawn.legend(loc="outside upper left", ncols=2)
    return drawn


def _score_axis(table: Scores) -> str:
    return f"anomaly score: {score_label(table.score)}{' (stretched axis)' * (table.stretch is not None)}"


def _thresholds(table: Scores) -> list[tuple[float, float]]:
    """The percentile of each threshold in the view, and where it is on the axis."""
    rows = table.thresholds.to_dict("records")
    placed = [(row["percentile"], float(table.across(np.array(row["threshold"])))) for row in rows]
    return [(percentile, at) for percentile, at in placed if table.bins[0] < at < table.bins[-1]]


def interactive_scores(table: Scores) -> Interactive:
    """The same with a threshold that the reader moves, and what it flags."""
    bins, traces = table.bins, []
    for values, colour, name in ((table.normal_N, NORMAL, "normal"), (table.anomaly_N, ANOMALY, "anomaly")):
        if len(values):
            share = table.shares(values)
            hover = [f"{percent(part)} of {len(values):,}" for part in share.tolist()]
            traces.append({
                "type": "bar", "x": brief((bins[1:] + bins[:-1]) / 2), "y": brief(share, 3),
                "width": float(np.diff(bins)[0]), "name": name, "hovertext": hover, "hoverinfo": "text+name",
                "marker": {"color": PAGE_COLOURS[colour], "opacity": 0.55},
            })  # fmt: skip
    across: Json = axis(said(_score_axis(table), 90), limits=(float(bins[0]), float(bins[-1])))
    if table.stretch:
        ticks, names = table.ticks
        across |= {"tickvals": brief(ticks), "ticktext": names}
    marks = [
        {"type": "line", "x0": at, "x1": at, "yref": "paper", "y0": 0, "y1": 1,
         "line": {"color": "var(--soft)", "width": 1, "dash": "dot"}}
        for _, at in _thresholds(table)
    ]  # fmt: skip
    layout: Json = {"barmode": "overlay", "xaxis": across, "yaxis": axis("share of the class", tickformat=".0%"),
                    "shapes": marks}  # fmt: skip
    return Interactive(traces=tuple(traces), layout=layout, height=330, slider=_slider(table))


def _slider(table: Scores) -> Slider:
    """Thresholds from the lowest to the highest test score, and what each flags; it starts at the last percentile."""
    scores = np.sort(np.concatenate([table.normal_N, table.anomaly_N]))
    value = np.unique(scores[thinned(len(scores), MOST_THRESHOLDS)])
    start = float(table.thresholds["threshold"].iloc[-1]) if len(table.thresholds) else float(np.median(scores))
    value = np.unique(np.append(value, start))
    texts = []
    for threshold in value:
        false, found = int((table.normal_N > threshold).sum()), int((table.anomaly_N > threshold).sum())
        alarms = false + found
        told = f"Above {significant(float(threshold), 4)}: {count(alarms, 'alarm')} in {len(scores):,} test rows"
        if len(table.anomaly_N):
            told += f", {found:,} of them real ({percent(found / alarms)})" if alarms else ""
            told += f"; finds {percent(found / len(table.anomaly_N))} of the anomalies"
        texts.append(f"{told}.")
    at = np.clip(table.across(value), *table.bins[[0, -1]])
    return Slider(label="Threshold", x=tuple(brief(at)), texts=tuple(texts), start=int(np.searchsorted(value, start)))


def threshold_grid(tables: StudyTables) -> Grid:
    """What flagging above each threshold does on the test split."""
    head = ("percentile of normal validation scores", "threshold", "target false-alarm rate", "realised on test",
            "precision", "recall")  # fmt: skip
    found = tables.of(scores)
    if isinstance(found, Missing):
        return Grid()
    rows = (
        (
            significant(row["percentile"]),
            number(row["threshold"], 3),
            f"{100 - row['percentile']:g} %",
            percent(row["false_alarm_rate"]) + (" (drift)" if row["drifted"] else ""),
            percent(row["precision"]) if len(found.anomaly_N) else NONE,
            percent(row["recall"]),
        )
        for row in found.thresholds.to_dict("records")
    )
    return Grid(label="Flagging the test examples above a threshold", head=head, rows=tuple(rows))


def promise_grid(tables: StudyTables) -> Grid:
    """What p-values and flags promise, and what they do on the test split."""
    found = tables.of(promised)
    if isinstance(found, Missing):
        return Grid()
    rules = {"p_value": "p-value ≤ {:g}", "fdr": "flag, FDR {:g}"}
    rates = {"p_value": "{} of normal rows", "fdr": "{} of flagged rows"}
    rows = (
        (
            rules[row["by"]].format(row["level"]),
            "at most " + rates[row["by"]].format(percent(row["level"])),
            rates[row["by"]].format(percent(row["realised"])) if row["by"] == "p_value" or row["flagged"] else NONE,
            f"{row['flagged']:,}",
            f"{row['false']:,}",
        )
        for row in found.to_dict("records")
    )
    return Grid(
        label="False alarms by p-value and at a false discovery rate (FDR): promised on average, and found on test",
        head=("rule", "promised false alarms", "false alarms on test", "flagged", "of these normal"),
        rows=tuple(rows),
    )


SCORES = Figure(
    name="scores",
    numbers=lambda tables: tables.of(scores),
    draw=draw_scores,
    words=captions("scores"),
    interactive=lambda table, sampled: interactive_scores(table),
)

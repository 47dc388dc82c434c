"""How far a few labels go: the accuracy of models that were told some, against the share of them, beside the probe."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Picture
from matplotlib.ticker import MaxNLocator, NullLocator

from vae_study.report.figure import Figure
from vae_study.report.formatting import captions
from vae_study.report.frames import Missing, kept_by_sweeps, numbers, with_state
from vae_study.report.parameters import setting
from vae_study.report.style import ANOMALY, INK, NORMAL, figure, log_scale
from vae_study.tracking.record import StudyRecord

ACCURACY, SHARE = "test/label_accuracy", "labels.share"
MOST_TICKS = 8


@dataclass(frozen=True, kw_only=True)
class LabelAccuracy:
    """How often trials find the labels of normal test rows.

    Attributes:
        trials: One row per finished trial that was told labels: `trial`, `share` (of the training labels), `accuracy`.
        means: The mean accuracy at each share, by share.
        probe: The median accuracy of the linear classifier on these trials' codes, NaN where unknown.
        probe_share: The share of the training labels that it was shown, NaN where unknown.
    """

    trials: pd.DataFrame
    means: "pd.Series[float]"
    probe: float
    probe_share: float

    @property
    def highest(self) -> float:
        """The highest accuracy of a trial."""
        return float(self.trials["accuracy"].max())


def label_accuracy(record: StudyRecord) -> LabelAccuracy | Missing:
    """The accuracies; `Missing` if fewer than two shares were tried."""
    finished = with_state(record, "finished")
    finished = finished[~finished["trial"].isin(kept_by_sweeps(record)["trial"])]
    share = [setting(record, trial, SHARE) for trial in finished["trial"]]
    trials = pd.DataFrame(
        {
            "trial": finished["trial"].to_numpy(),
            "share": pd.to_numeric(pd.Series(share, dtype=object)).to_numpy(np.float64),
            "accuracy": numbers(finished, ACCURACY),
            "probe": numbers(finished, "test/probe_accuracy"),
        }
    ).dropna(subset=["share", "accuracy"])
    if trials["share"].nunique() < 2:
        return Missing("Fewer than two shares of labels were tried.")
    probe_share = (record.config.get("diagnostics") or {}).get("probe_labels")
    return LabelAccuracy(
        trials=trials[["trial", "share", "accuracy"]].reset_index(drop=True),
        means=trials.groupby("share")["accuracy"].mean(),
        probe=float(trials["probe"].median()),
        probe_share=np.nan if probe_share is None else float(probe_share),
    )


def draw_label_accuracy(table: LabelAccuracy) -> Picture:
    """A point a trial, a line through the means of the shares, and the probe's accuracy as a broken line."""
    drawn = figure(3.2)
    axes = drawn.add_subplot()
    axes.scatter(table.trials["share"], table.trials["accuracy"], s=16, color=NORMAL, alpha=0.75, label="trial")
    axes.plot(table.means.index, table.means, color=INK, linewidth=1.2, label="mean of a share")
    if np.isfinite(table.probe):
        told = f", {100 * table.probe_share:.3g} % of the labels" if np.isfinite(table.probe_share) else ""
        axes.axhline(table.probe, color=ANOMALY, linewidth=1.2, linestyle="--", label=f"linear probe{told}")
    log_scale(axes, "x")
    if len(table.means) <= MOST_TICKS:
        axes.set_xticks(list(table.means.index))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.set(xlabel="share of the training labels that is told", ylabel="accuracy on test")
    axes.legend(loc="lower right", fontsize=8.5)
    return drawn


LABEL_ACCURACY = Figure(
    name="label_accuracy",
    numbers=lambda tables: tables.of(label_accuracy),
    draw=draw_label_accuracy,
    words=captions("label_accuracy"),
    is_optional=True,
)

"""How the frontier's trials were trained, epoch by epoch, on one grid of epochs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.report.tables.frames import Floats, Missing, finite, numbers, trial_numbers
from pipeline.report.tables.training import NO_HISTORY, spread_over_frontier
from pipeline.tracking.record import StudyRecord

MOST_TRIALS = 12


@dataclass(frozen=True, kw_only=True)
class Course:
    """Histories of some trials of the frontier; NaN where a trial measured nothing, or had ended.

    Attributes:
        trial_T: Their numbers, from the frontier's one end to the other.
        epoch_E: The epochs that any of them trained, in order.
        kl_weight_TE: What multiplies the KL in the loss.
        active_units_TE: On validation.
        reconstruction_TE, kl_TE, elbo_TE: On validation, nats per example.
    """

    trial_T: NDArray[np.int64]
    epoch_E: NDArray[np.int64]
    kl_weight_TE: Floats
    active_units_TE: Floats
    reconstruction_TE: Floats
    kl_TE: Floats
    elbo_TE: Floats


def course(record: StudyRecord) -> Course | Missing:
    """At most MOST_TRIALS trials, spread evenly along the frontier, its ends and the chosen one included."""
    trials = trial_numbers(spread_over_frontier(record, MOST_TRIALS))
    history = record.history[record.history["trial"].isin(trials)].drop_duplicates(["trial", "epoch"], keep="last")
    if history.empty:
        return Missing(NO_HISTORY)
    epochs = np.unique(history["epoch"].to_numpy(np.int64))
    trial, epoch = (history[name].to_numpy(np.int64) for name in ("trial", "epoch"))
    rows = [trials.index(number) for number in trial.tolist()], np.searchsorted(epochs, epoch)

    def on_grid(metric: str) -> Floats:
        values_TE = np.full((len(trials), len(epochs)), np.nan)
        values_TE[rows] = finite(numbers(history, metric))
        return values_TE

    return Course(
        trial_T=np.asarray(trials, np.int64),
        epoch_E=epochs,
        kl_weight_TE=on_grid("train/kl_weight"),
        active_units_TE=on_grid("val/active_units"),
        reconstruction_TE=on_grid("val/reconstruction"),
        kl_TE=on_grid("val/kl"),
        elbo_TE=on_grid("val/elbo"),
    )

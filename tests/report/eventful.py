"""Made-up studies that stop trials early, set constraints, lose workers, and know why trials failed."""

from dataclasses import replace
from typing import Any

import numpy as np
from vae_study.tracking.record import StudyRecord

ACTIVE_UNITS = {"metric": "val/active_units", "at_least": 4.0, "at_most": None}
KL = {"metric": "val/kl", "at_least": None, "at_most": 25.0}
REASONS = {
    "diverged": "train/loss, val/kl not finite in epoch 7",
    "out_of_memory": "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 GiB",
    "error": "KeyError: 'hidden'",
}


def eventful(record: StudyRecord, constraints: tuple[dict[str, Any], ...] = (ACTIVE_UNITS, KL)) -> StudyRecord:
    """The same study of this version: with early stopping, constraints, reasons, two lost workers, and a beginning."""
    trials = record.trials.assign(
        feasible=[
            all(keeps(row, constraint) for constraint in constraints) for row in record.trials.to_dict("records")
        ],
        preemptions=np.where(record.trials["trial"].isin([3, 8]), record.trials["trial"] // 3, 0),
        reason=record.trials["failure"].map(REASONS),
    )
    config = {
        **record.config,
        "training": {**record.config["training"], "epochs": int(record.history.groupby("trial").size().max())},
        "early_stopping": {"kind": "pareto", "metric": None, "reduction_factor": 3, "min_epochs": 4},
        "constraints": [dict(constraint) for constraint in constraints],
        "enqueue": [{"beta": 1.0}, {"beta": 4.0}],
        "warm_start": "older <b>",
    }
    return replace(record, trials=trials, config=config)


def keeps(row: dict[Any, Any], constraint: dict[str, Any]) -> bool:
    value, low, high = (row[constraint["metric"]], constraint["at_least"], constraint["at_most"])
    return (low is None or value >= low) and (high is None or value <= high)

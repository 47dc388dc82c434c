"""Runs as frames: the same rows whether they come from MLflow or from the spool on the way to it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from mlflow.entities import Run

from pipeline.tracking import layout

TRIAL_COLUMNS = ["trial", "state", "failure", "reason", "feasible", "preemptions", "run_id"]
HISTORY_COLUMNS = ["trial", "epoch"]


@dataclass
class RunFacts:
    """What is known of one run: its tags, its parameters as text, and each metric's last value.

    Attributes:
        run_id: MLflow's; None where MLflow has not heard of it.
    """

    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    run_id: str | None = None

    @classmethod
    def of(cls, run: Run) -> "RunFacts":
        """A run as MLflow gives it."""
        return cls(dict(run.data.tags), dict(run.data.params), dict(run.data.metrics), run.info.run_id)

    @property
    def order(self) -> tuple[int, int]:
        """The trial's number, and which of its further seeds."""
        return int(self.tags[layout.TRIAL]), int(self.tags.get(layout.SEED, 0))


def trials_frame(runs: Iterable[RunFacts]) -> pd.DataFrame:
    """A row a trial: what is known of it, its parameters, its metrics at their last value."""
    rows = [_row(run) for run in runs]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=TRIAL_COLUMNS)


def confirmations_frame(runs: Iterable[RunFacts]) -> pd.DataFrame:
    """A row a trial and further seed that finished: `trial`, `seed`, its metrics at their last value."""
    finished = [run for run in runs if run.tags[layout.STATE] == "finished"]
    rows = [dict(zip(("trial", "seed"), run.order, strict=True)) | run.metrics for run in finished]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["trial", "seed"])


def history_frame(number: int, history: Mapping[int, Mapping[str, Any]]) -> pd.DataFrame:
    """A trial's history: a row an epoch with `trial`, `epoch` and the metrics; no epochs, no rows."""
    rows = [{"trial": number, "epoch": epoch, **history[epoch]} for epoch in sorted(history)]
    return pd.DataFrame(rows, columns=None if rows else HISTORY_COLUMNS)


def joined(histories: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The histories of several trials in one frame."""
    frames = [frame for frame in histories if not frame.empty]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=HISTORY_COLUMNS)


def _row(run: RunFacts) -> dict[str, Any]:
    tags = run.tags
    about = {
        "trial": int(tags[layout.TRIAL]),
        "state": tags[layout.STATE],
        "failure": tags.get(layout.FAILURE),
        "reason": tags.get(layout.REASON),
        "feasible": tags.get(layout.FEASIBLE, "true") == "true",
        "preemptions": int(tags.get(layout.PREEMPTIONS, 0)),
        "run_id": run.run_id,
    }
    metrics = {name: value for name, value in run.metrics.items() if not name.startswith(layout.LOG10)}
    return {**about, **{name: _number(text) for name, text in run.params.items()}, **metrics}


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text

"""Which trials the live figures draw, and what the page tells of each. Numbers are computed of all trials elsewhere."""

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.report.interactive.live import Json, brief, said
from pipeline.report.names import metric_name, parameter_name
from pipeline.report.tables import Plane, Strip, StudyTables
from pipeline.report.tables.frames import numbers, short_name
from pipeline.report.tables.frontier import objective_signs
from pipeline.report.tables.scored import auroc_metric
from pipeline.tracking.record import StudyRecord

# Above this, a page of SVG no longer scrolls smoothly on a laptop.
MOST_POINTS = 3000
MOST_LINES = 400
# A plane of a page's width has no room for more dots than this across.
CELLS = 90
METRICS = ("val/reconstruction", "val/kl", "val/elbo", "val/active_units")


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """Trials of the live figures.

    Attributes:
        trials: A row a trial, those with most to say: all of the frontier, and of the others as many as fit.
        few: The numbers of those that are drawn where each is a line or many dots.
        total: How many there are, of those that could be drawn.
    """

    trials: pd.DataFrame
    few: frozenset[int]
    total: int

    def rows(self, trials: Iterable[int]) -> list[int | None]:
        """Places in `trials`, None for one that is not there."""
        place = {int(trial): row for row, trial in enumerate(self.trials["trial"])}
        return [place.get(int(trial)) for trial in trials]

    def is_drawn(self, trial_N: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of some trials are here."""
        return np.isin(trial_N, self.trials["trial"].to_numpy())

    def is_one_of_few(self, trial_N: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of some trials are among the few."""
        return np.isin(trial_N, sorted(self.few))


def drawn_trials(tables: StudyTables) -> Drawn:
    """The frontier, the chosen trial, and others by where they lie, so that the cloud keeps its shape."""
    trials, always = tables.trials, _always(tables)
    finished = trials.loc[trials["state"].eq("finished"), "trial"].to_numpy(np.int64)
    few = _thinned(finished, np.isin(finished, always), MOST_LINES)
    points = tables.plane.points if isinstance(tables.plane, Plane | Strip) else trials.head(0)
    cloud = _cloud(tables.plane, np.union1d(always, few)) if isinstance(tables.plane, Plane | Strip) else few
    kept = trials[trials["trial"].isin(np.union1d(cloud, few))].reset_index(drop=True)
    return Drawn(trials=kept, few=frozenset(few.tolist()), total=len(points))


def _always(tables: StudyTables) -> NDArray[np.int64]:
    chosen = [tables.summary.champion_trial] if tables.summary.champion_trial is not None else []
    return np.unique(np.asarray([*tables.frontier["trial"], *chosen], dtype=np.int64))


def _thinned(trial_N: NDArray[np.int64], always_N: NDArray[np.bool_], most: int) -> NDArray[np.int64]:
    """At most so many: evenly those that are always there, and evenly others in what room is left."""
    first, rest = trial_N[always_N], trial_N[~always_N]
    first = _evenly(first, most)
    return np.sort(np.concatenate([first, _evenly(rest, most - len(first))]))


def _evenly(trial_N: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    if len(trial_N) <= most:
        return trial_N
    return trial_N[np.linspace(0, len(trial_N) - 1, most).round().astype(int)] if most > 0 else trial_N[:0]


def _cloud(table: Plane | Strip, always: NDArray[np.int64]) -> NDArray[np.int64]:
    """One trial of a state in each cell of the plane, where all together are too many."""
    points = table.points
    trial_N = points["trial"].to_numpy(np.int64)
    if len(points) <= MOST_POINTS:
        return trial_N
    ends = {"x": table.x if isinstance(table, Plane) else (trial_N.min(), trial_N.max()), "y": table.y}
    cells = {name: _cell(points[name], *limits) for name, limits in ends.items()}
    first = ~points.assign(**cells)[["state", "x", "y"]].duplicated().to_numpy()
    is_always = np.isin(trial_N, always)
    return _thinned(trial_N[first | is_always], is_always[first | is_always], MOST_POINTS)


def _cell(values: "pd.Series[float]", low: float, high: float) -> "pd.Series[float]":
    """The cell of each; all that are out of view are in the next one outside it."""
    return ((values - low) / (high - low) * CELLS).clip(-1, CELLS) // 1


def told(tables: StudyTables, drawn: Drawn) -> Json:
    """What the page says of each trial, column by column."""
    trials = drawn.trials
    facts = {column: _column(trials, column) for column in _columns(tables)}
    return {
        "number": [int(trial) for trial in trials["trial"]],
        "state": [said(str(state)) for state in trials["state"]],
        "run": [str(run) if isinstance(run, str) else None for run in trials["run_id"]],
        "facts": [[_label(column), values] for column, values in facts.items() if any(v is not None for v in values)],
        "runs": runs_address(tables.record),
    }


def _columns(tables: StudyTables) -> list[str]:
    family = short_name("family", list(tables.trials.columns))
    metrics = (*objective_signs(tables.record.spec), *METRICS, auroc_metric(tables.record, "val"))
    names = dict.fromkeys([*([family] if family else []), *tables.parameters, *metrics])
    return [name for name in names if name in tables.trials.columns]


def _label(column: str) -> str:
    return said(metric_name(column) if "/" in column else parameter_name(column))


def _column(trials: pd.DataFrame, column: str) -> list[float | int | str | None]:
    values = numbers(trials, column)
    short = brief(values)
    return [
        said(str(value)) if number is None and isinstance(value, str) else number
        for value, number in zip(trials[column], short, strict=True)
    ]


def run_links(record: StudyRecord) -> dict[str, str]:
    """Where each trial's run is shown, by its number as text; none of a store without a server."""
    address = runs_address(record)
    pairs = zip(record.trials["trial"], record.trials["run_id"], strict=True)
    return {str(trial): f"{address}{run}" for trial, run in pairs if isinstance(run, str)} if address else {}


def runs_address(record: StudyRecord) -> str | None:
    """Where MLflow's UI shows the runs of the study, to be followed by a run's id; None of a store without a server.

    A user and a password in the tracking address stay out of it.
    """
    parts = urlsplit(record.tracking_uri)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return None
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path.rstrip('/')}/#/experiments/{record.experiment_id}/runs/"

"""A study's numbers: its record in one order, the chosen model's scores, the summary; each is computed once."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from vae_study.anomaly import detection
from vae_study.metrics import DEFAULT_SCORE, SCORES, sign_of
from vae_study.report.frames import (
    FIXED,
    LATER,
    STATES,
    Interval,
    Missing,
    kept_by_sweeps,
    numbers,
    row_of,
    scalar,
    with_state,
)
from vae_study.report.frontier import frontier, hypervolume_history, objective_signs
from vae_study.report.parameters import has_rate, searched_parameters
from vae_study.selection.comparison import baseline_verdicts
from vae_study.selection.ranking import eligible
from vae_study.tracking.record import ChampionRecord, StudyRecord
from vae_study.tracking.schema import trial_name

Numbers = TypeVar("Numbers")


def tidy(record: StudyRecord) -> StudyRecord:
    """The record with rows and columns in a fixed order, independent of the store's order.

    Trials are ordered by number, and their columns as FIXED, LATER, searched parameters, other parameters, metrics.
    """
    trials = record.trials.reindex(columns=list(dict.fromkeys([*FIXED, *record.trials.columns])))
    trials = trials.astype({"state": object, "failure": object}).sort_values("trial", ignore_index=True)
    later = [name for name in LATER if name in trials.columns]
    rest = sorted(set(trials.columns) - set(FIXED), key=lambda name: ("/" in name, name))
    names = [*FIXED, *later, *searched_parameters(record), *rest]
    history = record.history.reindex(columns=list(dict.fromkeys(["trial", "epoch", *sorted(record.history.columns)])))
    seeds = record.confirmations
    seeds = seeds.reindex(columns=list(dict.fromkeys(["trial", "seed", *sorted(seeds.columns)])))
    # Where a seed was trained again, the last result counts.
    seeds = seeds.drop_duplicates(["trial", "seed"], keep="last").sort_values(["trial", "seed"], ignore_index=True)
    return replace(
        record,
        trials=trials[list(dict.fromkeys(names))],
        history=history.sort_values(["trial", "epoch"], ignore_index=True),
        confirmations=seeds,
    )


@dataclass(frozen=True, kw_only=True)
class StudySummary:
    """A study's main numbers.

    Attributes:
        name: The study's name.
        states: Number of trials by state; the states of STATES are always there.
        kept: How many of them are models that sweeps kept along their paths.
        retrained: How many of them train such a model again, at its beta from beginning to end.
        epochs: Epochs trained by all trials together.
        training_hours: Sum of the epochs' seconds in hours (trials run side by side); NaN where unknown.
        frontier_size: Finished, feasible trials that no other such trial dominates.
        best_elbo_nats, best_elbo_trial: The highest validation ELBO of a trial that may be chosen, in nats per example.
        champion_trial, champion_rule: The chosen trial and the metric that chose it; None while there is none.
        champion_score: The anomaly score that the chosen trial is used with; None while there is none.
        promoted: The registry's champion, where a user has promoted another model than the chosen one; else empty.
        collapsed: What that score is because the chosen trial's code collapsed, such as "the plain Mahalanobis distance
            from the training mean"; empty where it did not.
        test_auroc: The chosen trial's AUROC on the test split, of that score, with its 95 % interval.
        average_precision: Likewise its average precision.
        points: Its `detection.operating_points` on the test split within the study's alarm budget; `alarm_low` and
            `alarm_high`, the 95 % interval of their precision; and `stated_precision`, that precision at
            `anomaly.prevalence`, NaN if the study states none.
        test_rows, test_anomalies: How many rows these are of.
        why_no_auroc: Why the chosen trial has none, such as "no labelled anomaly among the examples"; empty where it
            has one, or none is chosen.
        verdicts: How the chosen model compares with the baseline without a model, such as "worse in average precision
            [-0.270, -0.100]", with the paired 95 % interval of the difference; none where it is not known.
        hypervolume: Of the frontier, in the product of the objectives' units; NaN where there is none.
        stopped: As of the record.
    """

    name: str
    states: Mapping[str, int]
    kept: int
    retrained: int
    epochs: int
    training_hours: float
    frontier_size: int
    best_elbo_nats: float
    best_elbo_trial: int | None
    champion_trial: int | None
    champion_rule: str | None
    champion_score: str | None
    promoted: str
    collapsed: str
    test_auroc: Interval
    average_precision: Interval
    points: Mapping[str, float]
    test_rows: int
    test_anomalies: int
    why_no_auroc: str
    verdicts: tuple[str, ...]
    hypervolume: float
    stopped: str


def summary(record: StudyRecord) -> StudySummary:
    """The study's main numbers; any may be missing (None or NaN) in a study that has just begun."""
    record = tidy(record)
    test = champion_test(record)
    test_auroc = measured("auroc", test)
    seconds = numbers(record.history, "time/epoch_seconds")
    elbo_trial = best(eligible(record.trials), "val/elbo")
    history, counts = hypervolume_history(record), record.trials["state"].value_counts()
    return StudySummary(
        name=record.name,
        states={state: int(counts.get(state, 0)) for state in STATES},
        kept=len(kept_by_sweeps(record)),
        retrained=int(np.sum(numbers(record.trials, "retrains") >= 0)),
        epochs=len(record.history),
        training_hours=float(np.nansum(seconds)) / 3600 if np.isfinite(seconds).any() else float("nan"),
        frontier_size=len(frontier(record)),
        best_elbo_nats=float("nan") if elbo_trial is None else scalar(row_of(record, elbo_trial), "val/elbo"),
        best_elbo_trial=elbo_trial,
        champion_trial=record.champion.trial if record.champion else None,
        champion_rule=record.champion.rule if record.champion else None,
        champion_score=meaning(record, record.champion) if record.champion else None,
        promoted=_promoted(record),
        collapsed=_collapsed(record),
        test_auroc=test_auroc,
        average_precision=measured("average_precision", test),
        points=operating_points(record, test),
        test_rows=len(test),
        test_anomalies=int(test["anomaly"].sum()),
        why_no_auroc="" if np.isfinite(test_auroc.value) else why_undefined(record),
        verdicts=baseline_verdicts(record.choices.to_dict("records")),
        hypervolume=float("nan") if isinstance(history, Missing) else float(history.hypervolume_N[-1]),
        stopped=record.stopped,
    )


def _promoted(record: StudyRecord) -> str:
    own = trial_name(record.champion.trial) if record.champion else None
    return record.promoted if record.promoted and record.promoted != own else ""


def _collapsed(record: StudyRecord) -> str:
    champion = record.champion
    if champion is None or scalar(row_of(record, champion.trial), "val/collapsed") != 1:
        return ""
    return SCORES[meaning(record, champion)].collapsed


class StudyTables:
    """A study as a report needs it: its record, and the numbers made of it, each computed once.

    Attributes:
        record: With rows and columns in one order.
    """

    def __init__(self, record: StudyRecord) -> None:
        self.record = tidy(record)
        self._known: dict[Callable[..., Any], Any] = {}

    def of(self, numbers: Callable[[StudyRecord], Numbers]) -> Numbers:
        """What a function makes of the record."""
        return self.once(lambda tables: numbers(tables.record), numbers)

    def once(self, numbers: "Callable[[StudyTables], Numbers]", key: Callable[..., Any] | None = None) -> Numbers:
        """What a function makes of these tables; `key` is what it is remembered by."""
        key = key or numbers
        if key not in self._known:
            self._known[key] = numbers(self)
        found: Numbers = self._known[key]
        return found

    @cached_property
    def summary(self) -> StudySummary:
        """The main numbers."""
        return summary(self.record)

    @property
    def trials(self) -> pd.DataFrame:
        """One row per trial."""
        return self.record.trials

    @property
    def frontier(self) -> pd.DataFrame:
        """One row per trial of the frontier."""
        return self.of(frontier)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Columns of the searched parameters."""
        return searched_parameters(self.record)


NO_CHAMPION = "No model has been chosen yet."


def stored_scores(champion: ChampionRecord) -> list[str]:
    """The scores that the chosen model stored of each example."""
    return [name for name in champion.scores.columns if name in SCORES]


def followed_score(record: StudyRecord) -> str:
    """The score of `val/auroc` and `test/auroc`, which trials follow while they train."""
    return (record.config.get("anomaly") or {}).get("score") or DEFAULT_SCORE


def score_of(record: StudyRecord, champion: ChampionRecord) -> str | None:
    """The score that the model was chosen with, else the one that trials follow, else the first that is stored."""
    stored = stored_scores(champion)
    return next((name for name in (champion.score, followed_score(record), *stored) if name in stored), None)


def meant(record: StudyRecord, trial: int, score: str) -> str:
    """A trial's score by its true name: without a KL, the negative ELBO is the reconstruction."""
    return "reconstruction" if score == "elbo" and not has_rate(record, trial) else score


def meaning(record: StudyRecord, champion: ChampionRecord) -> str:
    """What the chosen model's score is, see `meant`."""
    return meant(record, champion.trial, str(score_of(record, champion)))


def auroc_metric(record: StudyRecord, split: str) -> str:
    """The AUROC that trials are compared by: of the chosen score where they have it, else of the followed one."""
    metric = f"{split}_auroc/{record.champion.score if record.champion else None}"
    known = np.isfinite(numbers(with_state(record, "finished"), metric)).any()
    return metric if known else f"{split}/auroc"


def trial_auroc(record: StudyRecord, split: str) -> str:
    """As `auroc_metric`, but `split/auroc` if it is of the same score: it has an interval and exists in every state."""
    metric = auroc_metric(record, split)
    return f"{split}/auroc" if metric == f"{split}_auroc/{followed_score(record)}" else metric


def split_scores(record: StudyRecord, champion: ChampionRecord, split: str) -> pd.DataFrame:
    """Columns `row`, `anomaly` and `score` of a split's examples with a finite score, numbered as in the split."""
    rows = champion.scores[champion.scores["split"].eq(split)].reset_index(drop=True)
    name = score_of(record, champion) or ""
    frame = pd.DataFrame({"row": rows["row"], "anomaly": rows["anomaly"].eq(True), "score": numbers(rows, name)})
    known: pd.DataFrame = frame.loc[np.isfinite(frame["score"].to_numpy())]
    return known


def why_undefined(record: StudyRecord) -> str:
    """Why the chosen model has no AUROC on test, as part of a sentence; empty where it has one or none is chosen."""
    if record.champion is None:
        return ""
    test = split_scores(record, record.champion, "test")
    return detection.why_undefined(test["anomaly"].to_numpy(np.bool_), test["score"].to_numpy(np.float64)) or ""


def measured(metric: str, scored: pd.DataFrame) -> Interval:
    """The "auroc" or "average_precision" of `split_scores`, with its interval; NaN where only one class occurs."""
    examples = scored["anomaly"].to_numpy(np.bool_), scored["score"].to_numpy(np.float64)
    value = {"auroc": detection.auroc, "average_precision": detection.average_precision}[metric](*examples)
    low, high = _interval(metric, *(array.tobytes() for array in examples))
    return Interval(value=value, low=low, high=high)


@lru_cache(maxsize=8)
def _interval(metric: str, is_anomaly_N: bytes, score_N: bytes) -> tuple[float, float]:
    """A bootstrap interval of booleans and float64, cached: it takes seconds with many rows."""
    return detection.interval(metric, np.frombuffer(is_anomaly_N, np.bool_), np.frombuffer(score_N, np.float64))


def stored_auroc(trial: pd.DataFrame) -> Interval:
    """A trial's AUROC on the test split with its stored interval; `trial` is a frame of one row."""
    value, low, high = (scalar(trial, f"test/{name}") for name in ("auroc", "auroc_low", "auroc_high"))
    return Interval(value=value, low=low, high=high)


def champion_auroc(record: StudyRecord) -> Interval:
    """The chosen model's test AUROC, of the score that it was chosen with; NaN where only one class occurs."""
    return measured("auroc", champion_test(record))


def champion_test(record: StudyRecord) -> pd.DataFrame:
    """`split_scores` of the chosen model on the test split; no row while there is none."""
    if record.champion is None:
        return pd.DataFrame({"row": [], "anomaly": np.zeros(0, np.bool_), "score": np.zeros(0)})
    return split_scores(record, record.champion, "test")


def operating_points(record: StudyRecord, scored: pd.DataFrame) -> dict[str, float]:
    """`StudySummary.points` of one detector's scored rows."""
    asked = record.config.get("anomaly") or {}
    examples = scored["anomaly"].to_numpy(np.bool_), scored["score"].to_numpy(np.float64)
    alarms = detection.alarm_budget(asked.get("alarms"), len(scored))
    points = detection.operating_points(*examples, alarms)
    normals, false = int((~examples[0]).sum()), alarms * (1 - points["alarm_precision"])
    stated, false_rate = asked.get("prevalence"), false / normals if normals else float("nan")
    precision = detection.precision_at(stated, points["alarm_recall"], false_rate) if stated else np.nan
    low, high = detection.share_interval(points["alarm_precision"], alarms)
    return {**points, "alarm_low": low, "alarm_high": high, "stated_precision": precision}


def targets(record: StudyRecord) -> tuple[str, ...]:
    """The objectives, then the AUROC of validation where a finished trial has one."""
    auroc = auroc_metric(record, "val")
    known = np.isfinite(numbers(with_state(record, "finished"), auroc)).any()
    return tuple(dict.fromkeys((*objective_signs(record.config), *([auroc] if known else ()))))


def best(trials: pd.DataFrame, metric: str) -> int | None:
    """The trial with the best value of a metric, the first of equals; None where no value is finite."""
    values = -sign_of(metric) * numbers(trials, metric)
    values[~np.isfinite(values)] = -np.inf
    return int(trials["trial"].iloc[values.argmax()]) if np.isfinite(values).any() else None

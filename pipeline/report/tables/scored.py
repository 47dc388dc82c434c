"""Which anomaly score a page speaks of, and the examples' values of it."""

import numpy as np
import pandas as pd

from pipeline import anomaly
from pipeline.report.tables.frames import Interval, has_rate, numbers, row_of, scalar, with_state
from pipeline.tracking.record import ChampionRecord, StudyRecord

NO_CHAMPION = "No model has been chosen yet."
NOT_SCORES = ("split", "row", "label", "anomaly")
FOLLOWED = "elbo"


def stored_scores(champion: ChampionRecord) -> list[str]:
    """The scores that the chosen model stored of each example."""
    return [name for name in champion.scores.columns if name not in NOT_SCORES]


def followed_score(record: StudyRecord) -> str:
    """The score of `val/auroc` and `test/auroc`, which trials follow while they train."""
    return (record.spec.get("anomaly") or {}).get("score") or FOLLOWED


def score_of(record: StudyRecord, champion: ChampionRecord) -> str | None:
    """The score that the model was chosen with; of an earlier version the followed one, else the first stored."""
    stored = stored_scores(champion)
    return next((name for name in (champion.score, followed_score(record), *stored) if name in stored), None)


def meant(record: StudyRecord, trial: int, score: str) -> str:
    """What a trial's score is: a code without a rate makes the negative ELBO the reconstruction."""
    return "reconstruction" if score == "elbo" and not has_rate(record, trial) else score


def meaning(record: StudyRecord, champion: ChampionRecord) -> str:
    """What `score_of` is."""
    return meant(record, champion.trial, str(score_of(record, champion)))


def auroc_metric(record: StudyRecord, split: str) -> str:
    """The AUROC that trials are compared by: of the chosen score where they have it, else of the followed one."""
    metric = f"{split}_auroc/{record.champion.score if record.champion else None}"
    known = np.isfinite(numbers(with_state(record, "finished"), metric)).any()
    return metric if known else f"{split}/auroc"


def trial_auroc(record: StudyRecord, split: str) -> str:
    """The same, but as the followed one where that is of this score: it comes with an interval, and in every state."""
    metric = auroc_metric(record, split)
    return f"{split}/auroc" if metric == f"{split}_auroc/{followed_score(record)}" else metric


def split_scores(record: StudyRecord, champion: ChampionRecord, split: str) -> pd.DataFrame:
    """Columns `anomaly` and `score` of a split's examples with a finite score, numbered as in the split."""
    rows = champion.scores[champion.scores["split"].eq(split)].reset_index(drop=True)
    name = score_of(record, champion) or ""
    frame = pd.DataFrame({"anomaly": rows["anomaly"].eq(True), "score": numbers(rows, name)})
    known: pd.DataFrame = frame.loc[np.isfinite(frame["score"].to_numpy())]
    return known


def why_undefined(record: StudyRecord) -> str:
    """Why the chosen model has no AUROC on test, as part of a sentence; empty where it has one or none is chosen."""
    if record.champion is None:
        return ""
    test = split_scores(record, record.champion, "test")
    return anomaly.why_undefined(test["anomaly"].to_numpy(np.bool_), test["score"].to_numpy(np.float64)) or ""


def measured(metric: str, scored: pd.DataFrame) -> Interval:
    """The "auroc" or "average_precision" of `split_scores`, with its interval; NaN where only one class occurs."""
    examples = scored["anomaly"].to_numpy(np.bool_), scored["score"].to_numpy(np.float64)
    value = {"auroc": anomaly.auroc, "average_precision": anomaly.average_precision}[metric](*examples)
    low, high = anomaly.interval(metric, *examples)
    return Interval(value=value, low=low, high=high)


def stored_auroc(trial: pd.DataFrame) -> Interval:
    """A trial's AUROC on the test split with its stored interval; `trial` is a frame of one row."""
    value, low, high = (scalar(trial, f"test/{name}") for name in ("auroc", "auroc_low", "auroc_high"))
    return Interval(value=value, low=low, high=high)


def champion_auroc(record: StudyRecord) -> Interval:
    """The chosen model's test AUROC, of the score that it was chosen with; NaN where only one class occurs.

    A study of an earlier version did not store that score: there it is as the trial stored it, so that a page never
    shows two.
    """
    champion = record.champion
    if champion is None:
        return Interval(value=np.nan)
    stored = stored_auroc(row_of(record, champion.trial))
    if champion.score is None and np.isfinite([stored.value, stored.low, stored.high]).all():
        return stored
    return measured("auroc", split_scores(record, champion, "test"))

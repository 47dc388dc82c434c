"""The anomaly score as a hyperparameter: how well each score tells anomalies from normals, with the same models."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline import anomaly
from pipeline.report.tables.frames import Missing, has_rate, numbers, row_of, scalar, with_state
from pipeline.report.tables.scored import NO_CHAMPION, meaning, stored_scores
from pipeline.tracking.record import ChampionRecord, StudyRecord

SPLITS = {"pseudo": None, "val": "validation", "test": "test"}
EARLIER = "The study is of an earlier version, whose trials kept the AUROC of one score only."
UNKNOWN = "No AUROC of any score is known."


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """AUROC by anomaly score.

    Attributes:
        values: A row a score: `score`; of the chosen trial `pseudo` (normal validation rows against spoiled ones),
            `val`, `test`; and their means over the finished trials, `mean_pseudo`, `mean_val`, `mean_test`. NaN where
            unknown.
        chosen: The score that the chosen model is used with.
        trials: The finished trials.
        without_rate: Whether the scores that have a KL in them are left out, as the chosen code has none.
    """

    values: pd.DataFrame
    chosen: str
    trials: int
    without_rate: bool


def score_table(record: StudyRecord) -> ScoreTable | Missing:
    """Every score of the chosen trial, and the means over all finished ones."""
    champion = record.champion
    if champion is None:
        return Missing(NO_CHAMPION)
    finished = with_state(record, "finished")
    if not any(f"{split}_auroc/" in str(column) for column in finished.columns for split in SPLITS):
        return Missing(EARLIER)
    rated = has_rate(record, champion.trial)
    names = [name for name in stored_scores(champion) if rated or name not in ("elbo", "kl")]
    values = pd.DataFrame([_row(record, champion, finished, name) for name in names])
    if not len(values) or not np.isfinite(values.drop(columns="score").to_numpy(np.float64)).any():
        return Missing(UNKNOWN)
    return ScoreTable(values=values, chosen=meaning(record, champion), trials=len(finished), without_rate=not rated)


def _row(record: StudyRecord, champion: ChampionRecord, finished: pd.DataFrame, score: str) -> dict[str, object]:
    of_chosen = {split: _area(champion, name, score) for split, name in SPLITS.items() if name}
    of_chosen["pseudo"] = scalar(row_of(record, champion.trial), f"pseudo_auroc/{score}")
    means = {f"mean_{split}": _mean(finished, f"{split}_auroc/{score}") for split in SPLITS}
    return {"score": score, **{split: of_chosen[split] for split in SPLITS}, **means}


def _area(champion: ChampionRecord, split: str, score: str) -> float:
    """From the stored scores, as everywhere on the page."""
    rows = champion.scores[champion.scores["split"].eq(split)]
    score_N = numbers(rows, score)
    known_N = np.isfinite(score_N)
    return anomaly.auroc(rows["anomaly"].eq(True).to_numpy(np.bool_)[known_N], score_N[known_N])


def _mean(finished: pd.DataFrame, metric: str) -> float:
    values = numbers(finished, metric)
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")

"""How much of a good trial was the luck of its seed: the best trials, trained again with further seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.choosing import RULES, ranked
from pipeline.report.tables.choice import LARGER_IS_BETTER
from pipeline.report.tables.frames import Missing, numbers, row_of, scalar, trial_numbers
from pipeline.report.tables.scored import auroc_metric
from pipeline.tracking.record import StudyRecord

ELBO, ELSE = "val/elbo", "val/reconstruction"


@dataclass(frozen=True, kw_only=True)
class Confirmation:
    """The best trials and their repetitions.

    Attributes:
        metric: Which is drawn.
        trials: The chosen one first, then from better to worse by the rule that chose it.
        dots: A row a trial and seed with a finite value of that metric: `trial`, `value`, `original` (the study's own).
        spreads: By metric, a row a trial: `trial`, `seeds` (with a finite value, the original among them), `original`,
            and over these seeds `mean`, `deviation` (of a sample; NaN for a single seed), `low`, `high`.
    """

    metric: str
    trials: tuple[int, ...]
    dots: pd.DataFrame
    spreads: dict[str, pd.DataFrame]


def confirmation(record: StudyRecord) -> Confirmation | Missing:
    """Test AUROC and validation ELBO over seeds; validation reconstruction where there is neither."""
    wanted = (auroc_metric(record, "test"), ELBO)
    told = [metric for metric in wanted if np.isfinite(numbers(record.confirmations, metric)).any()] or [ELSE]
    if not np.isfinite(numbers(record.confirmations, told[0])).any():
        return Missing("No trial has been trained again with further seeds.")
    trials = _ordered(record)
    values = {metric: _values(record, trials, metric) for metric in told}
    return Confirmation(
        metric=told[0],
        trials=trials,
        dots=values[told[0]],
        spreads={metric: _spread(record, trials, values[metric], metric) for metric in told},
    )


def _ordered(record: StudyRecord) -> tuple[int, ...]:
    """As the champion's rule ranks them."""
    repeated = dict.fromkeys(trial_numbers(record.confirmations))
    if record.champion is None:
        return tuple(repeated)
    rank, chosen = _ranks(record, record.champion.rule), record.champion.trial
    return tuple(sorted(repeated, key=lambda trial: (trial != chosen, rank.get(trial, np.inf), trial)))


def _ranks(record: StudyRecord, rule: str) -> dict[int, float]:
    """The smaller the better; trials without a value of the rule's metric have none."""
    score = (record.spec.get("anomaly") or {}).get("score")
    if picks := ranked(record.trials, rule, score) if rule in RULES else []:
        return {pick.trial: float(place) for place, pick in enumerate(picks)}
    # A study of an earlier version has the rule's metric of one score only.
    values = numbers(record.trials, rule) * (-1.0 if rule.rpartition("/")[2] in LARGER_IS_BETTER else 1.0)
    pairs = zip(trial_numbers(record.trials), values.tolist(), strict=True)
    return {trial: value for trial, value in pairs if np.isfinite(value)}


def _values(record: StudyRecord, trials: Sequence[int], metric: str) -> pd.DataFrame:
    originals = record.trials[record.trials["trial"].isin(trials)]
    frames = [
        pd.DataFrame({"trial": frame["trial"].astype(int), "value": numbers(frame, metric), "original": original})
        for frame, original in ((originals, True), (record.confirmations, False))
    ]
    together = pd.concat(frames, ignore_index=True)
    known: pd.DataFrame = together.loc[np.isfinite(together["value"].to_numpy())]
    return known.reset_index(drop=True)


def _spread(record: StudyRecord, trials: Sequence[int], values: pd.DataFrame, metric: str) -> pd.DataFrame:
    by_trial = values.groupby("trial")["value"]
    found = by_trial.agg(seeds="count", mean="mean", deviation="std", low="min", high="max").reindex(list(trials))
    found.insert(1, "original", [scalar(row_of(record, trial), metric) for trial in trials])
    return found.rename_axis("trial").reset_index().fillna({"seeds": 0}).astype({"seeds": int})

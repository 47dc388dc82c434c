"""What each rule would have taken, the ensembles and the baseline, side by side on the same rows."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.anomaly import BASELINE, auroc, interval, operating_points
from pipeline.choosing.ensemble import combined, voices
from pipeline.choosing.rules import RULES, Pick, ranked

Floats = NDArray[np.float64]
ABOUT = ["split", "row", "label", "anomaly"]
ENSEMBLES = ("ensemble_best", "ensemble_frontier", "ensemble_labels")


@dataclass(frozen=True, kw_only=True)
class Detector:
    """Something that scores rows: a chosen model, an ensemble, or the baseline.

    Attributes:
        name: The rule, one of ENSEMBLES, or `input_knn`.
        needs_labels: Whether labelled validation anomalies took part in the choice.
        picks: Its trials and scores; none for the baseline.
        with_baseline: Whether the raw nearest neighbours are part of it.
    """

    name: str
    needs_labels: bool
    picks: tuple[Pick, ...]
    with_baseline: bool = False


def detectors(
    trials: pd.DataFrame, frontier: Sequence[int], label_free: str, score: str | None, members: int
) -> list[Detector]:
    """Everything that a finished study can detect anomalies with.

    Args:
        trials: A row a trial.
        frontier: The trials of the frontier.
        label_free: The rule that ranks trials for the ensemble that needs no label.
        score: The anomaly score that the study insists on, or None.
        members: How many trials an ensemble of the best has.
    """
    ranks = {rule: ranked(trials, rule, score) for rule in RULES}
    single = [
        Detector(name=rule, needs_labels=RULES[rule].needs_labels, picks=(ranks[rule][0],))
        for rule in RULES
        if ranks[rule]
    ]
    best = voices([pick.trial for pick in ranks[label_free][:members]])
    groups = (
        ("ensemble_best", False, tuple(best)),
        ("ensemble_frontier", False, tuple(voices(frontier))),
        ("ensemble_labels", True, tuple(ranks["val/auroc"][:members])),
    )
    joined = [
        Detector(name=name, needs_labels=labels, picks=picks, with_baseline=not labels)
        for name, labels, picks in groups
        if picks
    ]
    return [*single, *joined, Detector(name=BASELINE, needs_labels=False, picks=(), with_baseline=True)]


def compare(
    found: Sequence[Detector], frame_of: Callable[[int], pd.DataFrame], baseline: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Put detectors to the test.

    Args:
        found: The detectors.
        frame_of: A trial's scores: a row a validation or test example, all in one order.
        baseline: The same rows with the column `input_knn`.

    Returns:
        A row a detector: `rule`, `needs_labels`, `trial` (of a single model, else missing), `score`, `value` (of the
        rule's metric), `picks` (JSON: trial and score of each), `val_auroc`, and of test `auroc`, `auroc_low`,
        `auroc_high` and operating_points(), NaN where there are no labels. And a row an example with each detector's
        score in a column of its own.
    """
    frames = {pick.trial: frame_of(pick.trial) for one in found for pick in one.picks}
    raw_N = baseline[BASELINE].to_numpy(np.float64)
    scores = {one.name: _scores(one, frames, raw_N) for one in found}
    table = pd.DataFrame([_row(one, scores[one.name], baseline) for one in found])
    return table, pd.concat([baseline[ABOUT], pd.DataFrame(scores, index=baseline.index)], axis=1)


def _scores(one: Detector, frames: Mapping[int, pd.DataFrame], raw_N: Floats) -> Floats:
    if not one.picks:
        return raw_N
    if len(one.picks) == 1 and not one.with_baseline:
        return frames[one.picks[0].trial][one.picks[0].score].to_numpy(np.float64)
    return combined(frames, one.picks, raw_N if one.with_baseline else None)


def _row(one: Detector, score_N: Floats, rows: pd.DataFrame) -> dict[str, object]:
    single = one.picks[0] if len(one.picks) == 1 else None
    parts = {split: rows["split"].eq(split).to_numpy() for split in ("validation", "test")}
    is_anomaly_N = rows["anomaly"].to_numpy(np.bool_)
    test = is_anomaly_N[parts["test"]], score_N[parts["test"]]
    low, high = interval("auroc", *test)
    return {
        "rule": one.name,
        "needs_labels": one.needs_labels,
        "trial": single.trial if single else None,
        "score": single.score if single else None,
        "value": single.value if single else float("nan"),
        "picks": json.dumps([[pick.trial, pick.score] for pick in one.picks]),
        "val_auroc": auroc(is_anomaly_N[parts["validation"]], score_N[parts["validation"]]),
        "auroc": auroc(*test),
        "auroc_low": low,
        "auroc_high": high,
        **operating_points(*test),
    }

"""Which rows to have labelled so that the choice of a detector gains most, and the choice by these labels."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vae_study.anomaly.detection import auroc
from vae_study.metrics import LEARNED, SCORES
from vae_study.selection.comparison import VOTE, Candidate
from vae_study.selection.ranking import Selection, standard_error

Floats = NDArray[np.float64]
Places = NDArray[np.int64]
#: What detectors are ranked by: of few labels, average precision is too noisy, see `metrics.LABEL_DEFAULTS`.
RULE = "val/auroc"
#: Standard errors by which the pairs alone must be better: one is too few on rows that they were chosen by.
ERRORS = 3


def rows_to_ask(scores: Iterable[Floats], count: int) -> Places:
    """The places of the rows whose labels help most in choosing among detectors, the most helpful first.

    The detectors take turns: each names the highest of its rows. docs/benchmarks.md has what other ways to ask give.

    Args:
        scores: Of each detector, of the same N rows; the first detector begins.
        count: How many to take; of fewer rows all. A larger count begins with the same rows.
    """
    highest = [np.argsort(-score_N, kind="stable")[:count] for score_N in scores]
    # A dictionary keeps the first place of each row.
    return np.array([*dict.fromkeys(np.stack(highest, axis=1).ravel().tolist())][:count], dtype=np.int64)


def learned(
    frames: Mapping[int, pd.DataFrame],
    raw_N: Floats,
    place_L: Places,
    is_anomaly_L: NDArray[np.bool_],
    score: str | None,
    members: int,
) -> Candidate:
    """The detector that L labels choose: the best pairs of trial and score on these rows, with the one without a model.

    The one without a model is left out if the pairs alone are better by more than ERRORS standard errors. Of equal
    pairs those with the score VOTE come first, which is what the ensembles without labels use.

    Args:
        frames: The scores of each trial that may be chosen, one row per validation or test row.
        raw_N: The scores of the detector without a model of the same rows.
        place_L: The places of the labelled rows.
        is_anomaly_L: Their labels, of both kinds.
        score: The anomaly score that the study prescribes, or None.
        members: How many pairs at most.
    """
    names = [*SCORES] if score is None else [score]
    pairs = [
        Selection(number, name, auroc(is_anomaly_L, frame[name].to_numpy(np.float64)[place_L]))
        for number, frame in frames.items()
        for name in names
        if name in frame
    ]
    best = tuple(sorted(pairs, key=lambda one: (-one.value, one.score != VOTE))[:members])
    alone, together = (
        Candidate(name=LEARNED, needs_labels=True, selections=best, with_baseline=with_baseline)
        for with_baseline in (False, True)
    )
    area, other = (auroc(is_anomaly_L, one.score(frames, raw_N)[place_L]) for one in (alone, together))
    anomalies = int(is_anomaly_L.sum())
    error = standard_error(RULE, area, (anomalies, len(is_anomaly_L) - anomalies))
    return alone if area - other > ERRORS * error else together

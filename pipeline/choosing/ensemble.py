"""Several detectors as one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.choosing.rules import Pick

Floats = NDArray[np.float64]
#: What each model of an ensemble without labels is asked: what it cannot rebuild, expect, or place among the known.
VOICES = ("elbo", "residual_mahalanobis", "latent_knn")
#: The raw neighbours are one voice beside those: a hedge where no model of the search is better than none.
BASELINE_SHARE = 1 / (len(VOICES) + 1)


@dataclass(frozen=True, kw_only=True)
class Standard:
    """A scale on which one detector's scores can be averaged with those of others.

    The distance from the median of normal scores in units of their interquartile range, by asinh: even steps near
    the normal rows, even factors far away, so that one detector's huge scores do not outvote the others. A rank would
    need all rows at once, and could not tell two rows apart that are both above every normal one.

    Attributes:
        median: Of the detector's scores of normal validation examples.
        width: Their interquartile range, or 1 where that is 0.
    """

    median: float
    width: float

    @classmethod
    def of(cls, normal_M: Floats) -> Self:
        """The scale of a detector with these scores of normal validation examples."""
        low, middle, high = np.quantile(normal_M, [0.25, 0.5, 0.75])
        return cls(median=float(middle), width=float(high - low) or 1.0)

    def __call__(self, score_N: Floats) -> Floats:
        """The detector's scores of any examples, on this scale."""
        return np.asarray(np.arcsinh((score_N - self.median) / self.width))


def combined(frames: Mapping[int, pd.DataFrame], picks: Sequence[Pick], baseline: Floats | None = None) -> Floats:
    """The mean of several detectors' standardized scores.

    Args:
        frames: Each trial's scores: a row a validation or test example, with `split`, `anomaly` and the scores.
        picks: The detectors, a trial and one of its scores each; one at least.
        baseline: The raw nearest neighbours' scores of the same rows, one voice more, with BASELINE_SHARE of the vote.

    Returns:
        A score a row of the frames, higher is more anomalous.
    """
    some = frames[picks[0].trial]
    is_normal_N = (some["split"].eq("validation") & ~some["anomaly"]).to_numpy()
    columns = [frames[pick.trial][pick.score].to_numpy(np.float64) for pick in picks]
    mean_N = np.asarray(np.mean([Standard.of(column[is_normal_N])(column) for column in columns], axis=0))
    if baseline is None:
        return mean_N
    raw_N = Standard.of(baseline[is_normal_N])(baseline)
    return np.asarray((1 - BASELINE_SHARE) * mean_N + BASELINE_SHARE * raw_N)


def voices(trials: Sequence[int]) -> list[Pick]:
    """Each of some trials with each of VOICES."""
    return [Pick(trial, score, float("nan")) for trial in trials for score in VOICES]

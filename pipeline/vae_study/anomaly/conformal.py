"""Alarms with a promise: conformal p-values from held-out normal rows, and flags at a false discovery rate.

If the normal rows among the scored ones are exchangeable with the held-out normal rows, a normal row gets a p-value of
at most a with a probability of at most a, and among flagged rows the expected share of normal ones is at most the
level (Bates, Candès, Lei, Romano and Sesia 2023, Testing for outliers with conformal p-values). The probability is over
the draw of the held-out rows, too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
#: Of more held-out normal rows, a random sample of this many is kept: 400 kB.
MOST_CALIBRATION_ROWS = 50_000
#: And for each detector that is one of several.
MOST_SCALE_ROWS = 4096
#: Scores that differ by less than this share count as equal: other machines round differently, and rows that are equal
#: must not count as higher than each other. It makes p-values larger, never smaller.
TIED = 1e-5
#: The levels that the report compares with what happened on test.
ALARM_LEVELS, FDR_LEVELS = (0.01, 0.05, 0.1), (0.05, 0.1, 0.2)


def calibration_scores(normal_M: Floats, most: int = MOST_CALIBRATION_ROWS) -> Floats:
    """The scores that p-values are computed from, ascending: all of them, or a fixed random sample.

    Args:
        normal_M: A detector's scores of held-out normal rows, at least one.
        most: How many to keep.
    """
    if len(normal_M) > most:
        normal_M = np.random.default_rng(0).choice(normal_M, most, replace=False)
    return np.sort(normal_M)


def p_values(calibration_M: Floats, score_N: Floats) -> Floats:
    """(1 + number of calibration scores at least as high) / (M + 1) for each of N rows, from 1 / (M + 1) to 1.

    Args:
        calibration_M: As `calibration_scores` gives them.
        score_N: Scores of the same detector.
    """
    slack_N = TIED * np.maximum(np.abs(score_N), np.median(np.abs(calibration_M)))
    lower_N = np.searchsorted(calibration_M, score_N - slack_N, side="left")
    return np.asarray((1 + len(calibration_M) - lower_N) / (len(calibration_M) + 1))


@dataclass(frozen=True, kw_only=True)
class TailScale:
    """Scores as -log of how rare they are among held-out normal rows: a scale on which detectors can be added.

    At each held-out score it is the negative log p-value, between two of them it is linear, and below all it is 0.
    Above, it grows with the logarithm of the distance in units of the mean excess over the 90th percentile, so that a
    huge score of one detector does not outweigh the others. Ranks would need all rows at once, and could not separate
    two rows that are both above every normal one.

    Attributes:
        normal_M: Scores of held-out normal rows, ascending.
    """

    normal_M: Floats

    @classmethod
    def of(cls, normal_M: Floats) -> Self:
        """The scale of a detector with these scores of held-out normal rows, one at least: of all or of a sample."""
        return cls(normal_M=calibration_scores(normal_M, MOST_SCALE_ROWS))

    @cached_property
    def knots(self) -> tuple[Floats, Floats]:
        """Held-out scores, ascending, and their negative log p-values; of scores that count as equal the least."""
        slack = TIED * np.median(np.abs(self.normal_M))
        score_J = self.normal_M[np.append(True, np.diff(self.normal_M) > slack)]
        return score_J, -np.log(p_values(self.normal_M, score_J))

    @cached_property
    def excess(self) -> float:
        """The mean excess over the 90th percentile, in units of the score; where none is above it, the range, or 1."""
        excess_M = self.normal_M - np.quantile(self.normal_M, 0.9)
        if (excess_M > 0).any():
            return float(excess_M[excess_M > 0].mean())
        return float(self.normal_M[-1] - self.normal_M[0]) or 1.0

    def __call__(self, score_N: Floats) -> Floats:
        """Scores of any rows on this scale, nats."""
        beyond_N = np.maximum(score_N - self.normal_M[-1], 0) / self.excess
        return np.asarray(np.interp(score_N, *self.knots) + np.log1p(beyond_N))


def p_value_counts(p_N: Floats, calibration_rows: int) -> NDArray[np.int64]:
    """How many rows have each possible p-value, 1 / (M + 1) first, shape (M + 1,); add them up over batches."""
    place_N = np.rint(p_N * (calibration_rows + 1)).astype(np.int64) - 1
    return np.bincount(place_N, minlength=calibration_rows + 1)


def flag_limit(count_R: NDArray[np.int64], level: float) -> float:
    """The largest p-value to flag at a false discovery rate; 0 if no row is flagged (Benjamini and Hochberg 1995).

    Args:
        count_R: `p_value_counts` of all rows that are decided on together.
        level: The false discovery rate, in 0 to 1.
    """
    values = len(count_R)
    rank_R = np.arange(1, values + 1)
    kept = np.flatnonzero((count_R > 0) & (rank_R * count_R.sum() <= level * values * count_R.cumsum()))
    return float(rank_R[kept[-1]] / values) if len(kept) else 0.0


def fewest_flags(rows: int, calibration_rows: int, level: float) -> int:
    """How many of some rows must have the smallest p-value, 1 / (M + 1), before any of them is flagged."""
    return math.ceil(rows / (level * (calibration_rows + 1)))


def calibration_needed(rows: int, flags: int, level: float) -> int:
    """With how many calibration rows this many flags among some rows become possible."""
    return math.ceil(rows / (level * flags)) - 1


def promises(
    normal_M: Floats,
    is_anomaly_N: Mask,
    score_N: Floats,
    alarm_levels: Sequence[float] = ALARM_LEVELS,
    fdr_levels: Sequence[float] = FDR_LEVELS,
) -> pd.DataFrame:
    """What p-values promise, and what happened on labelled rows.

    Args:
        normal_M: Scores of held-out normal rows.
        is_anomaly_N: Which of the N rows to flag are anomalous.
        score_N: Their scores.
        alarm_levels: Rows are flagged whose p-value is at most this.
        fdr_levels: Rows are flagged at this false discovery rate.

    Returns:
        One row per level: `by` ("p_value" or "fdr"), `level`, `flagged`, `false` (normal rows among these), and
        `realised`: by p-value the share of the normal rows that is flagged (NaN without normal rows), by the false
        discovery rate the share of normal rows among the flagged (0 if nothing is flagged).
    """
    calibration_M = calibration_scores(normal_M)
    p_N = p_values(calibration_M, score_N)
    count_R = p_value_counts(p_N, len(calibration_M))
    normals = int((~is_anomaly_N).sum())
    limits = [("p_value", level, level) for level in alarm_levels]
    limits += [("fdr", level, flag_limit(count_R, level)) for level in fdr_levels]
    rows = []
    for by, level, limit in limits:
        flagged, false = int((p_N <= limit).sum()), int((p_N <= limit)[~is_anomaly_N].sum())
        whole = normals if by == "p_value" else max(flagged, 1)
        realised = false / whole if whole else float("nan")
        rows.append({"by": by, "level": level, "flagged": flagged, "false": false, "realised": realised})
    return pd.DataFrame(rows)

"""Two detectors on the same rows: the paired interval of the difference of their areas, and the verdict.

Arrays in, numbers out, as in `anomaly.detection`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from scipy.special import ndtri, stdtrit

from vae_study.anomaly.detection import (
    Area,
    Floats,
    Mask,
    area,
    bootstrap,
    precision_within,
    share_interval,
    why_undefined,
)

#: With fewer rows in the smaller class, DeLong's interval of a difference is too short: see `_auroc_difference`.
FEW_ROWS = 100


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A difference of two detectors on the same rows, with its paired interval; NaN if unknown."""

    value: float
    low: float
    high: float


def verdict(low: float, high: float) -> Literal["better", "worse", "tie", ""]:
    """What the paired interval of a difference says of the first detector: a tie if it contains 0, "" if unknown."""
    if np.isnan(low) or np.isnan(high):
        return ""
    return "better" if low > 0 else "worse" if high < 0 else "tie"


@dataclass(frozen=True)
class ScoredRows:
    """One detector's scores of labelled rows, to be compared with another detector's of the same rows.

    Attributes:
        is_anomaly_N: Which of the N rows are anomalous.
        score_N: Their scores.
        alarms: How many of the rows may be flagged.
    """

    is_anomaly_N: Mask
    score_N: Floats
    alarms: int = 1
    _drawn: dict[str, Floats] = field(default_factory=dict)

    @cached_property
    def placements(self) -> tuple[Floats, Floats]:
        """Of each anomaly the share of normal rows below it, of each normal row that of anomalies above; ties half.

        They are midranks among all rows minus those in the own class (Sun and Xu 2014).
        """
        # These imports take longer than all else that `vae-study status` does.
        from scipy.stats import rankdata

        groups = self.is_anomaly_N, ~self.is_anomaly_N
        rank_N = rankdata(self.score_N)
        below_A, below_M = (rank_N[own_N] - rankdata(self.score_N[own_N]) for own_N in groups)
        return below_A / len(below_M), 1 - below_M / len(below_A)

    def drawn(self, metric: str) -> Floats:
        """A precision in resamples of the rows, which are the same for every detector of these rows."""
        if metric not in self._drawn:
            self._drawn[metric] = bootstrap(self._area(metric), self.is_anomaly_N, self.score_N)
        return self._drawn[metric]

    def _area(self, metric: str) -> str | Area:
        return precision_within(self.alarms) if metric == "alarm_precision" else metric

    def minus(self, other: "ScoredRows", metric: str, level: float = 0.95) -> Difference:
        """How much larger a key of `metrics.AREA_LABELS` is than that of another detector of the same rows."""
        if why_undefined(self.is_anomaly_N, self.score_N) or why_undefined(other.is_anomaly_N, other.score_N):
            return Difference(value=float("nan"), low=float("nan"), high=float("nan"))
        ours, others = (area(self._area(metric), one.is_anomaly_N, one.score_N) for one in (self, other))
        value = ours - others
        smaller = int(min(self.is_anomaly_N.sum(), (~self.is_anomaly_N).sum()))
        if smaller == 1:
            return Difference(value=value, low=-1.0, high=1.0)
        if metric == "auroc":
            low, high = _auroc_difference(self.placements, other.placements, level)
        elif metric == "alarm_precision":
            draws, rows = (self.drawn(metric), other.drawn(metric)), min(self.alarms, len(self.score_N))
            ends = [share_interval(share, rows, level) for share in (ours, others)]
            reaches = [(share - low, high - share) for share, (low, high) in zip((ours, others), ends, strict=True)]
            low, high = _joined(value, reaches, _correlation(*draws))
        else:
            drawn_W = self.drawn(metric) - other.drawn(metric)
            error = drawn_W.std(ddof=1) * np.sqrt(smaller / (smaller - 1))
            reach = stdtrit(smaller - 1, (1 + level) / 2) * error
            low, high = value - reach, value + reach
        return Difference(value=value, low=float(max(low, -1)), high=float(min(high, 1)))


def _auroc_difference(ours: tuple[Floats, Floats], others: tuple[Floats, Floats], level: float) -> tuple[float, float]:
    """The ends of the interval of a difference of AUROCs, from the placements of both detectors.

    The variance is that of DeLong et al. 1988, with Student's t and the degrees of freedom of Welch and Satterthwaite.
    With fewer than FEW_ROWS in the smaller class it holds the truth too rarely if an AUROC is near 1 (86 to 93 % of
    the time instead of 95). There each end is the farther one of this interval and of the one that follows from each
    AUROC's own interval (Newcombe 2006, method 5) and DeLong's correlation (Zou and Donner 2008).
    """
    sizes = [len(part) for part in ours]
    value = ours[0].mean() - others[0].mean()
    parts = [(a - b).var(ddof=1) / len(a) for a, b in zip(ours, others, strict=True)]
    variance = sum(parts)
    if variance == 0:
        low = high = value
    else:
        freedom = variance**2 / sum(part**2 / (size - 1) for part, size in zip(parts, sizes, strict=True))
        reach = stdtrit(freedom, (1 + level) / 2) * np.sqrt(variance)
        low, high = value - reach, value + reach
    if min(sizes) >= FEW_ROWS:
        return low, high
    of_ours, of_others = (sum(part.var(ddof=1) / len(part) for part in one) for one in (ours, others))
    product = np.sqrt(of_ours * of_others)
    correlation = np.clip((of_ours + of_others - variance) / (2 * product), -1, 1) if product > 0 else 0.0
    reaches = [_auroc_reach(float(one[0].mean()), sizes, level) for one in (ours, others)]
    farther = _joined(value, reaches, correlation)
    return min(low, farther[0]), max(high, farther[1])


def _joined(value: float, reaches: Sequence[tuple[float, float]], correlation: float) -> tuple[float, float]:
    """The interval of a difference from how far those of its two parts reach down and up (Zou and Donner 2008)."""
    ours, others = reaches

    def joint(a: float, b: float) -> float:
        return float(np.sqrt(max(a**2 + b**2 - 2 * correlation * a * b, 0)))

    return value - joint(ours[0], others[1]), value + joint(ours[1], others[0])


def _correlation(draw_W: Floats, other_W: Floats) -> float:
    """Of two detectors' precisions over resamples, at least 0; 0 where one is the same in all."""
    if min(draw_W.std(), other_W.std()) == 0:
        return 0.0
    return float(max(np.corrcoef(draw_W, other_W)[0, 1], 0))


def _auroc_reach(area: float, sizes: Sequence[int], level: float) -> tuple[float, float]:
    """How far the interval of an AUROC by Newcombe's method 5 reaches below and above it."""
    from scipy.optimize import brentq

    quantile = ndtri((1 + level) / 2)

    def beyond(true: float) -> float:
        return float(abs(true - area) - quantile * auroc_error(true, *sizes))

    low = 0.0 if area == 0 or beyond(0.0) <= 0 else brentq(beyond, 0.0, area)
    high = 1.0 if area == 1 or beyond(1.0) <= 0 else brentq(beyond, area, 1.0)
    return area - low, high - area


def auroc_error(area: float, anomalies: int, normals: int) -> float:
    """The standard error of an AUROC from its value and the sizes of the classes (Hanley and McNeil 1982).

    Of the two class sizes, only their mean counts in the terms of order 1 / size (Newcombe 2006, method 5).
    """
    others = (anomalies + normals) / 2 - 1
    spread = 1 + others * (1 - area) / (2 - area) + others * area / (1 + area)
    return float(np.sqrt(max(area * (1 - area) * spread / (anomalies * normals), 0)))

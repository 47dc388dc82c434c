"""How well a score separates anomalies from normal rows: areas with intervals, curves, operating points, thresholds.

Arrays in, numbers out. `is_anomaly_N` is a mask of N rows and `score_N` their scores; higher is more anomalous. To rank
detectors without labels, `pseudo_anomalies` changes normal rows on purpose.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit, logit, ndtri, stdtrit

from vae_study.anomaly.scores import with_usual
from vae_study.metrics import ALARMS_PER_1000, PERCENTILES

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
#: The most memory of one bootstrap block.
BOOTSTRAP_BYTES = 64 * 2**20
#: How many times rows are resampled for an interval.
DRAWS = 300
#: Two-sided significance level of the drift test.
DRIFT_LEVEL = 0.001


def why_undefined(is_anomaly_N: Mask, score_N: Floats) -> str | None:
    """Why these rows have no AUROC, average precision or operating point; None if they have."""
    if not np.isfinite(score_N).all():
        return "a score is not finite"
    if not is_anomaly_N.any():
        return "no labelled anomaly among the examples"
    return "no normal example" if is_anomaly_N.all() else None


def _groups(is_anomaly_N: Mask, score_N: Floats) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The rows from the highest score down, and where each run of equal scores starts."""
    order_N = np.argsort(-score_N, kind="stable")
    sorted_N = score_N[order_N]
    return order_N, np.flatnonzero(np.r_[True, sorted_N[1:] != sorted_N[:-1]])


def _auroc(positive_WG: Floats, negative_WG: Floats) -> Floats:
    below_WG = negative_WG.sum(axis=1, keepdims=True) - negative_WG.cumsum(axis=1)
    won_W = (positive_WG * (below_WG + 0.5 * negative_WG)).sum(axis=1)
    return np.asarray(won_W / (positive_WG.sum(axis=1) * negative_WG.sum(axis=1)))


def _average_precision(positive_WG: Floats, negative_WG: Floats) -> Floats:
    found_WG = positive_WG.cumsum(axis=1)
    flagged_WG = found_WG + negative_WG.cumsum(axis=1)
    precision_WG = np.divide(found_WG, flagged_WG, out=np.zeros_like(found_WG), where=flagged_WG > 0)
    return np.asarray((positive_WG * precision_WG).sum(axis=1) / found_WG[:, -1])


Area = Callable[[Floats, Floats], Floats]


def precision_within(alarms: int) -> Area:
    """Like an area, the share of anomalies among the highest-scoring rows; tied rows count by their share."""

    def precision(positive_WG: Floats, negative_WG: Floats) -> Floats:
        size_WG = positive_WG + negative_WG
        free_WG = np.clip(alarms - (size_WG.cumsum(axis=1) - size_WG), 0, None)
        taken_WG = np.divide(np.minimum(free_WG, size_WG), size_WG, out=np.zeros_like(size_WG), where=size_WG > 0)
        return np.asarray((positive_WG * taken_WG).sum(axis=1) / min(alarms, size_WG[0].sum()))

    return precision


def alarm_budget(alarms: Mapping[str, float] | int | None, rows: int) -> int:
    """How many of some rows may be flagged, at least one.

    Args:
        alarms: `anomaly.alarms` of a study: a number of rows, or a mapping with `per_1000`; None for the default.
        rows: How many rows there are.
    """
    if isinstance(alarms, int):
        return min(alarms, rows)
    per_1000 = alarms["per_1000"] if alarms else ALARMS_PER_1000
    return max(1, round(rows * per_1000 / 1000))


def share_interval(share: float, rows: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share that was found among some rows (Wilson 1927)."""
    z = ndtri((1 + level) / 2)
    centre, half = share + z**2 / (2 * rows), z * np.sqrt(share * (1 - share) / rows + z**2 / (4 * rows**2))
    return float((centre - half) / (1 + z**2 / rows)), float((centre + half) / (1 + z**2 / rows))


def precision_at(prevalence: float, true_rate: float, false_rate: float) -> float:
    """The share of flagged rows that are anomalous where anomalies have this prevalence (Bayes); NaN without a flag."""
    found, false = true_rate * prevalence, false_rate * (1 - prevalence)
    return found / (found + false) if found + false > 0 else float("nan")


#: By name, the area of W weightings of G groups of equal scores, from the highest score down.
AREAS: Mapping[str, Area] = {"auroc": _auroc, "average_precision": _average_precision}


def _weighted(metric: str | Area, is_anomaly_N: Mask, score_N: Floats, weight_WN: Floats) -> Floats:
    """An area under W weightings of the rows at once, shape (W,); tied rows share their credit."""
    order_N, starts_G = _groups(is_anomaly_N, score_N)
    anomaly_N, weight_WN = is_anomaly_N[order_N], weight_WN[:, order_N]
    positive_WG = np.add.reduceat(weight_WN * anomaly_N, starts_G, axis=1)
    negative_WG = np.add.reduceat(weight_WN * ~anomaly_N, starts_G, axis=1)
    area_of = AREAS[metric] if isinstance(metric, str) else metric
    return area_of(positive_WG, negative_WG)


def area(metric: str | Area, is_anomaly_N: Mask, score_N: Floats) -> float:
    """The area of a key of AREAS, or a precision. NaN if `why_undefined`."""
    if why_undefined(is_anomaly_N, score_N):
        return float("nan")
    return float(_weighted(metric, is_anomaly_N, score_N, np.ones((1, len(score_N))))[0])


def auroc(is_anomaly_N: Mask, score_N: Floats) -> float:
    """The chance that an anomaly scores higher than a normal row; ties count half. NaN if `why_undefined`."""
    return area("auroc", is_anomaly_N, score_N)


def average_precision(is_anomaly_N: Mask, score_N: Floats) -> float:
    """The area under the step-wise precision-recall curve; by chance the prevalence. NaN if `why_undefined`."""
    return area("average_precision", is_anomaly_N, score_N)


def interval(
    metric: str, is_anomaly_N: Mask, score_N: Floats, draws: int = DRAWS, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """A confidence interval of an area by the stratified bootstrap: its two ends, NaN if `why_undefined`.

    Each class is resampled on its own, so its size stays the same. The standard error of the area is carried to the
    logit scale by the delta method (Pepe 2003, section 5.2); Student's t widens the interval of a small class. That
    alone holds the truth too rarely where a kind of anomaly that the score misses may not be among the few that there
    are (65 to 93 % of the time instead of 95). So each end is the farther one of this interval and of the same with one
    more row in the smaller class, at the median of the other class, in the spirit of Agresti and Coull 1998.

    Args:
        metric: A key of AREAS.
        is_anomaly_N: Which of the N rows are anomalous.
        score_N: Their scores.
        draws: How many times the rows are resampled.
        seed: Of the resampling.
        level: The nominal coverage.
    """
    if why_undefined(is_anomaly_N, score_N):
        return float("nan"), float("nan")
    value = area(metric, is_anomaly_N, score_N)
    is_smaller_N = is_anomaly_N if is_anomaly_N.sum() <= (~is_anomaly_N).sum() else ~is_anomaly_N
    smaller = int(is_smaller_N.sum())
    if value == 1 or smaller == 1:
        # A bootstrap interval has no width here, or one class has a single row: the exact binomial bound, or [0, 1].
        return (float(((1 - level) / 2) ** (1 / smaller)), 1.0) if value == 1 else (0.0, 1.0)
    middle = np.median(score_N[~is_smaller_N])
    with_one_more = np.append(is_anomaly_N, is_anomaly_N[is_smaller_N][0]), np.append(score_N, middle)
    both = (is_anomaly_N, score_N), with_one_more
    ends = [_logit_interval(metric, *rows, draws=draws, seed=seed, level=level) for rows in both]
    return min(low for low, _ in ends), max(high for _, high in ends)


def _logit_interval(
    metric: str, is_anomaly_N: Mask, score_N: Floats, *, draws: int, seed: int, level: float
) -> tuple[float, float]:
    counts = int(is_anomaly_N.sum()), int((~is_anomaly_N).sum())
    # Half a pair in the wrong order: so few rows cannot distinguish areas closer to 0 or 1 than this.
    nearest = 0.5 / math.prod(counts)
    value = min(max(area(metric, is_anomaly_N, score_N), nearest), 1 - nearest)
    error = bootstrap(metric, is_anomaly_N, score_N, draws, seed).std(ddof=1) / (value * (1 - value))
    reach = stdtrit(min(counts) - 1, (1 + level) / 2) * error * np.sqrt(min(counts) / (min(counts) - 1))
    return float(expit(logit(value) - reach)), float(expit(logit(value) + reach))


def bootstrap(metric: str | Area, is_anomaly_N: Mask, score_N: Floats, draws: int = DRAWS, seed: int = 0) -> Floats:
    """An area in each of some stratified resamples of the rows, which depend on the seed and the classes only."""
    random = np.random.default_rng(seed)
    rows = max(1, BOOTSTRAP_BYTES // (8 * len(score_N)))
    values = [
        _weighted(metric, is_anomaly_N, score_N, _resampled(random, is_anomaly_N, min(rows, draws - start)))
        for start in range(0, draws, rows)
    ]
    return np.concatenate(values)


def _resampled(random: np.random.Generator, is_anomaly_N: Mask, draws: int) -> Floats:
    """How often each row occurs in each resample, shape (draws, N)."""
    weight_WN = np.zeros((draws, len(is_anomaly_N)))
    for class_N in (is_anomaly_N, ~is_anomaly_N):
        size = int(class_N.sum())
        weight_WN[:, class_N] = random.multinomial(size, np.full(size, 1 / size), size=draws)
    return weight_WN


def roc_points(is_anomaly_N: Mask, score_N: Floats) -> tuple[Floats, Floats]:
    """False and true positive rate at each threshold, from (0, 0) to (1, 1); both classes must occur."""
    found_G, false_G = _flagged(is_anomaly_N, score_N)
    return np.r_[0.0, false_G / false_G[-1]], np.r_[0.0, found_G / found_G[-1]]


def precision_recall_points(is_anomaly_N: Mask, score_N: Floats) -> tuple[Floats, Floats]:
    """Recall and precision at each threshold, from recall 0 to recall 1; both classes must occur."""
    found_G, false_G = _flagged(is_anomaly_N, score_N)
    return np.r_[0.0, found_G / found_G[-1]], np.r_[1.0, found_G / (found_G + false_G)]


def _flagged(is_anomaly_N: Mask, score_N: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many anomalies and how many normal rows are at each threshold or above, from the highest threshold down."""
    order_N, starts_G = _groups(is_anomaly_N, score_N)
    ends_G = np.r_[starts_G[1:], len(score_N)]
    found_G = is_anomaly_N[order_N].cumsum()[ends_G - 1]
    return found_G, ends_G - found_G


def operating_points(is_anomaly_N: Mask, score_N: Floats, alarms: int = 1) -> dict[str, float]:
    """Single numbers to compare detectors by; NaN if `why_undefined`, except `prevalence`, which needs a row only.

    Args:
        is_anomaly_N: Which of the N rows are anomalous.
        score_N: Their scores.
        alarms: How many of the rows may be flagged.

    Returns:
        `average_precision`.
        `prevalence`: The share of anomalies, which is the average precision of a random score.
        `fpr_at_95_tpr`: The smallest false positive rate that finds 95 % of the anomalies.
        `tpr_at_1_fpr`: The largest true positive rate with at most 1 % false alarms.
        `precision_at_n`: Among as many of the highest scores as there are anomalies; tied rows count by their share.
        `alarms`, `alarm_precision`, `alarm_recall`: Of flagging that many of the highest scores, likewise.
        `best_f1`: The best over all thresholds, so tuned on these labels.
    """
    names = ("average_precision", "fpr_at_95_tpr", "tpr_at_1_fpr", "precision_at_n", "alarm_precision", "alarm_recall",
             "best_f1")  # fmt: skip
    prevalence = float(is_anomaly_N.mean()) if len(is_anomaly_N) else float("nan")
    known = {"prevalence": prevalence, "alarms": float(alarms)}
    if why_undefined(is_anomaly_N, score_N):
        return {**known, **dict.fromkeys(names, np.nan)}
    false_rate, true_rate = roc_points(is_anomaly_N, score_N)
    recall, precision = precision_recall_points(is_anomaly_N, score_N)
    anomalies = int(is_anomaly_N.sum())
    alarm_precision = area(precision_within(alarms), is_anomaly_N, score_N)
    f1 = np.divide(2 * precision * recall, precision + recall, out=np.zeros_like(recall), where=recall > 0)
    values = (
        average_precision(is_anomaly_N, score_N),
        float(false_rate[true_rate >= 0.95].min()),
        float(true_rate[false_rate <= 0.01].max()),
        area(precision_within(anomalies), is_anomaly_N, score_N),
        alarm_precision,
        alarm_precision * alarms / anomalies,
        float(f1.max()),
    )
    return {**known, **dict(zip(names, values, strict=True))}


def threshold_table(
    validation_normal_scores: Floats, is_anomaly_N: Mask, score_N: Floats, percentiles: Sequence[float] = PERCENTILES
) -> pd.DataFrame:
    """The effect of flagging rows above percentiles of held-out normal scores.

    Args:
        validation_normal_scores: Scores of normal validation rows; the thresholds are their percentiles.
        is_anomaly_N: Which of the N rows to flag are anomalous.
        score_N: Their scores.
        percentiles: Of the normal scores.

    Returns:
        One row per percentile: `percentile`, `threshold`, `precision` (NaN if nothing is flagged), `recall` and
        `false_alarm_rate` (NaN if their class does not occur), and `drifted`: the false alarm rate differs from the
        held-out one by more than chance explains.
    """
    thresholds = np.percentile(validation_normal_scores, percentiles)
    rows = [
        {"percentile": percentile, **_flagging(float(threshold), validation_normal_scores, is_anomaly_N, score_N)}
        for percentile, threshold in zip(percentiles, thresholds, strict=True)
    ]
    return pd.DataFrame(rows)


def _flagging(threshold: float, held_out_M: Floats, is_anomaly_N: Mask, score_N: Floats) -> dict[str, float | bool]:
    flagged_N = score_N > threshold
    false_alarms, normals = int((flagged_N & ~is_anomaly_N).sum()), int((~is_anomaly_N).sum())

    def share(part: int, whole: int) -> float:
        return part / whole if whole else float("nan")

    return {
        "threshold": threshold,
        "precision": share(int((flagged_N & is_anomaly_N).sum()), int(flagged_N.sum())),
        "recall": share(int((flagged_N & is_anomaly_N).sum()), int(is_anomaly_N.sum())),
        "false_alarm_rate": share(false_alarms, normals),
        "drifted": is_drift(false_alarms, normals, int((held_out_M > threshold).sum()), len(held_out_M)),
    }


def is_drift(false_alarms: int, normals: int, held_out_above: int, held_out: int) -> bool:
    """Whether normal rows are flagged at another rate than the held-out normal rows that set the threshold.

    If all come from one distribution, the number of flagged rows among `normals` is beta-binomial, given the number
    among `held_out` (with Jeffreys' prior). It is drift if the count is in either tail, with DRIFT_LEVEL for both.

    Args:
        false_alarms: How many normal rows are flagged.
        normals: How many normal rows there are.
        held_out_above: How many held-out rows are above the threshold; fewer than the percentile says if scores tie.
        held_out: How many held-out rows there are.
    """
    if not normals or not held_out:
        return False
    # Its import takes longer than all else that `vae-study status` does.
    from scipy.stats import betabinom

    expected = betabinom(normals, held_out_above + 0.5, held_out - held_out_above + 0.5)
    tail = min(expected.cdf(false_alarms), expected.sf(false_alarms - 1))
    return bool(tail < DRIFT_LEVEL / 2)


Rows = NDArray[np.float32]
SWAPPED_SHARE, NOISE_DEVIATIONS, STRETCH = 0.3, 0.5, 1.5
#: One seed for all trials and studies, so that all are judged on the same rows.
SEED = 0


def _column_swap(x_ND: Rows, random: np.random.Generator) -> Rows:
    """About 30 % of each row's features, at least one, from another row: usual values in an unusual combination."""
    swapped_ND = random.random(x_ND.shape) < SWAPPED_SHARE
    swapped_ND[np.arange(len(x_ND)), random.integers(0, x_ND.shape[1], len(x_ND))] = True
    return np.where(swapped_ND, x_ND[random.permutation(len(x_ND))], x_ND)


def _noise(x_ND: Rows, random: np.random.Generator) -> Rows:
    """Gaussian noise with half of each feature's standard deviation."""
    noise_ND = random.standard_normal(x_ND.shape, np.float32)
    return np.asarray(x_ND + NOISE_DEVIATIONS * x_ND.std(axis=0) * noise_ND, np.float32)


def _stretch(x_ND: Rows, random: np.random.Generator) -> Rows:
    """Each row at 1.5 times its distance from the mean."""
    mean_D = x_ND.mean(axis=0)
    return np.asarray(mean_D + STRETCH * (x_ND - mean_D), np.float32)


KINDS: Mapping[str, Callable[[Rows, np.random.Generator], Rows]] = {
    "column_swap": _column_swap,
    "noise": _noise,
    "stretch": _stretch,
}


def pseudo_anomalies(normal_ND: Rows, seed: int = SEED) -> dict[str, Rows]:
    """By kind, one pseudo-anomaly per row, in the same shape; what is missing (NaN) in a row is missing in it.

    Args:
        normal_ND: Scaled normal validation rows.
        seed: Of what is random in them.
    """
    is_missing_ND = np.isnan(normal_ND)
    if is_missing_ND.any():
        whole = pseudo_anomalies(with_usual(normal_ND), seed)
        return {kind: np.where(is_missing_ND, np.float32(np.nan), x_ND) for kind, x_ND in whole.items()}
    return {kind: make(normal_ND, np.random.default_rng([seed, n])) for n, (kind, make) in enumerate(KINDS.items())}

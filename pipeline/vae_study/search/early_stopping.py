"""Early stopping: at which rungs a trial is compared with others, and whether it continues. Arrays only, no store.

Rungs as in asynchronous successive halving (Li et al. 2020); several objectives by non-dominated sorting with a spread
tie-break (Salinas et al. 2021).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any

import moocore
import numpy as np
from numpy.typing import NDArray

from vae_study.config.study import EarlyStoppingConfig, StudyConfig
from vae_study.metrics import FULL_KL_WEIGHT, SIGNS, sign_of

Floats = NDArray[np.float64]
Rule = Callable[[Floats, Floats, int], bool]

# Beyond this a range of values would not be finite.
LARGEST = 1e300
# Three rungs after the first, each `reduction_factor` times as far, make the budget.
RUNGS_AFTER_FIRST = 3
# Of `median`: rungs in a budget, and the fewest earlier trials that a median is taken of.
RUNGS_OF_MEDIAN = 10
FEWEST_FOR_MEDIAN = 3
# A trial is compared at a rung with so many others, the newest: with all of them, the time of a study would grow with
# more than the square of its trials.
COMPARED = 2000


def rungs(config: EarlyStoppingConfig, epochs: int) -> tuple[int, ...]:
    """The epochs after which a trial is compared with others, ascending.

    Args:
        config: The rule.
        epochs: The trial's budget; every rung is below it, as a trial that has spent it has finished.
    """
    if config.kind == "none":
        return ()
    if config.kind == "median":
        step = max(1, round(epochs / RUNGS_OF_MEDIAN))
        return tuple(range(config.min_epochs or step, epochs, step))
    rung = config.min_epochs or max(1, round(epochs / config.reduction_factor**RUNGS_AFTER_FIRST))
    found: list[int] = []
    while rung < epochs:
        found.append(rung)
        rung *= config.reduction_factor
    return tuple(found)


def due(rungs: Sequence[int], newest_first: Iterable[tuple[int, float]]) -> int | None:
    """The rung at which a trial is compared with others after the last of its epochs so far.

    In an epoch whose KL weight was below 1 at any step, a trial minimized something else than the others, and is not
    compared. If a rung falls into such an epoch, the trial is compared after the first later epoch that is not such
    one, unless the next rung is reached first.

    Args:
        rungs: Epochs, ascending.
        newest_first: Every epoch so far and the mean KL weight of its steps, from the last one back. Mostly one or two
            of them are looked at, as this is called after each epoch.

    Returns:
        The rung, which is below the last epoch if the trial is compared late; None if it is not compared now.
    """
    epochs = iter(newest_first)
    last = next(epochs, None)
    # The weight of a diverged trial may be NaN.
    if last is None or not last[1] >= FULL_KL_WEIGHT:
        return None
    rung = max((rung for rung in rungs if rung <= last[0]), default=None)
    if rung is None or any(weight >= FULL_KL_WEIGHT for _, weight in takewhile(lambda one: one[0] >= rung, epochs)):
        return None
    return rung


def goes_on(kind: str, record_NM: Floats, own_M: Floats, reduction_factor: int) -> bool:
    """Whether a trial continues at a rung.

    Args:
        kind: `pareto`, `asha` or `median`; the latter two compare one metric, M = 1.
        record_NM: The values of N earlier trials at the same rung, all to be minimized; those that are not finite are
            passed over.
        own_M: The trial's own values; with one that is not finite it never continues.
        reduction_factor: One in `reduction_factor` trials continues; `median` ignores it.
    """
    own_M = np.asarray(own_M, dtype=np.float64)
    record_NM = np.asarray(record_NM, dtype=np.float64).reshape(-1, len(own_M))
    if not np.isfinite(own_M).all():
        return False
    return RULES[kind](record_NM[np.isfinite(record_NM).all(axis=1)], own_M, reduction_factor)


def among_best_fronts(record_NM: Floats, own_M: Floats, reduction_factor: int, spares_front: bool = True) -> bool:
    """Whether a trial is on the first front, or among the best of all, front by front, and inside a front by spread.

    Args:
        record_NM: The earlier trials' values.
        own_M: The trial's own.
        reduction_factor: The best ceil((N + 1) / reduction_factor) continue.
        spares_front: Let every trial of the first front continue, however crowded. To cut a crowded front finds less
            of the trade-off with the same epochs (docs/benchmarks.md).
    """
    values_NM = np.vstack([record_NM, own_M])
    front_N = moocore.pareto_rank(values_NM)
    if spares_front and front_N[-1] == 0:
        return True
    better = int((front_N < front_N[-1]).sum())
    place = better + place_by_spread(values_NM[front_N == front_N[-1]])
    return place < math.ceil(len(values_NM) / reduction_factor)


#: The rule of each kind of early stopping.
RULES: Mapping[str, Rule] = {
    "pareto": among_best_fronts,
    "asha": lambda record_N1, own_1, factor: int((record_N1 < own_1).sum()) < math.ceil((len(record_N1) + 1) / factor),
    "median": lambda record_N1, own_1, factor: (
        len(record_N1) < FEWEST_FOR_MEDIAN or bool(own_1[0] <= np.median(record_N1))
    ),
}


def place_by_spread(front_FM: Floats) -> int:
    """The place of the last of a front's points when the most spread out come first.

    First come the ends, the best by one objective each; then again and again the point that is farthest from all before
    it (farthest-first traversal, Gonzalez 1985), with each objective scaled to the front's range. So the last point is
    first where it is an end itself, and last where an equal point is there already.

    Args:
        front_FM: F points, none of which dominates another; every objective is minimized.

    Returns:
        From 0 to F - 1.
    """
    front_FM = np.clip(front_FM, -LARGEST, LARGEST)
    low_M, range_M = front_FM.min(axis=0), np.ptp(front_FM, axis=0)
    scaled_FM = (front_FM - low_M) / np.where(range_M > 0, range_M, 1)
    own = len(front_FM) - 1
    has_equal = bool((front_FM[:own] == front_FM[own]).all(axis=1).any())
    if (front_FM[own] == low_M).any() and not has_equal:
        return 0
    before = {int(place) for place in scaled_FM.argmin(axis=0)}
    distance_F = np.min([_distance(scaled_FM, place) for place in before], axis=0)
    while own not in before:
        distance_F[list(before)] = -1
        before.add(farthest := int(distance_F.argmax()))
        distance_F = np.minimum(distance_F, _distance(scaled_FM, farthest))
    return len(before) - 1


def _distance(points_FM: Floats, place: int) -> Floats:
    return np.asarray(np.linalg.norm(points_FM - points_FM[place], axis=1))


def pruning_decision(
    config: StudyConfig, record_NM: Floats, metrics: Mapping[str, float], is_late: bool
) -> dict[str, Any]:
    """What is stored of a trial at a rung: whether it continues, and the values that later ones are compared with.

    Args:
        config: Which metrics are compared, and how.
        record_NM: What `compared_metrics` names, of the trials that were compared at the same rung.
        metrics: The trial's own, after its last epoch.
        is_late: Whether that is a later epoch than the rung.
    """
    compared = compared_metrics(config)
    values = [metrics.get(metric, math.nan) for metric in compared]
    signs_M = np.array(list(compared.values()))
    stopping = config.early_stopping
    verdict = goes_on(stopping.kind, signs_M * record_NM, signs_M * values, stopping.reduction_factor)
    is_kept = not is_late and all(map(math.isfinite, values))
    return {"values": values, "goes_on": verdict} if is_kept else {"goes_on": verdict}


def compared_metrics(config: StudyConfig) -> dict[str, float]:
    """The metrics that early stopping compares: 1 where less is better, -1 where more is."""
    if config.early_stopping.compares_one_metric:
        return {config.early_stopping.metric: sign_of(config.early_stopping.metric)}
    return {objective.metric: SIGNS[objective.direction] for objective in config.objectives}

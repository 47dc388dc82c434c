"""Which split each cluster of rows goes to: by chance, or by time."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from pipeline.data.clusters import Clusters
from pipeline.spec.data import SplitSpec

TRAIN, VALIDATION, TEST = range(3)
Places = NDArray[np.int8]


def by_chance(clusters: Clusters, strata: Iterable[NDArray[np.int64]], spec: SplitSpec) -> Places:
    """The split of each of C clusters, (C,); each stratum's clusters are shared out by themselves.

    Clusters without anomalies are cut so that all normal rows come in the spec's fractions; those with an anomaly go to
    validation and test, in the proportion of those two.
    """
    random = np.random.default_rng(spec.seed)
    place_C = np.empty(len(clusters.first_C), np.int8)
    for chosen in strata:
        has_anomaly = clusters.anomalies_C[chosen] > 0
        clean, mixed = random.permutation(chosen[~has_anomaly]), random.permutation(chosen[has_anomaly])
        half = _anomalous_cut(clusters.anomalies_C[mixed], spec)
        place_C[mixed[:half]], place_C[mixed[half:]] = VALIDATION, TEST
        first, second = np.round(np.cumsum([spec.train, spec.validation]) * clusters.normals_C[chosen].sum())
        # What validation got with its anomalies counts towards its fraction.
        second -= clusters.normals_C[mixed[:half]].sum()
        sizes = clusters.normals_C[clean]
        cuts = np.maximum.accumulate([_cut(sizes, first), _cut(sizes, second)])
        for place, part in enumerate(np.split(clean, cuts)):
            place_C[part] = place
    return place_C


def _anomalous_cut(anomalies_M: NDArray[np.int64], spec: SplitSpec) -> int:
    # In this order: studies of earlier versions find the same rows, to the last rounding.
    target = round(int(anomalies_M.sum()) * spec.validation / (spec.validation + spec.test))
    return _cut(anomalies_M, target)


def _cut(size_C: NDArray[np.int64], target: float) -> int:
    """How many of some clusters, from the first, come closest to so many rows."""
    return int(np.searchsorted(np.cumsum(size_C) - size_C / 2, target))


def periods(time_N: NDArray[np.generic], spec: SplitSpec) -> Places:
    """The split of each row by its time alone, (N,): the spec's fractions of all rows; equal times stay together."""
    time_U, unique_N, count_U = np.unique(time_N, return_inverse=True, return_counts=True)
    targets = np.round(np.cumsum([spec.train, spec.validation]) * len(time_N))
    cuts = [_cut(count_U, target) for target in targets]
    place_U: Places = np.searchsorted(cuts, np.arange(len(time_U)), side="right").astype(np.int8)
    return place_U[unique_N]


def by_time(clusters: Clusters, period_N: Places) -> Places:
    """The split of each of C clusters, (C,): its earliest row's, but validation for anomalies of train's time."""
    place_C = earliest(clusters, period_N)
    place_C[(place_C == TRAIN) & (clusters.anomalies_C > 0)] = VALIDATION
    return place_C


def earliest(clusters: Clusters, period_N: Places) -> Places:
    """The period in which each of C clusters begins, (C,)."""
    place_C = np.full(len(clusters.first_C), TEST, np.int8)
    np.minimum.at(place_C, clusters.cluster_N, period_N)
    return place_C

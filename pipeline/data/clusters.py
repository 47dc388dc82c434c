"""Rows that belong together: equal in every feature, or of one group."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.data.table import Table

Ids = NDArray[np.int64]
# Few enough to stay in a processor's cache.
ROWS_PER_CHUNK = 16_384
# From SplitMix64 (Steele et al. 2014). It is odd, so that multiplying by it loses nothing.
FACTOR, SHIFT = np.uint64(0xBF58476D1CE4E5B9), np.uint64(32)


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """C sets of rows, each of which goes whole to one split.

    Attributes:
        cluster_N: Each row's cluster; they are numbered by their first rows.
        first_C: The first row of each.
        normals_C, anomalies_C: How many rows of either kind each has.
    """

    cluster_N: Ids
    first_C: NDArray[np.int64]
    normals_C: NDArray[np.int64]
    anomalies_C: NDArray[np.int64]

    @classmethod
    def of(cls, cluster_N: Ids, is_anomaly_N: NDArray[np.bool_]) -> Self:
        """Count the rows of clusters that are numbered by their first rows."""
        size_C = np.bincount(cluster_N)
        anomalies_C = np.bincount(cluster_N[is_anomaly_N], minlength=len(size_C))
        first_C = np.flatnonzero(np.diff(np.maximum.accumulate(cluster_N), prepend=-1))
        return cls(cluster_N=cluster_N, first_C=first_C, normals_C=size_C - anomalies_C, anomalies_C=anomalies_C)


def equal_rows(table: Table) -> Ids:
    """A number for each of N rows, the same for rows that are equal in every feature; numbered by their first rows.

    Missing values are equal to each other. Rows are told apart by 64-bit hashes: among 5 million different rows, the
    chance that any two share theirs is below one in a million.
    """
    return _numbered(row_hashes(table))


def joined(equal_N: Ids, group_N: NDArray[Any]) -> Ids:
    """Clusters of rows that are linked, over any number of steps, by being equal or by having the same group."""
    groups_N = pd.factorize(group_N)[0]
    equals, groups = int(equal_N.max()) + 1, int(groups_N.max()) + 1
    links = coo_array((np.ones(len(equal_N), np.int8), (equal_N, equals + groups_N)), shape=(equals + groups,) * 2)
    component = connected_components(links.tocsr(), directed=False)[1]
    return _numbered(component[equal_N])


def row_hashes(table: Table) -> NDArray[np.uint64]:
    """A hash of each row's features; of any table, equal rows have equal ones."""
    hash_N = np.zeros(len(table.x_ND), np.uint64)
    for start in range(0, len(hash_N), ROWS_PER_CHUNK):
        chunk = slice(start, start + ROWS_PER_CHUNK)
        # Adding 0 leaves one zero of the two that floats have.
        x_ND = table.x_ND[chunk] + np.float32(0)
        x_ND[np.isnan(x_ND)] = np.nan
        _mix(hash_N[chunk], np.ascontiguousarray(x_ND).view(np.uint32))
        if table.category_names:
            _mix(hash_N[chunk], table.code_NC[chunk])
    return hash_N


def _mix(hash_N: NDArray[np.uint64], word_ND: NDArray[np.uint32] | NDArray[np.int32]) -> None:
    for column in range(word_ND.shape[1]):
        hash_N ^= word_ND[:, column].astype(np.uint64)
        hash_N *= FACTOR
        hash_N ^= hash_N >> SHIFT


def _numbered(key_N: NDArray[Any]) -> Ids:
    # Pandas numbers what it finds in the order in which it finds it.
    return np.asarray(pd.factorize(key_N)[0], np.int64)

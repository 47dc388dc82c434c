"""Assign rows to train, validation and test so that equal rows share a split and train has normal rows only."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vae_study.config.data import SplitConfig
from vae_study.data.table import Table, chunk_slices
from vae_study.errors import UserError

SPLIT_NAMES = ("train", "validation", "test")
TRAIN, VALIDATION, TEST = range(3)
# An anomalous row among this many equal normal ones may be a wrong label.
CONFLICT, ROWS_SHOWN = 100, 3
# Each tree of a forest sees 256 rows; more rows than these to draw them from change little.
MOST_FITTED = 2**16
Flags = NDArray[np.bool_]
Ids = NDArray[np.int64]
# Of sets: small ones where that is enough.
SetIds = NDArray[Any]
Chunks = Callable[[], Iterator[NDArray[np.float32]]]
# Of each row or group, the index of its split in SPLIT_NAMES.
SplitIndices = NDArray[np.int8]
# From SplitMix64 (Steele et al. 2014). It is odd, so multiplying by it loses nothing.
FACTOR, SHIFT = np.uint64(0xBF58476D1CE4E5B9), np.uint64(32)


@dataclass(frozen=True, kw_only=True)
class SplitAssignment:
    """Which rows are in which split.

    Attributes:
        rows: The row numbers of each split, ascending.
        notes: What was moved, and how many rows.
    """

    rows: Mapping[str, Ids]
    notes: tuple[str, ...]


def assign_splits(table: Table, is_anomaly_N: Flags, config: SplitConfig) -> SplitAssignment:
    """Assign each of N rows to a split; the same rows and seed give the same splits.

    Raise UserError if a split would have no normal row, or if the table lacks what the config splits by.
    """
    duplicate_N = duplicate_ids(table)
    notes = [*_notes_on_duplicates(duplicate_N)]
    is_decisive_N = _decisive_anomalies(duplicate_N, is_anomaly_N)
    notes += _notes_on_decisive(duplicate_N, is_anomaly_N, is_decisive_N, config)
    is_left_out_N = is_decisive_N & (config.conflicts == "leave_out")
    # A row that is left out moves none of those that it equals.
    is_anomaly_N = is_anomaly_N & ~is_left_out_N
    if config.by == "time":
        period_N = _periods(_split_column(table, config), config)
        groups = DuplicateGroups.of(duplicate_N, is_anomaly_N)
        split_G = _split_by_time(groups, period_N)
        notes += _notes_on_time(groups, period_N)
    elif config.by == "folder":
        groups, is_test_N = DuplicateGroups.of(duplicate_N, is_anomaly_N), _split_column(table, config) == 1
        split_G = _split_by_folder(groups, is_test_N, config)
        notes += _notes_on_folders(groups, is_test_N)
    else:
        group_N = link_groups(duplicate_N, _split_column(table, config)) if config.by == "group" else duplicate_N
        groups = DuplicateGroups.of(group_N, is_anomaly_N)
        split_G = split_at_random(groups, _strata(groups, table, config), config)
        notes += _notes_on_chance(groups, config)
    split_N = split_G[groups.group_N]
    rows = {name: np.flatnonzero((split_N == index) & ~is_left_out_N) for index, name in enumerate(SPLIT_NAMES)}
    for name in SPLIT_NAMES:
        if is_anomaly_N[rows[name]].all():
            reasons = "".join(f"; {note}" for note in notes)
            got = f"data.split.{name}: got {getattr(config, name):g}"
            raise UserError(f"{got}, which leaves it no normal row{reasons}")
    return SplitAssignment(rows=rows, notes=tuple(notes))


def without_suspects(
    assignment: SplitAssignment, chunks: Chunks, named_N: Ids | None, share: float, seed: int
) -> SplitAssignment:
    """The same splits without the training rows that may be anomalies of which nobody knows, and a note on these.

    Args:
        assignment: The splits of N rows.
        chunks: As of `most_isolated`, of the training rows.
        named_N: The number of each row where it came from, if it is another one.
        share: The share of the training rows to leave out.
        seed: Of the forest that finds them.
    """
    train = assignment.rows["train"]
    place_L = most_isolated(chunks, len(train), share, seed)
    left_out = train[place_L] if named_N is None else named_N[train[place_L]]
    shown = ", ".join(f"{row + 1:,}" for row in left_out[:ROWS_SHOWN].tolist())
    note = (
        f"training rows left out because they may be anomalies (data.contamination {share:g}): "
        f"{len(place_L):,} of {len(train):,}{f', the rarest first: rows {shown}' if shown else ''}"
        f"{', ...' if len(place_L) > ROWS_SHOWN else ''}"
    )
    rows = {**assignment.rows, "train": np.delete(train, place_L)}
    return SplitAssignment(rows=rows, notes=(*assignment.notes, note))


def most_isolated(chunks: Chunks, rows: int, share: float, seed: int) -> NDArray[np.int64]:
    """The rows that an isolation forest (Liu et al. 2008) isolates by the fewest splits.

    It was fitted to these rows themselves: where few of them are anomalies, most trees see none of those. A missing
    value (NaN) counts as the mean of its feature.

    Args:
        chunks: Gives the features of all N rows in their order, chunk by chunk, each (n, D). It is called twice.
        rows: N.
        share: The share of the rows to give, below 1, rounded to a whole number of them.
        seed: Of the trees.

    Returns:
        Their places, the most isolated first; of equal ones, the first.
    """
    # A worker reads splits that are made, and does without this import.
    from sklearn.ensemble import IsolationForest

    place_F = np.sort(np.random.default_rng(seed).choice(rows, min(rows, MOST_FITTED), replace=False))
    fitted_FD = np.concatenate([*_taken(chunks(), place_F)])
    is_known_FD = np.isfinite(fitted_FD)
    mean_D = np.where(is_known_FD, fitted_FD, 0).sum(axis=0, dtype=np.float64) / is_known_FD.sum(axis=0).clip(1)
    forest = IsolationForest(random_state=seed).fit(np.where(is_known_FD, fitted_FD, mean_D))
    score_N = np.concatenate([forest.score_samples(np.where(np.isfinite(x_ND), x_ND, mean_D)) for x_ND in chunks()])
    return np.argsort(score_N, kind="stable")[: round(share * rows)]


def _taken(chunks: Iterator[NDArray[np.float32]], place_F: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
    """The rows at ascending places, chunk by chunk."""
    start = 0
    for x_ND in chunks:
        inside = slice(*np.searchsorted(place_F, (start, start + len(x_ND))))
        yield x_ND[place_F[inside] - start]
        start += len(x_ND)


@dataclass(frozen=True, kw_only=True)
class DuplicateGroups:
    """G sets of rows that must share a split: equal in every feature, or linked by the user's groups.

    Attributes:
        group_N: Each row's set; sets are numbered by their first rows.
        first_G: The first row of each.
        normals_G, anomalies_G: The number of normal and of anomalous rows in each.
    """

    group_N: Ids
    first_G: SetIds
    normals_G: SetIds
    anomalies_G: SetIds

    @classmethod
    def of(cls, group_N: Ids, is_anomaly_N: Flags) -> Self:
        """Count the rows of sets that are numbered by their first rows."""
        # A set is new where its number is larger than all before it. Of millions of rows, each array is large.
        highest_N = np.maximum.accumulate(group_N)
        is_first_N = np.ones(len(group_N), bool)
        np.greater(highest_N[1:], highest_N[:-1], out=is_first_N[1:])
        del highest_N
        first_G = np.flatnonzero(is_first_N).astype(_index_type(group_N))
        anomalies_G = np.bincount(group_N[is_anomaly_N], minlength=len(first_G)).astype(_index_type(group_N))
        normals_G = np.bincount(group_N).astype(_index_type(group_N))
        normals_G -= anomalies_G
        return cls(group_N=group_N, first_G=first_G, normals_G=normals_G, anomalies_G=anomalies_G)


def _index_type(group_N: Ids) -> Any:
    """The smaller type that holds every row number."""
    return np.int32 if len(group_N) <= np.iinfo(np.int32).max else np.int64


def _decisive_anomalies(duplicate_N: Ids, is_anomaly_N: Flags) -> Flags:
    """Which rows are anomalous and equal CONFLICT times as many normal ones as anomalous ones, (N,)."""
    anomalies_G = np.bincount(duplicate_N[is_anomaly_N], minlength=int(duplicate_N.max()) + 1)
    is_decided_G = (anomalies_G > 0) & (np.bincount(duplicate_N) >= (CONFLICT + 1) * anomalies_G)
    decisive_N: Flags = is_anomaly_N & is_decided_G[duplicate_N]
    return decisive_N


def _notes_on_decisive(
    duplicate_N: Ids, is_anomaly_N: Flags, is_decisive_N: Flags, config: SplitConfig
) -> Iterator[str]:
    row_N = np.flatnonzero(is_decisive_N)
    if not len(row_N):
        return
    equal = int(np.isin(duplicate_N[~is_anomaly_N], duplicate_N[row_N]).sum())
    several = "s" * (len(row_N) > 1)
    shown = ", ".join(f"{row + 1:,}" for row in row_N[:ROWS_SHOWN]) + ", ..." * (len(row_N) > ROWS_SHOWN)
    said = (
        f"{len(row_N):,} anomalous row{several} (row{several} {shown}) equal{'s' * (not several)} {equal:,} normal ones"
    )
    if config.conflicts == "leave_out":
        yield f"{said}, and {'are' if several else 'is'} in no split (data.split.conflicts: leave_out)"
    else:
        remedy = "data.split.conflicts: leave_out keeps these and leaves such anomalies out"
        yield f"warning: {said}, which leave train for it: a wrong label? {remedy}"


def duplicate_ids(table: Table) -> Ids:
    """A number for each of N rows, the same for rows that are equal in every feature; numbered by their first rows.

    Missing values are equal to each other. Rows are compared by 64-bit hashes: among 5 million different rows, the
    probability that any two have the same one is below one in a million.
    """
    hash_N = np.zeros(len(table.x_ND), np.uint64)
    if table.is_bytes:
        for row, byte_D in enumerate(table.x_ND):
            hash_N[row] = int.from_bytes(hashlib.blake2b(byte_D, digest_size=8).digest(), "little")
        return _numbered_if_few_repeat(hash_N)
    for rows in chunk_slices(len(hash_N), table.x_ND.shape[1]):
        # Adding 0 turns -0 into 0.
        x_ND = table.x_ND[rows] + table.x_ND.dtype.type(0)
        x_ND[np.isnan(x_ND)] = np.nan
        _mix(hash_N[rows], np.ascontiguousarray(x_ND).view(f"u{x_ND.itemsize}"))
        if table.category_names:
            _mix(hash_N[rows], table.code_NC[rows])
    return _numbered_if_few_repeat(hash_N)


def link_groups(duplicate_N: Ids, group_N: NDArray[Any]) -> Ids:
    """Sets of rows that are linked, over any number of steps, by being equal or by having the same group."""
    groups_N = pd.factorize(group_N)[0]
    duplicates, groups = int(duplicate_N.max()) + 1, int(groups_N.max()) + 1
    nodes = duplicates + groups
    # A worker reads splits that are made, and does without this import.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(duplicate_N), np.int8), (duplicate_N, duplicates + groups_N)), shape=(nodes, nodes))
    component = connected_components(links.tocsr(), directed=False)[1]
    return _numbered(component[duplicate_N])


def _mix(hash_N: NDArray[np.uint64], word_ND: NDArray[np.integer]) -> None:
    for column in range(word_ND.shape[1]):
        hash_N ^= word_ND[:, column].astype(np.uint64)
        hash_N *= FACTOR
        hash_N ^= hash_N >> SHIFT


def _numbered(key_N: NDArray[Any]) -> Ids:
    # Pandas numbers keys in the order in which they occur.
    return np.asarray(pd.factorize(key_N)[0], np.int64)


def _numbered_if_few_repeat(key_N: NDArray[np.uint64]) -> Ids:
    """The same as _numbered, in less memory if most keys occur once: a table of all keys is many times as large."""
    sorted_N = np.sort(key_N)
    repeated = np.unique(sorted_N[1:][sorted_N[1:] == sorted_N[:-1]])
    del sorted_N
    if not len(repeated):
        return np.arange(len(key_N))
    is_first_N = np.ones(len(key_N), bool)
    for rows in chunk_slices(len(key_N)):
        index_N = np.minimum(np.searchsorted(repeated, key_N[rows]), len(repeated) - 1)
        is_first_N[rows] = repeated[index_N] != key_N[rows]
    row_R = np.flatnonzero(~is_first_N)
    code_R = pd.factorize(key_N[row_R])[0]
    first_R = row_R[np.unique(code_R, return_index=True)[1]]
    is_first_N[first_R] = True
    number_N = np.cumsum(is_first_N)
    number_N -= 1
    number_N[row_R] = number_N[first_R][code_R]
    return number_N


def _split_column(table: Table, config: SplitConfig) -> NDArray[Any]:
    if table.split_N is None:
        lacks = "is no folder that data.layout mvtec reads" if config.by == "folder" else "has no data.split.column"
        raise UserError(f"data.split.by: got {config.by!r}, but {table.where} {lacks}")
    return table.split_N


def _strata(groups: DuplicateGroups, table: Table, config: SplitConfig) -> list[SetIds]:
    """The sets of each label, that of their first rows; all sets together if the split ignores labels."""
    all_G = np.arange(len(groups.first_G), dtype=groups.first_G.dtype)
    if config.by != "stratified":
        return [all_G]
    if table.label_N is None:
        raise UserError(f"data.split.by: got 'stratified', which needs labels, and {table.where} has none")
    label_G = table.label_N[groups.first_G]
    order_G = np.argsort(label_G, kind="stable")
    return np.split(all_G[order_G], np.flatnonzero(np.diff(label_G[order_G])) + 1)


def split_at_random(groups: DuplicateGroups, strata: Sequence[SetIds], config: SplitConfig) -> SplitIndices:
    """The split of each of G sets, (G,), stratum by stratum.

    Sets without anomalies are divided so that all normal rows come in the given fractions; those with an anomaly go to
    validation and test, in the proportion of those two.
    """
    random = np.random.default_rng(config.seed)
    split_G = np.empty(len(groups.first_G), np.int8)
    for stratum in strata:
        has_anomaly = groups.anomalies_G[stratum] > 0
        clean, mixed = random.permutation(stratum[~has_anomaly]), random.permutation(stratum[has_anomaly])
        # In this order of operations: the same rows on every machine, to the last rounding.
        target = round(int(groups.anomalies_G[mixed].sum()) * config.validation / (config.validation + config.test))
        half = _cut(groups.anomalies_G[mixed], target)
        split_G[mixed[:half]], split_G[mixed[half:]] = VALIDATION, TEST
        first, second = np.round(np.cumsum([config.train, config.validation]) * groups.normals_G[stratum].sum())
        # Normal rows that went to validation with an anomaly count towards its fraction.
        second -= groups.normals_G[mixed[:half]].sum()
        sizes = groups.normals_G[clean]
        cuts = np.maximum.accumulate([_cut(sizes, first), _cut(sizes, second)])
        if len(strata) == 1 and not len(mixed) and len(SPLIT_NAMES) <= len(clean) < sizes.sum():
            # Of a few large sets, each split takes one at least.
            first_cut = min(max(cuts[0], 1), len(clean) - 2)
            cuts = np.array([first_cut, min(max(cuts[1], first_cut + 1), len(clean) - 1)])
        for index, part in enumerate(np.split(clean, cuts)):
            split_G[part] = index
    return split_G


def _cut(size_G: SetIds, target: float) -> int:
    """How many sets, from the first, have together the number of rows closest to the target."""
    middle_G = size_G * -0.5
    middle_G += np.cumsum(size_G)
    return int(np.searchsorted(middle_G, target))


def _periods(time_N: NDArray[np.generic], config: SplitConfig) -> SplitIndices:
    """The split of each row by its time alone, (N,): the config's fractions of all rows; equal times stay together."""
    time_U, unique_N, count_U = np.unique(time_N, return_inverse=True, return_counts=True)
    targets = np.round(np.cumsum([config.train, config.validation]) * len(time_N))
    cuts = [_cut(count_U, target) for target in targets]
    split_U: SplitIndices = np.searchsorted(cuts, np.arange(len(time_U)), side="right").astype(np.int8)
    return split_U[unique_N]


def _split_by_time(groups: DuplicateGroups, period_N: SplitIndices) -> SplitIndices:
    """The split of each of G sets, (G,): that of its earliest row, but validation for anomalies of train's period."""
    split_G = _first_periods(groups, period_N)
    split_G[(split_G == TRAIN) & (groups.anomalies_G > 0)] = VALIDATION
    return split_G


def _split_by_folder(groups: DuplicateGroups, is_test_N: Flags, config: SplitConfig) -> SplitIndices:
    """The split of each of G sets, (G,): test where a row of it is for test, and validation for other anomalies.

    Train and validation share the rest in their proportion.
    """
    split_G = np.where(groups.anomalies_G > 0, VALIDATION, TRAIN).astype(np.int8)
    split_G[groups.group_N[is_test_N]] = TEST
    rest = np.random.default_rng(config.seed).permutation(np.flatnonzero(split_G == TRAIN))
    sizes = groups.normals_G[rest]
    split_G[rest[_cut(sizes, sizes.sum() * config.train / (config.train + config.validation)) :]] = VALIDATION
    return split_G


def _notes_on_folders(groups: DuplicateGroups, is_test_N: Flags) -> Iterator[str]:
    is_test_G = np.zeros(len(groups.first_G), bool)
    is_test_G[groups.group_N[is_test_N]] = True
    equal = int((is_test_G[groups.group_N] & ~is_test_N).sum())
    if equal:
        yield f"pictures of train that equal one of test, and went there: {equal:,}"


def _first_periods(groups: DuplicateGroups, period_N: SplitIndices) -> SplitIndices:
    """The period of the earliest row of each of G sets, (G,)."""
    split_G = np.full(len(groups.first_G), TEST, np.int8)
    np.minimum.at(split_G, groups.group_N, period_N)
    return split_G


def _notes_on_duplicates(duplicate_N: Ids) -> Iterator[str]:
    repeats = len(duplicate_N) - int(duplicate_N.max()) - 1
    if repeats:
        yield f"rows that repeat an earlier one in every feature, and share its split: {repeats:,}"


def _notes_on_chance(groups: DuplicateGroups, config: SplitConfig) -> Iterator[str]:
    if config.by == "group":
        yield f"independent sets of rows (no common group, no equal rows): {len(groups.first_G):,}"
    moved = int(groups.normals_G[groups.anomalies_G > 0].sum())
    if moved:
        alike = "equal an anomaly" + (" or are of its group" if config.by == "group" else "")
        yield f"normal rows moved to validation or test because they {alike}: {moved:,}"


def _notes_on_time(groups: DuplicateGroups, period_N: SplitIndices) -> Iterator[str]:
    first_G = _first_periods(groups, period_N)
    late = int((period_N != first_G[groups.group_N]).sum())
    if late:
        yield f"rows that equal one of an earlier period, and went where that one is: {late:,}"
    is_moved_G = (first_G == TRAIN) & (groups.anomalies_G > 0)
    anomalies, normals = (int(count_G[is_moved_G].sum()) for count_G in (groups.anomalies_G, groups.normals_G))
    if anomalies:
        yield f"anomalies of the training period, which went to validation: {anomalies:,}"
    if normals:
        yield f"normal rows moved to validation because they equal an anomaly of the training period: {normals:,}"

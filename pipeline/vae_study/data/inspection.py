"""What a user should check in a table: warnings, each with the key that changes it, and one line for each column.

Categories and labels are counted in all rows; distinct numbers in the first SAMPLE_ROWS.
"""

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vae_study.config.data import DataConfig
from vae_study.data.feature_columns import CategoryColumn
from vae_study.data.preprocessing import Preprocessing
from vae_study.data.sources.spelling import number_remedies, number_writing
from vae_study.data.table import Table, chunk_slices

SAMPLE_ROWS = 100_000
# A column is said to be an identifier from this number of rows and this share of distinct values on.
LEAST_ROWS, NEARLY_UNIQUE = 20, 0.95
NAMES_SHOWN, VALUES_SHOWN = 5, 3
LONGEST_SHOWN = 30
# The largest distance of evenly spread numbers from a uniform distribution: this, or its 1 % quantile / sqrt(rows).
EVENLY, KOLMOGOROV = 0.05, 1.63
COLUMN_HEADS = ("column", "read as", "role", "missing", "distinct", "range", "becomes")
_LABEL_NAME = re.compile(
    r"(is_?)?(label|class|target|y|fraud|outlier|anomal(y|ous)|attack(_cat)?|ground_?truth|fail(ed|ure)|fault(y|s)?|defect(ive)?)s?",
    re.I,
)
_ID_NAME = re.compile(
    r"(?i:(.*[\W_])?(id|uuid|guid|key|index|idx|row|serial|no|nr|number)s?|unnamed: ?0)|.*[a-z](Id|ID|Key|No|Nr|Number)"
)
_MONTH = r"(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_DATE = re.compile(
    r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2})"
    rf"|(\w{{3,9}},?\s+)?\d{{1,2}}[-\s]{_MONTH}[-\s,]+(\d{{4}}|\d{{2}})|(\w{{3,9}},?\s+)?{_MONTH}\s+\d{{1,2}}\b.*"
    r"|\d{1,2}:\d{2})([T\s:,.].*|Z)?",
    re.I,
)
Counts = dict[str, int]


def warnings_on(table: Table, config: DataConfig, is_anomaly_N: NDArray[np.bool_]) -> Iterator[str]:
    """Warnings on a table's columns and labels, most of which a wrong setting or a flaw of the file explains.

    Args:
        table: As it was read; images have no columns to warn of.
        config: The settings that it was read with.
        is_anomaly_N: Which rows count as anomalous.
    """
    if table.image_shape is not None or table.sensors:
        return
    yield from _on_labels(table)
    yield from _on_label_columns(table, config, is_anomaly_N)
    yield from _on_identifiers(table)
    for index, name in enumerate(table.category_names):
        counts = _category_counts(table, index)
        yield from _on_spellings(f"column {name!r}: the categories", counts, "mend the file")
        if table.category_kind(index) == "text" and name not in config.categories.columns:
            yield from _on_text(name, counts)


def _category_counts(table: Table, index: int) -> Counts:
    categories, code_N = table.categories[index], table.code_NC[:, index]
    count_V = np.zeros(len(categories) + 1, np.int64)
    for rows in chunk_slices(len(code_N)):
        count_V += np.bincount(code_N[rows].astype(np.int64) + 1, minlength=len(count_V))
    return dict(zip(categories, count_V[1:].tolist(), strict=True))


def folded(text: str) -> str:
    """A text without what people overlook: case, blanks, forms of unicode."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _on_labels(table: Table) -> Iterator[str]:
    if table.label_N is None:
        return
    count_L = np.bincount(table.label_N, minlength=len(table.labels)).tolist()
    texts = {label: count for label, count in zip(table.labels, count_L, strict=True) if isinstance(label, str)}
    yield from _on_spellings("the labels", texts, "list each in data.anomaly_labels, or mend the file")


def _on_spellings(what: str, counts: Mapping[str, int], remedy: str) -> Iterator[str]:
    alike: dict[str, list[str]] = {}
    for value in counts:
        alike.setdefault(folded(value), []).append(value)
    several = [values for values in alike.values() if len(values) > 1]
    if several:
        shown = " and ".join(f"{value[:LONGEST_SHOWN]!r} ({counts[value]:,} rows)" for value in several[0])
        more = f", and {len(several) - 1:,} more such sets" if len(several) > 1 else ""
        yield f"warning: {what} {shown}{more} differ only in blanks, case or unicode form; {remedy}"


def _binary_columns(table: Table) -> dict[str, int]:
    """The places of the numeric columns that hold only 0 and 1, by name."""
    found = {}
    for index, name in enumerate(table.feature_names):
        x_N = table.x_ND[:SAMPLE_ROWS, index]
        if table.origin(index) == 0 and len(x_N) and ((x_N == 0) | (x_N == 1)).all() and 0 < x_N.sum() < len(x_N):
            found[name] = index
    return found


def named_like_labels(table: Table) -> list[str]:
    """The columns that are called as labels are."""
    return [name for name in (*table.feature_names, *table.category_names) if _LABEL_NAME.fullmatch(name.strip())]


def _on_label_columns(table: Table, config: DataConfig, is_anomaly_N: NDArray[np.bool_]) -> Iterator[str]:
    binary, named = _binary_columns(table), named_like_labels(table)
    if table.label_N is None:
        found = [] if config.source == "npz" else list(dict.fromkeys((*named, *binary)))
        key = "data.arrays.y names the array" if config.source == "npz" else "data.label names the column"
        if not found:
            yield f"no labels, so every row counts as normal; {key} that says which rows are anomalous, if there is one"
        else:
            how = "holds only 0 and 1" if found[0] in binary else "is called like one"
            also = f" (or {_listed(found[1:])})" if found[1:] else ""
            yield (
                f"warning: no data.label, so every row counts as normal; column {found[0]!r} {how}: is it the label? "
                f"data.label: {found[0]}{also}; data.exclude leaves columns out of the features"
            )
        return
    for name, index in binary.items():
        x_N = table.x_ND[:, index]
        if is_anomaly_N.any() and ((x_N == 1) == is_anomaly_N).all():
            yield f"warning: column {name!r} is 1 in the anomalous rows only: a second label? data.exclude: [{name}]"
            named = [other for other in named if other != name]
    if named:
        yield (
            f"warning: {_listed([repr(name) for name in named])} "
            f"{'are' if len(named) > 1 else 'is'} called like a label and used as a feature; "
            f"data.exclude: [{', '.join(named)}]"
        )


def identifiers(table: Table) -> list[tuple[str, int, int]]:
    """The columns nearly all of whose values are distinct, with the numbers of distinct and of all values."""
    found: list[tuple[str, int, int]] = []
    for index, name in enumerate(table.feature_names):
        x_N = table.x_ND[:SAMPLE_ROWS, index]
        x_N = x_N[~np.isnan(x_N)]
        is_whole = len(x_N) >= LEAST_ROWS and bool((x_N == np.rint(x_N)).all())
        if is_whole and (_ID_NAME.fullmatch(name.strip()) or _numbers_rows(x_N)):
            found.append((name, len(np.unique(x_N)), len(x_N)))
    for index, name in enumerate(table.category_names):
        found.append((name, len(table.categories[index]), int((table.code_NC[:, index] >= 0).sum())))
    return [one for one in found if one[2] >= LEAST_ROWS and one[1] >= NEARLY_UNIQUE * one[2]]


def _on_identifiers(table: Table) -> Iterator[str]:
    found = identifiers(table)
    if found:
        name, distinct, count = found[0]
        names = [one[0] for one in found]
        also = f", and so for {_listed([repr(other) for other in names[1:]])}" if names[1:] else ""
        yield (
            f"warning: column {name!r}: {distinct:,} of {count:,} values are distinct{also}: an identifier? "
            f"data.exclude: [{_listed(names)}]"
        )


def _numbers_rows(x_N: NDArray[np.floating]) -> bool:
    """Whether whole numbers ascend from row to row, or are spread evenly, as identifiers are and few measurements."""
    sorted_N = np.sort(x_N).astype(np.float64)
    width = sorted_N[-1] - sorted_N[0]
    if not width or (np.diff(x_N) > 0).all():
        return bool(width)
    distance = np.abs((sorted_N - sorted_N[0]) / width - np.linspace(0, 1, len(x_N))).max()
    return bool(distance < max(EVENLY, KOLMOGOROV / math.sqrt(len(x_N))))


def date_columns(table: Table) -> dict[str, str]:
    """The columns of text that read as dates or times, each with one of them."""
    found = {name: _date_in(_category_counts(table, index)) for index, name in enumerate(table.category_names)}
    return {name: date for name, date in found.items() if date}


def _date_in(counts: Counts) -> str:
    """One of a column's values if nine of ten are dates or times, else nothing."""
    dates = [value for value in counts if _DATE.fullmatch(value.strip())]
    return dates[0] if dates and sum(counts[value] for value in dates) >= 0.9 * sum(counts.values()) else ""


def _on_text(name: str, counts: Counts) -> Iterator[str]:
    """A column of text that reads as dates, or as numbers but for how they are written."""
    rows = sum(counts.values())
    if not rows:
        return
    if date := _date_in(counts):
        yield (
            f"warning: column {name!r}: dates or times such as {date!r} become categories; data.exclude: [{name}], "
            f"or turn them into numbers; data.categories.columns: [{name}] if they are categories; data.split.column "
            "splits by them"
        )
        return
    written = {value: number_writing(value) for value in counts}
    numbers = [value for value, how in written.items() if how is not None]
    marks = [value for value, how in written.items() if how is None]
    share = sum(counts[value] for value in numbers) / rows
    if len(numbers) < 2 or (share < 0.5 and len(marks) > VALUES_SHOWN):
        return
    odd = next((value for value in numbers if written[value]), numbers[0])
    remedies = number_remedies(numbers)
    if marks and len(marks) <= VALUES_SHOWN:
        remedies.append(f"data.missing_values: [{', '.join(map(repr, marks))}] if these are missing values")
    said = f"{share:.0%} of the values are numbers as text, such as {odd!r}"
    others = f" beside {marks[0][:LONGEST_SHOWN]!r}" if marks else ""
    remedy = "; ".join(remedies) or "mend the others"
    yield (
        f"warning: column {name!r}: {said}{others}, and become categories; {remedy}; "
        f"data.categories.columns: [{name}] if they are categories"
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return f"{', '.join(names[:NAMES_SHOWN])}{more}"


def column_lines(table: Table, config: DataConfig, fitted: Preprocessing) -> tuple[tuple[str, ...], ...]:
    """One row of text for each column of a table, for COLUMN_HEADS; none for images."""
    if table.image_shape is not None:
        return ()
    read_as = dict(table.read_as)
    lines = {name: (name, dtype, "left out", "", "", "", "") for name, dtype in table.read_as}
    sample = slice(0, SAMPLE_ROWS)
    becomes = {column.name: column for column in fitted.columns}
    low_D, high_D, missing_D = _ranges(table)
    for index, name in enumerate(table.feature_names):
        x_N = table.x_ND[sample, index]
        at_least = "at least " if len(table.x_ND) > SAMPLE_ROWS else ""
        distinct = f"{at_least}{len(np.unique(x_N[~np.isnan(x_N)])):,}"
        origin = table.origin(index)
        ends = [_number(value, origin) for value in (low_D[index], high_D[index])]
        spread = "" if missing_D[index] == len(table.x_ND) else f"{ends[0]} to {ends[1]}"
        dtype = read_as.get(name, str(table.x_ND.dtype))
        lines[name] = (name, dtype, "number", f"{missing_D[index]:,}", distinct, spread, "")
    for index, name in enumerate(table.category_names):
        counts = _category_counts(table, index)
        common = sorted(counts, key=lambda value: -counts[value])[:VALUES_SHOWN]
        shown = ", ".join(repr(value[:LONGEST_SHOWN]) for value in common) + ", ..." * (len(counts) > VALUES_SHOWN)
        missing = int((table.code_NC[:, index] < 0).sum())
        dtype = read_as.get(name, "text")
        lines[name] = (name, dtype, "category", f"{missing:,}", f"{len(counts):,}", shown, "")
    for name, column in becomes.items():
        count = len(column.features)
        how = column.encode_as if isinstance(column, CategoryColumn) else f"scale {config.scale}"
        if count and not column.varies:
            how = "the same in all training rows: another value is far off"
        made = f"{count} feature{'s' * (count > 1)}, {how}" if count else "left out: the same in all training rows"
        lines[name] = (*lines[name][:-1], made)
    for factor in table.factors:
        if factor.name in lines:
            values = factor.values
            shown = f"{values[0]:g} to {values[-1]:g}" if factor.is_number else _some(values)
            about = ("factor", "0", f"{len(values):,}", shown, "compared with the code")
            lines[factor.name] = (*lines[factor.name][:2], *about)
    label, split = config.label or "", config.split
    if label in lines:
        about = ("label", "0", f"{len(table.labels):,}", _some(table.labels), "decides on anomalies")
        lines[label] = (*lines[label][:2], *about)
    if split.column is not None and split.column in lines:
        role = "time" if split.by == "time" else "group"
        lines[split.column] = (*lines[split.column][:2], role, "0", "", "", "decides on the split")
    sequence = config.sequence
    for name in () if sequence is None else filter(None, (sequence.time, sequence.series)):
        if name in lines:
            role = "time" if sequence and name == sequence.time else "series"
            lines[name] = (*lines[name][:2], role, "0", "", "", "orders the rows")
    return tuple(lines.values())


def _some(values: Sequence[object]) -> str:
    return ", ".join(map(repr, values[:VALUES_SHOWN])) + ", ..." * (len(values) > VALUES_SHOWN)


def _ranges(table: Table) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """The smallest and largest value and the number of missing ones of each numeric feature."""
    features = len(table.feature_names)
    low_D, high_D = np.full(features, np.inf), np.full(features, -np.inf)
    missing_D = np.zeros(features, np.int64)
    for rows in chunk_slices(len(table.x_ND)):
        x_ND = table.x_ND[rows]
        low_D, high_D = np.fmin(low_D, np.fmin.reduce(x_ND)), np.fmax(high_D, np.fmax.reduce(x_ND))
        missing_D += np.isnan(x_ND).sum(axis=0)
    return low_D, high_D, missing_D


def _number(value: float, origin: int) -> str:
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value) + origin}"
    return f"{value + origin:.6g}"

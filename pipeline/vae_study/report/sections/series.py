"""The series of test with what the chosen model expected and its scores, and the most anomalous stretches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vae_study.anomaly.ranges import COST, EXPECTED, VALUE, Alarms, alarms_of, delays, holds, ranges
from vae_study.data.preprocessing import Preprocessing
from vae_study.data.windows import SequenceInput
from vae_study.report.figure import Grid
from vae_study.report.formatting import NONE, listing, percent, quantity, score_label, sentences
from vae_study.report.frames import Floats, Missing
from vae_study.report.sections.thresholds import scores
from vae_study.report.tables import StudyTables, meaning

# Of a period with more rows than twice this, the lowest and the highest value of so many parts are drawn.
BUCKETS = 250
MOST_SENSORS, MOST_SERIES, MOST_STRETCHES = 6, 3, 10
# So many stretches can be looked at one by one, with so many windows before and behind.
DRAWN_STRETCHES, WINDOWS_AROUND = 5, 3
# A sensor with a smaller share of a stretch's cost is not named.
LEAST_SHARE, MOST_REASONS = 0.1, 3
NANOSECONDS = 1e9
# The axis of scores is logarithmic where the highest one is this many times the threshold.
LOG_FROM = 5


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """A run of rows above the threshold.

    Attributes:
        first, last: Its places in the frame of all rows.
        peak, mean: Of its scores.
        is_true: Whether it holds an anomalous row.
        delay: From the beginning of the first range that it is the first to find, in the unit of the times; NaN if it
            is the first for none, and of whole series.
        shares: Of the sensors with the largest costs in all rows of its windows, each one's share of the costs above
            usual.
    """

    first: int
    last: int
    peak: float
    mean: float
    is_true: bool
    delay: float
    shares: tuple[tuple[str, float], ...]


@dataclass(frozen=True, kw_only=True)
class Period:
    """What is drawn of one series between two times.

    Attributes:
        label: What it is.
        start, step: The first place on the axis and how far apart places are, in the unit of the times.
        lines: At each place the value of each line, NaN where there is none, by its column in the frame.
        sensors: The names of those that are drawn.
        ranges: The anomalous ranges, from - to.
    """

    label: str
    start: float
    step: float
    lines: dict[str, Floats]
    sensors: tuple[str, ...]
    ranges: tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class Series:
    """The series of test.

    Attributes:
        score: Which score.
        steps: Rows of a window.
        sequence: How times are written.
        thresholds: The percentiles of normal validation windows, the highest last.
        percentiles: What they are called.
        alarms: What the rows above the highest of them find.
        ranges: The number of anomalous ranges.
        stretches: The most anomalous first.
        rows: Of each row, as `vae_study.detector.series.series_frame` gives them.
        views: The first is that of a whole series.
        left_out: What is not drawn, for people to read.
    """

    score: str
    sequence: SequenceInput
    thresholds: tuple[float, ...]
    percentiles: str
    alarms: Alarms
    ranges: int
    stretches: tuple[Stretch, ...]
    rows: pd.DataFrame
    views: tuple[Period, ...]
    left_out: str

    @property
    def buckets(self) -> int:
        """The parts of a period that are drawn at most."""
        return BUCKETS

    @property
    def steps(self) -> int:
        """Rows of a window."""
        return self.sequence.steps

    @property
    def threshold(self) -> float:
        """The score above which a row is in a stretch."""
        return self.thresholds[-1]

    @property
    def highest(self) -> str:
        """What that threshold is called."""
        return self.percentiles.split(" ")[-1]

    @property
    def has_anomalies(self) -> bool:
        """Whether any row is labelled as anomalous."""
        return self.ranges > 0

    @property
    def is_log(self) -> bool:
        """Whether the highest scores are so high that the others would be one line on an axis that is not."""
        score_R = self.rows["score"].to_numpy()
        return bool(score_R.min() > 0 and score_R.max() > LOG_FROM * self.threshold)

    @property
    def has_kl(self) -> bool:
        """Whether each step has a KL."""
        return "kl" in self.rows


def series(tables: StudyTables) -> Series | Missing:
    """The rows of test in time, as the champion stored them; `Missing` where rows are examples, or none are stored."""
    champion, found = tables.record.champion, tables.of(scores)
    if champion is None or champion.series.empty or isinstance(found, Missing) or found.thresholds.empty:
        return Missing("The study has no series of test.")
    sequence = Preprocessing.from_plain(tables.record.data["preprocessing"]).sequence
    assert sequence is not None
    rows, thresholds = champion.series, found.thresholds
    threshold = float(thresholds["threshold"].iloc[-1])
    stretches = tuple(sorted(_stretches(rows, threshold, sequence), key=lambda one: -one.peak))
    sensors, left_out = _sensors(rows, stretches, sequence.steps)
    return Series(
        score=meaning(tables.record, champion),
        sequence=sequence,
        thresholds=tuple(thresholds["threshold"].tolist()),
        percentiles=listing(f"{one:g}th" for one in thresholds["percentile"]),
        alarms=alarms_of(rows, threshold, sequence.steps),
        ranges=len(ranges(rows["anomaly"].to_numpy(), rows["segment"].to_numpy())),
        stretches=stretches,
        rows=rows,
        views=tuple(_views(rows, stretches, sensors, sequence)),
        left_out=left_out,
    )


def _stretches(rows: pd.DataFrame, threshold: float, sequence: SequenceInput) -> Iterator[Stretch]:
    steps = sequence.steps
    columns = (rows[name].to_numpy() for name in ("score", "anomaly", "time", "segment"))
    score_R, is_anomaly_R, time_R, segment_R = columns
    is_flagged_R = score_R > threshold
    run_A2, range_G2 = ranges(is_flagged_R, segment_R, within=steps), ranges(is_anomaly_R, segment_R)
    delay_G, is_true_A = delays(is_anomaly_R, is_flagged_R, time_R, segment_R), holds(run_A2, is_anomaly_R)
    # Where each range that was found was found first.
    time_G = time_R[range_G2[:, 0]] + np.nan_to_num(delay_G)
    costs = {name.removeprefix(COST): rows[name].to_numpy() for name in map(str, rows) if name.startswith(COST)}
    for (first, last), is_true in zip(run_A2.tolist(), is_true_A.tolist(), strict=True):
        is_own_G = (segment_R[range_G2[:, 0]] == segment_R[first]) & ~np.isnan(delay_G)
        is_own_G &= (time_G >= time_R[first]) & (time_G <= time_R[last])
        begin = max(first - steps + 1, int(np.searchsorted(segment_R, segment_R[first])))
        yield Stretch(
            first=first,
            last=last,
            peak=float(score_R[first : last + 1].max()),
            mean=float(score_R[first : last + 1].mean()),
            is_true=is_true,
            delay=float(delay_G[is_own_G][0]) if is_own_G.any() and not sequence.is_whole else float("nan"),
            shares=_shares({name: float(np.nansum(cost_R[begin : last + 1])) for name, cost_R in costs.items()}),
        )


def _shares(costs: dict[str, float]) -> tuple[tuple[str, float], ...]:
    """The sensors with the largest costs, and their shares of all costs above usual."""
    above = {name: cost for name, cost in costs.items() if cost > 0 and np.isfinite(cost)}
    total = sum(above.values())
    largest = sorted(above, key=lambda name: -above[name])[:MOST_REASONS]
    return tuple((name, above[name] / total) for name in largest if above[name] >= LEAST_SHARE * total)


def _sensors(rows: pd.DataFrame, stretches: Sequence[Stretch], steps: int) -> tuple[tuple[str, ...], str]:
    """The sensors that are drawn, in the order of the table, and in words which are not: text, and low costs."""
    names = [name.removeprefix(VALUE) for name in map(str, rows) if name.startswith(VALUE)]
    texts = [name for name in names if not pd.api.types.is_numeric_dtype(rows[f"{VALUE}{name}"])]
    numbers = [name for name in names if name not in texts]
    is_told_R = np.zeros(len(rows), bool)
    for one in stretches[:MOST_STRETCHES]:
        is_told_R[max(one.first - steps + 1, 0) : one.last + 1] = True
    some = rows[is_told_R] if is_told_R.any() else rows
    cost = {name: float(np.nansum(some[f"{COST}{name}"])) for name in numbers}
    kept = sorted(numbers, key=lambda name: -cost[name])[:MOST_SENSORS]
    left_out = []
    if len(kept) < len(numbers):
        left_out.append(f"{len(numbers) - len(kept)} of {len(numbers)} sensors, which cost less in these stretches")
    if texts:
        left_out.append(f"{listing(texts)}, which {'is' if len(texts) == 1 else 'are'} text")
    return tuple(name for name in numbers if name in kept), listing(left_out) if left_out else ""


def _views(
    rows: pd.DataFrame, stretches: Sequence[Stretch], sensors: tuple[str, ...], sequence: SequenceInput
) -> Iterator[Period]:
    """Whole series, that with the highest score first, then the highest stretches."""
    highest = rows.groupby("series" if "series" in rows else rows["segment"] * 0, observed=True)["score"].max()
    most = MOST_SERIES + DRAWN_STRETCHES if sequence.is_whole else MOST_SERIES
    names = highest.sort_values(ascending=False, kind="stable").index[:most]
    for name in names:
        own = rows[rows["series"] == name] if "series" in rows else rows
        yield _period(f"all of {name}" if "series" in rows else "all of test", own, sensors, sequence)
    # Where whole series are examples, the stretches are these.
    for place, one in enumerate(() if sequence.is_whole else stretches[:DRAWN_STRETCHES], start=1):
        reach = WINDOWS_AROUND * sequence.steps
        near = rows.iloc[max(one.first - reach, 0) : one.last + 1 + reach]
        near = near[near["segment"] == rows["segment"].iloc[one.first]]
        yield _period(f"stretch {place}", near, sensors, sequence)


def _period(label: str, rows: pd.DataFrame, sensors: tuple[str, ...], sequence: SequenceInput) -> Period:
    time_R = rows["time"].to_numpy().astype(np.float64) - (origin := float(rows["time"].iloc[0]))
    columns = [f"{kind}{name}" for name in sensors for kind in (VALUE, EXPECTED)]
    columns += ["score", *(["kl"] if "kl" in rows else [])]
    place_R, step, is_exact = _places(time_R, sequence.step)
    drawn, values = _exact if is_exact else _ends, {name: rows[name].to_numpy(np.float64) for name in columns}
    return Period(
        label=label,
        start=origin,
        step=step,
        lines={name: drawn(place_R, value_R) for name, value_R in values.items()},
        sensors=sensors,
        ranges=tuple(
            (origin + time_R[first] - sequence.step / 2, origin + time_R[last] + sequence.step / 2)
            for first, last in ranges(rows["anomaly"].to_numpy(), rows["segment"].to_numpy())
        ),
    )


def _places(time_R: Floats, usual: float) -> tuple[NDArray[np.int64], float, bool]:
    """The place of each row on an even axis, how far apart places are, and whether each row has one of its own."""
    place_R = np.round(time_R / usual).astype(np.int64) if usual > 0 else np.arange(len(time_R))
    if place_R[-1] < 2 * BUCKETS and (np.diff(place_R) > 0).all():
        return place_R, usual, True
    parts = max(min(BUCKETS, len(time_R) // 2), 1)
    width = time_R[-1] / parts or 1.0
    return np.minimum((time_R / width).astype(np.int64), parts - 1), width / 2, False


def _exact(place_R: NDArray[np.int64], value_R: Floats) -> Floats:
    found = np.full(int(place_R[-1]) + 1, np.nan)
    found[place_R] = value_R
    return found


def _ends(place_R: NDArray[np.int64], value_R: Floats) -> Floats:
    """The lowest and the highest value of each part, in the order in which they come."""
    first_P = np.flatnonzero(np.diff(place_R, prepend=-1))
    found_P2 = np.full((int(place_R[-1]) + 1, 2), np.nan)
    for part in np.split(np.arange(len(place_R)), first_P[1:]):
        known = part[~np.isnan(value_R[part])]
        if len(known):
            ends = known[[int(value_R[known].argmin()), int(value_R[known].argmax())]]
            found_P2[place_R[part[0]]] = value_R[np.sort(ends)]
    return found_P2.ravel()


def stretch_grid(tables: StudyTables) -> Grid:
    """The stretches with the highest scores."""
    table = tables.once(series)
    if isinstance(table, Missing):
        return Grid()
    shown = table.stretches[:MOST_STRETCHES]
    cells: dict[str, list[str]] = {"": [str(place) for place in range(1, len(shown) + 1)]}
    if "series" in table.rows:
        cells[str(table.sequence.series)] = [_unbroken(str(table.rows["series"].iloc[one.first])) for one in shown]
    time_S2 = table.rows["time"].to_numpy()[[(one.first, one.last) for one in shown]].reshape(-1, 2)
    cells["from"], cells["to"] = (_times(time_S, table.sequence.is_moment) for time_S in time_S2.T)
    cells["peak score"] = [quantity(one.peak) for one in shown]
    cells["mean score"] = [quantity(one.mean) for one in shown]
    if table.has_anomalies:
        cells["anomalous range"] = ["yes" if one.is_true else "no" for one in shown]
    if table.has_anomalies and not table.sequence.is_whole:
        cells["delay"] = [NONE if np.isnan(one.delay) else table.sequence.duration(one.delay) for one in shown]
    cells["sensors with the highest cost"] = [
        ", ".join(_unbroken(f"{name} {percent(share)}") for name, share in one.shares) or NONE for one in shown
    ]
    more = len(table.stretches) - len(shown)
    return Grid(
        label=f"Stretches with the highest scores: {score_label(table.score)}",
        head=tuple(cells),
        rows=tuple(zip(*cells.values(), strict=True)),
        left_out=f"{more:,} more with lower scores." if more > 0 else "",
        is_numeric=False,
        is_wide=True,
    )


def _times(time_S: NDArray[Any], are_moments: bool) -> list[str]:
    """Times for people to read, without seconds where all are whole minutes."""
    if not are_moments:
        return [quantity(float(time)) for time in time_S]
    moments = [pd.Timestamp(int(time)) for time in time_S]
    are_minutes = all(moment == moment.floor("min") for moment in moments)
    return [f"{moment:%Y-%m-%d %H:%M}" if are_minutes else str(moment) for moment in moments]


def _unbroken(text: str) -> str:
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def alarm_note(tables: StudyTables) -> str:
    """What the stretches find, and how late."""
    table = tables.once(series)
    if isinstance(table, Missing):
        return ""
    delay = table.alarms.delay
    if table.sequence.is_moment and delay > 10 * NANOSECONDS:
        delay = round(delay / NANOSECONDS) * NANOSECONDS
    return sentences("notes.txt", "alarms", table, "" if np.isnan(delay) else table.sequence.duration(delay))

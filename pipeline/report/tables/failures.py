"""Which trials failed and why, and which ones lost their worker and went on."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from pipeline.report.tables.frames import numbers, trial_numbers, with_state
from pipeline.report.tables.stopping import epochs_trained
from pipeline.tracking.record import StudyRecord

LONGEST_REASON = 160
MOST_REASONS = 5
# Terminals' colours, which Ray puts into its messages.
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Trials that failed alike.

    Attributes:
        kind: The failure class, such as "diverged".
        reason: The first line of why, cut to LONGEST_REASON characters; empty where it is unknown, or where this is
            the rest of a class that has more than MOST_REASONS.
        reasons: How many reasons these trials have; 0 where none is known.
        trials: Their numbers.
        epochs: The fewest and the most epochs that one of them trained; None where the study has no history.
    """

    kind: str
    reason: str
    reasons: int
    trials: tuple[int, ...]
    epochs: tuple[int, int] | None


@dataclass(frozen=True, kw_only=True)
class Preemptions:
    """Trials that lost their worker or node and went on from their last checkpoint.

    Attributes:
        trials: Their numbers.
        times: How often that happened to all of them together.
    """

    trials: tuple[int, ...]
    times: int


def failures(record: StudyRecord) -> tuple[Failure, ...]:
    """The failed trials by class and reason, the most frequent class first, in it the most frequent reason."""
    failed = with_state(record, "failed")
    told = failed["reason"] if "reason" in failed else pd.Series(None, index=failed.index, dtype=object)
    failed = failed.assign(failure=failed["failure"].fillna("unknown").astype(str), reason=told.map(first_line))
    groups = [(str(kind), group) for kind, group in failed.groupby("failure")]
    by_size = sorted(groups, key=lambda group: (-len(group[1]), group[0]))
    trained = epochs_trained(record) if len(record.history) else None
    return tuple(failure for kind, group in by_size for failure in _of_class(kind, group, trained))


def _of_class(kind: str, failed: pd.DataFrame, trained: "pd.Series[int] | None") -> Iterator[Failure]:
    groups = [(str(reason), trial_numbers(group)) for reason, group in failed.groupby("reason")]
    by_size = sorted(groups, key=lambda group: (-len(group[1]), group[1]))
    most = MOST_REASONS if len(by_size) > MOST_REASONS + 1 else len(by_size)
    for reason, trials in by_size[:most]:
        epochs = _epochs(trained, trials)
        yield Failure(kind=kind, reason=reason, reasons=int(bool(reason)), trials=trials, epochs=epochs)
    rest = tuple(sorted(trial for _, trials in by_size[most:] for trial in trials))
    if rest:
        yield Failure(kind=kind, reason="", reasons=len(by_size) - most, trials=rest, epochs=_epochs(trained, rest))


def _epochs(trained: "pd.Series[int] | None", trials: tuple[int, ...]) -> tuple[int, int] | None:
    """A trial without a history, in a study that has one, trained none."""
    if trained is None:
        return None
    found = trained.reindex(list(trials), fill_value=0)
    return int(found.min()), int(found.max())


def first_line(reason: object) -> str:
    """The first line that says something, cut, without what is no printable character; empty where there is none."""
    lines = COLOURS.sub("", reason).splitlines() if isinstance(reason, str) else []
    plain = (" ".join("".join(c if c.isprintable() else " " for c in line).split()) for line in lines)
    line = next(filter(None, plain), "")
    return line if len(line) <= LONGEST_REASON else f"{line[: LONGEST_REASON - 1]}…"


def preemptions(record: StudyRecord) -> Preemptions:
    """Who went on; a trial that failed for having lost too many workers is among the failures."""
    times = pd.Series(numbers(record.trials, "preemptions")).fillna(0)
    went_on = times.gt(0) & ~(record.trials["state"].eq("failed") & record.trials["failure"].eq("preempted"))
    return Preemptions(trials=trial_numbers(record.trials[went_on]), times=int(times[went_on].sum()))

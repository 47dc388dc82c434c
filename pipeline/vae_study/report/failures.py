"""Why trials failed: by class, and within a class by the first line of the error."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from vae_study.report.frames import epochs_trained, trial_numbers, with_state
from vae_study.tracking.record import StudyRecord

LONGEST_REASON = 160
MOST_REASONS = 5
# Terminals' colours, which Ray puts into its messages.
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Trials that failed with the same class and reason.

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


def failures(record: StudyRecord) -> tuple[Failure, ...]:
    """The failed trials by class and reason, the most frequent class first, in it the most frequent reason."""
    failed = with_state(record, "failed")
    told = failed["reason"] if "reason" in failed else pd.Series(None, index=failed.index, dtype=object)
    failed = failed.assign(failure=failed["failure"].fillna("unknown").astype(str), reason=told.map(first_line))
    classes = [(str(kind), group) for kind, group in failed.groupby("failure")]
    trained = epochs_trained(record) if len(record.history) else None
    by_size = sorted(classes, key=lambda group: (-len(group[1]), group[0]))
    return tuple(failure for kind, group in by_size for failure in _of_class(kind, group, trained))


def _of_class(kind: str, failed: pd.DataFrame, trained: "pd.Series[int] | None") -> Iterator[Failure]:
    reasons = [(str(reason), trial_numbers(group)) for reason, group in failed.groupby("reason")]
    groups = [(*group, int(bool(group[0]))) for group in sorted(reasons, key=lambda group: (-len(group[1]), group[1]))]
    if len(groups) > MOST_REASONS + 1:
        rest = tuple(sorted(trial for _, trials, _ in groups[MOST_REASONS:] for trial in trials))
        groups = [*groups[:MOST_REASONS], ("", rest, len(groups) - MOST_REASONS)]
    for reason, trials, size in groups:
        # A trial without a history trained 0 epochs.
        found = None if trained is None else trained.reindex(list(trials), fill_value=0)
        epochs = None if found is None else (int(found.min()), int(found.max()))
        yield Failure(kind=kind, reason=reason, reasons=size, trials=trials, epochs=epochs)


def first_line(reason: object) -> str:
    """The first line that says something, cut, without unprintable characters; empty where there is none."""
    lines = COLOURS.sub("", reason).splitlines() if isinstance(reason, str) else []
    plain = (" ".join("".join(c if c.isprintable() else " " for c in line).split()) for line in lines)
    line = next(filter(None, plain), "")
    return line if len(line) <= LONGEST_REASON else f"{line[: LONGEST_REASON - 1]}…"

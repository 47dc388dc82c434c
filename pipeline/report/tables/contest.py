"""The chosen model beside what else there is: another rule, and no training at all."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.report.tables.choice import Choice


@dataclass(frozen=True, kw_only=True)
class Contest:
    """The chosen model beside another detector.

    Attributes:
        chosen, rival: The two.
        points: How much more test AUROC the rival has, in points (hundredths), of values rounded as they are printed,
            so that it agrees with a reader's own subtraction. NaN where one is unknown.
        overlap: Whether their intervals do; None where one is unknown.
    """

    chosen: Choice
    rival: Choice
    points: float
    overlap: bool | None


def label_contest(found: Sequence[Choice]) -> Contest | None:
    """A rule that needs labels beside the first that needs none, one of them the study's own."""
    return _contest(found, lambda chosen, other: other.kind == "rule" and other.needs_labels != chosen.needs_labels)


def baseline_contest(found: Sequence[Choice]) -> Contest | None:
    """The chosen model beside the raw nearest neighbours."""
    return _contest(found, lambda _, other: other.kind == "baseline")


def _contest(found: Sequence[Choice], is_rival: Callable[[Choice, Choice], bool]) -> Contest | None:
    chosen = next((choice for choice in found if choice.chosen), None)
    rival = next((other for other in found if chosen is not None and is_rival(chosen, other)), None)
    if chosen is None or rival is None:
        return None
    ours, theirs = chosen.test_auroc, rival.test_auroc
    overlap = theirs.low <= ours.high and ours.low <= theirs.high
    unknown = math.isnan(ours.low) or math.isnan(theirs.low)
    points = 100 * (round(theirs.value, 3) - round(ours.value, 3))
    return Contest(chosen=chosen, rival=rival, points=points, overlap=None if unknown else overlap)

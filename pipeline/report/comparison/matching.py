"""Which studies may be put beside each other."""

from collections.abc import Sequence
from itertools import pairwise

from pipeline.errors import UserError
from pipeline.report.tables.frontier import objective_signs
from pipeline.report.words import listing
from pipeline.tracking.record import StudyRecord


def require_comparable(records: Sequence[StudyRecord]) -> None:
    """Nothing where all studies are of the same data and objectives, and no study is there twice.

    Raises:
        UserError: They are not; the message names two of them and what each has.
    """
    names = [record.name for record in records]
    if len(names) < 2:
        raise UserError(f"came {listing(map(repr, names)) or 'no study'}; expected two or more studies to compare")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"the study {twice!r} came twice; expected different studies to compare")
    for one, other in pairwise(records):
        _require_same(one, other, "data", _data(one), _data(other), "one data set")
        _require_same(one, other, "objectives", _objectives(one), _objectives(other), "the same objectives")


def _require_same(one: StudyRecord, other: StudyRecord, what: str, ours: str, theirs: str, expected: str) -> None:
    if ours != theirs:
        raise UserError(
            f"the studies {one.name!r} and {other.name!r} have different {what}: {one.name} has {ours}, {other.name} "
            f"has {theirs}; expected studies of {expected}"
        )


def _data(record: StudyRecord) -> str:
    return f"the sha256 {str(record.data.get('sha256'))[:12]}"


def _objectives(record: StudyRecord) -> str:
    signs = sorted(objective_signs(record.spec).items())
    return listing(f"{'minimize' if sign > 0 else 'maximize'} {metric}" for metric, sign in signs)

"""The knee is the frontier's point farthest beyond the line between its ends, whatever the units and directions."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vae_study.report.frames import Missing
from vae_study.report.frontier import Knee, knee
from vae_study.report.overview import overview
from vae_study.report.tables import StudyTables, tidy

from .test_tables import METRICS, record_of, slow_frontier

POINTS = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=16)


def of(points: list[tuple[float, float]], directions: tuple[str, str] = ("minimize", "minimize")) -> Knee | Missing:
    return knee(tidy(record_of([("finished", float(x), float(y)) for x, y in points], directions)))


@settings(max_examples=60)
@given(POINTS, st.sampled_from([1.0, 1e-3, 250.0]))
def test_no_point_of_the_frontier_is_farther_from_the_line(points: list[tuple[int, int]], scale: float) -> None:
    members = sorted(slow_frontier([("finished", float(x), float(y)) for x, y in points]))
    places = [np.array([points[i][0] * scale, points[i][1]], float) for i in members]
    first, last = min(places, key=lambda p: p[0]), max(places, key=lambda p: p[0])
    length = np.hypot(*(last - first))
    found = of([(x * scale, y) for x, y in points])
    across = np.array([first[1] - last[1], last[0] - first[0]]) / (length or 1.0)
    beyond = [float(across @ (first - place)) for place in places]
    if max(beyond) <= 1e-9 * length:
        assert isinstance(found, Missing)
        return
    assert isinstance(found, Knee)
    assert beyond[members.index(found.trial)] == pytest.approx(max(beyond))
    assert list(found.metrics.values()) == [points[found.trial][0] * scale, points[found.trial][1]]


@settings(max_examples=40)
@given(POINTS)
def test_maximizing_the_negative_has_the_same_knee(points: list[tuple[int, int]]) -> None:
    found, mirrored = of(list(points)), of([(-x, y) for x, y in points], ("maximize", "minimize"))
    assert getattr(found, "trial", None) == getattr(mirrored, "trial", None)


@pytest.mark.parametrize(
    ("points", "why"),
    [
        ([(0, 3), (1, 2), (2, 1), (3, 0)], "beyond the line"),
        ([(0, 3), (2.8, 2.8), (3, 0)], "beyond the line"),
        ([(0, 3), (3, 0)], "fewer than three"),
        ([(1, 1)], "fewer than three"),
        ([(1, 1), (1, 1), (1, 1)], "beyond the line"),
    ],
)
def test_without_a_bend_towards_the_best_corner_there_is_no_knee(points: list[tuple[float, float]], why: str) -> None:
    found = of(points)
    assert isinstance(found, Missing)
    assert why in found.why


def test_the_summary_names_the_knee_and_only_of_two_objectives() -> None:
    record = record_of([("finished", 0.0, 9.0), ("finished", 1.0, 1.5), ("finished", 9.0, 0.0)])
    told = " ".join(overview(StudyTables(record)))
    assert (
        "Its knee is at validation reconstruction 1.00 nats and validation KL 1.50 nats (trial 1): the point farthest "
        "from the line between these ends."
    ) in told
    single = replace(record, config={"objectives": [{"metric": METRICS[0], "direction": "minimize"}]})
    assert "knee" not in " ".join(overview(StudyTables(single)))

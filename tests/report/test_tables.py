"""The report's numbers against slow references and small cases checked by hand."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.report import summary
from pipeline.report.tables import Missing, study_tables, tidy
from pipeline.report.tables.choice import choices
from pipeline.report.tables.doubts import collapse, edges
from pipeline.report.tables.frontier import frontier, hypervolume_history
from pipeline.report.tables.plane import Strip, plane
from pipeline.report.tables.slices import auroc_slice
from pipeline.report.tables.training import training_curves
from pipeline.search.pareto import hypervolume
from pipeline.tracking.record import StudyRecord

from .studies import study

METRICS = ("val/reconstruction", "val/kl")
STATES = st.sampled_from(["finished", "finished", "stopped", "failed", "running"])
VALUES = st.sampled_from([float("nan"), 0.0, 1.0, 2.0, 3.5, 4.0, 7.25, float("inf")])
ROWS = st.lists(st.tuples(STATES, VALUES, VALUES), min_size=1, max_size=14)


def record_of(
    rows: list[tuple[str, float, float]], directions: tuple[str, str] = ("minimize", "minimize")
) -> StudyRecord:
    trials = pd.DataFrame(rows, columns=["state", *METRICS]).assign(trial=range(len(rows)))
    objectives = [{"metric": m, "direction": d} for m, d in zip(METRICS, directions, strict=True)]
    return StudyRecord(
        name="small",
        spec={"objectives": objectives},
        data={},
        environment={},
        trials=trials,
        history=pd.DataFrame({"trial": [], "epoch": []}),
        reference=dict.fromkeys(METRICS, 8.0),
        champion=None,
        tracking_uri="",
        experiment_id="",
        run_id="",
    )


def dominated(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return b[0] <= a[0] and b[1] <= a[1] and b != a


def slow_frontier(rows: list[tuple[str, float, float]]) -> set[int]:
    finished = {i: (x, y) for i, (state, x, y) in enumerate(rows) if state == "finished" and np.isfinite([x, y]).all()}
    return {i for i, a in finished.items() if not any(dominated(a, b) for b in finished.values())}


def slow_hypervolume(points: list[tuple[float, float]], reference: float) -> float:
    """A sweep: strips between the points' first coordinates, each as high as the best second coordinate so far."""
    inside = [(x, y) for x, y in points if x < reference and y < reference]
    xs = sorted({x for x, _ in inside} | {reference})
    return sum((b - a) * (reference - min(y for x, y in inside if x <= a)) for a, b in pairwise(xs))


@given(ROWS)
def test_frontier_is_what_pairwise_comparison_finds(rows: list[tuple[str, float, float]]) -> None:
    assert set(frontier(tidy(record_of(rows)))["trial"]) == slow_frontier(rows)


@given(ROWS)
def test_maximizing_is_minimizing_the_negative(rows: list[tuple[str, float, float]]) -> None:
    negated = [(state, -x, y) for state, x, y in rows]
    assert set(frontier(tidy(record_of(negated, ("maximize", "minimize"))))["trial"]) == slow_frontier(rows)


@given(ROWS)
def test_hypervolume_is_that_of_a_sweep_after_each_finished_trial(rows: list[tuple[str, float, float]]) -> None:
    history = hypervolume_history(tidy(record_of(rows)))
    finished = [(x, y) for state, x, y in rows if state == "finished"]
    if not finished:
        assert isinstance(history, Missing)
        return
    assert not isinstance(history, Missing)
    expected = []
    for size in range(1, len(finished) + 1):
        known = [point for point in finished[:size] if np.isfinite(point).all()]
        expected.append(slow_hypervolume(known, 8.0))
    assert history.hypervolume_N == pytest.approx(expected)
    assert (np.diff(history.hypervolume_N) >= 0).all()


def test_hypervolume_agrees_with_monte_carlo(digits: StudyRecord) -> None:
    history = hypervolume_history(tidy(digits))
    assert not isinstance(history, Missing)
    points = frontier(tidy(digits))[list(METRICS)].to_numpy()
    box = np.array([digits.reference[m] for m in METRICS])
    draws = np.random.default_rng(0).uniform(0, box, (20_000, 2))
    share = (draws[:, None] >= points[None]).all(axis=2).any(axis=1).mean()
    assert history.hypervolume_N[-1] == pytest.approx(share * box.prod(), rel=0.04)


def test_a_stopped_trial_is_never_on_the_frontier_however_good() -> None:
    rows = [("finished", 2.0, 2.0), ("stopped", 0.0, 0.0), ("running", 0.0, 0.0), ("failed", 0.0, 0.0)]
    assert list(frontier(tidy(record_of(rows)))["trial"]) == [0]


def test_plane_draws_no_failed_trial_but_counts_it(digits: StudyRecord) -> None:
    table = plane(tidy(digits))
    assert not isinstance(table, Missing | Strip)
    assert "failed" not in set(table.points["state"])
    assert table.off_plane == {"failed": int((digits.trials["state"] == "failed").sum())}
    assert table.points["champion"].sum() == 1


def test_one_far_trial_does_not_squeeze_the_plane() -> None:
    rows = [("finished", 10.0 + i, 20.0 - i) for i in range(9)] + [("finished", 1e6, 1e6)]
    table = plane(tidy(record_of(rows)))
    assert not isinstance(table, Missing | Strip)
    assert table.x[1] < 30
    assert table.y[1] < 30


def test_summary_counts_and_finds_the_best(digits: StudyRecord) -> None:
    found = summary(digits)
    finished = digits.trials[digits.trials["state"] == "finished"]
    best = finished.loc[finished["val/elbo"].idxmax()]
    assert sum(found.states.values()) == 64
    assert found.states["finished"] == len(finished)
    assert (found.best_elbo_trial, found.best_elbo_nats) == (best["trial"], best["val/elbo"])
    assert found.epochs == len(digits.history)
    assert found.training_hours == pytest.approx(digits.history["time/epoch_seconds"].sum() / 3600)
    assert digits.champion is not None
    chosen = digits.champion
    assert (found.champion_trial, found.champion_rule, found.champion_score) == (
        chosen.trial,
        "val/auroc",
        chosen.score,
    )


def test_auroc_slice_holds_finished_trials_and_medians(digits: StudyRecord) -> None:
    table = auroc_slice(tidy(digits), "latent_dim")
    assert not isinstance(table, Missing)
    finished = digits.trials[digits.trials["state"] == "finished"]
    assert table.log
    assert digits.champion is not None
    assert table.metric == f"val_auroc/{digits.champion.score}" != "val_auroc/elbo"
    areas = finished[table.metric]
    assert table.points["auroc"].tolist() == areas.tolist()
    assert table.points.loc[table.points["champion"], "auroc"].tolist() == [areas.max()]
    assert table.trend["value"].is_monotonic_increasing
    assert table.trend["auroc"].between(areas.min(), areas.max()).all()


def test_training_curves_keep_both_ends_and_the_champion(digits: StudyRecord) -> None:
    members = frontier(tidy(digits))["trial"].tolist()
    for chosen in members:
        assert digits.champion is not None
        record = tidy(replace(digits, champion=replace(digits.champion, trial=chosen)))
        table = training_curves(record, most=5)
        assert not isinstance(table, Missing)
        assert chosen in table.trials
        assert {members[0], members[-1]} <= set(table.trials)
        assert len(table.trials) <= 5
        assert list(table.trials) == sorted(table.trials, key=members.index)


def test_collapse_needs_no_active_unit_or_almost_no_kl() -> None:
    record = record_of([("finished", 1.0, 0.04), ("finished", 1.0, 9.0), ("finished", 1.0, 9.0), ("stopped", 1.0, 0.0)])
    record.trials["val/active_units"] = [3.0, 0.0, 2.0, 0.0]
    record.trials["beta"] = [5.0, 4.0, 1.0, 2.0]
    found = collapse(tidy(record))
    assert (found.trials, found.known, found.smallest_beta) == ((0, 1), 3, 4.0)


@pytest.mark.parametrize(
    ("value", "log", "end"),
    [(0.1, True, "lower"), (0.11, True, "lower"), (10.0, True, "upper"), (1.0, True, None), (0.5, True, None),
     (0.5, False, "lower"), (9.9, False, "upper"), (5.0, False, None)],
)  # fmt: skip
def test_edges_are_five_percent_of_the_range_in_its_own_scale(value: float, log: bool, end: str | None) -> None:
    record = record_of([("finished", 1.0, 1.0)])
    record.trials["val/elbo"], record.trials["beta"] = -2.0, value
    record = replace(record, spec={**record.spec, "search": {"objective.beta": {"low": 0.1, "high": 10, "log": log}}})
    tidied = tidy(record)
    assert [edge.end for edge in edges(tidied, choices(tidied))] == ([end] if end else [])


def test_tables_do_not_depend_on_the_order_of_rows_and_columns() -> None:
    record = study(trials=12, epochs=5)
    shuffled = replace(
        record,
        trials=record.trials.sample(frac=1, random_state=1)[list(reversed(record.trials.columns))],
        history=record.history.sample(frac=1, random_state=2)[list(reversed(record.history.columns))],
    )
    one, other = study_tables(record), study_tables(shuffled)
    pd.testing.assert_frame_equal(one.trials, other.trials)
    pd.testing.assert_frame_equal(one.record.history, other.record.history)
    assert one.summary == other.summary


@pytest.mark.parametrize("objectives", [1, 3])
@given(st.data())
@settings(max_examples=25)
def test_hypervolume_of_one_or_three_objectives_is_that_of_all_so_far(objectives: int, data: st.DataObject) -> None:
    row = st.tuples(*[st.sampled_from([0.0, 1.0, 2.0, 4.5, 9.0, float("nan")])] * objectives)
    values = np.array(data.draw(st.lists(row, min_size=1, max_size=12)))
    names = ["val/a", "val/b", "val/c"][:objectives]
    small = record_of([("finished", 0.0, 0.0)] * len(values))
    spec = {"objectives": [{"metric": name, "direction": "minimize"} for name in names]}
    trials = small.trials.assign(**dict(zip(names, values.T, strict=True)))
    history = hypervolume_history(tidy(replace(small, spec=spec, trials=trials, reference=dict.fromkeys(names, 8.0))))
    assert not isinstance(history, Missing)
    expected = [hypervolume(values[: size + 1], [8.0] * objectives) for size in range(len(values))]
    assert history.hypervolume_N == pytest.approx(expected)

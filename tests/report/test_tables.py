"""The report's numbers against slow references and small cases checked by hand."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vae_study.report import summary
from vae_study.report.frames import Missing
from vae_study.report.frontier import frontier, hypervolume_history
from vae_study.report.plane import plane
from vae_study.report.sections.choices import choices
from vae_study.report.sections.code import collapse, edges
from vae_study.report.sections.progress import training_curves
from vae_study.report.sections.search_space import by_target
from vae_study.report.tables import StudyTables, tidy
from vae_study.selection.ranking import hypervolume
from vae_study.tracking.record import StudyRecord

from .studies import study

METRICS = ("val/reconstruction", "val/kl")
STATES = st.sampled_from(["finished", "finished", "pruned", "failed", "running"])
VALUES = st.sampled_from([float("nan"), 0.0, 1.0, 2.0, 3.5, 4.0, 7.25, float("inf")])
ROWS = st.lists(st.tuples(STATES, VALUES, VALUES), min_size=1, max_size=14)


def record_of(
    rows: list[tuple[str, float, float]], directions: tuple[str, str] = ("minimize", "minimize")
) -> StudyRecord:
    trials = pd.DataFrame(rows, columns=["state", *METRICS]).assign(trial=range(len(rows)))
    objectives = [{"metric": m, "direction": d} for m, d in zip(METRICS, directions, strict=True)]
    return StudyRecord(
        name="small",
        config={"objectives": objectives},
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
    rows = [("finished", 2.0, 2.0), ("pruned", 0.0, 0.0), ("running", 0.0, 0.0), ("failed", 0.0, 0.0)]
    assert list(frontier(tidy(record_of(rows)))["trial"]) == [0]


def test_plane_draws_no_failed_trial_but_counts_it(digits: StudyRecord) -> None:
    table = plane(tidy(digits))
    assert not isinstance(table, Missing)
    assert "failed" not in set(table.points["state"])
    assert table.off_plane == {"failed": int((digits.trials["state"] == "failed").sum())}
    assert table.points["champion"].sum() == 1


def test_one_far_trial_does_not_squeeze_the_plane() -> None:
    rows = [("finished", 10.0 + i, 20.0 - i) for i in range(9)] + [("finished", 1e6, 1e6)]
    table = plane(tidy(record_of(rows)))
    assert not isinstance(table, Missing)
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


def test_slices_are_of_the_chosen_score_s_auroc_first_and_mark_the_chosen_trial(digits: StudyRecord) -> None:
    found = by_target(StudyTables(digits))
    assert not isinstance(found, Missing)
    assert digits.champion is not None
    metric = f"val_auroc/{digits.champion.score}"
    assert next(iter(found)) == metric != "val_auroc/elbo"
    finished = digits.trials[digits.trials["state"] == "finished"].set_index("trial")
    table = next(one for one in found[metric] if one.parameter == "latent_dim")
    assert table.is_log
    assert dict(zip(table.trial_N, table.y_N, strict=True)) == finished[metric].to_dict()
    assert table.trial_N[table.chosen_N].tolist() == [digits.champion.trial]


def test_training_curves_keep_both_ends_and_the_chosen_trial_even_if_it_is_dominated(digits: StudyRecord) -> None:
    members = frontier(tidy(digits))["trial"].tolist()
    finished = digits.trials.loc[digits.trials["state"] == "finished", "trial"].tolist()
    reconstruction = digits.trials.set_index("trial")["val/reconstruction"]
    assert set(members) < set(finished)
    for chosen in finished:
        assert digits.champion is not None
        record = tidy(replace(digits, champion=replace(digits.champion, trial=chosen)))
        table = training_curves(record, most=5)
        assert not isinstance(table, Missing)
        assert chosen in table.trials
        assert table.is_dominated == (chosen not in members)
        ends = {table.trials[0], table.trials[-1]}
        assert ends == {members[0], members[-1]} or (table.is_dominated and chosen in ends)
        assert len(table.trials) <= 5
        assert list(table.trials) == sorted(table.trials, key=reconstruction.get)


def test_collapse_needs_no_active_unit_or_almost_no_kl() -> None:
    record = record_of([("finished", 1.0, 0.04), ("finished", 1.0, 9.0), ("finished", 1.0, 9.0), ("pruned", 1.0, 0.0)])
    record.trials["val/active_units"] = [3.0, 0.0, 2.0, 0.0]
    record.trials["beta"] = [5.0, 4.0, 1.0, 2.0]
    found = collapse(tidy(record))
    assert (found.trials, found.known, found.smallest_beta) == ((0, 1), 3, 4.0)
    assert found.swept == 0
    # The sweep is the last of its own models.
    record.trials["sweep"] = [2.0, 2.0, np.nan, np.nan]
    found = collapse(tidy(record))
    assert (found.swept, found.swept_beta) == (2, 4.0)
    record.trials["val/active_units"] = [3.0, 0.0, 0.0, 0.0]
    found = collapse(tidy(record))
    assert (found.trials, found.swept, found.swept_beta) == ((0, 1, 2), 3, 1.0)


@pytest.mark.parametrize(
    ("value", "log", "end"),
    [(0.1, True, "lower"), (0.11, True, "lower"), (10.0, True, "upper"), (1.0, True, None), (0.5, True, None),
     (0.5, False, "lower"), (9.9, False, "upper"), (5.0, False, None)],
)  # fmt: skip
def test_edges_are_five_percent_of_the_range_in_its_own_scale(value: float, log: bool, end: str | None) -> None:
    record = record_of([("finished", 1.0, 1.0)])
    record.trials["val/elbo"], record.trials["beta"] = -2.0, value
    record = replace(
        record, config={**record.config, "search": {"objective.beta": {"low": 0.1, "high": 10, "log": log}}}
    )
    tidied = tidy(record)
    assert [edge.end for edge in edges(tidied, choices(tidied))] == ([end] if end else [])


def test_tables_do_not_depend_on_the_order_of_rows_and_columns() -> None:
    record = study(trials=12, epochs=5)
    shuffled = replace(
        record,
        trials=record.trials.sample(frac=1, random_state=1)[list(reversed(record.trials.columns))],
        history=record.history.sample(frac=1, random_state=2)[list(reversed(record.history.columns))],
    )
    one, other = StudyTables(record), StudyTables(shuffled)
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
    config = {"objectives": [{"metric": name, "direction": "minimize"} for name in names]}
    trials = small.trials.assign(**dict(zip(names, values.T, strict=True)))
    history = hypervolume_history(
        tidy(replace(small, config=config, trials=trials, reference=dict.fromkeys(names, 8.0)))
    )
    assert not isinstance(history, Missing)
    expected = [hypervolume(values[: size + 1], [8.0] * objectives) for size in range(len(values))]
    assert history.hypervolume_N == pytest.approx(expected)

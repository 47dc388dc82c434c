"""How a study went: what was stopped early, what violates a constraint, what failed and why, and who went on."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgba
from vae_study.report import write_report
from vae_study.report.frames import Missing
from vae_study.report.frontier import frontier, hypervolume_history
from vae_study.report.overview import overview, warnings
from vae_study.report.plane import Plane, plane, sampled_trials
from vae_study.report.reproduce import version_grid
from vae_study.report.sections.choices import choices
from vae_study.report.sections.outcomes import constraints, early_stopping, preemptions
from vae_study.report.sections.trade_off import draw_plane, interactive_plane
from vae_study.report.sections.trials import trial_grid
from vae_study.report.tables import StudyTables, tidy
from vae_study.terminal import status_text
from vae_study.tracking.record import StudyRecord

from .detectors import compared
from .eventful import ACTIVE_UNITS, KL, eventful, keeps
from .families import without_rate
from .page import bytes_of, page_of
from .studies import study
from .test_failures import failed
from .test_tables import METRICS, record_of, slow_frontier, slow_hypervolume

STATES = ["finished", "pruned", "failed", "running", "waiting"]
SMALL = {"trials": 30, "epochs": 6}


@pytest.fixture(scope="module")
def record() -> StudyRecord:
    return compared(eventful(study(**SMALL)))


@pytest.fixture(scope="module")
def tables(record: StudyRecord) -> StudyTables:
    return StudyTables(record)


@pytest.fixture(scope="module")
def written(record: StudyRecord, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(record, tmp_path_factory.mktemp("eventful") / "report").parent


def with_trials(record: StudyRecord, **columns: Any) -> StudyRecord:
    return tidy(replace(record, trials=record.trials.assign(**columns)))


ROWS = st.lists(
    st.tuples(st.sampled_from(STATES), *[st.sampled_from([0.0, 1.0, 2.0, 3.5, 4.0])] * 2, st.booleans()),
    min_size=1,
    max_size=14,
)


@given(ROWS)
def test_stopped_and_infeasible_trials_neither_join_nor_move_the_frontier(rows: Any) -> None:
    small = with_trials(record_of([row[:3] for row in rows]), feasible=[row[3] for row in rows])
    hidden = [(state if ok else "failed", x, y) for state, x, y, ok in rows]
    assert set(frontier(small)["trial"]) == slow_frontier(hidden)
    history = hypervolume_history(small)
    points = [(x, y) for state, x, y in hidden if state == "finished"]
    assert isinstance(history, Missing) == (not points)
    if not isinstance(history, Missing):
        assert len(history.trial_N) == sum(state == "finished" for state, *_ in rows)
        assert history.hypervolume_N[-1] == pytest.approx(slow_hypervolume(points, 8.0))
        assert (np.diff(history.hypervolume_N) >= 0).all()


def test_better_trials_that_were_stopped_or_are_infeasible_are_drawn_beside_the_frontier_s_line() -> None:
    rows = [("finished", 3.0, 3.0), ("finished", 2.0, 5.0), ("pruned", 1.0, 1.0), ("finished", 0.5, 0.5)]
    table = plane(with_trials(record_of(rows), feasible=[True, True, True, False]))
    assert isinstance(table, Plane)
    (axes,) = draw_plane(table).axes
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["pruned", "constraint violated", "frontier"]
    drawn = {str(dots.get_label()): dots for dots in axes.collections}
    assert np.asarray(drawn["pruned"].get_offsets()).tolist() == [[1.0, 1.0]]
    assert np.asarray(drawn["constraint violated"].get_offsets()).tolist() == [[0.5, 0.5]]
    assert not len(drawn["constraint violated"].get_facecolor())  # type: ignore[arg-type]
    assert np.asarray(drawn["pruned"].get_edgecolor()).tolist() == [list(to_rgba("#c3c9d0"))]
    line = next(line for line in axes.lines if line.get_label() == "frontier")
    assert np.asarray(line.get_xydata()).tolist() == [[2.0, 5.0], [3.0, 3.0]]


def test_along_one_objective_the_best_so_far_keeps_the_constraints() -> None:
    made = without_rate(("val/reconstruction",), trials=20, epochs=6)
    finished = made.trials[made.trials["state"] == "finished"]
    best = int(finished["val/reconstruction"].idxmin())
    table = plane(with_trials(made, feasible=made.trials["trial"] != best))
    assert isinstance(table, Plane)
    assert table.is_strip
    assert best not in set(table.best["x"])
    assert table.best["y"].iloc[-1] == finished["val/reconstruction"].drop(best).min()
    assert "constraint violated" in [dots.get_label() for dots in draw_plane(table).axes[0].collections]


HISTORIES = st.lists(
    st.tuples(st.sampled_from(STATES), st.integers(0, 9), st.sampled_from([None, 9, 12]), st.integers(0, 3)),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60)
@given(HISTORIES, st.sampled_from([None, 20]))
def test_the_share_of_epochs_is_what_counting_them_one_by_one_gives(trials: Any, fixed: int | None) -> None:
    """Each trial with the epochs it trained, the budget that was searched for it, and epochs it reports twice."""
    rows = [
        (trial, epoch)
        for trial, (_, trained, _, twice) in enumerate(trials)
        for epoch in [*range(1, trained + 1), *range(1, min(trained, twice) + 1)]
    ]
    made = record_of([(state, 1.0, 1.0) for state, *_ in trials])
    config = {**made.config, "early_stopping": {"kind": "asha"}, "training": {"epochs": fixed} if fixed else {}}
    made = replace(made, config=config, history=pd.DataFrame(rows, columns=["trial", "epoch"]))
    found = early_stopping(with_trials(made, **{"training.epochs": [budget for _, _, budget, _ in trials]}))
    assert found is not None
    counted = [
        (trained, budget or fixed)
        for state, trained, budget, _ in trials
        if state in ("finished", "pruned") and trained and (budget or fixed)
    ]
    assert (found.trained, found.full) == (sum(t for t, _ in counted), sum(b for _, b in counted))
    assert found.stopped == tuple(n for n, (state, *_) in enumerate(trials) if state == "pruned")
    assert found.trained_by_trial == {n: trained for n, (_, trained, _, _) in enumerate(trials) if trained}
    assert np.isnan(found.share) if not counted else 0 < found.share <= 1


def test_the_summary_says_what_was_stopped_and_what_that_spared(record: StudyRecord, tables: StudyTables) -> None:
    states = Counter(record.trials["state"])
    ended = record.trials["trial"][record.trials["state"].isin(["finished", "pruned"])]
    trained, full = int(record.history["trial"].isin(ended).sum()), 6 * len(ended)
    stopped = record.trials["trial"][record.trials["state"] == "pruned"]
    paces = [record.history[record.history["trial"] == trial]["time/epoch_seconds"].mean() for trial in stopped]
    assert states["pruned"] > 1
    assert (
        "Early stopping by non-dominated sorting (reduction factor 3, not before epoch 4) ended "
        f"{states['pruned']} of 30 trials ({100 * states['pruned'] / 30:.1f} %) after 2 epochs. The finished and the "
        f"pruned trials together trained {100 * trained / full:.1f} % of their full budgets ({trained} of {full} "
        f"epochs). This saved about {4 * sum(paces):.1f} seconds."
    ) in overview(tables)[1]


@pytest.mark.parametrize(
    ("after", "told"),
    [
        ([3, 3], " after 3 epochs."),
        ([9, 3, 3], ", 2 after 3 epochs and 1 after 9 epochs."),
        ([1, 2, 3, 4, 5], " after 1 to 5 epochs, half of them after 3 at most."),
        ([1, 2, 3, 4, 5, 5], " after 1 to 5 epochs, half of them after 3 at most."),
        ([0], "."),
    ],
)
def test_the_summary_says_when_trials_were_stopped(after: list[int], told: str) -> None:
    rows = [(trial, epoch) for trial, epochs in enumerate(after) for epoch in range(epochs)]
    made = record_of([("pruned", 1.0, 1.0)] * len(after))
    made = replace(made, config={**made.config, "early_stopping": {"kind": "asha"}, "training": {"epochs": 9}})
    made = replace(made, history=pd.DataFrame(rows, columns=["trial", "epoch"]))
    assert f" (100.0 %){told}" in overview(StudyTables(made))[1]


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"kind": "asha", "metric": "val/elbo", "reduction_factor": 4, "min_epochs": None},
         "successive halving (ASHA) on validation ELBO (reduction factor 4) ended"),
        ({"kind": "median", "metric": "val/kl", "reduction_factor": 3, "min_epochs": 5},
         "the median rule on validation KL (not before epoch 5) ended"),
        ({"kind": "pareto", "metric": "val/elbo"}, "Early stopping by non-dominated sorting ended"),
    ],
)  # fmt: skip
def test_the_rule_is_told_with_what_it_looks_at(record: StudyRecord, rule: dict[str, Any], told: str) -> None:
    assert told in overview(StudyTables(replace(record, config={**record.config, "early_stopping": rule})))[1]


def test_a_study_that_could_stop_trials_and_did_not_says_so() -> None:
    made = eventful(study(**SMALL))
    kept = made.trials["state"] == "finished"
    told = overview(StudyTables(replace(made, trials=made.trials[kept])))[1]
    assert "ended no trial. The finished trials trained 100.0 % of their full budgets" in told


def test_every_constraint_counts_who_violates_it(record: StudyRecord, tables: StudyTables) -> None:
    finished = record.trials[record.trials["state"] == "finished"].to_dict("records")
    for bound, constraint in zip(tables.of(constraints).bounds, (ACTIVE_UNITS, KL), strict=True):
        assert bound.violating == tuple(row["trial"] for row in finished if not keeps(row, constraint))
    both = [row["trial"] for row in finished if not (keeps(row, ACTIVE_UNITS) and keeps(row, KL))]
    assert tables.of(constraints).violating == tuple(both)
    assert 0 < len(both) < len(finished)
    units, kl = (len(bound.violating) for bound in tables.of(constraints).bounds)
    assert (
        f"{len(both)} of {len(finished)} finished trials violate a constraint and are not on the frontier: "
        f"validation active units at least 4 ({units} trials) and validation KL at most 25 nats ({kl} trial"
    ) in overview(tables)[1]


def test_a_trial_without_a_constraint_s_metric_violates_it() -> None:
    made = record_of([("finished", 1.0, 1.0), ("finished", 2.0, np.nan)])
    made = replace(made, config={**made.config, "constraints": [{"metric": "val/kl", "at_least": 0.5}]})
    found = constraints(with_trials(made, feasible=[True, False]))
    assert found.bounds[0].violating == found.violating == (1,)


def test_trials_that_keep_everything_are_told_in_a_sentence(record: StudyRecord) -> None:
    made = with_trials(record, feasible=True)
    told = overview(StudyTables(made))
    n = int((made.trials["state"] == "finished").sum())
    kept = "validation active units at least 4 and validation KL at most 25 nats"
    assert f"All {n} finished trials satisfy the constraints: {kept}." in told[1]
    assert "that satisf" not in " ".join([told[0], *told[2:]])


def test_where_no_trial_keeps_the_constraints_one_is_chosen_and_the_report_warns(tmp_path: Path) -> None:
    made = compared(eventful(study(trials=10, epochs=6), ({**KL, "at_most": -1.0},)))
    assert made.champion is not None
    finished = made.trials[made.trials["state"] == "finished"].set_index("trial")
    assert made.champion.trial == finished.filter(like="val_auroc/").max(axis=1).idxmax()
    folder = write_report(made, tmp_path / "report").parent
    text = page_of(folder).text
    warning = f"Every choice in this report is therefore made among all {len(finished)} finished trials."
    assert "No finished trial satisfies the constraints (validation KL at most −1 nats). " + warning in text
    assert warning in (folder / "report.md").read_text(encoding="utf-8")
    assert "No trial is on the frontier, because no finished trial satisfies the constraints." in text
    assert pd.read_csv(folder / "frontier.csv").empty


def test_rules_of_a_running_study_take_only_trials_that_keep_the_constraints() -> None:
    made = eventful(study(**SMALL))
    found = StudyTables(replace(made, champion=None))
    kept = made.trials[made.trials["feasible"] & made.trials["state"].eq("finished")].set_index("trial")
    assert {c.name: c.trials[0] for c in found.of(choices)} == {
        rule: kept[rule].idxmax() for rule in ("val/auroc", "val/elbo")
    }
    assert found.summary.best_elbo_trial == kept["val/elbo"].idxmax()


def test_trials_that_lost_their_worker_are_counted_but_for_those_that_did_not_go_on(tables: StudyTables) -> None:
    counts = [1, 0, 3, 2, np.nan]
    reasons = [("preempted", "worker died"), ("error", "x"), ("preempted", "worker died"), ("error", "x"), ("", "")]
    made = failed(*reasons, preemptions=counts, state=["finished", "finished", "failed", "failed", "running"])
    made.trials.loc[0, "failure"] = None
    found = preemptions(made)
    assert (found.trials, found.times) == ((0, 3), 3)
    assert (
        "2 trials lost their worker (3 times in total) and continued from the last checkpoint: trials 3 and 8."
    ) in overview(tables)[1]


def test_the_summary_names_what_the_search_began_with(record: StudyRecord, tables: StudyTables) -> None:
    assert overview(tables)[1].startswith(
        "The study file gives 2 configurations to try first. "
        "The search was warm-started with the finished trials of the study older <b>."
    )
    alone = replace(record, config={**record.config, "enqueue": [{"beta": 1}], "warm_start": None})
    assert overview(StudyTables(alone))[1].startswith("The study file gives 1 configuration to try first. Early")


def test_the_table_of_all_trials_says_how_far_each_came(record: StudyRecord, tables: StudyTables) -> None:
    grid = trial_grid(tables)
    assert grid.head[:5] == ("trial", "state", "epochs", "feasible", "preemptions")
    lengths = record.history.groupby("trial").size()
    for row, about in zip(grid.rows, record.trials.to_dict("records"), strict=True):
        assert row[2] == str(lengths[about["trial"]])
        judged = about["state"] in ("finished", "pruned")
        assert row[3] == (("yes" if about["feasible"] else "no") if judged else "–")
        assert row[4] == str(about["preemptions"])


def test_the_hypervolume_is_told_with_the_epochs_that_it_took(record: StudyRecord, tables: StudyTables) -> None:
    table = tables.of(hypervolume_history)
    assert not isinstance(table, Missing)
    assert table.epochs_N is not None
    expected = [int((record.history["trial"] <= trial).sum()) for trial in table.trial_N]
    assert table.epochs_N.tolist() == expected
    unknown = hypervolume_history(tidy(replace(record, history=record.history.head(0))))
    assert not isinstance(unknown, Missing)
    assert unknown.epochs_N is None


def test_what_the_trials_were_trained_on_is_told_and_a_column_where_it_differs(record: StudyRecord) -> None:
    count = len(record.trials)
    alike = with_trials(record, device="cuda, NVIDIA L4")
    assert ("trained on", f"cuda, NVIDIA L4 ({count} trials)") in version_grid(alike).rows
    assert f"trained on cuda, NVIDIA L4: {count} trials" in status_text(alike, 0)
    assert "device" not in trial_grid(StudyTables(alike)).head
    mixed = with_trials(record, device=["cpu, x86_64", *["cuda, NVIDIA L4"] * (count - 2), None])
    told = f"cuda, NVIDIA L4 ({count - 2} trials); cpu, x86_64 (1 trial)"
    assert ("trained on", told) in version_grid(mixed).rows
    grid = trial_grid(StudyTables(mixed))
    column = grid.head.index("device")
    assert [row[column] for row in grid.rows[:2]] == ["cpu, x86_64", "cuda, NVIDIA L4"]
    assert "trained on" not in dict(version_grid(record).rows)


def quiet(made: StudyRecord) -> StudyRecord:
    """Of this version, but nothing remarkable happened."""
    return replace(made, trials=made.trials.assign(feasible=True, preemptions=0, reason=None))


@pytest.mark.parametrize("make", [lambda: study(**SMALL), lambda: without_rate(("val/reconstruction",), **SMALL)])
def test_a_study_in_which_nothing_of_this_happened_reads_as_one_that_knows_nothing_of_it(
    make: Callable[[], StudyRecord], tmp_path: Path
) -> None:
    plain, made = (write_report(r, tmp_path / n).parent for r, n in ((make(), "plain"), (quiet(make()), "quiet")))
    one, other = bytes_of(plain), bytes_of(made)
    tables_of_trials = {"trials.parquet", "frontier.csv"}
    assert {name for name in one if one[name] != other[name]} == tables_of_trials
    config = {"early_stopping": {"kind": "none"}, "constraints": [], "enqueue": [], "warm_start": None}
    said = overview(StudyTables(replace(make(), config={**make().config, **config})))
    assert said == overview(StudyTables(make()))


def test_what_was_measured_is_the_same_in_any_order_and_stored_with_the_report(
    record: StudyRecord, written: Path, tmp_path: Path
) -> None:
    shuffled = replace(
        record,
        trials=record.trials.sample(frac=1, random_state=1)[list(reversed(record.trials.columns))],
        history=record.history.sample(frac=1, random_state=2),
    )
    assert bytes_of(write_report(shuffled, tmp_path / "again").parent) == bytes_of(written)
    stored = pd.read_parquet(written / "trials.parquet")
    assert list(stored.columns[:8]) == [
        "trial", "state", "failure", "run_id", "reason", "preemptions", "feasible", "beta"
    ]  # fmt: skip
    assert stored["feasible"].tolist() == record.trials["feasible"].tolist()
    assert set(METRICS) <= set(stored.columns)


def test_models_that_sweeps_kept_are_told_from_trainings_of_their_own(record: StudyRecord) -> None:
    kept = dict(zip(record.trials["trial"], [None, 0.0, 0.0], strict=False))
    made = replace(record, trials=record.trials.assign(sweep=record.trials["trial"].map(kept)))
    assert "2 of them are models that sweeps of beta kept along the way" in overview(StudyTables(tidy(made)))[0]
    assert "sweep" not in overview(StudyTables(tidy(record)))[0]
    grid = trial_grid(StudyTables(tidy(made)))
    of = {row[0]: row[grid.head.index("sweep")] for row in grid.rows}
    assert (of["1"], of["2"]) == ("0", "0")
    assert {of[trial] for trial in of if trial not in ("1", "2")} == {"–"}
    assert not {"sweep", "retrains"} & {*trial_grid(StudyTables(tidy(record))).head}
    of_path = made.trials["trial"].map({0: 3.0, 2: 2.5})
    silent = made.trials.assign(**{"val/collapsed": of_path.notna() * 1.0, "beta": of_path.fillna(made.trials["beta"])})
    told = " ".join(warnings(StudyTables(tidy(replace(made, trials=silent)))))
    assert "2 of them are on the path of a sweep: with 2.5 as objective.sweep.high" in told
    more = replace(made, trials=made.trials.assign(retrains=made.trials["trial"].map({3: 1.0})))
    assert "1 trial trained one of these again" in overview(StudyTables(tidy(more)))[0]
    grid = trial_grid(StudyTables(tidy(more)))
    assert {row[0]: row[grid.head.index("retrains")] for row in grid.rows}["3"] == "1"
    table = plane(tidy(made))
    assert isinstance(table, Plane)
    places = table.points.set_index("trial")[["x", "y"]]
    (path,) = table.sweeps
    # The last of them is the sweep's own.
    assert path.to_numpy().tolist() == [places.loc[trial].tolist() for trial in (1, 2, 0) if trial in places.index]
    drawn = interactive_plane(table, sampled_trials(StudyTables(tidy(made))))
    lines = {trace["name"]: trace for trace in drawn.traces}
    assert lines["path of a sweep"]["x"][:-1] == pytest.approx(path["x"].tolist(), rel=1e-3)
    assert "path of a sweep" in {line.get_label() for line in draw_plane(table).axes[0].lines}

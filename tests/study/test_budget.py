"""What ends a study before it has all its trials, and how it goes on from there."""

import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient
from vae_study.api import build_report, load_study, resume_study, run_study
from vae_study.cli import main
from vae_study.config.loading import load_config
from vae_study.errors import UserError
from vae_study.study import start
from vae_study.study.budget import Budget, Limits
from vae_study.study.progress import StudyCurves
from vae_study.study.session import Enough, Interrupted, Shutdown
from vae_study.tracking.schema import ENDED

from tests.study.conftest import CONFIG, SHORT

METRICS = ["val/reconstruction", "val/kl", "test/auroc"]


class Clock:
    """Seconds, as a test sets them."""

    now = 0.0

    def __call__(self):
        return self.now


@given(st.lists(st.tuples(st.floats(0, 1e4), st.integers(0, 8)), max_size=30), st.floats(0.01, 5), st.floats(0.01, 5))
def test_a_budget_is_over_when_the_hours_or_the_worker_hours_are(steps, hours, max_cost):
    clock = Clock()
    budget = Budget(Limits(hours=hours, max_cost=max_cost, price_per_hour=0.5), clock)
    passed = worked = 0.0
    for seconds, workers in steps:
        clock.now += seconds
        why = budget.spend(workers)
        passed, worked = passed + seconds / 3600, worked + workers * seconds / 3600
        assert budget.worker_hours == pytest.approx(worked)
        # At the limit itself, the last bit decides.
        if min(abs(passed - hours), abs(0.5 * worked - max_cost)) > 1e-9:
            assert bool(why) == (passed > hours or 0.5 * worked > max_cost)
            assert ("--hours" in why) == (passed > hours)


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"hours": 0}, "--hours: got 0, expected a number above 0"),
        ({"hours": float("nan")}, "--hours: got nan"),
        ({"max_cost": -1, "price_per_hour": 1}, "--max-cost: got -1"),
        ({"max_cost": 20}, "--max-cost: needs --price-per-hour"),
        ({"price_per_hour": 2}, "--price-per-hour: needs --max-cost"),
    ],
)
def test_limits_that_make_no_sense_are_refused_before_anything_is_written(limits, says, tmp_path):
    with pytest.raises(UserError, match=says):
        run_study(CONFIG, home=tmp_path, **limits)
    assert not list(tmp_path.iterdir())


def test_a_signal_counts_more_than_a_spent_budget():
    shutdown = Shutdown(Budget(Limits(hours=1), Clock()))
    shutdown.request(Enough("the budget is spent"))
    assert isinstance(shutdown.reason, Enough)
    shutdown.request(Interrupted("interrupted"))
    shutdown.request(Enough("the budget is spent"))
    assert isinstance(shutdown.reason, Interrupted)
    assert shutdown.take_enough() == ""
    assert isinstance(shutdown.reason, Interrupted)


@given(
    st.lists(st.tuples(st.sampled_from(ENDED), st.floats(0, 3), st.floats(0, 3)), max_size=20),
    st.integers(1, 6), st.floats(0.01, 0.9), st.integers(0, 8),
)  # fmt: skip
def test_a_search_is_flat_when_its_volume_has_not_grown_over_the_last_trials_that_did_not_fail(
    trials, count, gain, since
):
    curves = StudyCurves({"a": 3.0, "b": 3.0}, [1, 1])
    volumes = [0.0]
    for state, a, b in trials:
        told = curves.add(state, {"a": a, "b": b})
        if state != "failed":
            volumes.append(told["study/hypervolume"])
        judged = len(volumes) - 1
        window = volumes[-1 - count :]
        expected = judged >= since + count and volumes[-1] > 0 and window[-1] - window[0] < gain * volumes[-1]
        assert curves.is_flat(count, gain, since) == expected


@pytest.mark.parametrize("written", ["20", "20 trials"])
def test_the_window_may_be_written_with_its_unit(written):
    assert load_config(CONFIG, [f"stop_when.flat_for={written}"]).stop_when.flat_for == 20


@pytest.mark.parametrize("written", ["0", "twenty trials", "20 epochs", "2.5"])
def test_another_window_is_refused(written):
    with pytest.raises(UserError, match=r"stop_when\.flat_for: got"):
        load_config(CONFIG, [f"stop_when.flat_for={written}"])


@pytest.mark.studies
def test_a_study_whose_hours_are_over_is_complete_and_goes_on_exactly(ray_session, tmp_path, monkeypatch):
    whole = run_study(CONFIG, [*SHORT, "trials=4"], home=tmp_path / "whole", concurrency=1)
    home = tmp_path / "cut"

    def an_hour_for_each_trial():
        return 3600.0 * len(list(home.glob("digits/trials/*/scores.parquet")))

    monkeypatch.setattr(start, "Budget", lambda limits: Budget(limits, an_hour_for_each_trial))
    cut = run_study(CONFIG, [*SHORT, "trials=4"], home=home, concurrency=1, hours=2)
    # The report of the second may have come too late.
    assert (cut.trials["state"] == "finished").sum() in (1, 2)
    assert set(cut.trials["state"]) <= {"finished", "waiting"}
    assert cut.stopped == "--hours 2 are over"
    assert cut.champion is not None
    parent = MlflowClient(cut.tracking_uri).get_run(cut.run_id)
    assert parent.info.status == "FINISHED"
    assert "**Stopped**" in parent.data.tags["mlflow.note.content"]
    page = build_report("digits", home=home, output=tmp_path / "report")
    assert "--hours 2 are over" in page.read_text(encoding="utf-8")
    status = CliRunner().invoke(main, ["status", "digits", "--home", str(home)]).stdout
    assert "stopped    --hours 2 are over; vae-study resume digits" in status
    again = resume_study("digits", home=home, concurrency=1, hours=100)
    assert again.stopped == ""
    assert (again.trials["state"] == "finished").all()
    pd.testing.assert_frame_equal(again.trials[METRICS], whole.trials[METRICS])
    assert not again.history.duplicated(["trial", "epoch"]).any()


@pytest.mark.studies
def test_a_flat_search_stops_confirms_its_best_and_gets_as_many_trials_again(ray_session, tmp_path):
    far = [f"{{metric: {metric}, direction: minimize, reference: 1000}}" for metric in METRICS[:2]]
    same = ["search=null", "search.beta={choices: [1.0]}", f"objectives=[{', '.join(far)}]"]
    settings = [
        *SHORT,
        *same,
        "stop_when={flat_for: 2 trials, min_gain: 0.9}",
        "trials=50",
        "confirm={top: 1, seeds: 1}",
    ]
    record = run_study(CONFIG, settings, home=tmp_path, concurrency=1)
    assert "the hypervolume grew by less than 90 % in 2 trials" in record.stopped
    assert (record.trials["state"] == "finished").sum() == 3
    assert len(record.confirmations) == 1
    more = resume_study("digits", home=tmp_path, concurrency=1)
    assert (more.trials["state"] == "finished").sum() == 5
    done = resume_study("digits", home=tmp_path, concurrency=1, trials=5)
    assert (done.trials["state"] == "finished").sum() == 5
    assert load_study("digits", home=tmp_path).config["trials"] == 5

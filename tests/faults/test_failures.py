"""Trials that fail by themselves, each in its own way."""

import math
from pathlib import Path

import pytest
from mlflow import MlflowClient
from vae_study.api import load_study, run_study
from vae_study.errors import StudyError

from tests.faults.runs import CONFIG, check_invariants, study_of

TOO_MUCH, IMPOSSIBLE = 2**40, 2**62
QUICK = ["training.epochs=2", "confirm=null", "model.network.hidden=null", "sampler.kind=random"]


def hidden(*widths: int) -> str:
    return f"search.network.hidden={{choices: [{', '.join(f'[{width}]' for width in widths)}]}}"


@pytest.fixture(scope="module")
def mixed(ray_session, tmp_path_factory):
    """Trials that finish, that raise, that ask for too much memory, and that diverge."""
    home = tmp_path_factory.mktemp("mixed")
    # Each step multiplies the weights by minus a million.
    decays = "search.training.weight_decay={choices: [0.0, 0.0, 1.0e+9]}"
    first = "enqueue=[{network.hidden: [16], training.weight_decay: 0.0}]"
    run_study(CONFIG, [*QUICK, hidden(16, TOO_MUCH, IMPOSSIBLE), decays, first, "trials=16"], home=home)
    return home


def test_each_failure_is_told_by_its_class_and_nothing_else_is_lost(mixed):
    check_invariants(mixed, 16)
    trials = load_study("digits", home=mixed).trials.set_index("trial").fillna({"failure": ""})
    expected = {f"[{TOO_MUCH}]": "out_of_memory", f"[{IMPOSSIBLE}]": "error"}
    for _, trial in trials.iterrows():
        diverges = trial["training.weight_decay"] > 1
        failure = expected.get(trial["network.hidden"], "diverged" if diverges else "")
        assert (trial["state"], trial["failure"]) == ("failed" if failure else "finished", failure)
    assert trials["failure"].nunique() == 4
    wide = trials[trials["failure"] == "out_of_memory"]
    assert wide["reason"].str.contains("bytes").all()


def test_an_exception_ends_its_trial_with_its_traceback(mixed, tmp_path):
    record = load_study("digits", home=mixed)
    first = record.trials.query("failure == 'error'")["run_id"].iloc[0]
    path = MlflowClient(record.tracking_uri).download_artifacts(first, "error.txt", str(tmp_path))
    assert "Traceback" in Path(path).read_text()


def test_the_sampler_is_told_of_failures_as_failures(mixed):
    for trial in study_of(mixed).get_trials():
        assert trial.state.name in ("COMPLETE", "FAIL")
        if trial.state.name == "COMPLETE":
            assert all(map(math.isfinite, trial.values))
        else:
            assert trial.user_attrs["failure"] in ("diverged", "out_of_memory", "error")
            assert trial.values is None


def test_three_first_trials_that_fail_alike_end_the_study_which_can_go_on(ray_session, tmp_path):
    first = [f"{{network.hidden: [{IMPOSSIBLE}], beta: {beta}}}" for beta in (1.0, 2.0, 3.0)]
    settings = [*QUICK, hidden(16, IMPOSSIBLE), "trials=6"]
    with pytest.raises(StudyError, match=r"3 trials failed in the same way \(error\): RuntimeError: Storage size"):
        run_study(CONFIG, [*settings, f"enqueue=[{', '.join(first)}]"], home=tmp_path, concurrency=1)
    assert study_of(tmp_path).trials[-1].number < 5
    run_study(CONFIG, settings, home=tmp_path, concurrency=1)
    check_invariants(tmp_path, 6)


def test_a_trial_that_did_not_fit_runs_once_more_with_nothing_beside_it(ray_session, tmp_path):
    """The searched widths cost so much memory that it shows in the order of the ends: those come last."""
    first = f"enqueue=[{{network.hidden: [{TOO_MUCH}]}}, {{network.hidden: [16]}}]"
    run_study(CONFIG, [*QUICK, hidden(16, TOO_MUCH), first, "trials=5"], home=tmp_path)
    trials = {trial.number: trial for trial in study_of(tmp_path).get_trials()}
    too_wide = [trial for trial in trials.values() if trial.user_attrs.get("failure") == "out_of_memory"]
    others = [trial for trial in trials.values() if trial not in too_wide]
    assert trials[0] in too_wide
    assert min(trial.datetime_complete for trial in too_wide) > max(trial.datetime_complete for trial in others)

import math
import os
import stat

import optuna
import pandas as pd
import pytest
from mlflow import MlflowClient
from sklearn.metrics import roc_auc_score
from vae_study.api import _detector as fetched
from vae_study.api import build_report, client_of, load_study, run_study
from vae_study.config.loading import load_config
from vae_study.data import prepare
from vae_study.errors import StudyError, UserError
from vae_study.report import summary
from vae_study.vae.device import device_name

from tests.study.conftest import CONFIG, SHORT

OBJECTIVES = ["val/reconstruction", "val/kl"]


def finished(trials: pd.DataFrame) -> pd.DataFrame:
    return trials[trials["state"] == "finished"]


def test_every_trial_of_the_budget_is_there_once(study):
    assert study.record.trials["trial"].tolist() == list(range(10))
    assert study.record.trials["run_id"].is_unique


def test_all_files_of_home_have_the_permissions_that_the_users_umask_says(study):
    umask = os.umask(0o077)
    os.umask(umask)
    paths = [path for path in study.home.rglob("*") if not path.is_symlink()]
    odd = {
        str(path.relative_to(study.home)): oct(mode)
        for path in paths
        if (mode := stat.S_IMODE(path.stat().st_mode)) != (0o777 if path.is_dir() else 0o666) & ~umask
    }
    assert not odd
    assert [path for path in paths if path.name == "calibration.safetensors"]


def test_a_diverged_trial_ends_alone_and_the_study_goes_on(study):
    trials = study.record.trials
    wild = trials["training.learning_rate"] > 1
    assert wild.any()
    assert not wild.all()
    assert (trials.loc[wild, "state"] == "failed").all()
    assert (trials.loc[wild, "failure"] == "diverged").all()
    assert (trials.loc[~wild, "state"] == "finished").all()


def test_each_trial_says_what_it_was_trained_on(study):
    assert set(study.record.trials["device"]) == {device_name("cpu")}


def test_the_study_store_and_mlflow_tell_the_same(study):
    stored = optuna.load_study(study_name="digits", storage=f"sqlite:///{study.home}/digits/study.db")
    assert len(stored.trials) == 10
    for row, trial in zip(study.record.trials.to_dict("records"), stored.trials, strict=True):
        assert trial.state.name == {"finished": "COMPLETE", "failed": "FAIL"}[row["state"]]
        for name, value in trial.params.items():
            assert row[name] == value
        if row["state"] == "finished":
            assert trial.values == [row[name] for name in OBJECTIVES]
        else:
            assert trial.user_attrs["failure"] == row["failure"]


def test_no_stopped_or_failed_trial_is_on_the_frontier_and_every_point_is_non_dominated(study, tmp_path):
    build_report("digits", home=study.home, output=tmp_path / "report")
    frontier = pd.read_csv(tmp_path / "report" / "frontier.csv")
    points = finished(study.record.trials).set_index("trial")[OBJECTIVES]
    expected = {
        number
        for number, point in points.iterrows()
        if not any((other <= point).all() and (other < point).any() for _, other in points.iterrows())
    }
    assert set(frontier["trial"]) == expected
    assert summary(study.record).frontier_size == len(expected)


def test_runs_are_nested_named_tagged_and_ended(study):
    client = MlflowClient(study.record.tracking_uri)
    parent = client.get_run(study.record.run_id)
    assert parent.info.run_name == "digits"
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["vae_study.kind"] == "study"
    children = client.search_runs([study.record.experiment_id], f"tags.mlflow.parentRunId = '{parent.info.run_id}'")
    assert len(children) == 10
    for run in children:
        number = int(run.data.tags["vae_study.trial"])
        assert run.info.run_name.startswith(f"t{number:03d} b=")
        assert run.info.status == ("FINISHED" if run.data.tags["vae_study.state"] == "finished" else "FAILED")


def test_each_epoch_is_one_point_in_mlflow_and_one_row_in_the_history(study):
    client = MlflowClient(study.record.tracking_uri)
    first = finished(study.record.trials).iloc[0]
    rows = study.record.history[study.record.history["trial"] == first["trial"]]
    for name in ("train/loss", "train/kl_weight", "val/elbo"):
        points = client.get_metric_history(first["run_id"], name)
        assert [(point.step, point.value) for point in points] == list(zip(rows["epoch"], rows[name], strict=True))
    assert rows["epoch"].tolist() == [1, 2, 3, 4]
    assert first["val/elbo"] == rows["val/elbo"].iloc[-1]


def test_auroc_equals_scikit_learns_on_the_stored_scores(study, tmp_path):
    client = MlflowClient(study.record.tracking_uri)
    for row in finished(study.record.trials).to_dict("records"):
        scores = pd.read_parquet(client.download_artifacts(row["run_id"], "scores.parquet", str(tmp_path)))
        for split, column in (("validation", "val/auroc"), ("test", "test/auroc")):
            part = scores[scores["split"] == split]
            assert row[column] == pytest.approx(roc_auc_score(part["anomaly"], part["elbo"]), abs=1e-9)
        assert row["test/auroc_low"] <= row["test/auroc"] <= row["test/auroc_high"]


def test_the_champion_is_the_best_by_the_validation_rule_and_has_its_pictures(study):
    champion = study.record.champion
    assert champion is not None
    trials = finished(study.record.trials).set_index("trial")
    areas = trials.filter(like="val_auroc/")
    assert champion.trial == areas.max(axis=1).idxmax()
    assert champion.score == areas.loc[champion.trial].idxmax().removeprefix("val_auroc/")
    assert champion.inputs_ND.shape == champion.reconstructions_ND.shape
    assert champion.samples_MD.shape[1] == 64


def test_a_study_found_again_goes_no_further_and_changes_nothing(study):
    trials = study.record.trials
    rates = "search.training.learning_rate={choices: [0.001, 10]}"
    overrides = [*SHORT, "trials=10", "sampler.seed=1", "training.learning_rate=null", rates]
    again = run_study(CONFIG, overrides, home=study.home)
    pd.testing.assert_frame_equal(again.trials, trials)


def test_another_config_under_the_same_name_is_refused(study):
    with pytest.raises(UserError, match="exists already, with another config"):
        run_study(CONFIG, ["trials=3"], home=study.home)


def test_an_unknown_study_is_refused_with_the_names_of_those_there_are(study):
    with pytest.raises(UserError, match=r"no study 'digitz'.*digits"):
        load_study("digitz", home=study.home)


@pytest.fixture(scope="module")
def pair(ray_session, tmp_path_factory):
    """The same study at one go, and with a budget that was raised after two trials."""
    homes = [tmp_path_factory.mktemp("seed") for _ in range(2)]
    run_study(CONFIG, [*SHORT, "trials=2"], home=homes[1], concurrency=1)
    return [run_study(CONFIG, [*SHORT, "trials=5"], home=home, concurrency=1) for home in homes]


def test_the_same_seed_gives_the_same_configurations_and_the_same_bits_one_at_a_time(pair):
    first, second = (record.trials.drop(columns=["run_id", "time/epoch_seconds"]) for record in pair)
    pd.testing.assert_frame_equal(first, second, check_exact=True)
    one, two = (record.history.drop(columns="time/epoch_seconds") for record in pair)
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    assert first["beta"].nunique() == 5


def test_a_budget_can_be_raised(pair):
    assert pair[1].trials["trial"].tolist() == list(range(5))
    assert (pair[1].trials["state"] == "finished").all()


def test_a_study_without_a_finished_trial_fails_and_still_has_a_report(ray_session, tmp_path):
    # Of nets with fewer layers, one in twelve survives the largest learning rate.
    overrides = [*SHORT, "trials=2", "training.learning_rate=10", "model.network.hidden=[32, 32, 32, 32]"]
    with pytest.raises(StudyError, match="none of the 2 trials finished"):
        run_study(CONFIG, overrides, home=tmp_path, concurrency=1)
    record = load_study("digits", home=tmp_path)
    assert (record.trials["failure"] == "diverged").all()
    assert record.champion is None
    assert math.isnan(summary(record).best_elbo_nats)
    assert build_report("digits", home=tmp_path, output=tmp_path / "report").exists()


def test_a_sweep_is_a_frontier_whose_models_are_trials_like_others(ray_session, tmp_path):
    unused = [f"search.{name}=null" for name in ("beta", "kl_annealing.schedule", "kl_annealing.warmup")]
    sweep = ["objective.kind=sweep", "objective.sweep={points: 3, retrain: 1}", "search.kl_annealing.cycles=null"]
    confirm = "confirm={top: 1, seeds: 1}"
    settings = [*SHORT[:2], *unused, *sweep, confirm, "trials=1", "ensemble.members=3"]
    record = run_study(CONFIG, [*settings, "champion.by=val/elbo"], home=tmp_path)
    trials = record.trials.set_index("trial")
    assert trials["state"].tolist() == ["finished"] * 4
    assert trials["sweep"].dropna().to_dict() == {1: 0, 2: 0}
    assert trials.loc[1, "beta"] < trials.loc[2, "beta"]
    # The best of the three has been trained again at its own beta.
    best = trials.loc[:2, "val/elbo"].idxmax()
    assert trials["retrains"].dropna().to_dict() == {3: best}
    assert trials.loc[3, "beta"] == trials.loc[best, "beta"]
    history = record.history[record.history["trial"] == 3]
    assert history["val/elbo"].iloc[-1] == pytest.approx(trials.loc[3, "val/elbo"])
    assert history["train/kl_weight"].tolist() == [1.0] * 4
    # After the epochs 1 and 3 of the sweep, whose last model is the sweep's own.
    history = record.history[record.history["trial"] == 0].set_index("epoch")
    assert set(record.history["trial"]) == {0, 3}
    for epoch, trial in ((1, 1), (3, 2), (4, 0)):
        for metric in ("val/reconstruction", "val/kl", "val/elbo"):
            assert trials.loc[trial, metric] == pytest.approx(history.loc[epoch, metric])
    assert record.champion.trial == trials["val/elbo"].idxmax()
    (repeat,) = record.confirmations["trial"].tolist()
    assert repeat == record.champion.trial
    # Packed and loaded, the chosen model scores as it did when it was measured.
    test = record.champion.scores.query("split == 'test'")
    detector = fetched(client_of(tmp_path, None), "digits", "champion")
    found = detector.score(prepare(load_config(CONFIG).data).splits["test"].x_ND)
    assert found["score"].to_numpy() == pytest.approx(test[record.champion.score].to_numpy(), rel=1e-4)
    page = build_report("digits", home=tmp_path, output=tmp_path / "report")
    text = page.read_text(encoding="utf-8")
    assert "2 of them are models that sweeps of beta kept" in text
    assert "1 trial trained one of these again, at its beta from beginning to end" in text

"""What a real study says of detecting anomalies, and that it stays with the data that it began with."""

import os

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from vae_study.anomaly.input_ensemble import InputEnsemble
from vae_study.api import run_study
from vae_study.config.data import DataConfig
from vae_study.data import Preprocessing, prepare, read_table
from vae_study.errors import UserError

from tests.study.conftest import SHORT


def test_every_choice_is_measured_on_the_test_rows_that_all_share(study):
    choices, detectors = study.record.choices.set_index("rule"), study.record.detectors
    assert {"val/auroc", "val/elbo", "pseudo", "ensemble_best", "without_model"} <= set(choices.index)
    test = detectors[detectors["split"] == "test"]
    for rule, row in choices.iterrows():
        assert row["auroc"] == pytest.approx(roc_auc_score(test["anomaly"], test[rule]))


def test_the_champion_is_the_pair_of_trial_and_score_that_validation_prefers(study):
    record = study.record
    areas = record.trials.set_index("trial").filter(like="val_auroc/").dropna(how="all")
    assert areas.loc[record.champion.trial, f"val_auroc/{record.champion.score}"] == areas.to_numpy().max()
    chosen = record.choices.set_index("rule").loc["val/auroc"]
    assert (chosen["trial"], chosen["score"]) == (record.champion.trial, record.champion.score)
    part = record.champion.scores[record.champion.scores["split"] == "validation"]
    assert chosen["value"] == pytest.approx(roc_auc_score(part["anomaly"], part[record.champion.score]))


def test_the_baseline_is_fitted_to_training_rows_and_scaled_by_validation_rows(study):
    data = prepare(DataConfig(source="digits", anomaly_labels=(8,)))
    train, test = data.splits["train"].x_ND.astype(float), data.splits["test"].x_ND.astype(float)
    fitted = InputEnsemble.fit(train, data.splits["validation"].normal_ND.astype(float))
    rows = study.record.detectors
    assert rows.loc[rows["split"] == "test", "without_model"].to_numpy() == pytest.approx(fitted.score(test))


def test_the_most_anomalous_rows_come_with_what_each_feature_cost(study):
    champion = study.record.champion
    scores = champion.scores[champion.scores["split"] == "test"]
    highest = scores[champion.score].to_numpy().argsort()[::-1][:10]
    assert set(highest) <= set(champion.top_place_T)
    costs = champion.top_contributions_TD.sum(axis=1)
    reconstruction = scores["reconstruction"].to_numpy()[champion.top_place_T]
    assert np.ptp(reconstruction - costs) < 1e-2


def test_the_way_back_to_the_users_units_is_kept(study):
    fitted = Preprocessing.from_plain(study.record.data["preprocessing"])
    data, table = prepare(DataConfig(source="digits", anomaly_labels=(8,))), read_table(DataConfig(source="digits"))
    split = data.splits["test"]
    assert fitted.inverse(split.x_ND).to_numpy() == pytest.approx(table.x_ND[split.row_N], abs=1e-4)


def test_a_study_stays_with_its_data_wherever_they_lie_and_prepares_them_once(ray_session, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setenv("VAE_STUDY_CACHE", str(cache))
    random = np.random.default_rng(0)
    x_ND, y_N = random.normal(size=(300, 5)), np.arange(300) % 10 == 0
    path, other = tmp_path / "rows.npz", tmp_path / "moved.npz"
    np.savez(path, X=x_ND, y=y_N)
    config = {"study": "own", "data": {"source": "npz", "path": str(path), "scale": "standard"}, "trials": 1}
    overrides = [*SHORT, "training.batch_size=16"]
    run_study(config, overrides, home=tmp_path)
    assert len(list(cache.iterdir())) - len(list(cache.glob("*.lock"))) == 1
    os.rename(path, other)
    moved = run_study(config, [*overrides, f"data.path={other}", "trials=2"], home=tmp_path)
    assert len(moved.trials) == 2
    np.savez(other, X=x_ND + 1, y=y_N)
    with pytest.raises(UserError, match="exists already, on other data"):
        run_study(config, [*overrides, f"data.path={other}", "trials=3"], home=tmp_path)

"""A model of whole series, and what scores with it: per value, row by row, in a file, by the server and MLflow."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from vae_study import VAEDetector
from vae_study.config.loading import load_config
from vae_study.data import frame_features, open_stream, prepare
from vae_study.detector.detector import POINT
from vae_study.detector.pyfunc import PackedModel
from vae_study.detector.score_file import score_file
from vae_study.detector.series import alarm_metrics
from vae_study.errors import UserError
from vae_study.report.sections.series import alarm_note, series, stretch_grid
from vae_study.report.tables import StudyTables
from vae_study.server import Scorer
from vae_study.study.single import SingleModel
from vae_study.terminal import scored_text
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.stacking import ModelSetup

from tests.packed import packed

SEQUENCE = {"time": "ts", "series": "trip", "window": "whole"}
MODEL = {"likelihood": "gaussian", "latent_dim": 2, "network": {"kind": "recurrent", "hidden": [8]}}


def trips(count=80, seed=0):
    """Series of 5 to 40 rows, in one of four of which two sensors go apart for a while."""
    random, parts = np.random.default_rng(seed), []
    for number in range(count):
        length = int(random.integers(5, 41))
        speed = np.sin(np.arange(length) / 3 + random.uniform(0, 6))
        start = int(random.integers(0, length - 4))
        is_fault = (np.arange(length) >= start) & (np.arange(length) < start + 4) & (number % 4 == 0)
        heat = speed + 0.1 * random.normal(size=length) + 2 * is_fault
        columns = {"speed": speed, "heat": heat, "fault": is_fault.astype(int)}
        parts.append(pd.DataFrame({"ts": np.arange(length), "trip": f"t{number}", **columns}))
    return pd.concat(parts, ignore_index=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trips")
    trips().to_parquet(folder / "trips.parquet")
    data = {"source": "parquet", "path": str(folder / "trips.parquet"), "label": "fault", "scale": "standard"}
    plain = {"study": "trips", "data": {**data, "missing": "mask", "sequence": SEQUENCE}, "model": MODEL, "trials": 1}
    config = load_config({**plain, "training": {"epochs": 30, "batch_size": 16}, "diagnostics": {"iwae_draws": 0}})
    return SingleModel.train(config, prepare(config.data))


@pytest.fixture(scope="module")
def detector(trained, tmp_path_factory):
    return packed(trained, tmp_path_factory.mktemp("packed"))


@pytest.fixture(scope="module")
def new():
    """Series that take turns, row by row."""
    return trips(9, seed=1).drop(columns="fault").sort_values("ts", kind="stable", ignore_index=True)


def test_scores_are_means_over_the_values_of_a_series_and_those_of_the_code_stay(trained, detector):
    split = trained.data.splits["test"]
    model, scores = detector.trials[0].rows.model, trained.outcome.scores
    scores = scores[scores["split"] == "test"]
    x_1ND = torch.as_tensor(np.asarray(split.x_ND))[None]
    code = model.code(x_1ND, None, None)
    cost_N = model.likelihood.negative_log(model.decode(code.z_KBZ), x_1ND).sum(dim=2)[0].detach().numpy()
    kl_N = code.rate_KBR.sum(dim=2)[0].detach().numpy()
    values_N = split.length_N * 2
    np.testing.assert_allclose(scores["reconstruction"], cost_N / values_N, rtol=1e-4)
    np.testing.assert_allclose(scores["elbo"], (cost_N + kl_N) / values_N, rtol=1e-4)
    mean_NZ = code.z_KBZ[0].detach().double().numpy()
    latent = detector.trials[0].rows.scorers_K[0].latent
    np.testing.assert_allclose(scores["latent_mahalanobis"], latent.squared_distance(mean_NZ), rtol=1e-3)
    # Training and metrics are of nats of a whole series, as ever.
    normal_N = ~split.is_anomaly_N
    assert trained.outcome.metrics["test/kl"] == pytest.approx(kl_N[normal_N].mean(), rel=1e-3)


def test_series_of_an_array_have_scores_per_value_as_those_of_a_table(tmp_path):
    random = np.random.default_rng(4)
    length_N = random.integers(5, 21, 90)
    x_NTF = random.normal(size=(90, 20, 2))
    x_NTF[np.arange(20) >= length_N[:, None]] = np.nan
    np.savez(tmp_path / "t.npz", X=x_NTF)
    plain = {"study": "t", "data": {"source": "npz", "path": str(tmp_path / "t.npz"), "layout": "series"}}
    config = load_config({**plain, "model": MODEL, "trials": 1}, ["data.missing=mask", "training.epochs=2"])
    trained = SingleModel.train(config, prepare(config.data))
    scores, test = trained.outcome.scores, trained.data.splits["test"]
    scores = scores[scores["split"] == "test"]
    batch = ModelBatch([ModelSetup(config=config.trial({}), seed=0)], trained.data)
    batch.model.load_state_dict({name: value[None] for name, value in trained.outcome.weights.items()}, strict=False)
    (measured,) = batch.measure("test")
    np.testing.assert_array_equal(test.values_N, 2 * length_N[test.row_N])
    sums_N = measured.reconstruction_N + measured.kl_N
    np.testing.assert_allclose(scores["elbo"], sums_N / (2 * length_N[test.row_N]), rtol=1e-4)
    np.testing.assert_allclose(measured.scores()["elbo"], scores["elbo"], rtol=1e-4)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_each_row_of_a_file_has_the_score_of_its_series_and_what_it_adds_to_it(detector, new, tmp_path, suffix):
    source, output = tmp_path / f"new{suffix}", tmp_path / f"scores{suffix}"
    new.to_parquet(source) if suffix == ".parquet" else new.to_csv(source, index=False)
    told = score_file(detector, open_stream(str(source), detector.preprocessing), output, explain=True)
    found = pd.read_parquet(output) if suffix == ".parquet" else pd.read_csv(output)
    assert found["trip"].tolist() == new["trip"].tolist()
    assert found["row"].tolist() == list(range(len(new)))
    per_series = found.groupby("trip").first()
    for trip, rows in new.groupby("trip"):
        own = found.loc[rows.index]
        assert own["score"].nunique() == 1
        alone = detector.score(frame_features(rows, detector.preprocessing))
        np.testing.assert_allclose(own["score"], alone["score"], rtol=1e-5)
        np.testing.assert_allclose(own[POINT], alone[POINT], rtol=1e-3, atol=1e-5)
        parts = per_series.loc[trip, ["part/speed", "part/heat"]].sum()
        assert own[POINT].sum() == pytest.approx(parts, rel=1e-3, abs=1e-4)
        summands = parts + per_series.loc[trip, [*detector.summands]].sum()
        assert summands == pytest.approx(per_series.loc[trip, "score"], rel=1e-3, abs=1e-4)
    assert (told.rows, told.series) == (len(new), 9)
    assert told.flagged == per_series["flag"].sum()
    assert [*told.above.values()] == [per_series[f"above_p{name}"].sum() for name in told.above]
    assert told.top[0]["score"] == pytest.approx(per_series["score"].max())
    assert len({row["trip"] for row in told.top}) == 5
    assert f"{len(new):,} rows of 9 series by" in scored_text(told, output)
    with pytest.raises(UserError, match=r"--after: got .*: later rows change the score of a whole series"):
        score_file(detector, open_stream(str(source), detector.preprocessing), output, after=output)


def test_the_rows_that_go_apart_add_most_to_the_score_of_their_series(detector):
    frame = trips(8, seed=2)
    scores = detector.score(frame_features(frame, detector.preprocessing))
    highest = scores[POINT].groupby(frame["trip"]).idxmax()
    faults = frame.groupby("trip")["fault"].max() == 1
    assert (frame.loc[highest[faults], "fault"] == 1).all()


def test_the_report_has_each_series_of_test_with_its_score_and_what_the_model_gives_back(trained, detector):
    split, record = trained.data.splits["test"], trained.record()
    rows = record.champion.series
    frame = trips().loc[rows["row"]]
    assert rows["series"].tolist() == frame["trip"].tolist()
    assert rows["anomaly"].tolist() == frame["fault"].eq(1).tolist()
    np.testing.assert_allclose(rows["value/heat"], frame["heat"], atol=1e-4)
    scores = detector.score(np.asarray(split.x_ND))["score"]
    assert rows.groupby("segment")["score"].nunique().eq(1).all()
    np.testing.assert_array_equal(rows.groupby("segment")["score"].first(), scores)
    cost = rows.groupby("segment")[["cost/speed", "cost/heat"]].sum().sum(axis=1)
    usual_N = np.where(np.isnan(np.asarray(split.x_ND)), 0, detector.trials[0].usual_D).sum(axis=1)
    reconstruction_N = detector.score(np.asarray(split.x_ND))["reconstruction"] * split.values_N
    np.testing.assert_allclose(cost, reconstruction_N - usual_N, rtol=1e-3, atol=1e-2)
    tables = StudyTables(record)
    grid, table = stretch_grid(tables), tables.once(series)
    above = rows.groupby("series", observed=True)["score"].first().sort_values(ascending=False)
    above = above[above > max(detector.description.thresholds.values())]
    assert [row[1] for row in grid.rows] == above.index[:10].tolist()
    assert "delay" not in grid.head
    assert table.views[0].label == f"all of {above.index[0]}"
    assert alarm_note(tables).startswith("A stretch is a series whose score is above the 99th percentile of normal")
    assert alarm_metrics(rows, detector) == {}


def test_a_request_and_a_frame_of_mlflow_hold_whole_series(detector, new):
    expected = detector.score(frame_features(new, detector.preprocessing))
    pd.testing.assert_frame_equal(PackedModel(detector).predict(new), expected)
    body = json.dumps({"dataframe_split": {"columns": [*new], "data": new.to_numpy().tolist()}}).encode()
    one_row = json.dumps({"dataframe_records": new.head(1).to_dict("records")}).encode()
    answer, refused = Scorer(detector).answers([("application/json", body), ("application/json", one_row)])
    found = pd.DataFrame(json.loads(answer.content)["predictions"])
    np.testing.assert_allclose(found[["score", POINT]], expected[["score", POINT]], rtol=1e-5, atol=1e-6)
    assert refused.status == 400
    assert "1 of 1 series have a single row" in json.loads(refused.content)["message"]


def test_a_detector_of_whole_series_scores_each_row_and_has_a_report(tmp_path):
    frame = trips()
    few = {"training.epochs": 2, "model.network.hidden": [8], "model.latent_dim": 2}
    detector = VAEDetector(sequence=SEQUENCE, settings=few, random_state=0)
    is_normal = frame.groupby("trip")["fault"].transform("max") == 0
    detector.fit(frame[is_normal].drop(columns="fault"))
    assert len(detector.score_samples(frame.drop(columns="fault"))) == len(frame)
    page = detector.report(tmp_path / "report").read_text(encoding="utf-8")
    assert "what the model did not expect" in page
    assert "The series of test" in page

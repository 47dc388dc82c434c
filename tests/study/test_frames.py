"""A data frame is the data of a study: it is kept in HOME, and read there by workers and whoever resumes."""

import mlflow
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from vae_study.api import resume_study, run_study, score_rows
from vae_study.data import prepare
from vae_study.errors import UserError
from vae_study.paths import config_of, stored_frame

CONFIG = {
    "study": "machines",
    "data": {"label": "fault", "scale": "standard", "missing": "median"},
    "model": {"network": {"hidden": [8]}, "latent_dim": 2},
    "training": {"epochs": 2, "batch_size": 32},
    "diagnostics": {"iwae_draws": 0},
    "trials": 1,
}


def machines(rows: int = 300) -> pd.DataFrame:
    random = np.random.default_rng(0)
    frame = pd.DataFrame(random.normal(size=(rows, 3)), columns=["pressure", "flow", "heat"])
    frame["site"] = random.choice(["north", "south"], rows)
    frame.loc[::50, "heat"] = np.nan
    frame["fault"] = (np.arange(rows) % 20 == 0).astype(int)
    return frame.set_index(frame.index + 1000)


def test_the_rows_of_a_frame_are_those_of_its_file(tmp_path):
    frame, path = machines(), tmp_path / "machines.parquet"
    frame.to_parquet(path, index=False)
    by_frame = prepare(config_of(CONFIG, data=frame, home=tmp_path).data)
    by_file = prepare(config_of(CONFIG, ["data.source=parquet", f"data.path={path}"]).data)
    assert by_frame.feature_names == by_file.feature_names
    for name, split in by_file.splits.items():
        np.testing.assert_array_equal(by_frame.splits[name].x_ND, split.x_ND)
        np.testing.assert_array_equal(by_frame.splits[name].is_anomaly_N, split.is_anomaly_N)


def test_one_content_is_kept_once_and_another_elsewhere(tmp_path):
    first, again, other = (stored_frame(frame, tmp_path) for frame in (machines(), machines(), machines(299)))
    assert first == again != other
    assert pq.read_table(first).column_names == [*machines().columns]
    assert pq.read_table(other).num_rows == 299


def test_values_of_several_types_and_names_that_are_numbers_are_kept(tmp_path):
    frame = pd.DataFrame({0: [1.5, 2.5], 1: [1, "n/a"]})
    assert pq.read_table(stored_frame(frame, tmp_path)).to_pydict() == {"0": [1.5, 2.5], "1": ["1", "n/a"]}


def test_two_columns_of_one_name_are_refused_and_nothing_is_kept(tmp_path):
    frame = machines()
    frame.columns = ["pressure", "pressure", "heat", "site", "fault"]
    with pytest.raises(UserError, match="the data frame has the column 'pressure' more than once"):
        run_study(CONFIG, data=frame, home=tmp_path)
    assert not list(tmp_path.rglob("*"))


def plant(rows: int = 600) -> pd.DataFrame:
    """Two machines whose heat follows their speed, except during faults."""
    random, minute = np.random.default_rng(0), np.repeat(np.arange(rows // 2), 2)
    speed = np.sin(minute / 5) + 0.1 * random.normal(size=rows)
    is_fault = minute % 100 > 90
    heat = np.where(is_fault, random.normal(0, 2, rows), speed) + 0.1 * random.normal(size=rows)
    return pd.DataFrame(
        {
            "ts": pd.Timestamp("2024-01-01") + pd.to_timedelta(minute, "min"),
            "machine": ["north", "south"] * (rows // 2),
            "speed": speed,
            "heat": heat,
            "fault": is_fault.astype(int),
        }
    )


@pytest.mark.studies
@pytest.mark.parametrize("kind", ["mlp", "recurrent"])
def test_a_study_of_windows_trains_scores_each_row_once_and_loads_as_a_pyfunc(kind, ray_session, tmp_path, monkeypatch):
    split = {"by": "time", "train": 0.5, "validation": 0.25, "test": 0.25}
    data = {"label": "fault", "scale": "standard", "split": split}
    data["sequence"] = {"time": "ts", "series": "machine", "window": 6}
    network = {"hidden": [8]} if kind == "mlp" else {"kind": kind}
    model, frame, new = {"latent_dim": 2, "network": network}, plant(), plant(200).drop(columns="fault")
    if kind == "recurrent":
        data["missing"] = "mask"
        for one in (frame, new):
            one.loc[np.random.default_rng(0).random(len(one)) < 0.1, "heat"] = np.nan
    record = run_study({**CONFIG, "data": data, "model": model}, data=frame, home=tmp_path)
    assert record.trials["state"].tolist() == ["finished"]
    assert record.data["sequence_shape"] == [6, 2]
    metrics = record.trials.iloc[0]
    assert all(0 <= metrics[f"test/{name}"] <= 1 for name in ("point_auroc", "point_auprc", "vus_pr"))
    series = record.champion.series
    assert series["series"].nunique() == 2
    assert {"time", "score", "anomaly", "value/heat", "expected/heat", "cost/heat"} <= {*series}
    client = mlflow.MlflowClient(record.tracking_uri)
    assert 0 <= client.get_run(record.run_id).data.metrics["test/ranges_found"] <= 1
    new.to_parquet(tmp_path / "new.parquet", index=False)
    new.to_csv(tmp_path / "new.csv", index=False)
    scored = {}
    for kind in ("parquet", "csv"):
        output = tmp_path / f"scores-{kind}.parquet"
        summary = score_rows("machines", str(tmp_path / f"new.{kind}"), output=output, explain=True, home=tmp_path)
        assert summary.rows == 200
        scored[kind] = pd.read_parquet(output)
    frame = scored["parquet"]
    pd.testing.assert_frame_equal(scored["csv"], frame, check_dtype=False)
    assert frame["row"].tolist() == list(range(200))
    assert frame["ts"].tolist() == new["ts"].tolist()
    assert {"part/speed", "part/heat"} <= {*frame}
    assert np.isfinite(frame.select_dtypes("number").to_numpy()).all()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", record.tracking_uri)
    model = mlflow.pyfunc.load_model("models:/machines@champion")
    np.testing.assert_array_equal(model.predict(new)["score"], frame["score"])


@pytest.mark.studies
def test_a_study_runs_on_a_frame_and_resumes_without_it(ray_session, tmp_path):
    record = run_study(CONFIG, data=machines(), home=tmp_path)
    assert record.trials["state"].tolist() == ["finished"]
    assert record.data["splits"]["test"]["anomalies"] > 0
    assert resume_study("machines", home=tmp_path, trials=2).trials["state"].tolist() == ["finished"] * 2
    with pytest.raises(UserError, match="'machines' exists already, on other data"):
        run_study(CONFIG, ["trials=3"], data=machines(200), home=tmp_path)

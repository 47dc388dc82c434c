"""A data frame is the data of a study: it is kept in HOME, and read there by workers and whoever resumes."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from vae_study.api import resume_study, run_study
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


@pytest.mark.studies
def test_a_study_runs_on_a_frame_and_resumes_without_it(ray_session, tmp_path):
    record = run_study(CONFIG, data=machines(), home=tmp_path)
    assert record.trials["state"].tolist() == ["finished"]
    assert record.data["splits"]["test"]["anomalies"] > 0
    assert resume_study("machines", home=tmp_path, trials=2).trials["state"].tolist() == ["finished"] * 2
    with pytest.raises(UserError, match="'machines' exists already, on other data"):
        run_study(CONFIG, ["trials=3"], data=machines(200), home=tmp_path)

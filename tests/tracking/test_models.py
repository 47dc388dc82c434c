import io
import json
import random
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pytest
from mlflow.artifacts import download_artifacts
from mlflow.entities import LoggedModelStatus
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.scoring_server import invocations
from pandas.testing import assert_frame_equal
from vae_study.tracking import schema
from vae_study.tracking.code import shipped_code, write_pyfunc
from vae_study.tracking.models import current_models, log_model
from vae_study.tracking.store import open_client

from tests.tracking.packed import COLUMNS, Packed, new_study, typed
from tests.tracking.servers import Proxy
from tests.tracking.unlucky import UnluckyModels, broken_everywhere

ALLOWED = {".json", ".safetensors", ".py", ".zip", ".yaml", ".txt", ""}
# What a user with a package of that name sees.
ELSEWHERE = """
import sys
import vae_study
import mlflow.pyfunc
import pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
frame = pd.read_csv(sys.argv[2])
model.predict(frame.astype({"age": float, "member": float})).to_parquet("scores.parquet")
assert vae_study.OWN
assert not [name for name in sys.modules if name.startswith("vae_study.")]
"""


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return Packed(tmp_path_factory.mktemp("packed"))


@pytest.fixture(scope="module")
def model(packed):
    return mlflow.pyfunc.load_model(str(packed.model("trial-0007")))


@pytest.fixture(scope="module")
def unlucky(store):
    return UnluckyModels(store.tracking_uri)


def logged(client, run):
    """All models of a run's experiment that are not deleted."""
    return client.search_logged_models([run.info.experiment_id])


@pytest.mark.parametrize("name", ["trial-0007", "ensemble_best"])
def test_a_model_says_what_its_detector_says(packed, name):
    loaded = mlflow.pyfunc.load_model(str(packed.model(name)))
    scores = loaded.predict(typed(loaded, packed.frame))
    assert_frame_equal(scores, packed.scores(name, packed.frame), check_exact=True)


FORMS = {
    "other order": lambda frame: frame[COLUMNS[::-1]],
    "more columns": lambda frame: frame.assign(note=None, _2=[{}] * len(frame)),
    "floats for whole numbers": lambda frame: frame.assign(age=frame["age"].astype(float)),
    "integers of any size": lambda frame: frame.assign(age=frame["age"].astype("int8")),
    "nullable numbers": lambda frame: frame.convert_dtypes(),
    "categories": lambda frame: frame.assign(city=frame["city"].astype("category")),
    "objects": lambda frame: frame.astype(object).where(frame.notna(), None),
    "arrow": lambda frame: frame.convert_dtypes(dtype_backend="pyarrow"),
    "from JSON": lambda frame: pd.DataFrame(json.loads(frame.to_json(orient="records"))),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_frame_of_any_types_that_hold_the_same_values_has_the_same_scores_in_those_of_the_signature(
    packed, model, form
):
    rows = packed.frame.head(40)
    expected = packed.scores("trial-0007", rows)
    assert_frame_equal(packed.scores("trial-0007", FORMS[form](rows)), expected)
    assert_frame_equal(model.predict(typed(model, FORMS[form](rows))), expected)


def test_whole_numbers_may_come_where_training_had_fractions_and_the_other_way_round(packed, model):
    rows = typed(model, packed.frame.head(3).assign(income=[2500, 3000, 3500]))
    assert np.isfinite(model.predict(rows)["score"]).all()
    assert np.isfinite(model.predict(rows.assign(age=[30.5, 40.25, 33.0]))["score"]).all()


def test_a_column_that_is_not_there_is_named(packed, model):
    with pytest.raises(MlflowException, match=r"missing inputs \['income'\]"):
        model.predict(typed(model, packed.frame).drop(columns="income"))


def test_the_input_example_is_json_and_can_be_scored(packed, model):
    assert "NaN" not in (packed.model("trial-0007") / "serving_input_example.json").read_text()
    assert_frame_equal(model.predict(model.input_example), packed.scores("trial-0007", model.input_example))
    assert_frame_equal(model.input_example, packed.example.head(3), check_dtype=False)


def test_the_signature_names_all_columns(model):
    assert model.metadata.get_input_schema().input_names() == COLUMNS
    assert model.metadata.get_output_schema().input_names()[:3] == ["score", "p_value", "above_p90"]


def test_the_signature_has_the_types_of_the_columns_numbers_as_double_where_they_may_be_missing(packed, tmp_path):
    assert types_of(packed.model("trial-0007")) == ["double", "double", "double", "string"]
    scores = packed.scores("trial-0007", packed.frame)
    write_pyfunc(packed.folder / "trial-0007", packed.frame[COLUMNS], scores, tmp_path / "model")
    assert types_of(tmp_path / "model") == ["long", "double", "boolean", "string"]


def types_of(folder):
    return [kind.name for kind in mlflow.pyfunc.load_model(str(folder)).metadata.get_input_schema().input_types()]


@pytest.mark.parametrize("kind", ["application/json", "text/csv"])
def test_mlflows_own_server_takes_json_and_csv_with_missing_values(packed, model, kind):
    rows = packed.frame[COLUMNS].head(40)
    rows_as_json = json.dumps({"dataframe_split": json.loads(rows.to_json(orient="split", index=False))})
    body = rows_as_json if kind == "application/json" else rows.astype({"member": int}).to_csv(index=False)
    answer = invocations(body, kind, model, model.metadata.get_input_schema())
    found = pd.DataFrame(json.loads(answer.response)["predictions"])
    assert_frame_equal(found, packed.scores("trial-0007", rows), check_exact=True)


def test_a_model_is_small_and_has_no_pickle(packed):
    files = [path for path in packed.model("ensemble_best").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == ALLOWED
    code = [path for path in files if path.suffix in (".py", ".zip")]
    assert len(code) == 2
    assert sum(path.stat().st_size for path in code) < 300_000
    assert not [path for path in files if path.read_bytes().startswith(b"\x80")]


def test_a_model_needs_no_vae_study_and_minds_no_other_package_of_that_name(packed, tmp_path):
    (tmp_path / "vae_study.py").write_text("OWN = True")
    (tmp_path / "elsewhere.py").write_text(ELSEWHERE)
    paths = [str(packed.model("ensemble_best")), str(packed.folder / "customers.csv")]
    subprocess.run([sys.executable, "elsewhere.py", *paths], cwd=tmp_path, check=True)
    assert_frame_equal(pd.read_parquet(tmp_path / "scores.parquet"), packed.scores("ensemble_best", packed.frame))


def test_a_model_leaves_an_installed_vae_study_as_it_is(packed):
    script = "import mlflow.pyfunc, sys; mlflow.pyfunc.load_model(sys.argv[1]); import vae_study.api"
    subprocess.run([sys.executable, "-c", script, str(packed.model("trial-0007"))], check=True)


def test_a_model_takes_along_what_scoring_needs_and_no_training():
    with zipfile.ZipFile(io.BytesIO(shipped_code().files["modules.zip"])) as archive:
        names = archive.namelist()
    assert len(names) <= 64
    training = ("search/", "selection/", "study/", "report/", "tracking/", "vae/fast_", "vae/model_batch.py")
    assert not [name for name in names if name.startswith(training)]


def test_what_a_model_requires_is_what_its_code_imports():
    names = {requirement.partition("==")[0] for requirement in shipped_code().requirements}
    own = {"filelock", "numpy", "pandas", "psutil", "pyarrow", "pydantic", "safetensors"}
    assert names == own | {"scikit-learn", "torch"}


def test_a_folder_is_replaced_as_a_whole(packed, tmp_path):
    into = tmp_path / "models" / "champion"
    for name in ("ensemble_best", "trial-0007"):
        write_pyfunc(packed.folder / name, packed.example, packed.scores(name, packed.frame), into)
    assert [path.name for path in into.parent.iterdir()] == ["champion"]
    assert sorted(path.name for path in (into / "data" / "detector").iterdir()) == [
        "calibration.safetensors",
        "detector.json",
        "trial-0007",
    ]


def test_a_model_is_on_its_run_with_metrics_and_tags(store, packed, name):
    _, children = new_study(store, name)
    run = children["trial-0007"]
    about = {"tags": {schema.CHAMPION_SCORE: "elbo"}, "metrics": ["val/elbo", "test/unknown"]}
    log_model(store, run.info.run_id, packed.event("trial-0007", **about))
    (found,) = logged(store, run)
    assert (found.name, found.status) == ("trial-0007", LoggedModelStatus.READY)
    assert found.source_run_id == run.info.run_id
    assert found.tags[schema.CHAMPION_SCORE] == "elbo"
    assert [(one.key, one.value) for one in found.metrics] == [("val/elbo", -11.5)]
    assert len(store.get_metric_history(run.info.run_id, "val/elbo")) == 2
    outputs = store.get_run(run.info.run_id).outputs.model_outputs
    assert [one.model_id for one in outputs] == [found.model_id]


def test_a_logged_model_knows_which_it_is(store, packed, name, tmp_path):
    parent, _ = new_study(store, name)
    log_model(store, parent.info.run_id, packed.event("ensemble_best"))
    (found,) = logged(store, parent)
    loaded = mlflow.pyfunc.load_model(found.artifact_location)
    assert loaded.model_id == found.model_id
    assert loaded.metadata.run_id == parent.info.run_id
    scores = loaded.predict(typed(loaded, packed.frame))
    assert_frame_equal(scores, packed.scores("ensemble_best", packed.frame))


def test_a_model_broken_off_anywhere_and_logged_again_is_there_once(unlucky, packed, tmp_path_factory):
    studies = []

    def begin():
        folder = tmp_path_factory.mktemp("study")
        studies.append(new_study(unlucky, folder.name)[1]["trial-0007"])

    def work():
        log_model(unlucky, studies[-1].info.run_id, packed.event("trial-0007", metrics=["val/elbo"]))

    for _ in broken_everywhere(unlucky, begin, work):
        (found,) = logged(unlucky, studies[-1])
        assert found.status == LoggedModelStatus.READY
        assert [one.key for one in found.metrics] == ["val/elbo"]
        assert [one.model_id for one in current_models(unlucky, studies[-1])] == [found.model_id]
        run = unlucky.get_run(studies[-1].info.run_id)
        assert [one.model_id for one in run.outputs.model_outputs] == [found.model_id]
    assert len(studies) > 10


def test_other_numbers_under_the_same_name_take_its_place_and_the_first_ones_may_come_back(store, packed, name):
    parent, _ = new_study(store, name)
    ids = []
    for which in ("trial-0007", "trial-0007-by-latent", "trial-0007-by-latent", "trial-0007"):
        log_model(store, parent.info.run_id, packed.event(which, called="trial-0007"))
        (current,) = current_models(store, parent)
        ids.append(current.model_id)
    assert ids[0] == ids[3] != ids[1] == ids[2]
    assert len(logged(store, parent)) == 2


def test_a_model_whose_folder_is_gone_is_told_of_unless_it_is_there_already(store, packed, name, caplog):
    parent, _ = new_study(store, name)
    record = packed.event("trial-0007")
    gone = replace(record, folder="/no/where")
    log_model(store, parent.info.run_id, gone)
    assert "/no/where is gone" in caplog.text
    assert not logged(store, parent)
    log_model(store, parent.info.run_id, record)
    caplog.clear()
    log_model(store, parent.info.run_id, gone)
    assert not caplog.text
    assert len(logged(store, parent)) == 1


@pytest.mark.usefixtures("impatient")
def test_any_answer_of_a_server_may_get_lost_and_the_model_is_there_once(server, packed, name):
    chance, client = random.Random(0), open_client(server.uri)
    parent, children = new_study(client, name)
    with Proxy(server, lambda *_: "drop" if chance.random() < 0.3 else None) as proxy:
        through = open_client(proxy.uri)
        for key, run in children.items():
            for _ in range(2):
                _until_it_is_done(through, run, packed.event(key, metrics=["val/elbo"]))
    found = logged(client, parent)
    assert sorted((one.name, one.status) for one in found) == [
        ("trial-0003", LoggedModelStatus.READY),
        ("trial-0007", LoggedModelStatus.READY),
    ]
    for one in found:
        outputs = client.get_run(one.source_run_id).outputs.model_outputs
        assert [output.model_id for output in outputs] == [one.model_id]
        assert files_there(one.artifact_location, server.uri) == files_of(packed.model(one.name))


def files_there(place, uri):
    """The files of a logged model but MLmodel, which has its id, by path."""
    with tempfile.TemporaryDirectory() as scratch:
        return files_of(Path(download_artifacts(artifact_uri=place, dst_path=scratch, tracking_uri=uri)))


def files_of(folder):
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in files.items() if name != "MLmodel"}


def _until_it_is_done(client, run, record):
    for _ in range(20):
        try:
            return log_model(client, run.info.run_id, record)
        except (MlflowException, OSError):
            continue
    raise AssertionError("it is never done")

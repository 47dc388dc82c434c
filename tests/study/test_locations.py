"""Stores that cannot be used are refused with one message."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from optuna.storages import get_storage
from PIL import Image
from vae_study.api import build_report, run_study, score_rows
from vae_study.config.study import ResourcesConfig
from vae_study.errors import UserError
from vae_study.study import session
from vae_study.study.plan import require_apart
from vae_study.tracking.schema import KIND, STUDY
from vae_study.tracking.sources import ClientSource, study_names
from vae_study.tracking.store import (
    create_parent,
    find_parent,
    open_client,
    reachable_client,
)

from tests.study.conftest import CONFIG, SHORT
from tests.tracking.servers import free_port
from tests.waiting import PATIENCE_SECONDS

SAME = [
    ("postgresql://me:a@db/studies", "postgresql+psycopg://other:b%40@db:5432/studies?sslmode=require"),
    ("mysql+pymysql://me@db:3306/studies", "mysql://me@db/studies"),
    ("sqlite:////data/one.db", "sqlite:////data/one.db"),
]
OTHERS = [
    ("postgresql://me:a@db/mlflow", "postgresql://me:a@db/optuna"),
    ("postgresql://me:a@db/mlflow", "postgresql://me:a@db2/mlflow"),
    ("postgresql://me:a@db/mlflow", "postgresql://me:a@db:5433/mlflow"),
    ("sqlite:////data/mlflow.db", "sqlite:////data/study.db"),
    ("http://db/studies", "postgresql://db/studies"),
    ("databricks", "sqlite:////data/study.db"),
]


@pytest.mark.parametrize(("tracking", "storage"), SAME)
def test_mlflow_and_optuna_are_refused_one_database_for_both(tracking, storage):
    with pytest.raises(UserError, match=r"--study-storage .*: got the database of --tracking-uri"):
        require_apart(tracking, storage)


@pytest.mark.parametrize(("tracking", "storage"), OTHERS)
def test_two_databases_may_be_on_one_server(tracking, storage):
    require_apart(tracking, storage)


def test_a_study_with_one_database_for_both_makes_nothing(tmp_path):
    both = f"sqlite:///{tmp_path}/both.db"
    with pytest.raises(UserError, match="keep their versions in a table of the same name"):
        run_study(CONFIG, SHORT, home=tmp_path / "home", tracking_uri=both, study_storage=both)
    assert not list(tmp_path.iterdir())


def test_a_tracking_store_in_the_database_of_something_else_is_refused(tmp_path):
    uri = f"sqlite:///{tmp_path}/optuna.db"
    get_storage(uri)
    with pytest.raises(UserError, match=r"--tracking-uri .*: is a database of something else"):
        open_client(uri)


@pytest.mark.parametrize(
    ("storage", "reason"),
    [
        ("./journal.log", "Could not parse SQLAlchemy URL"),
        ("redis://localhost:6379", "Can't load plugin: sqlalchemy.dialects:redis"),
        ("postgres://me@db/studies", "sqlalchemy.dialects:postgres; expected postgresql://..."),
        ("databricks", "Could not parse SQLAlchemy URL"),
        ("uc:catalog", "Could not parse SQLAlchemy URL"),
        ("oracle+nothing://me@db/studies", "Can't load plugin"),
        ("mysql+pymysql://me:secret-word@db/studies", "No module named 'pymysql'"),
    ],
)
def test_an_address_that_is_no_database_is_refused_before_anything_is_made(storage, reason, tmp_path):
    with pytest.raises(UserError, match=r"--study-storage .*: cannot be opened: ") as caught:
        run_study(CONFIG, SHORT, home=tmp_path / "home", study_storage=storage)
    assert reason in str(caught.value)
    assert "secret-word" not in str(caught.value)
    assert not [path for path in tmp_path.rglob("*") if path.name == "digits"]


@pytest.mark.parametrize(
    "uri",
    [
        "./mlruns", "file:///tmp/mlruns", "foo://bar", "mysql+pymysql://me@db/runs", "databricks", "databricks://profile",
        "databricks-uc", "uc:http://127.0.0.1:9", "redis://localhost:6379", "postgres://me@db/runs", "s3://bucket/runs",
    ],
)  # fmt: skip
def test_an_address_that_mlflow_cannot_open_is_refused_with_one_message(uri, caplog):
    with pytest.raises(UserError) as caught:
        reachable_client(uri)
    assert str(caught.value).startswith(f"--tracking-uri {uri}: ")
    assert len(str(caught.value)) < 700
    assert "\n" not in str(caught.value)
    assert ("expected postgresql://..." in str(caught.value)) == uri.startswith("postgres://")
    assert not caplog.records


def test_an_experiment_in_the_trash_is_refused_with_how_to_get_it_back(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(uri)
    number = client.create_experiment("digits")
    client.delete_experiment(number)
    with pytest.raises(UserError, match=f"'digits' is deleted; restore it .*--experiment-id {number}"):
        run_study(CONFIG, SHORT, home=tmp_path / "home", tracking_uri=uri)
    assert not client.search_experiments(filter_string="name = 'digits'")


def test_a_study_is_found_among_more_experiments_than_a_page_has(tmp_path, monkeypatch):
    monkeypatch.setattr("vae_study.tracking.store.RUNS_PER_PAGE", 3)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    create_parent(client, "first", "wanted", {KIND: "study", STUDY: "wanted"})
    for number in range(7):
        create_parent(client, f"later {number}", f"study-{number}", {KIND: "study", STUDY: f"study-{number}"})
    assert find_parent(client, "wanted").data.tags[STUDY] == "wanted"
    assert study_names(ClientSource(client)) == [*(f"study-{number}" for number in range(7)), "wanted"]


@pytest.mark.parametrize("place", ["file:///proc/nowhere/artifacts", "file://{folder}/a file/artifacts", "s3://b/none"])
def test_a_store_whose_artifacts_go_where_this_machine_cannot_write_is_refused(place, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    (tmp_path / "a file").touch()
    client, place = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db"), place.format(folder=tmp_path).replace(" ", "%20")
    experiment = client.create_experiment("digits", artifact_location=place)
    with pytest.raises(UserError, match=r"--tracking-uri .*: the place of its artifacts, ") as caught:
        create_parent(client, "digits", "digits", {KIND: "study", STUDY: "digits"})
    assert place in str(caught.value)
    assert "\n" not in str(caught.value)
    assert client.search_runs([experiment]) == []


def test_a_store_may_have_its_artifacts_elsewhere(tmp_path):
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    client.create_experiment("digits", artifact_location=(tmp_path / "else where #%").as_uri())
    run = create_parent(client, "digits", "digits", {KIND: "study", STUDY: "digits"})
    client.log_text(run.info.run_id, "text", "a.txt")
    assert [path.read_text() for path in (tmp_path / "else where #%").rglob("*") if path.is_file()] == ["text"]


@pytest.mark.processes
def test_a_temporary_folder_too_deep_for_the_sockets_of_ray_is_named(tmp_path):
    deep = tmp_path / ("a" * 60) / ("b" * 60)
    deep.mkdir(parents=True)
    done = vae_study_run(tmp_path, TMPDIR=str(deep))
    assert done.returncode == 2, done.stderr
    assert "local Ray: cannot be opened: " in done.stderr
    assert "set RAY_TMPDIR to a folder with a short path" in done.stderr


@pytest.mark.processes
def test_a_dead_cluster_that_ray_remembers_is_not_waited_for(tmp_path):
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(f"127.0.0.1:{free_port()}")
    done = vae_study_run(tmp_path, RAY_TMPDIR=str(tmp_path), RAY_ADDRESS="auto")
    assert done.returncode == 2, done.stderr
    assert "--ray-address auto: the cluster that Ray last knew of on this machine does not answer" in done.stderr


def vae_study_run(tmp_path, **environment):
    """The digits, by the command in a process of its own."""
    command = [sys.executable, "-m", "vae_study", "run", str(CONFIG), "--home", str(tmp_path / "home"), "--no-report"]
    words = [*command, "--trials", "1", "--epochs", "1"]
    done = subprocess.run(
        words, env={**os.environ, **environment}, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_a_home_may_have_any_characters_in_its_path(ray_session, tmp_path, monkeypatch):
    strange = "a b%2Fc?d=e#f \u00e4\u65e5"
    home, images = tmp_path / strange, tmp_path / f"{strange} images"
    random = np.random.default_rng(0)
    for number in range(60):
        path = images / ("bad" if number % 10 == 0 else "ok") / f"{number} %3F#.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (4, 4), np.uint8)).save(path)
    monkeypatch.chdir(tmp_path)
    config = {
        "study": "places",
        "data": {"source": "images", "path": str(images), "anomaly_labels": ["bad"]},
        "model": {"network": {"hidden": [8]}, "latent_dim": 2},
        "training": {"epochs": 1, "batch_size": 16},
        "search": {"beta": {"low": 0.5, "high": 2}},
        "trials": 2,
    }
    assert set(run_study(config, home=home).trials["state"]) == {"finished"}
    page = build_report("places", home=home, output=home / "report").read_text(encoding="utf-8")
    score_rows("places", str(images / "ok"), output=home / "scores.csv", home=home)
    files = pd.read_csv(home / "scores.csv")["file"]
    assert sorted(files) == sorted(path.name for path in (images / "ok").iterdir())
    assert any(f"ok/{file}" in page for file in files)
    # MLflow leaves an empty folder that is called like the escaped path.
    made = {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*") if path.is_file()}
    assert made == {home.name, images.name}
    assert (home / "mlflow.db").is_file()
    assert (home / "places" / "study.db").is_file()


def test_a_study_store_in_the_database_behind_a_tracking_server_is_refused(ray_session, tmp_path):
    behind = f"sqlite:///{tmp_path}/server.db"
    MlflowClient(behind).search_experiments()
    with pytest.raises(UserError, match=r"--study-storage .*: holds tables of MLflow"):
        run_study(CONFIG, SHORT, home=tmp_path / "home", study_storage=behind)


@pytest.mark.parametrize(
    ("resources", "concurrency", "all_work"),
    [
        ({}, None, True),
        ({}, "max", True),
        ({"trials_per_device": 8}, None, True),
        ({}, 1, False),
        ({"cpu": 2}, None, False),
        ({"gpu": 0.5}, None, False),
    ],
)
def test_where_a_local_ray_has_a_worker_on_every_core(resources, concurrency, all_work, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert session.all_work(ResourcesConfig(**resources), concurrency, trials=4) is all_work
    assert not session.all_work(ResourcesConfig(**resources), concurrency, trials=3)

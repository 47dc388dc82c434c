"""Stores that cannot be used are refused with one message."""

import pytest
from mlflow import MlflowClient
from optuna.storages import get_storage

from pipeline.api import run_study
from pipeline.errors import UserError
from pipeline.spec.schema import ResourcesSpec
from pipeline.study import local_ray
from pipeline.tracking.store import open_client, require_apart
from tests.study.conftest import SHORT, SPEC

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
]


@pytest.mark.parametrize(("tracking", "storage"), SAME)
def test_mlflow_and_optuna_are_refused_one_database_for_both(tracking, storage):
    with pytest.raises(UserError, match=r"--study-storage .*: came the database of --tracking-uri"):
        require_apart(tracking, storage)


@pytest.mark.parametrize(("tracking", "storage"), OTHERS)
def test_two_databases_may_be_on_one_server(tracking, storage):
    require_apart(tracking, storage)


def test_a_study_with_one_database_for_both_makes_nothing(tmp_path):
    both = f"sqlite:///{tmp_path}/both.db"
    with pytest.raises(UserError, match="keep their versions in a table of the same name"):
        run_study(SPEC, SHORT, home=tmp_path / "home", tracking_uri=both, study_storage=both)
    assert not list(tmp_path.iterdir())


def test_a_tracking_store_in_the_database_of_something_else_is_refused(tmp_path):
    uri = f"sqlite:///{tmp_path}/optuna.db"
    get_storage(uri)
    with pytest.raises(UserError, match=r"--tracking-uri .*: is a database of something else"):
        open_client(uri)


def test_a_study_store_in_the_database_behind_a_tracking_server_is_refused(ray_session, tmp_path):
    behind = f"sqlite:///{tmp_path}/server.db"
    MlflowClient(behind).search_experiments()
    with pytest.raises(UserError, match=r"--study-storage .*: holds tables of MLflow"):
        run_study(SPEC, SHORT, home=tmp_path / "home", study_storage=behind)


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
    assert local_ray.all_work(ResourcesSpec(**resources), concurrency, trials=4) is all_work
    assert not local_ray.all_work(ResourcesSpec(**resources), concurrency, trials=3)

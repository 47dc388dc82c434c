"""Two people, one server: what somebody else has made under the same name stays as it is, to the last bit."""

import shutil
from pathlib import Path
from typing import NamedTuple

import optuna
import psycopg
import pytest
from mlflow import MlflowClient
from vae_study.api import load_study, promote_model, resume_study, run_study, sync_study
from vae_study.errors import UserError
from vae_study.storage import Folder, claim, owner_of
from vae_study.tracking import schema
from vae_study.tracking.store import create_parent, open_client, own_parent

from tests.postgres import make_database, served_database
from tests.study.conftest import CONFIG, SHORT
from tests.tracking.servers import Server

TINY = [*SHORT, "training.epochs=2", "trials=2"]
TAKEN = "already, which this HOME did not begin (made by"


class Shared(NamedTuple):
    """A real tracking server, the database behind it, one for Optuna, and the server's folder of artifacts."""

    uri: str
    tracking: str
    storage: str
    artifacts: Path


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    with served_database("a-long-password") as tracking, Server(folder, tracking) as server:
        yield Shared(server.uri, tracking, make_database(tracking, "optuna"), folder / "artifacts")


def run(home, name, shared, seed=0, **places):
    places = {"tracking_uri": shared.uri, "study_storage": shared.storage, **places}
    return run_study(CONFIG, [*TINY, f"seed={seed}"], name=name, home=home, concurrency=1, **places)


def everything(shared):
    """All rows of all tables of both databases, and all artifacts."""
    rows = {}
    for url in (shared.tracking, shared.storage):
        with psycopg.connect(url) as database:
            query = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
            for (table,) in database.execute(query).fetchall():
                rows[url, table] = sorted(map(repr, database.execute(f'SELECT * FROM "{table}"').fetchall()))
    files = [path for path in shared.artifacts.rglob("*") if path.is_file()]
    return rows, {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def refused(*args, **options):
    with pytest.raises(UserError) as caught:
        run(*args, **options)
    assert TAKEN in str(caught.value)
    assert "expected another --name" in str(caught.value)
    return str(caught.value)


pytestmark = [pytest.mark.database, pytest.mark.processes]


@pytest.mark.parametrize("first", ["alice", "bob"])
def test_who_comes_second_is_refused_and_changes_nothing(ray_session, shared, tmp_path, first):
    name, second = f"fraud-{first}", {"alice": "bob", "bob": "alice"}[first]
    begun = run(tmp_path / first, name, shared, seed=1)
    before = everything(shared)
    own = f"sqlite:///{tmp_path}/own.db"
    said = refused(tmp_path / second, name, shared, seed=2)
    assert said.startswith("--tracking-uri http://")
    assert f"in {tmp_path / first / name}, " in said
    refused(tmp_path / second, name, shared, seed=2, study_storage=own)
    elsewhere = f"sqlite:///{tmp_path}/mlflow.db"
    said = refused(tmp_path / second, name, shared, seed=2, tracking_uri=elsewhere)
    assert said.startswith("--study-storage postgresql://")
    assert "a-long-password" not in said
    assert not (tmp_path / second / name).exists()
    assert everything(shared) == before

    if first == "alice":
        run(tmp_path / second, f"{name}-too", shared, seed=2)
    after = resume_study(name, home=tmp_path / first, tracking_uri=shared.uri, study_storage=shared.storage)
    assert after.trials.equals(begun.trials)


def test_a_home_that_is_gone_does_not_take_the_study_along(ray_session, shared, tmp_path):
    run(tmp_path / "home", "kept", shared, study_storage=None)
    before = everything(shared)
    shutil.rmtree(tmp_path / "home")
    refused(tmp_path / "home", "kept", shared, study_storage=None)
    assert everything(shared) == before
    assert len(load_study("kept", tracking_uri=shared.uri).trials) == 2


def test_a_registered_model_of_another_origin_keeps_its_alias(ray_session, shared, tmp_path):
    client = MlflowClient(shared.uri)
    client.create_registered_model("in-production")
    version = client.create_model_version("in-production", "s3://models/17")
    client.set_registered_model_alias("in-production", "champion", version.version)
    before = everything(shared)
    said = refused(tmp_path / "home", "in-production", shared)
    assert "a registered model 'in-production'" in said
    assert "another program" in said
    assert everything(shared) == before


def test_a_model_that_is_registered_while_a_study_runs_keeps_its_alias_too(ray_session, shared, tmp_path):
    client = MlflowClient(shared.uri)
    run(tmp_path / "home", "overtaken", shared)
    client.delete_registered_model("overtaken")
    client.create_registered_model("overtaken")
    version = client.create_model_version("overtaken", "s3://models/17")
    client.set_registered_model_alias("overtaken", "champion", version.version)
    with pytest.raises(UserError, match="a registered model 'overtaken' already"):
        promote_model("overtaken", "ensemble", home=tmp_path / "home", tracking_uri=shared.uri)
    assert client.get_model_version_by_alias("overtaken", "champion").source == "s3://models/17"
    assert load_study("overtaken", tracking_uri=shared.uri).promoted is None


def test_a_study_of_optuna_s_own_is_left_alone(ray_session, shared, tmp_path):
    theirs = optuna.create_study(storage=shared.storage, study_name="theirs", directions=["minimize", "minimize"])
    theirs.add_trial(optuna.trial.create_trial(values=[1.0, 2.0]))
    before = everything(shared)
    assert "another program" in refused(tmp_path / "home", "theirs", shared)
    assert everything(shared) == before


def test_sync_to_a_store_with_somebody_else_s_study_changes_nothing(ray_session, shared, tmp_path):
    here = f"sqlite:///{tmp_path}/here.db"
    run(tmp_path / "home", "moved", shared, tracking_uri=here, study_storage=None)
    run(tmp_path / "theirs", "moved", shared)
    before = everything(shared)
    with pytest.raises(UserError, match="which this HOME did not begin"):
        sync_study("moved", home=tmp_path / "home", tracking_uri=shared.uri)
    assert everything(shared) == before


def test_of_two_who_begin_at_the_same_time_one_goes_on(tmp_path):
    client = open_client(f"sqlite:///{tmp_path}/mlflow.db")
    tags = {schema.KIND: "study", schema.STUDY: "fraud"}
    first = create_parent(client, "digits", "fraud", {**tags, schema.STUDY_ID: "a"})
    with pytest.raises(UserError, match="has a study 'fraud' already"):
        create_parent(client, "digits", "fraud", {**tags, schema.STUDY_ID: "b"})
    assert own_parent(client, "fraud", "a").info.run_id == first.info.run_id
    with pytest.raises(UserError, match="has a study 'fraud' already"):
        own_parent(client, "fraud", None)


def test_an_owner_is_written_once(tmp_path):
    folder = Folder.at(tmp_path / "study")
    assert owner_of(folder) is None
    owner = claim(folder)
    assert claim(folder) == owner == owner_of(folder)
    assert str(tmp_path) in owner.made_by
    assert folder.names() == ["owner.json"]

"""A tracking server as a team has it: PostgreSQL, artifacts in a bucket, users with passwords."""

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from pyarrow.fs import FileSelector, FileSystem
from vae_study.api import build_report, load_study
from vae_study.errors import UserError
from vae_study.tracking import schema
from vae_study.tracking.store import open_client, reachable_client
from vae_study.tracking.writer import TrackingWriter

from tests.faults.runs import CONFIG
from tests.leaks import leaks
from tests.object_store import served_bucket
from tests.postgres import make_database, served_database
from tests.tracking.servers import Server
from tests.tracking.story import STORY, check, found, new_parent, records_of
from tests.waiting import PATIENCE_SECONDS

pytestmark = [pytest.mark.database, pytest.mark.processes]
# As databases and people have them: not all of them may stand in an address as they are.
DATABASE_PASSWORD, PASSWORD, KEY = "sword/fish@7:%harbour", "twelve-letters-or-more", "wJalrXUtnFEMI-K7MDENG-bPxRfiCY"
SECRETS = (DATABASE_PASSWORD, PASSWORD, KEY)


@dataclass
class Team:
    """What a team shares: MLflow and Optuna have a database each, as both number their versions in the same table."""

    server: Server
    tracking: str
    storage: str
    bucket: str


@pytest.fixture(scope="module")
def team(tmp_path_factory):
    folder = tmp_path_factory.mktemp("team")
    with (
        served_database(DATABASE_PASSWORD) as tracking,
        served_bucket(folder / "s3.log") as bucket,
        Server(folder, tracking, f"{bucket}/mlflow", PASSWORD) as server,
    ):
        yield Team(server, tracking, make_database(tracking, "optuna"), bucket)


@pytest.fixture
def signed_in(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)


def nameless(runs, parent):
    """What is found in a store, without what tells one store from another."""
    own = {schema.PARENT, schema.UID}
    for run in runs.values():
        run["tags"] = {name: value for name, value in run["tags"].items() if name not in own}
    return runs


def test_a_story_is_the_same_in_postgresql_and_a_bucket_behind_a_password_as_in_sqlite(
    impatient, team, signed_in, store, tmp_path, name
):
    client, places = open_client(team.server.uri), []
    for at, folder in ((store, tmp_path / "sqlite"), (client, tmp_path / "team")):
        parent = new_parent(at, name)
        writer = TrackingWriter(at, parent, {}, folder)
        if at is store:
            for step in [step for steps in STORY for step in steps]:
                step(writer)
            writer.drain()
            writer.journal.sync()
            shutil.copytree(tmp_path / "sqlite", tmp_path / "team", ignore=lambda *_: ["journal.offset"])
        writer.drain()
        writer.close()
        assert not writer.uploader.errors
        check(at, parent, records_of(writer))
        places.append(nameless(found(at, parent), parent))
    assert places[0] == places[1]
    assert len(places[0]["trial-0000"]["points"]) > 10
    held = FileSystem.from_uri(team.bucket)[0].get_file_info(FileSelector("bucket/mlflow", recursive=True))
    assert {"history.parquet", "error.txt", "config.json"} <= {file.base_name for file in held}


@pytest.mark.parametrize("password", [None, "thirteen-letters"])
def test_a_wrong_password_is_one_clear_message_without_it(team, monkeypatch, password):
    if password:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", password)
    with pytest.raises(UserError) as error:
        reachable_client(team.server.uri)
    (line,) = str(error.value).splitlines()
    assert line == (
        f"--tracking-uri {team.server.uri}: refuses the user or the password; expected those of the server in "
        "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    )


def test_a_study_of_eight_trials_at_once_has_its_stores_in_postgresql_and_tells_nobody_a_secret(
    team, signed_in, monkeypatch, tmp_path
):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
    uri = team.server.uri.replace("//", f"//admin:{PASSWORD}@")
    # A path of Ray's may not be long.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as notes:
        words = ["--tracking-uri", uri, "--study-storage", team.storage, "--home", str(tmp_path / "home")]
        told = run_study(tmp_path, notes, *words)
        assert leaks(SECRETS, told, tmp_path, Path(notes)) == []
    record = load_study("digits", home=tmp_path / "home", tracking_uri=team.server.uri)
    assert (record.trials["state"] == "finished").sum() == 8
    assert record.champion is not None
    report = build_report("digits", tracking_uri=uri, output=tmp_path / "reports")
    assert report.exists()
    assert eight_began_before_any_ended(team)
    assert leaks(SECRETS, tmp_path, dumped(team.tracking), dumped(team.storage), *objects(team)) == []


def run_study(folder, notes, *words):
    """What it prints; its Ray keeps notes in a folder of its own."""
    settings = ["training.epochs=200", "model.network.hidden=[16]", "confirm=null", "trials=8"]
    # One worker takes all of them.
    settings += [f"resources.cpu={os.cpu_count()}", "resources.trials_per_device=8"]
    command = [sys.executable, "-m", "vae_study", "run", str(CONFIG), "--concurrency", "8", *words]
    command += [word for setting in settings for word in ("--set", setting)]
    environment = {**os.environ, "RAY_TMPDIR": notes}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def eight_began_before_any_ended(team):
    import psycopg

    with psycopg.connect(team.storage) as database:
        rows = database.execute("SELECT datetime_start, datetime_complete FROM trials").fetchall()
    return len(rows) == 8 and max(began for began, _ in rows) < min(ended for _, ended in rows)


def dumped(url):
    """All that is in a database, as text."""
    parts = urlsplit(url)
    words = ["-h", parts.hostname, "-p", str(parts.port), "-U", parts.username, parts.path.strip("/")]
    environment = {**os.environ, "PGPASSWORD": unquote(parts.password)}
    return subprocess.run(["pg_dump", *words], env=environment, capture_output=True, text=True, check=True).stdout


def objects(team):
    system = FileSystem.from_uri(team.bucket)[0]
    for file in system.get_file_info(FileSelector("bucket/mlflow", recursive=True)):
        if file.is_file:
            with system.open_input_stream(file.path, compression=None) as stream:
                yield f"{file.path} {stream.read().decode(errors='replace')}"

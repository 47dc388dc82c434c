"""Files of a study are damaged, gone or locked, the disk is full, or a name is mistyped."""

import shutil
import sqlite3
from contextlib import closing

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from vae_study.api import load_study
from vae_study.cli import main
from vae_study.tracking import schema
from vae_study.tracking.store import find_children, require_parent

from tests.faults.runs import TRIALS, check_equal, check_invariants, study_of
from tests.small_disk import small_disk

RESUME = ("resume", "digits", "--no-report", "--concurrency", "1")


def invoke(home, *words):
    return CliRunner().invoke(main, [*words, "--home", str(home)])


def refusal(result, code=2):
    """The one message of a command that ended with this exit code."""
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    assert isinstance(result.exception, SystemExit)
    # A progress bar may leave an empty line.
    (message,) = filter(None, result.stderr.splitlines())
    assert len(message) < 2000
    return message


@pytest.fixture
def home(undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "home")
    return tmp_path / "home"


@pytest.mark.parametrize("where", ["typo", "studies/typo"])
def test_commands_that_read_make_nothing_where_there_is_no_study(tmp_path, where):
    words = [("report", "digits"), ("score", "digits", "digits"), ("promote", "digits", "trial-0001"), ("ui",)]
    for command in [*words, ("status", "digits"), ("serve", "digits"), ("sync", "digits"), ("resume", "digits")]:
        assert "typo" in refusal(invoke(tmp_path / where, *command))
    assert invoke(tmp_path / where, "status").stdout == "no studies yet\n"
    assert list(tmp_path.iterdir()) == []


def as_folder(path):
    path.unlink()
    path.mkdir()


DAMAGED = {
    "a store of runs that is a folder": ("mlflow.db", as_folder, "mlflow.db is not a file"),
    "a store of runs that is none": ("mlflow.db", lambda path: path.write_bytes(b"x" * 9000), "file is not a database"),
    "a config that is cut off": ("digits/config.json", lambda path: path.write_text('{"study": 3'), "Invalid JSON"),
    "an owner that is none": ("digits/owner.json", lambda path: path.write_text("[]"), "owner.json: is damaged"),
    "results that are gone": ("digits/trials", shutil.rmtree, "finished trials are gone, the first of trial-0"),
    "a study store that is none": ("digits/study.db", lambda path: path.write_bytes(b"x" * 9000), "not a database"),
}


@pytest.mark.parametrize("what", DAMAGED)
def test_a_damaged_study_is_one_message_and_stays_as_it_is(home, what):
    place, damage, says = DAMAGED[what]
    damage(home / place)
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*.json*")}
    message = refusal(invoke(home, *RESUME))
    assert says in message
    assert place in message
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*.json*")} == before


def test_a_study_whose_journal_and_runs_are_gone_is_rebuilt_from_its_trials_without_training(undisturbed, home):
    for path in [*home.glob("mlflow.db*"), *home.glob("digits/journal*")]:
        path.unlink()
    shutil.rmtree(home / "artifacts")
    result = invoke(home, "sync", "digits", "--rebuild")
    assert result.exit_code == 0, result.output
    assert "records of digits uploaded to MLflow" in result.stdout
    check_invariants(home, TRIALS)
    check_equal(home, undisturbed)
    one, other = (load_study("digits", home=place).confirmations for place in (home, undisturbed))
    assert len(one) == len(other) == 1
    (home / "digits" / "study.db").unlink()
    (home / "digits" / "journal.jsonl").unlink()
    assert "has no study.db; expected its trials there" in refusal(invoke(home, "sync", "digits", "--rebuild"))


@pytest.mark.parametrize("place", ["mlflow.db", "digits/study.db"])
def test_a_locked_database_is_one_message(home, place, monkeypatch):
    monkeypatch.setattr(schema, "SECONDS_FOR_A_LOCK", 0.5)
    with closing(sqlite3.connect(home / place)) as database:
        database.execute("BEGIN EXCLUSIVE")
        message = refusal(invoke(home, *RESUME))
    assert "database is locked" in message
    assert place in message


def test_a_disk_that_is_full_at_a_resume_or_in_the_last_phase_ends_it_with_one_message(undisturbed, tmp_path):
    with small_disk(tmp_path, "size=60m") as disk:
        home = disk / "home"
        shutil.copytree(undisturbed, home)
        for room in (0, 40 * 2**10):
            (disk / "others").write_bytes(b"")
            free = shutil.disk_usage(disk).free
            (disk / "others").write_bytes(b"x" * (free - room))
            message = refusal(invoke(home, *RESUME), code=1)
            assert "the study 'digits' broke: " in message
            assert message.endswith(f"continue with: vae-study resume digits --home {home}")
            (disk / "others").unlink()
        assert invoke(home, *RESUME).exit_code == 0
        client = MlflowClient(f"sqlite:///{home}/mlflow.db")
        parent = require_parent(client, "digits")
        assert {run.info.status for run in [parent, *find_children(client, parent)]} == {"FINISHED"}
        assert len(study_of(home).trials) == TRIALS
        check_equal(home, undisturbed)

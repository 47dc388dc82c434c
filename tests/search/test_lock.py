import os
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager

import optuna
import psutil
import pytest
from vae_study.errors import UserError
from vae_study.search import lock
from vae_study.search.lock import DriverLock

from tests.waiting import PATIENCE_SECONDS, until

pytestmark = pytest.mark.processes

DRIVE = """
import sys, time, optuna
from vae_study.errors import UserError
from vae_study.search.lock import DriverLock
study = optuna.load_study(study_name="a", storage=sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
try:
    with DriverLock(study):
        print("held", flush=True)
        sys.stdin.readline()
except UserError as error:
    print(error, flush=True)
"""


@pytest.fixture
def url(tmp_path):
    url = f"sqlite:///{tmp_path / 'study.db'}"
    optuna.create_study(storage=url, study_name="a")
    return url


@pytest.fixture
def study(url):
    return optuna.load_study(study_name="a", storage=url)


@contextmanager
def driver(url):
    """Another process that is ready to lock the study, and does so at the first line that it is told."""
    with subprocess.Popen(
        [sys.executable, "-c", DRIVE, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def told(process, line="go"):
    process.stdin.write(f"{line}\n")
    process.stdin.flush()


def holder(age=0.0, older=0.0, **changes):
    """This process as another driver, with its last beat so many seconds ago, and begun so many seconds earlier."""
    me = psutil.Process()
    held = {"host": socket.gethostname(), "pid": me.pid, "started": me.create_time() - older, "token": "x"}
    return held | {"beat": time.time() - age} | changes


def test_a_second_driver_is_refused_until_the_first_is_killed(url, study):
    with driver(url) as first:
        told(first)
        assert first.stdout.readline() == "held\n"
        with pytest.raises(UserError) as caught:
            DriverLock(study).acquire()
        words = f"the study 'a' is being run by pid {first.pid} on host {socket.gethostname()} (last heartbeat "
        assert str(caught.value).startswith(words)
        assert "try again" not in str(caught.value)
        os.kill(first.pid, 9)
        # Not waited for yet: a process of which only its end is left.
        while psutil.Process(first.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        with DriverLock(study):
            assert study.user_attrs["driver"]["pid"] == os.getpid()


def test_a_driver_that_ends_leaves_the_study_free(url, study):
    with driver(url) as first, driver(url) as second:
        told(first)
        assert first.stdout.readline() == "held\n"
        told(first, "end")
        assert first.wait(PATIENCE_SECONDS) == 0
        assert study.user_attrs["driver"] is None
        told(second)
        assert second.stdout.readline() == "held\n"


def test_of_drivers_that_start_at_once_one_wins(url):
    with driver(url) as one, driver(url) as other, driver(url) as third:
        processes = [one, other, third]
        for process in processes:
            told(process)
        said = [process.stdout.readline() for process in processes]
        assert said.count("held\n") == 1
        assert sum("is being run by pid" in line for line in said) == 2


@pytest.mark.parametrize(
    ("held", "is_free"),
    [
        ({}, False),
        ({"age": 1e6}, False),
        ({"older": 100}, True),
        ({"pid": 2**22 + 1}, True),
        ({"pid_space": "pid:[1]", "pid": 2**22 + 1}, False),
        ({"host": "elsewhere"}, False),
        ({"host": "elsewhere", "age": 40}, False),
        ({"host": "elsewhere", "age": 61}, True),
        ({"host": "elsewhere", "age": -3_600}, False),
    ],
)
def test_a_holder_is_alive_by_its_process_here_and_by_its_beat_elsewhere(monkeypatch, study, held, is_free):
    monkeypatch.setattr(lock, "SETTLE_SECONDS", 0.01)
    held = holder(**held)
    now = time.time()
    monkeypatch.setattr(lock.time, "time", lambda: now)
    study.set_user_attr("driver", held)
    if is_free:
        with DriverLock(study) as mine:
            assert not mine.lost.is_set()
        assert study.user_attrs["driver"] is None
    else:
        with pytest.raises(UserError, match="is being run by"):
            DriverLock(study).acquire()
        assert study.user_attrs["driver"] == held


def test_who_waits_for_another_host_is_told_how_long(monkeypatch, study):
    monkeypatch.setattr(lock.time, "time", lambda: 1e9)
    study.set_user_attr("driver", holder(host="elsewhere", pid=7, beat=1e9 - 20))
    says = r"by pid 7 on host elsewhere \(last heartbeat 20 s ago\); .*try again in 40 s"
    with pytest.raises(UserError, match=says):
        DriverLock(study).acquire()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(lock, "SETTLE_SECONDS", 0.01)
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.05)


def test_a_held_lock_beats_and_a_stolen_one_is_noticed_and_left_alone(quick, study):
    thief = holder(host="elsewhere", token="thief")

    def steal_until_it_stays():
        # A beat that had looked already writes over the thief's name, as over that of a driver that takes over.
        study.set_user_attr("driver", thief)
        return mine.lost.is_set()

    with DriverLock(study) as mine:
        first = study.user_attrs["driver"]["beat"]
        until(lambda: study.user_attrs["driver"]["beat"] != first, "the lock beats")
        assert not mine.lost.is_set()
        until(steal_until_it_stays, "the theft is noticed")
    assert study.user_attrs["driver"] == thief


def test_a_driver_that_takes_over_in_the_middle_of_a_beat_tries_again(monkeypatch, study):
    monkeypatch.setattr(lock, "SETTLE_SECONDS", 0.01)
    with DriverLock(study) as mine:
        write, thief = mine._write, holder(host="elsewhere", token="thief")
        monkeypatch.setattr(mine, "_write", lambda: (study.set_user_attr("driver", thief), write()))
        mine._renew()
        assert not mine.lost.is_set()
        monkeypatch.setattr(mine, "_write", write)
        study.set_user_attr("driver", thief)
        mine._renew()
        assert mine.lost.is_set()
    assert study.user_attrs["driver"] == thief


@contextmanager
def out_of_reach(url):
    """The database answers nobody else."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=PATIENCE_SECONDS)) as database:
        database.execute("BEGIN EXCLUSIVE")
        yield
        database.rollback()


def test_a_database_that_goes_away_ends_no_driver(quick, url, study, caplog):
    impatient = optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 0.5}})
    with DriverLock(optuna.load_study(study_name="a", storage=impatient)) as mine:
        with out_of_reach(url):
            until(lambda: "could not be renewed" in caplog.text, "a beat fails")
            assert not mine.lost.is_set()
        before = study.user_attrs["driver"]["beat"]
        until(lambda: study.user_attrs["driver"]["beat"] != before, "the lock beats again")
        with out_of_reach(url):
            mine.release()
    assert "could not be given up" in caplog.text


def test_an_interrupted_attempt_leaves_nothing_behind(monkeypatch, study):
    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(lock.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        DriverLock(study).acquire()
    assert study.user_attrs["driver"] is None

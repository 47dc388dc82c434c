"""The driver dies, is interrupted, or is started twice."""

import random
import signal
import sqlite3
import time
from contextlib import closing

import psutil
import pytest
from mlflow import MlflowClient
from vae_study.tracking.store import find_children, require_parent

from tests.command import Command
from tests.faults.runs import CONFIRMED, TRIALS, Driver, check_equal, check_invariants, ended, study_of
from tests.waiting import PATIENCE_SECONDS, command_line, until

pytestmark = pytest.mark.processes

ONE_BY_ONE = ("--concurrency", "1")
RESUME = ("resume", "digits", *ONE_BY_ONE)


def test_a_study_whose_driver_is_killed_at_three_moments_ends_as_if_undisturbed(undisturbed, ray_address, tmp_path):
    moments = random.Random(0)
    driver = Driver(tmp_path, more=ONE_BY_ONE, ray=ray_address, settings=[CONFIRMED])
    for kills in range(3):
        until(lambda least=3 * kills + 1: ended(tmp_path) >= least, "another trial has ended")
        time.sleep(moments.uniform(0, 1.5))
        driver.kill()
        driver = Driver(tmp_path, *RESUME, ray=ray_address)
    assert driver.wait() == 0, driver.text()
    check_invariants(tmp_path, TRIALS)
    check_equal(tmp_path, undisturbed)


def test_a_journal_that_is_lost_with_what_mlflow_did_not_have_yet_comes_back_from_the_trials(
    undisturbed, ray_address, tmp_path
):
    driver = Driver(tmp_path, more=ONE_BY_ONE, ray=ray_address, settings=["trials=5"])
    until(lambda: ended(tmp_path) >= 1, "a trial has ended")
    # MLflow can write nothing from here on.
    with closing(sqlite3.connect(tmp_path / "mlflow.db", timeout=PATIENCE_SECONDS)) as mlflow:
        mlflow.execute("BEGIN IMMEDIATE")
        count = ended(tmp_path)
        until(lambda: ended(tmp_path) >= count + 2, "two more trials have ended")
        driver.kill()
    for file in ("journal.jsonl", "journal.offset"):
        (tmp_path / "digits" / file).unlink()
    again = Driver(tmp_path, *RESUME, ray=ray_address)
    assert again.wait() == 0, again.text()
    check_invariants(tmp_path, 5)
    check_equal(tmp_path, undisturbed)


def test_ctrl_c_saves_what_runs_and_says_how_to_go_on(undisturbed, ray_address, tmp_path):
    driver = Driver(tmp_path, more=ONE_BY_ONE, ray=ray_address, settings=["trials=4"])
    until(lambda: ended(tmp_path) >= 1, "a trial has ended")
    driver.send_signal(signal.SIGINT)
    assert driver.wait() == 1
    assert "running trials are being saved" in driver.text()
    assert "continue with: vae-study resume digits" in driver.text()
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    statuses = {run.info.status for run in find_children(client, require_parent(client, "digits"))}
    assert "RUNNING" not in statuses
    again = Driver(tmp_path, *RESUME, ray=ray_address)
    assert again.wait() == 0, again.text()
    check_invariants(tmp_path, 4)
    check_equal(tmp_path, undisturbed)


def test_ctrl_c_twice_ends_at_once_and_resume_still_works(undisturbed, ray_address, tmp_path):
    driver = Driver(tmp_path, more=ONE_BY_ONE, settings=["trials=3"])
    until(lambda: ended(tmp_path) >= 1, "a trial has ended")
    driver.send_signal(signal.SIGINT)
    until(lambda: "Ctrl-C again" in driver.text(), "the first Ctrl-C is seen")
    driver.send_signal(signal.SIGINT)
    assert driver.wait() == 1
    assert "stopped at once; continue with: vae-study resume digits" in driver.text()
    assert "Traceback" not in driver.text()
    again = Driver(tmp_path, *RESUME, ray=ray_address)
    assert again.wait() == 0, again.text()
    check_invariants(tmp_path, 3)
    check_equal(tmp_path, undisturbed)


def test_ctrl_c_while_ray_starts_ends_it_too(tmp_path):
    driver = Driver(tmp_path)
    # Made beside Ray's start, which takes about as long.
    until((tmp_path / "mlflow.db").exists, "MLflow is opened")
    # Its children's own children notice within a minute that they are alone.
    processes = driver.tree.children()
    driver.send_signal(signal.SIGINT)
    assert driver.wait() == 1
    has_begun = (tmp_path / "digits").exists()
    assert ("vae-study resume digits" if has_begun else "stopped at once; it had not begun") in driver.text()
    assert "Traceback" not in driver.text()
    _, left = psutil.wait_procs(processes, timeout=PATIENCE_SECONDS)
    assert [process.cmdline() for process in left] == []


def test_a_study_whose_local_ray_dies_says_what_died_and_ends_and_goes_on_as_if_undisturbed(
    undisturbed, ray_address, tmp_path
):
    words = ()
    for name in ("raylet", "gcs_server"):
        driver = Driver(tmp_path, *words, more=ONE_BY_ONE, settings=["trials=6"])
        count = ended(tmp_path)
        until(lambda count=count: ended(tmp_path) > count, "another trial has ended", driver)
        rays = driver.tree.children(recursive=True)
        (victim,) = (process for process in rays if process.name() == name)
        victim.kill()
        assert driver.wait() == 1
        told = driver.text().splitlines()[-1]
        assert f"the local Ray's {name}, which " in told
        assert f"(pid {victim.pid}), was killed by SIGKILL; " in told
        assert told.endswith(f"of 6 trials are done; continue with: vae-study resume digits --home {tmp_path}")
        assert not any(word in driver.text() for word in ("Traceback", "Raylet is terminated"))
        assert [command_line(process) for process in rays if process.is_running()] == []
        client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
        parent = require_parent(client, "digits")
        assert "RUNNING" not in {run.info.status for run in [parent, *find_children(client, parent)]}
        words = RESUME
    again = Driver(tmp_path, *RESUME, ray=ray_address)
    assert again.wait() == 0, again.text()
    check_invariants(tmp_path, 6)
    check_equal(tmp_path, undisturbed)


def test_two_studies_that_start_at_once_in_a_fresh_home_are_not_disturbed_by_each_other_or_by_whoever_looks(
    ray_address, tmp_path
):
    home, said = tmp_path / "home", tmp_path / "said"
    names = (["trials=1"], ["trials=1", "study=other"])
    drivers = [Driver(home, more=ONE_BY_ONE, ray=ray_address, settings=settings) for settings in names]
    codes = set()
    while any(driver.poll() is None for driver in drivers):
        codes.add(Command(["status", "--home", home], tmp_path, said).wait())
    assert [driver.wait() for driver in drivers] == [0, 0], drivers[0].text()
    assert codes <= {0, 2}, said.read_text()
    assert "Traceback" not in drivers[0].text() + said.read_text()
    assert Command(["status", "--home", home], tmp_path, tmp_path / "last").wait() == 0
    assert all(f"study      {name}" in (tmp_path / "last").read_text() for name in ("digits", "other"))


def test_a_second_driver_is_refused_until_the_first_is_dead(ray_address, tmp_path):
    # Many more trials than are to end: the first is to be at it for as long as the second takes to start.
    first = Driver(tmp_path, more=ONE_BY_ONE, ray=ray_address, settings=["trials=100"])
    until(lambda: ended(tmp_path) >= 1, "a trial has ended")
    second = Driver(tmp_path, *RESUME, ray=ray_address)
    assert second.wait() == 2
    assert f"is being run by pid {first.pid} on host" in second.text()
    assert first.poll() is None
    first.kill()
    before = ended(tmp_path)
    third = Driver(tmp_path, *RESUME, ray=ray_address)
    until(lambda: ended(tmp_path) > before or third.poll() is not None, "the third goes on")
    third.send_signal(signal.SIGTERM)
    assert third.wait() == 1, third.text()
    assert "running trials are being saved" in third.text()
    assert study_of(tmp_path).user_attrs["driver"] is None

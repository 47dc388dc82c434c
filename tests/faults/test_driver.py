"""The driver dies, is interrupted, or is started twice."""

import signal
import sqlite3
import time
from contextlib import closing

import psutil
import pytest
from mlflow import MlflowClient
from vae_study.api import load_study
from vae_study.tracking.store import find_children, require_parent

from tests.command import Command
from tests.faults.runs import (
    CONFIRMED,
    EVERY_EPOCH,
    TRIALS,
    Driver,
    check_equal,
    check_invariants,
    ended,
    newest_checkpoint,
    study_of,
)
from tests.waiting import PATIENCE_SECONDS, command_line, until

pytestmark = pytest.mark.processes

ONE_BY_ONE = ("--concurrency", "1")
RESUME = ("resume", "digits", *ONE_BY_ONE)


def driven(home, ray, *words, settings=()):
    """A driver that has seen the end of at least one more trial than there was before it."""
    before = ended(home)
    driver = Driver(home, *words, more=() if words else ONE_BY_ONE, ray=ray, settings=settings)
    until(lambda: ended(home) > before, "another trial has ended", driver)
    return driver


def test_a_study_ends_as_if_undisturbed_after_one_fault_upon_another(undisturbed, ray_address, tmp_path):
    driver = driven(tmp_path, ray_address, settings=[CONFIRMED, EVERY_EPOCH])
    until(lambda: newest_checkpoint(tmp_path), "a checkpoint is there", driver)
    driver.kill()
    tear_newest_checkpoint(tmp_path)
    driver = driven(tmp_path, ray_address, *RESUME)
    lose_journal(driver)
    driver = driven(tmp_path, ray_address, *RESUME)
    interrupt(driver)
    saved = newest_checkpoint(tmp_path)
    driver = Driver(tmp_path, *RESUME, ray=ray_address)
    until(lambda: newest_checkpoint(tmp_path) not in (None, saved), "a trial goes on", driver)
    for worker in driver.workers():
        worker.send_signal(signal.SIGKILL)
    assert driver.wait() == 0, driver.text()
    check_invariants(tmp_path, TRIALS)
    check_equal(tmp_path, undisturbed)
    assert load_study("digits", home=tmp_path).trials["preemptions"].sum() >= 1


def tear_newest_checkpoint(home):
    """As a machine leaves it that stops in the midst of writing."""
    torn = newest_checkpoint(home)
    if torn is not None:
        torn.write_bytes(torn.read_bytes()[:-100])


def lose_journal(driver):
    """Kill a driver after MLflow could write nothing for two trials, and delete its journal."""
    home = driver.home
    with closing(sqlite3.connect(home / "mlflow.db", timeout=PATIENCE_SECONDS)) as mlflow:
        mlflow.execute("BEGIN IMMEDIATE")
        count = ended(home)
        until(lambda: ended(home) >= count + 2, "two more trials have ended", driver)
        driver.kill()
    for file in ("journal.jsonl", "journal.offset"):
        (home / "digits" / file).unlink()


def interrupt(driver):
    """What Ctrl-C does: what runs is saved, and one is told how to go on."""
    driver.send_signal(signal.SIGINT)
    assert driver.wait() == 1
    told = driver.text()
    assert "running trials are being saved" in told
    assert "continue with: vae-study resume digits" in told
    client = MlflowClient(f"sqlite:///{driver.home}/mlflow.db")
    statuses = {run.info.status for run in find_children(client, require_parent(client, "digits"))}
    assert "RUNNING" not in statuses


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


def test_a_study_whose_local_ray_dies_or_that_is_stopped_at_once_says_so_and_goes_on_as_if_undisturbed(
    undisturbed, ray_address, tmp_path
):
    words = ()
    for name in ("raylet", "gcs_server"):
        driver = driven(tmp_path, None, *words, settings=["trials=5"])
        kill_local_ray(driver, name)
        words = RESUME
    driver = driven(tmp_path, None, *RESUME)
    driver.send_signal(signal.SIGINT)
    until(lambda: "Ctrl-C again" in driver.text(), "the first Ctrl-C is seen")
    driver.send_signal(signal.SIGINT)
    assert driver.wait() == 1
    assert "stopped at once; continue with: vae-study resume digits" in driver.text()
    assert "Traceback" not in driver.text()
    again = Driver(tmp_path, *RESUME, ray=ray_address)
    assert again.wait() == 0, again.text()
    check_invariants(tmp_path, 5)
    check_equal(tmp_path, undisturbed)


def kill_local_ray(driver, name):
    """Kill a process of a driver's own Ray: the driver says which, ends, and leaves no process and no open run."""
    rays = driver.tree.children(recursive=True)
    (victim,) = (process for process in rays if process.name() == name)
    victim.kill()
    assert driver.wait() == 1
    told = driver.text().splitlines()[-1]
    assert f"the local Ray's {name}, which " in told
    assert f"(pid {victim.pid}), was killed by SIGKILL; " in told
    assert told.endswith(f"of 5 trials are done; continue with: vae-study resume digits --home {driver.home}")
    assert not any(word in driver.text() for word in ("Traceback", "Raylet is terminated"))
    assert [command_line(process) for process in rays if process.is_running()] == []
    client = MlflowClient(f"sqlite:///{driver.home}/mlflow.db")
    parent = require_parent(client, "digits")
    assert "RUNNING" not in {run.info.status for run in [parent, *find_children(client, parent)]}


def test_two_studies_that_start_at_once_in_a_fresh_home_are_not_disturbed_by_each_other_or_by_whoever_looks(
    ray_address, tmp_path
):
    home, said = tmp_path / "home", tmp_path / "said"
    names = (["trials=1"], ["trials=1", "study=other"])
    drivers = [Driver(home, more=ONE_BY_ONE, ray=ray_address, settings=settings) for settings in names]
    codes = set()
    while any(driver.poll() is None for driver in drivers):
        codes.add(Command(["status", "--home", home], tmp_path, said).wait())
        time.sleep(0.5)
    assert [driver.wait() for driver in drivers] == [0, 0], drivers[0].text()
    assert codes <= {0, 2}, said.read_text()
    assert "Traceback" not in drivers[0].text() + said.read_text()
    assert Command(["status", "--home", home], tmp_path, tmp_path / "last").wait() == 0
    assert all(f"study      {name}" in (tmp_path / "last").read_text() for name in ("digits", "other"))


def test_a_second_driver_is_refused_until_the_first_is_dead(ray_address, tmp_path):
    # Many more trials than are to end: the first is to be at it for as long as the second takes to start.
    first = driven(tmp_path, ray_address, settings=["trials=100"])
    second = Driver(tmp_path, *RESUME, ray=ray_address)
    assert second.wait() == 2
    assert f"is being run by pid {first.pid} on host" in second.text()
    assert first.poll() is None
    first.kill()
    third = driven(tmp_path, ray_address, *RESUME)
    third.send_signal(signal.SIGTERM)
    assert third.wait() == 1, third.text()
    assert "running trials are being saved" in third.text()
    assert study_of(tmp_path).user_attrs["driver"] is None

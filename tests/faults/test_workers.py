"""A worker, its node, its checkpoint or its disk goes, and the trial goes on from what is left."""

import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from vae_study.api import load_study

from tests.faults.runs import Driver, check_equal, check_invariants, ended
from tests.small_disk import small_disk
from tests.waiting import PATIENCE_SECONDS, until

pytestmark = pytest.mark.processes

ONE_BY_ONE = ("--concurrency", "1")
RESUME = ("resume", "digits", *ONE_BY_ONE)
# On a slow disk, a short trial may end before its first checkpoint is due.
EVERY_EPOCH = "checkpoints.every_seconds=0"


def newest_checkpoint(home: Path) -> Path | None:
    """The running trial's newest checkpoint."""
    found = sorted((home / "digits" / "checkpoints").glob("trial-*/epoch-*.safetensors"))
    return found[-1] if found else None


def test_a_trial_whose_worker_is_killed_goes_on_and_ends_with_the_same_bits(undisturbed, ray_address, tmp_path):
    driver = Driver(tmp_path, more=ONE_BY_ONE, ray=ray_address, settings=["trials=6", EVERY_EPOCH])
    kills = 0
    for least in (1, 3):
        until(lambda least=least: ended(tmp_path) >= least and newest_checkpoint(tmp_path), "a checkpoint is there")
        for worker in driver.workers():
            worker.send_signal(signal.SIGKILL)
            kills += 1
    assert driver.wait() == 0, driver.text()
    assert kills >= 2
    check_invariants(tmp_path, 6)
    check_equal(tmp_path, undisturbed)
    assert load_study("digits", home=tmp_path).trials["preemptions"].sum() >= 1


def test_a_trial_that_kills_every_worker_ends_and_the_study_goes_on(ray_address, tmp_path):
    driver = Driver(tmp_path, more=ONE_BY_ONE, ray=ray_address, settings=["trials=2", "training.epochs=200"])
    killed = 0.0

    def is_over():
        # A checkpoint says that the worker has the trial, and comes before the first report of an epoch.
        nonlocal killed
        with suppress(FileNotFoundError, psutil.NoSuchProcess):
            found = newest_checkpoint(tmp_path)
            if found is not None and found.stat().st_mtime > killed:
                for worker in driver.workers():
                    worker.send_signal(signal.SIGKILL)
                killed = time.time()
        return ended(tmp_path, ["FAIL"]) or driver.poll() is not None

    until(is_over, "a trial has failed")
    assert driver.wait() == 0, driver.text()
    check_invariants(tmp_path, 2)
    failed = load_study("digits", home=tmp_path).trials.query("state == 'failed'")
    assert (failed["failure"] == "preempted").all()
    assert failed["reason"].str.contains("died 3 times").all()


def test_a_torn_newest_checkpoint_costs_no_more_than_the_way_from_the_one_before(undisturbed, ray_address, tmp_path):
    driver = Driver(tmp_path, more=ONE_BY_ONE, ray=ray_address, settings=["trials=4", EVERY_EPOCH])
    until(lambda: ended(tmp_path) >= 2 and newest_checkpoint(tmp_path), "a checkpoint is there")
    driver.kill()
    torn = newest_checkpoint(tmp_path)
    if torn is not None:
        torn.write_bytes(torn.read_bytes()[:-100])
    again = Driver(tmp_path, *RESUME, ray=ray_address)
    assert again.wait() == 0, again.text()
    check_invariants(tmp_path, 4)
    check_equal(tmp_path, undisturbed)


def test_a_full_disk_ends_the_study_and_once_there_is_room_it_goes_on(undisturbed, ray_address, tmp_path):
    with small_disk(tmp_path, "size=24m") as disk:
        driver = Driver(disk, more=ONE_BY_ONE, ray=ray_address, settings=["trials=6"])
        until(lambda: ended(disk) >= 2, "two trials have ended")
        ballast = disk / "ballast"
        subprocess.run(["dd", "if=/dev/zero", f"of={ballast}", "bs=4k"], capture_output=True, check=False)
        assert driver.wait() == 1
        ballast.unlink()
        assert "resume digits" in driver.text(), driver.text()
        again = Driver(disk, *RESUME, ray=ray_address)
        assert again.wait() == 0, again.text()
        check_invariants(disk, 6)
        check_equal(disk, undisturbed)


def test_a_node_that_is_lost_takes_no_trial_with_it(tmp_path):
    command = [sys.executable, "-m", "tests.faults.lose_node", str(tmp_path), "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lost a node with a trial on it" in done.stdout
    check_invariants(tmp_path, 4)
    assert load_study("digits", home=tmp_path).trials["preemptions"].sum() >= 1

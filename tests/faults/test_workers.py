"""Workers that die again and again or find no room, and a disk that is full."""

import signal
import subprocess
import time
from contextlib import suppress

import psutil
import pytest
import ray
from vae_study.api import load_study

from tests.faults.runs import Driver, check_equal, check_invariants, ended, newest_checkpoint
from tests.small_disk import small_disk
from tests.waiting import until

pytestmark = pytest.mark.processes

ONE_BY_ONE = ("--concurrency", "1")
RESUME = ("resume", "digits", *ONE_BY_ONE)


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


def test_a_full_disk_ends_the_study_and_once_there_is_room_it_goes_on(undisturbed, ray_address, tmp_path):
    with small_disk(tmp_path, "size=24m") as disk:
        driver = Driver(disk, more=ONE_BY_ONE, ray=ray_address, settings=["trials=4"])
        until(lambda: ended(disk) >= 1, "a trial has ended")
        ballast = disk / "ballast"
        subprocess.run(["dd", "if=/dev/zero", f"of={ballast}", "bs=4k"], capture_output=True, check=False)
        assert driver.wait() == 1
        ballast.unlink()
        assert "resume digits" in driver.text(), driver.text()
        again = Driver(disk, *RESUME, ray=ray_address)
        assert again.wait() == 0, again.text()
        check_invariants(disk, 4)
        check_equal(disk, undisturbed)


def test_a_second_study_on_a_full_ray_says_what_it_waits_for_and_starts_when_the_first_has_ended(ray_address, tmp_path):
    every = ray.cluster_resources()["CPU"]
    whole = [f"resources.cpu={every:g}", "trials=1"]
    first = Driver(tmp_path / "first", more=ONE_BY_ONE, ray=ray_address, settings=[*whole, "training.epochs=100000"])
    until(lambda: newest_checkpoint(tmp_path / "first") or first.poll() is not None, "the first has a worker")
    second = Driver(tmp_path / "second", more=ONE_BY_ONE, ray=ray_address, settings=whole)
    until(lambda: "waiting for room" in second.text() or second.poll() is not None, "the second says that it waits")
    first.send_signal(signal.SIGINT)
    assert first.wait() == 1, first.text()
    assert second.wait() == 0, second.text()
    assert "waiting for room" not in first.text()
    [line] = [line for line in second.text().splitlines() if "waiting for room" in line]
    assert f"asks for {every:g} CPU and 0 GPU, and 0 of {every:g} CPU and 0 of 0 GPU are free" in line
    check_invariants(tmp_path / "second", 1)

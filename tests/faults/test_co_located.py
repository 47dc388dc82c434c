"""Trials that share a worker end as they do alone, also when the worker is killed."""

import signal

import pytest
from vae_study.api import load_study, run_study

from tests.faults.runs import CONFIG, SMALL, Driver, check_equal, check_invariants, ended
from tests.waiting import until

pytestmark = pytest.mark.processes

# Drawn at random and never stopped, so that no trial depends on when another one ended.
APART = ["trials=6", "sampler.kind=random", "early_stopping=null"]


def test_trials_of_one_worker_that_is_killed_end_with_the_bits_that_they_have_alone(ray_address, tmp_path):
    together, alone = tmp_path / "together", tmp_path / "alone"
    settings = [*APART, "resources.trials_per_device=4"]
    driver = Driver(together, more=("--concurrency", "4"), ray=ray_address, settings=settings)
    until(lambda: list((together / "digits" / "checkpoints").glob("trial-*/epoch-*")), "a checkpoint is there")
    driver.workers()[0].send_signal(signal.SIGKILL)
    until(lambda: ended(together) >= 2, "two trials have ended")
    for worker in driver.workers():
        worker.send_signal(signal.SIGKILL)
    assert driver.wait() == 0, driver.text()
    run_study(CONFIG, [*SMALL, *APART], home=alone)
    for home in (together, alone):
        check_invariants(home, 6)
    check_equal(together, alone)
    assert load_study("digits", home=together).trials["preemptions"].sum() >= 1

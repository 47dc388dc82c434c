"""Trials that share a worker: what they come to alone, they come to in company, also when the worker is killed."""

import signal

from pipeline.api import load_study
from tests.faults.runs import Driver, check_equal, check_invariants, ended, until

# Drawn at random and never stopped, so that no trial depends on when another one ended.
APART = ["trials=8", "sampler.kind=random", "early_stopping=null"]


def test_trials_in_company_whose_worker_is_killed_end_with_the_bits_that_they_have_alone(tmp_path):
    company, alone = tmp_path / "company", tmp_path / "alone"
    packed = Driver(company, more=("--concurrency", "4"), settings=[*APART, "resources.trials_per_device=4"])
    until(lambda: list((company / "digits" / "checkpoints").glob("trial-*/epoch-*")), "a checkpoint is there")
    packed.workers()[0].send_signal(signal.SIGKILL)
    until(lambda: ended(company) >= 2, "two trials have ended")
    for worker in packed.workers():
        worker.send_signal(signal.SIGKILL)
    assert packed.wait() == 0, packed.text()
    single = Driver(alone, settings=APART)
    assert single.wait() == 0, single.text()
    for home in (company, alone):
        check_invariants(home, 8)
    check_equal(company, alone)
    assert load_study("digits", home=company).trials["preemptions"].sum() >= 1

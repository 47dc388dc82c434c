"""200 tiny trials, a kill -9 after every 20 seconds of work, of a worker or the driver; then all invariants."""

import argparse
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tests.faults.runs import Driver, check_invariants, ended

SETTINGS = ["training.epochs=12", "early_stopping={kind: pareto, min_epochs: 2}"]


def kill_something(driver: Driver, chance: random.Random) -> str:
    """Kill a worker, or one time in three the driver."""
    workers = driver.workers()
    if workers and chance.random() < 2 / 3:
        try:
            chance.choice(workers).send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess:
            return "nothing: the worker had gone"
        return "a worker"
    driver.kill()
    return "the driver"


def soak(home: Path, trials: int, every_seconds: float, seed: int) -> None:
    """Run, kill, resume, until the study is done."""
    chance, started = random.Random(seed), time.monotonic()
    driver = Driver(home, settings=[*SETTINGS, f"trials={trials}"])
    while True:
        # A driver that is killed while it starts would never come to train anything.
        while driver.poll() is None and not driver.workers():
            time.sleep(0.2)
        kill_at = time.monotonic() + every_seconds
        while driver.poll() is None and time.monotonic() < kill_at:
            time.sleep(0.2)
        if driver.poll() is None:
            killed = kill_something(driver, chance)
            sys.stdout.write(f"{time.monotonic() - started:5.0f} s  {ended(home):3d} ended  killed {killed}\n")
            sys.stdout.flush()
        if driver.poll() == 0:
            break
        if driver.poll() is not None:
            assert driver.poll() == -signal.SIGKILL, driver.text()
            again = ("resume", "digits") if (home / "digits" / "config.json").exists() else ()
            driver = Driver(home, *again, settings=[*SETTINGS, f"trials={trials}"])
    check_invariants(home, trials)
    sys.stdout.write(f"{time.monotonic() - started:5.0f} s  every invariant holds after {trials} trials\n")


def main() -> None:
    """Soak a study in a scratch folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--every-seconds", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        soak(Path(folder) / "home", options.trials, options.every_seconds, options.seed)


if __name__ == "__main__":
    main()

"""Random disturbances of studies of eight small trials; each study is then compared with an undisturbed one.

A study is disturbed several times: while it starts, trains, or ends, and between two drivers. After each disturbance it
is resumed. One that was not equal is told with its number: `--study NUMBER` repeats it alone.
"""

import argparse
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import ray
from vae_study.study.session import connected

from tests.command import Command, take_signals
from tests.faults.runs import Driver, check_equal, check_invariants, ended, study_of
from tests.small_disk import small_disk
from tests.waiting import command_line

TRIALS, PER_STUDY = 8, 5
SETTINGS = [f"trials={TRIALS}", "training.epochs=16", "early_stopping={kind: pareto, min_epochs: 2}"]
MORE = ("--concurrency", "1")
# What stays of a driver's processes notices within a minute that it is alone.
SECONDS_FOR_THE_LAST = 90.0


@dataclass
class Study:
    """A study, its driver of the moment, and what its disturbances are drawn from.

    Attributes:
        seconds: About how long an undisturbed one takes.
        seen: The processes of all its drivers.
        told: What was done to it.
    """

    home: Path
    ray: str
    chance: random.Random
    seconds: float
    driver: Driver = field(init=False)
    seen: set[psutil.Process] = field(default_factory=set)
    told: list[str] = field(default_factory=list)

    def start(self, *, own_ray: bool = False) -> None:
        """Run it or go on with it, on the Ray of all studies or on one of its own."""
        words = ("resume", "digits") if (self.home / "digits" / "config.json").exists() else ()
        self.driver = Driver(self.home, *words, more=MORE, ray=None if own_ray else self.ray, settings=SETTINGS)

    def wait(self, *, may_end: bool) -> None:
        """Let it come to a random moment of a random phase, unless it ends before."""
        phase = self.chance.choices(["start", "training", "end"], [2, 5, 4 * may_end])[0]
        done = ended(self.home)
        least = {"start": 0, "training": min(done + self.chance.randint(1, 2), TRIALS), "end": TRIALS}[phase]
        while self.is_running and ended(self.home) < least:
            time.sleep(0.05)
        moment = time.monotonic() + self.chance.uniform(0, self.seconds / (4 if phase == "start" else 16))
        while self.is_running and time.monotonic() < moment:
            time.sleep(0.02)
        with suppress(psutil.Error):
            self.seen |= {*self.driver.tree.children(recursive=True)}

    @property
    def is_running(self) -> bool:
        """Whether it has a driver that lives."""
        return self.driver.poll() is None

    def finish(self) -> None:
        """Go on until it is done; a driver may end early as long as a disturbance of before lasts."""
        for _ in range(4):
            if self.driver.wait() == 0:
                return
            self.start()
        code = self.driver.wait()
        assert code == 0, f"exit code {code}"


def kill_driver(study: Study) -> None:
    study.driver.kill()


def kill_worker(study: Study) -> None:
    with suppress(psutil.NoSuchProcess, IndexError):
        study.chance.choice(study.driver.workers()).send_signal(signal.SIGKILL)


def kill_process(name: str) -> Callable[[Study], None]:
    def kill(study: Study) -> None:
        for process in study.seen:
            with suppress(psutil.Error):
                if process.name() == name:
                    process.kill()

    return kill


def send(kind: signal.Signals) -> Callable[[Study], None]:
    return lambda study: study.driver.send_signal(kind)


def lock(place: str) -> Callable[[Study], None]:
    """For some seconds nobody else can write, or read."""

    def held(study: Study) -> None:
        with suppress(sqlite3.OperationalError):
            path = f"file:{study.home / place}?mode=rw"
            with closing(sqlite3.connect(path, uri=True, timeout=1)) as database:
                database.execute("BEGIN EXCLUSIVE")
                time.sleep(study.chance.uniform(1, 8))

    return held


def fill_disk(study: Study) -> None:
    others = study.home / "others"
    with suppress(OSError), others.open("wb") as file:
        while True:
            file.write(b"x" * 2**16)
            file.flush()
    moment = time.monotonic() + study.chance.uniform(1, study.seconds / 4)
    while study.is_running and time.monotonic() < moment:
        time.sleep(0.05)
    others.unlink()


def second_driver(study: Study) -> None:
    """Whichever has the lock goes on."""
    other = Driver(study.home, "resume", "digits", more=MORE, ray=study.ray)
    while study.is_running and other.poll() is None:
        time.sleep(0.05)
    study.driver = study.driver if study.is_running else other


def ask_status(study: Study) -> None:
    """A command that reads tells what is there, or in one line that nothing is."""
    said = study.home.with_name("status.txt")
    said.unlink(missing_ok=True)
    code = Command(["status", "--home", study.home], study.home, said).wait()
    assert code in (0, 2), said.read_text()
    assert "Traceback" not in said.read_text(), said.read_text()


def at_rest(change: Callable[[Study], None]) -> Callable[[Study], None]:
    """The driver is killed before."""

    def changed(study: Study) -> None:
        study.driver.kill()
        change(study)

    return changed


def delete_journal(study: Study) -> None:
    for name in ("journal.jsonl", "journal.offset"):
        (study.home / "digits" / name).unlink(missing_ok=True)


def tear_journal(study: Study) -> None:
    with suppress(FileNotFoundError), (study.home / "digits" / "journal.jsonl").open("rb+") as file:
        file.truncate(max(0, file.seek(0, 2) - study.chance.randint(1, 40)))


def delete_runs(study: Study) -> None:
    """As MLflow does it: some trials', or all."""
    share = study.chance.choice([0.3, 1.0])
    with suppress(sqlite3.OperationalError), closing(_database(study, "mlflow.db")) as database:
        runs = [run for (run,) in database.execute("SELECT run_uuid FROM runs ORDER BY start_time")]
        for run in runs:
            if study.chance.random() < share:
                database.execute("UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = ?", (run,))
        database.commit()


def _database(study: Study, place: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{study.home / place}?mode=rw", uri=True, timeout=30)


def delete_store(study: Study) -> None:
    for path in study.home.glob("mlflow.db*"):
        path.unlink()
    shutil.rmtree(study.home / "artifacts", ignore_errors=True)


def cut_checkpoints(study: Study) -> None:
    for folder in (study.home / "digits" / "checkpoints").glob("*"):
        files = sorted((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_mtime)
        for path in files[-1:]:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage(place: str) -> Callable[[Study], None]:
    """A file becomes something else; the study says so, and goes on once the file is back."""

    def damaged(study: Study) -> None:
        path = study.home / place
        if not path.exists():
            return
        shutil.copy(path, whole := study.home.with_name("whole"))
        path.write_bytes(study.chance.randbytes(5000))
        before = len(study.driver.text())
        study.start()
        code, said = study.driver.wait(), study.driver.text()[before:]
        shutil.copy(whole, path)
        assert code in (1, 2), said
        assert path.name in said, said

    return damaged


DISTURBANCES = {
    "driver killed": kill_driver,
    "worker killed": kill_worker,
    "raylet killed": kill_process("raylet"),
    "GCS killed": kill_process("gcs_server"),
    "SIGHUP": send(signal.SIGHUP),
    "SIGTERM": send(signal.SIGTERM),
    "SIGINT": send(signal.SIGINT),
    "MLflow's database locked": lock("mlflow.db"),
    "Optuna's database locked": lock("digits/study.db"),
    "disk full": fill_disk,
    "second driver": second_driver,
    "status": ask_status,
    "journal deleted": at_rest(delete_journal),
    "journal torn": at_rest(tear_journal),
    "runs deleted in MLflow": at_rest(delete_runs),
    "MLflow's store deleted": at_rest(delete_store),
    "checkpoints cut": at_rest(cut_checkpoints),
    "MLflow's database damaged": at_rest(damage("mlflow.db")),
    "Optuna's database damaged": at_rest(damage("digits/study.db")),
    "config damaged": at_rest(damage("digits/config.json")),
}
OWN_RAY = ("raylet killed", "GCS killed")


@dataclass
class Tally:
    """What became of all disturbances."""

    tried: int = 0
    survived: int = 0
    lost: int = 0
    duplicated: int = 0
    zombies: int = 0
    studies: int = 0
    equal: int = 0

    def text(self) -> str:
        """All of it in one line."""
        return (
            f"tried {self.tried}, survived {self.survived}, lost {self.lost}, duplicated {self.duplicated}, "
            f"zombies {self.zombies}, bit-equal {self.equal} of {self.studies} studies"
        )


@contextmanager
def disk(home: Path) -> Iterator[bool]:
    """A disk for one study that can be filled; False where none may be mounted."""
    home.mkdir()
    try:
        with small_disk(home, "size=200m"):
            yield True
    except pytest.skip.Exception:
        yield False


def disturb(study: Study, names: list[str]) -> None:
    """One disturbance after the other, then the rest of the study."""
    for index, name in enumerate(names):
        if not study.told:
            study.start(own_ray=name in OWN_RAY)
        elif not study.is_running or name in OWN_RAY:
            if study.is_running:
                study.driver.kill()
            study.start(own_ray=name in OWN_RAY)
        study.wait(may_end=index == len(names) - 1)
        say(f"        {ended(study.home)} of {TRIALS} trials ended: {name}")
        study.told.append(name)
        DISTURBANCES[name](study)
    study.finish()


def count(study: Study, tally: Tally) -> None:
    """Trials that are missing, twice there or still running, in Optuna or MLflow, and processes that stayed."""
    trials = study_of(study.home).get_trials()
    with closing(_database(study, "mlflow.db")) as database:
        query = (
            "SELECT value, status FROM tags JOIN runs USING (run_uuid) "
            "WHERE key = 'vae_study.trial' AND lifecycle_stage = 'active'"
        )
        runs = database.execute(query).fetchall()
    for numbers in (Counter(trial.number for trial in trials), Counter(int(number) for number, _ in runs)):
        tally.lost += sum(number not in numbers for number in range(TRIALS))
        tally.duplicated += sum(many - 1 for many in numbers.values())
    tally.zombies += sum(not trial.state.is_finished() for trial in trials)
    tally.zombies += sum(status == "RUNNING" for _, status in runs)
    _, left = psutil.wait_procs(study.seen, timeout=SECONDS_FOR_THE_LAST)
    for process in left:
        say(f"        stayed: {process.pid} {command_line(process)[:200]}")
    tally.zombies += len(left)


def examined(study: Study, names: list[str], undisturbed: Path, tally: Tally) -> bool:
    """Whether a study with these disturbances ends as if it had none."""
    try:
        disturb(study, names)
        count(study, tally)
        check_invariants(study.home, TRIALS)
        check_equal(study.home, undisturbed)
        assert "Traceback" not in study.driver.text(), "a traceback"
    except Exception:
        say(f"{traceback.format_exc()}\n{study.driver.text()[-20000:]}")
        return False
    finally:
        if study.is_running:
            study.driver.kill()
    return True


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def chaos(folder: Path, times: int, seed: int, only: int | None) -> Tally:
    """Disturb studies this many times in all."""
    tally, chance = Tally(), random.Random(seed)
    names = [*DISTURBANCES] * (times // len(DISTURBANCES) + 1)
    head = names[: times - times % len(DISTURBANCES)]
    drawn = head + chance.sample([*DISTURBANCES], times % len(DISTURBANCES))
    chance.shuffle(drawn)
    with connected(None):
        address = ray.get_runtime_context().gcs_address
        began = time.monotonic()
        first = Driver(folder / "undisturbed", more=MORE, ray=address, settings=SETTINGS)
        assert first.wait() == 0, first.text()
        seconds = time.monotonic() - began
        say(f"seed {seed}: an undisturbed study takes {seconds:.0f} s")
        for number, start in enumerate(range(0, times, PER_STUDY)):
            these = drawn[start : start + PER_STUDY]
            if only not in (None, number):
                continue
            with disk(folder / f"home-{number}") as can_be_filled:
                these = [name for name in these if can_be_filled or name != "disk full"]
                say(f"study {number}: {', '.join(these)}")
                study = Study(folder / f"home-{number}", address, random.Random(f"{seed}/{number}"), seconds)
                is_equal = examined(study, these, folder / "undisturbed", tally)
            tally.tried += len(these)
            tally.survived += len(these) * is_equal
            tally.studies += 1
            tally.equal += is_equal
            say(f"        {'equal' if is_equal else 'NOT EQUAL'}; {tally.text()}")
    return tally


def main() -> int:
    """Disturb studies in a scratch folder; 1 if one did not survive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=50, help="disturbances in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--study", type=int, help="repeat only the study of this number")
    options = parser.parse_args()
    take_signals()
    with tempfile.TemporaryDirectory() as folder:
        tally = chaos(Path(folder), options.times, options.seed, options.study)
    say(tally.text())
    return int(tally.survived < tally.tried or bool(tally.lost + tally.duplicated + tally.zombies))


if __name__ == "__main__":
    sys.exit(main())

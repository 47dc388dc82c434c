"""Where the time of `run` and `status` goes: wall and CPU seconds of each phase of a small study on digits.

    python -m benchmarks.startup                      one line for each phase, and `status` of the same study
    python -m benchmarks.startup --against FOLDER     in turns with another checkout; medians of the rounds' ratios

A phase that runs beside another one, such as MLflow beside Ray, has its own line, so that the lines do not add up.
"""

import argparse
import functools
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

REPOSITORY = Path(__file__).parents[1]
PHASES_FILE = "STARTUP_PHASES"
STUDY = {
    "study": "startup",
    "data": {"source": "digits", "anomaly_labels": [8]},
    "model": {"likelihood": "bernoulli"},
    "training": {"epochs": 20},
    "search": {"beta": {"low": 0.05, "high": 20, "log": True}},
    "trials": 8,
}
# What is timed: a phase's name, and the function of the package that it is. A missing one is left out.
PHASES = {
    "data and plan": "vae_study.api:_planned",
    "Ray starts": "vae_study.study.session:connected",
    "imports and MLflow": "vae_study.study.start:_open_tracking",
    "journal, Optuna": "vae_study.study.driver:open_study",
    "workers and training": "vae_study.study.driver:_run",
    "first report": "vae_study.study.workers:WorkerSearcher.take_report",
    "choice and models": "vae_study.study.driver:_finish",
    "last uploads": "vae_study.study.driver:_upload",
    "record": "vae_study.api:load_study",
    "report": "vae_study.api:build_report",
}


class Clock:
    """Wall seconds since the process began, and CPU seconds of it and of all processes below it."""

    def __init__(self) -> None:
        self.process = psutil.Process()
        self.began, self.rows = self.process.create_time(), list[dict[str, Any]]()

    def now(self) -> tuple[float, float, float]:
        """Wall, CPU of this process, CPU of those below it."""
        below = 0.0
        for child in self.process.children(recursive=True):
            with suppress(psutil.Error):
                times = child.cpu_times()
                below += times.user + times.system
        return time.time() - self.began, time.process_time(), below

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that also notes what its first call took."""

        @functools.wraps(function)
        def call(*values: Any, **named: Any) -> Any:
            before = self.now()
            result = function(*values, **named)
            if isinstance(result, AbstractContextManager):
                return self._entered(name, before, result)
            self.note(name, before)
            return result

        return call

    @contextmanager
    def _entered(self, name: str, before: tuple[float, ...], manager: Any) -> Any:
        with manager as value:
            self.note(name, before)
            left = None
            yield value
            left = self.now()
        self.note(f"{name.split()[0]} ends", left)

    def note(self, name: str, before: tuple[float, ...]) -> None:
        """Add a row, unless there is one of that name."""
        if all(row["phase"] != name for row in self.rows):
            after = self.now()
            wall, own, below = (b - a for a, b in zip(before, after, strict=True))
            self.rows.append({"phase": name, "begins": before[0], "wall": wall, "own": own, "below": below})


def command(words: list[str], phases: Path) -> None:
    """Run a command of vae-study in this process, and write what its phases took."""
    clock = Clock()
    start = clock.now()
    from vae_study.cli import main

    clock.note("command line", start)
    sys.meta_path.insert(0, _Patches(clock))
    try:
        main(words, standalone_mode=False)
    finally:
        clock.note("all", (0.0, 0.0, 0.0))
        phases.write_text(json.dumps(clock.rows))


class _Patches:
    """Times the functions of PHASES as soon as their module is imported."""

    def __init__(self, clock: Clock):
        self.clock = clock

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        wanted = {phase: place.partition(":")[2] for phase, place in PHASES.items() if place.startswith(f"{name}:")}
        if not wanted:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                load(module)
                for phase, words in wanted.items():
                    *owners, last = words.split(".")
                    owner = functools.reduce(getattr, owners, module)
                    if hasattr(owner, last):
                        setattr(owner, last, self.clock.timed(phase, getattr(owner, last)))

            spec.loader.exec_module = exec_module
        return spec


def measured(checkout: Path, words: list[str]) -> list[dict[str, Any]]:
    """The phases of a command, run by a checkout's code in a process of its own."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        # As for a user: Python keeps what it has compiled.
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment = {**kept, "PYTHONPATH": f"{checkout / 'pipeline'}:{REPOSITORY}", PHASES_FILE: file.name}
        subprocess.run(
            [sys.executable, "-m", "benchmarks.startup", "--command", *words],
            env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        return json.loads(Path(file.name).read_text())


def round_of(checkout: Path) -> dict[str, list[dict[str, Any]]]:
    """The phases of `run`, of `status` and of `report`, of a new study."""
    with tempfile.TemporaryDirectory() as scratch:
        config, home = Path(scratch) / "startup.yaml", ["--home", f"{scratch}/home"]
        config.write_text(json.dumps(STUDY))
        os.chdir(scratch)
        found = {name: measured(checkout, words) for name, words in {
            "run": ["run", str(config), *home],
            "status": ["status", "startup", *home],
        }.items()}  # fmt: skip
        os.chdir(REPOSITORY)
        return found


def main() -> None:
    """Print tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="another checkout")
    asked = parser.parse_args()
    checkouts = {"here": REPOSITORY, **({"there": asked.against.resolve()} if asked.against else {})}
    rounds = [{name: round_of(folder.resolve()) for name, folder in checkouts.items()} for _ in range(asked.rounds)]
    heads = "command", "phase", "begins at, s", "wall, s", "CPU of the driver, s", "CPU of others, s"
    print(f"| {' | '.join(heads)} | wall, CPU: here / there |")
    print("|---|---|---|---|---|---|---|")
    for what in ("run", "status"):
        for place in [row["phase"] for row in rounds[0]["here"][what]]:
            here = [_row(one["here"][what], place) for one in rounds]
            middle = {key: statistics.median(row[key] for row in here) for key in ("begins", "wall", "own", "below")}
            text = " | ".join(f"{value:.2f}" for value in middle.values())
            print(f"| {what} | {place} | {text} | {_ratios(rounds, what, place)} |")


def _row(rows: list[dict[str, Any]], phase: str) -> dict[str, Any]:
    return next((row for row in rows if row["phase"] == phase), {})


def _ratios(rounds: list[dict[str, Any]], what: str, phase: str) -> str:
    """The medians of wall and of CPU, here by there; empty without another checkout."""
    pairs = [(_row(one["here"][what], phase), _row(one.get("there", {}).get(what, []), phase)) for one in rounds]
    if not all(there for _, there in pairs):
        return ""
    wall = statistics.median(here["wall"] / there["wall"] for here, there in pairs)
    cpu = statistics.median((here["own"] + here["below"]) / (there["own"] + there["below"]) for here, there in pairs)
    return f"{wall:.2f}, {cpu:.2f}"


if __name__ == "__main__":
    if sys.argv[1:2] == ["--command"]:
        command(sys.argv[2:], Path(os.environ[PHASES_FILE]))
    else:
        main()

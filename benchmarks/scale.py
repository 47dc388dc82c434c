"""What a study of 10,000 trials costs its driver, as simulated trials that train nothing: Markdown.

    python -m benchmarks.scale --trials 1000 10000 --samplers tpe nsga2 random
    python -m benchmarks.scale --trials 1500 --after 1000 10000 100000 --samplers tpe --at-once 1000 --slots 1
    python -m benchmarks.scale --trials 1500 --after 1000 10000 --samplers tpe --at-once 1000 --slots 1 --team

The real searcher and scheduler are called as Tune would call them, on the real dispatcher, study store (Optuna on
SQLite) and tracking (the journal, MLflow on SQLite); workers, Tune itself and the network are left out. 256 trials are
under way at once. Each study runs in a process of its own. Times are CPU times of the threads that do the work.

With --after, the study has had so many trials before the first one that is measured, nearly all of them copies
(`benchmarks.grown`). With --team, both stores are in PostgreSQL, MLflow is a server, and artifacts go through it to a
stand-in for S3; all of that runs on this machine, in processes of its own.
"""

import argparse
import os
import sqlite3
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date
from functools import wraps
from io import StringIO
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import optuna
import psutil
from ray.tune.search import Searcher
from rich.console import Console
from vae_study.api import check_study
from vae_study.metrics import SCORES
from vae_study.search.study_store import StudyStore
from vae_study.study.driver import recovered_curves
from vae_study.study.finalists import Retention
from vae_study.study.messages import Assignment, Commands, Task, TrialReport, WorkerReport
from vae_study.study.plan import Plan
from vae_study.study.progress import Progress
from vae_study.study.search_dispatcher import SearchDispatcher
from vae_study.study.session import Shutdown
from vae_study.study.workers import WorkerScheduler, WorkerSearcher
from vae_study.tracking.journal import encoded
from vae_study.tracking.record import EpochRecord
from vae_study.tracking.store import open_client
from vae_study.tracking.study import open_study

from benchmarks.grown import grow
from benchmarks.scale_tables import CALLS, calls, parts, table, totals
from benchmarks.stores import Stores, opened

CONFIG = Path(__file__).parents[1] / "search_spaces" / "digits.yaml"
EPOCHS_PER_REPORT = 4
MB = 2**20
STORES = {"study.db": "study store", "mlflow.db": "MLflow", "journal.jsonl": "journal"}
# Copies are made of so many trials.
ORIGINALS = 500
THREADS = {"MainThread": "searcher", "sampler": "sampler", "tracking": "to MLflow", "retention": "retention"}


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="*", default=[1000, 10000])
    parser.add_argument("--samplers", nargs="*", default=["tpe", "nsga2", "random"])
    parser.add_argument("--at-once", type=int, default=256)
    parser.add_argument("--slots", type=int, nargs="*", default=[16], help="of a worker; 1: each trial has its own")
    parser.add_argument("--after", type=int, nargs="*", default=[0], help=f"trials there already, {ORIGINALS} or more")
    parser.add_argument("--epochs", type=int, default=12, help="of a trial, reported four by four")
    parser.add_argument("--team", action="store_true", help="PostgreSQL, an MLflow server and an object store")
    return parser.parse_args()


@dataclass
class Costs:
    """CPU seconds of every call, by its kind, in their order; the process's memory, bytes, as trials end."""

    seconds: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    memory: list[int] = field(default_factory=list)

    def timed(self, kind: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, which leaves behind what it took."""

        @wraps(call)
        def timing(*args: Any, **named: Any) -> Any:
            started = time.thread_time()
            try:
                return call(*args, **named)
            finally:
                self.seconds[kind].append(time.thread_time() - started)

        return timing

    def look(self) -> None:
        """Note the memory in use."""
        self.memory.append(psutil.Process().memory_info().rss)


class Worker:
    """A worker of several slots, whose trials are made up."""

    def __init__(self, assignment: Assignment, slots: int, epochs: int):
        self.channel, self.slots, self.epochs = assignment.channel, slots, epochs
        self.tasks: dict[str, tuple[Task, int]] = {}

    def report(self, commands: Commands) -> WorkerReport:
        """What it says after some further epochs of all its trials."""
        for key in commands.stop:
            self.tasks.pop(key, None)
        self.tasks |= {task.key: (task, 0) for task in commands.start}
        told = {key: trial_report(task, done, self.epochs) for key, (task, done) in self.tasks.items()}
        self.tasks = {
            key: (task, done + EPOCHS_PER_REPORT)
            for key, (task, done) in self.tasks.items()
            if told[key].state == "running"
        }
        return WorkerReport(slots=self.slots, tasks=told)


def trial_report(task: Task, done: int, budget: int) -> TrialReport:
    """The next epochs of a trial, with its end where these are the last; a few trials diverge."""
    if done and task.number % 50 == 49:
        return TrialReport(state="failed", failure="diverged", error="train/loss not finite")
    epochs = [record(task, epoch, budget) for epoch in range(done + 1, done + EPOCHS_PER_REPORT + 1)]
    if done + EPOCHS_PER_REPORT < budget:
        return TrialReport(epochs=epochs)
    return TrialReport(epochs=epochs, state="finished", metrics=final_metrics(epochs[-1].metrics))


def record(task: Task, epoch: int, budget: int) -> EpochRecord:
    """An epoch with the metrics of the digits study, from a formula of the trial's parameters."""
    random = np.random.default_rng([task.number, epoch])
    beta, size = float(task.parameters["beta"]), int(task.parameters["latent_dim"])
    settled = 1 - 0.9 ** (3 * epoch)
    rate = (5 + 30 * (1 - np.exp(-size / 8))) / (1 + beta**1.1) * random.uniform(0.99, 1.01) * settled
    reconstruction = 14.6 + 12.2 * np.exp(-rate / 11) + 12 * (1 - settled) + random.normal(0, 0.02)
    weight = min(1.0, epoch / (0.3 * budget)) if task.parameters["kl_annealing.schedule"] == "linear" else 1.0
    metrics = {
        "train/loss": reconstruction + beta * weight * rate,
        "train/reconstruction": reconstruction - 0.4,
        "train/kl": rate,
        "train/kl_weight": weight,
        "val/reconstruction": reconstruction,
        "val/kl": rate,
        "val/elbo": -(reconstruction + rate),
        "val/squared_error": 0.2 * (reconstruction - 10),
        "val/active_units": float(min(size, rate // 1.6)),
        "val/collapsed": float(rate < 0.1),
        "val/auroc": float(np.clip(0.6 + 0.3 * np.exp(-(np.log(rate / 11) ** 2)), 0, 1)),
        "time/epoch_seconds": 0.02,
    }
    plain = {name: float(value) for name, value in metrics.items()}
    return EpochRecord(epoch=epoch, timestamp_ms=time.time_ns() // 10**6, metrics=plain)


def final_metrics(last: Mapping[str, float]) -> dict[str, float]:
    """What a finished trial adds: the same of test, and how each score does."""
    test = {name.replace("val/", "test/"): value for name, value in last.items() if name.startswith("val/")}
    ranked = {f"{kind}/{score}": last["val/auroc"] for kind in ("val_auroc", "pseudo_auroc") for score in SCORES}
    return test | ranked


class Floor:
    """A study's driver, and workers that take turns."""

    def __init__(self, plan: Plan, stores: Stores, at_once: int, slots: int, costs: Costs):
        self.plan, self.slots, self.costs = plan, slots, costs
        client = open_client(stores.tracking)
        self.store = StudyStore(plan.config, plan.name, stores.study)
        left = self.store.remaining()
        self.store.ask = costs.timed("ask", self.store.ask)  # type: ignore[method-assign]
        about = plan.config, plan.name, plan.data, plan.reference, plan.rule, plan.scratch
        self.writer = open_study(client, *about)
        self.recalled = self.writer.recall()
        self.shutdown, self.retention = Shutdown(), Retention(plan, self.writer.trials())
        screen = Progress(Console(file=StringIO()), plan.config.trials)
        curves = recovered_curves(plan, self.writer)
        self.dispatcher = SearchDispatcher(
            self.store, self.writer, self.recalled, screen, self.retention, self.shutdown, at_once, curves
        )
        self.samplers: Counter[str] = Counter()
        self.dispatcher.progress = costs.timed("report", self.dispatcher.progress)  # type: ignore[method-assign]
        self.dispatcher._close = costs.timed("end", self.dispatcher._close)  # type: ignore[method-assign]
        self.commands: dict[str, Commands] = {}
        self.searcher = WorkerSearcher(
            self.dispatcher,
            self.assign,
            self.commands.__setitem__,
            tasks=left,
            at_once=at_once,
            workers=lambda left: -(-at_once // slots),
            shutdown=self.shutdown,
        )
        self.scheduler, self.workers = WorkerScheduler(self.searcher), dict[str, Worker]()

    def assign(self, number: int, is_exclusive: bool) -> Assignment:
        return Assignment(config={}, data_sha256="", folder="", channel=f"box-{number}", is_exclusive=is_exclusive)

    def run(self) -> None:
        """All trials, from the first worker to the last record in MLflow."""
        self.costs.look()
        turns = 0
        while not self.shutdown.reason and self.call_in():
            for name in list(self.workers):
                self.step(name)
            turns += 1
            if turns % 20 == 0:
                self.costs.look()
        if self.shutdown.reason:
            raise self.shutdown.reason
        self.costs.look()
        self.writer.drain()
        self.costs.look()

    def call_in(self) -> bool:
        """Start workers as long as there is room; whether any is left."""
        while (told := self.searcher.suggest(name := f"worker-{self.searcher.assigned}")) is not None:
            if told == Searcher.FINISHED:
                return False
            self.workers[name] = Worker(told["assignment"], self.slots, self.plan.config.training.epochs)
        return True

    def step(self, name: str) -> None:
        """One report of a worker, or its leave."""
        worker = self.workers[name]
        commands = self.commands.pop(worker.channel, Commands())
        if commands.is_over:
            del self.workers[name]
            return self.searcher.on_trial_complete(name, {})
        self.samplers.update(task.sampler for task in commands.start)
        trial: Any = SimpleNamespace(trial_id=name)
        self.scheduler.on_trial_result(None, trial, {"report": worker.report(commands)})
        return None

    def close(self) -> None:
        """End all threads."""
        self.dispatcher.prefetcher.close()
        self.retention.close()
        self.writer.close()


def by_thread() -> dict[str, float]:
    """CPU seconds of the driver's threads so far."""
    found = {word: 0.0 for word in THREADS.values()}
    for thread in threading.enumerate():
        word = THREADS.get(thread.name.partition("_")[0])
        if word and thread.ident:
            found[word] += time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    return found


def study(kind: str, slots: int, more: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One study at each of its sizes, each in a process of its own."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        folder = plan_of(home, kind, slots, ORIGINALS, options.epochs).scratch
        folder.mkdir(parents=True)
        with opened(folder, options.team) as stores:
            about = home, stores, kind, slots, options
            if max(options.after):
                apart(measure, *about, 0, ORIGINALS)
            for before in sorted(options.after):
                found.append(apart(measure, *about, before, more))
                print(found[-1], file=sys.stderr, flush=True)
    return found


def apart(work: Callable[..., dict[str, Any]], *words: Any) -> dict[str, Any]:
    """What a function returns, from a process of its own: its memory is that of one study."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(work, *words).result()


def plan_of(home: Path, kind: str, slots: int, trials: int, epochs: int) -> Plan:
    """The digits study with so many trials."""
    settings = [f"trials={trials}", f"training.epochs={epochs}", "confirm=null", f"sampler.kind={kind}"]
    settings += ["early_stopping={kind: pareto}", f"resources.trials_per_device={slots}"]
    return check_study(CONFIG, settings, name="scale", home=home)


def measure(
    home: Path, stores: Stores, sampler: str, slots: int, options: argparse.Namespace, before: int, more: int
) -> dict[str, Any]:
    """Some more trials of a study that has had so many."""
    plan = plan_of(home, sampler, slots, before + more, options.epochs)
    if before:
        grow(stores.study, stores.database, plan.scratch, ORIGINALS, before)
    opening = time.process_time()
    floor = Floor(plan, stores, min(options.at_once, more), slots, costs := Costs())
    opening = time.process_time() - opening
    threads, whole, started, served = by_thread(), time.process_time(), time.monotonic(), stores.cpu()
    floor.run()
    after = by_thread()
    found = {
        "trials": before + more,
        "measured": more,
        "sampler": sampler,
        "slots": slots,
        "opening": opening,
        "cpu": time.process_time() - whole,
        "servers": stores.cpu() - served,
        "wall": time.monotonic() - started,
        "threads": {word: after[word] - threads[word] for word in after},
        "calls": {kind: parts(costs.seconds[kind]) for kind in CALLS},
        "memory": [costs.memory[0] / MB, max(costs.memory) / MB],
        "sizes": sizes(plan.scratch),
        "at random": floor.samplers["random"] / more if sampler != "random" else 0.0,
        "counts": dict(floor.store.counts()),
        "reports": len(costs.seconds["report"]) / more,
        "least": least(plan.scratch, options.epochs),
    }
    floor.close()
    assert sum(found["counts"].values()) == len(floor.writer.trials()) == before + more
    return found


def least(folder: Path, epochs: int, times: int = 200) -> dict[str, float]:
    """CPU milliseconds of the least that could be done with the same numbers, on the same disk.

    Returns:
        `report`: a line of JSON with a report's epochs, appended to a file. `MLflow`: a row for each number of a
        trial's epochs, put into a table with MLflow's key, by one transaction of SQLite.
    """
    task = Task(key="least", number=0, parameters={"beta": 1.0, "latent_dim": 8, "kl_annealing.schedule": "none"})
    every = [record(task, epoch, epochs) for epoch in range(1, epochs + 1)]
    started = time.thread_time()
    for _ in range(times):
        with (folder / "least.jsonl").open("ab", buffering=0) as file:
            file.write(encoded({"epochs": [vars(one) for one in every[:EPOCHS_PER_REPORT]]}))
    a_report, started = time.thread_time() - started, time.thread_time()
    (folder / "least.db").unlink(missing_ok=True)
    with closing(sqlite3.connect(folder / "least.db")) as database:
        database.execute("CREATE TABLE m (key, time, step, run, value, PRIMARY KEY (key, time, step, run, value))")
        for run in range(times):
            with database:
                rows = [(key, one.timestamp_ms, one.epoch, run, x) for one in every for key, x in one.metrics.items()]
                database.executemany("INSERT INTO m VALUES (?, ?, ?, ?, ?)", rows)
    return {"report": 1000 * a_report / times, "MLflow": 1000 * (time.thread_time() - started) / times}


def sizes(folder: Path) -> dict[str, float]:
    """The sizes of the files that a study leaves on the driver's disk, megabytes."""
    return {name: (folder / name).stat().st_size / MB if (folder / name).exists() else 0.0 for name in STORES}


def main() -> None:
    """Measure all and print a table."""
    options = arguments()
    os.environ["OMP_NUM_THREADS"] = "1"
    found = []
    for kind, slots, more in product(options.samplers, options.slots, options.trials):
        found += study(kind, slots, more, options)
    print(f"{date.today()}, optuna {optuna.__version__}, mlflow {mlflow.__version__}, {options.at_once} at once\n")
    print("CPU ms of a call: median (99th percentile) of the first tenth → of the last tenth\n")
    print("\n".join(table(found, [*CALLS.values(), "least for a report"], calls)))
    print("\nCPU ms a trial, and megabytes\n")
    about = ["least for MLflow", "reports", "servers", "opening, s", "growth", "memory"]
    print("\n".join(table(found, ["driver", *THREADS.values(), *about, *STORES.values()], totals)))


if __name__ == "__main__":
    main()

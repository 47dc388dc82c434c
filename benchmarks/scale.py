"""What a study of 10,000 trials costs its driver, as simulated trials that train nothing: Markdown.

    python benchmarks/scale.py --trials 1000 10000 --samplers tpe nsga2 random

The real searcher and scheduler are called as Tune would call them, on the real dispatcher, study store (Optuna on
SQLite) and tracking (the journal, MLflow on SQLite); workers, Tune itself and the network are left out. 256 trials are
under way at once. Each study runs in a process of its own. Times are CPU times of the threads that do the work.
"""

import argparse
import os
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from functools import wraps
from io import StringIO
from itertools import product
from math import log
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
from vae_study.study.finalists import Retention
from vae_study.study.messages import Assignment, Commands, Task, TrialReport, WorkerReport
from vae_study.study.plan import Plan
from vae_study.study.progress import Progress, StudyCurves
from vae_study.study.search_dispatcher import SearchDispatcher
from vae_study.study.session import Shutdown
from vae_study.study.workers import WorkerScheduler, WorkerSearcher
from vae_study.tracking.record import EpochRecord
from vae_study.tracking.store import open_client
from vae_study.tracking.study import open_study

CONFIG = Path(__file__).parents[1] / "search_spaces" / "digits.yaml"
EPOCHS, EPOCHS_PER_REPORT = 12, 4
# Of a study's calls: what counts as its beginning, and as its end.
PART = 0.1
MB = 2**20
CALLS = {"ask": "an ask", "report": "a report of 4 epochs", "end": "a trial's end"}
STORES = {"study.db": "study store", "mlflow.db": "MLflow", "journal.jsonl": "journal"}
THREADS = {"MainThread": "searcher", "sampler": "sampler", "tracking": "to MLflow", "retention": "retention"}

Cells = Callable[[Mapping[str, Any], Sequence[Mapping[str, Any]]], Iterator[str]]


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="*", default=[1000, 10000])
    parser.add_argument("--samplers", nargs="*", default=["tpe", "nsga2", "random"])
    parser.add_argument("--at-once", type=int, default=256)
    parser.add_argument("--slots", type=int, nargs="*", default=[16], help="of a worker; 1: each trial has its own")
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

    def __init__(self, assignment: Assignment, slots: int):
        self.channel, self.slots = assignment.channel, slots
        self.tasks: dict[str, tuple[Task, int]] = {}

    def report(self, commands: Commands) -> WorkerReport:
        """What it says after some further epochs of all its trials."""
        for key in commands.stop:
            self.tasks.pop(key, None)
        self.tasks |= {task.key: (task, 0) for task in commands.start}
        told = {key: trial_report(task, done) for key, (task, done) in self.tasks.items()}
        self.tasks = {
            key: (task, done + EPOCHS_PER_REPORT)
            for key, (task, done) in self.tasks.items()
            if told[key].state == "running"
        }
        return WorkerReport(slots=self.slots, tasks=told)


def trial_report(task: Task, done: int) -> TrialReport:
    """The next epochs of a trial, with its end where these are the last; a few trials diverge."""
    if done and task.number % 50 == 49:
        return TrialReport(state="failed", failure="diverged", error="train/loss not finite")
    epochs = [record(task, epoch) for epoch in range(done + 1, done + EPOCHS_PER_REPORT + 1)]
    if done + EPOCHS_PER_REPORT < EPOCHS:
        return TrialReport(epochs=epochs)
    return TrialReport(epochs=epochs, state="finished", metrics=final_metrics(epochs[-1].metrics))


def record(task: Task, epoch: int) -> EpochRecord:
    """An epoch with the metrics of the digits study, from a formula of the trial's parameters."""
    random = np.random.default_rng([task.number, epoch])
    beta, size = float(task.parameters["beta"]), int(task.parameters["latent_dim"])
    settled = 1 - 0.9 ** (3 * epoch)
    rate = (5 + 30 * (1 - np.exp(-size / 8))) / (1 + beta**1.1) * random.uniform(0.99, 1.01) * settled
    reconstruction = 14.6 + 12.2 * np.exp(-rate / 11) + 12 * (1 - settled) + random.normal(0, 0.02)
    weight = min(1.0, epoch / (0.3 * EPOCHS)) if task.parameters["kl_annealing.schedule"] == "linear" else 1.0
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

    def __init__(self, plan: Plan, at_once: int, slots: int, costs: Costs):
        self.plan, self.slots, self.costs = plan, slots, costs
        client = open_client(f"sqlite:///{plan.scratch}/mlflow.db")
        self.store = StudyStore(plan.config, plan.name, f"sqlite:///{plan.scratch}/study.db")
        self.store.ask = costs.timed("ask", self.store.ask)  # type: ignore[method-assign]
        about = plan.config, plan.name, plan.data, plan.reference, plan.rule, plan.scratch
        self.writer = open_study(client, *about)
        self.shutdown, self.retention = Shutdown(), Retention(plan, self.writer.trials())
        screen = Progress(Console(file=StringIO()), plan.config.trials)
        curves = StudyCurves(plan.reference, plan.signs)
        self.dispatcher = SearchDispatcher(
            self.store, self.writer, {}, screen, self.retention, self.shutdown, at_once, curves
        )
        self.samplers: Counter[str] = Counter()
        self.dispatcher.progress = costs.timed("report", self.dispatcher.progress)  # type: ignore[method-assign]
        self.dispatcher._close = costs.timed("end", self.dispatcher._close)  # type: ignore[method-assign]
        self.commands: dict[str, Commands] = {}
        self.searcher = WorkerSearcher(
            self.dispatcher,
            self.assign,
            self.commands.__setitem__,
            tasks=plan.config.trials,
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
        while (told := self.searcher.suggest(name := f"worker-{self.searcher.assignd}")) is not None:
            if told == Searcher.FINISHED:
                return False
            self.workers[name] = Worker(told["assignment"], self.slots)
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


def measure(trials: int, sampler: str, slots: int, options: argparse.Namespace) -> dict[str, Any]:
    """One study."""
    settings = [f"trials={trials}", f"training.epochs={EPOCHS}", "confirm=null", f"sampler.kind={sampler}"]
    settings += ["early_stopping={kind: pareto}", f"resources.trials_per_device={slots}"]
    with tempfile.TemporaryDirectory() as folder:
        plan = check_study(CONFIG, settings, name="scale", home=Path(folder))
        plan.scratch.mkdir(parents=True)
        floor = Floor(plan, min(options.at_once, trials), slots, costs := Costs())
        before, whole, started = by_thread(), time.process_time(), time.monotonic()
        floor.run()
        after = by_thread()
        sizes = {name: (plan.scratch / name).stat().st_size / MB for name in STORES}
        found = {
            "trials": trials,
            "sampler": sampler,
            "slots": slots,
            "cpu": time.process_time() - whole,
            "wall": time.monotonic() - started,
            "threads": {word: after[word] - before[word] for word in after},
            "calls": {kind: parts(costs.seconds[kind]) for kind in CALLS},
            "memory": [costs.memory[0] / MB, max(costs.memory) / MB],
            "sizes": sizes,
            "at random": floor.samplers["random"] / trials if sampler != "random" else 0.0,
            "counts": dict(floor.store.counts()),
        }
        floor.close()
    print(found, file=sys.stderr, flush=True)
    return found


def parts(seconds: Sequence[float]) -> list[float]:
    """Median and 99th percentile at the beginning and at the end, milliseconds."""
    size = max(1, round(PART * len(seconds)))
    some = seconds[:size], seconds[-size:]
    return [1000 * float(np.percentile(one, level)) for one in some for level in (50, 99)]


def table(found: Sequence[Mapping[str, Any]], names: Sequence[str], cells: Cells) -> Iterator[str]:
    """A row a study."""
    about = ["sampler", "trials", "slots"]
    yield "| " + " | ".join([*about, *names]) + " |"
    yield "|" + "---|" * (len(about) + len(names))
    for one in found:
        yield f"| {one['sampler']} | {one['trials']:,} | {one['slots']} | " + " | ".join(cells(one, found)) + " |"


def calls(one: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What a study's calls take at its beginning and at its end."""
    for kind in CALLS:
        first, first_99, last, last_99 = one["calls"][kind]
        yield f"{first:.1f} ({first_99:.1f}) → {last:.1f} ({last_99:.1f})"


def totals(one: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What a study takes; its growth is that of the driver's CPU time since the smallest study of its kind."""
    yield f"{1000 * one['cpu'] / one['trials']:.1f}"
    yield from (f"{1000 * seconds / one['trials']:.1f}" for seconds in one["threads"].values())
    least = min((other for other in found if alike(one, other)), key=lambda other: int(other["trials"]))
    yield growth(least, one) if least is not one else ""
    yield "{:,.0f} → {:,.0f}".format(*one["memory"])
    yield from (f"{size:,.0f}" for size in one["sizes"].values())


def alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two studies differ in nothing but their length."""
    return (one["sampler"], one["slots"]) == (other["sampler"], other["slots"])


def growth(least: Mapping[str, Any], one: Mapping[str, Any]) -> str:
    """How many times the CPU time, against n log n."""
    target = one["trials"] * log(one["trials"]) / (least["trials"] * log(least["trials"]))
    return f"{one['cpu'] / least['cpu']:.1f} (n log n: {target:.1f})"


def main() -> None:
    """Measure all and print a table."""
    options = arguments()
    os.environ["OMP_NUM_THREADS"] = "1"
    runs = list(product(options.samplers, options.slots, options.trials))
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        waiting = [pool.submit(measure, trials, kind, slots, options) for kind, slots, trials in runs]
        found = [one.result() for one in waiting]
    print(f"{date.today()}, optuna {optuna.__version__}, mlflow {mlflow.__version__}, {options.at_once} at once\n")
    print("CPU ms of a call: median (99th percentile) of the first tenth → of the last tenth\n")
    print("\n".join(table(found, list(CALLS.values()), calls)))
    print("\nCPU ms a trial, and megabytes\n")
    print("\n".join(table(found, ["driver", *THREADS.values(), "growth", "memory", *STORES.values()], totals)))


if __name__ == "__main__":
    main()

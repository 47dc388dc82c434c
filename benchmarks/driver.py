"""What the driver costs: one-second trials on two slots, through the real searcher, scheduler, store and tracking.

    python benchmarks/driver.py --trials 200

Prints a Markdown table: the time from the first trial's start to the last one's end against perfect packing, the
seconds that a slot stood idle between two trials, and the longest time that fewer workers were busy than slots.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient
from numpy.typing import NDArray
from ray import tune
from rich.console import Console
from vae_study.api import check_study
from vae_study.config.loading import load_config
from vae_study.search.study_store import StudyStore
from vae_study.study import driver, session
from vae_study.study.finalists import Retention
from vae_study.study.messages import TrialReport, WorkerReport, collect
from vae_study.study.plan import Plan
from vae_study.study.progress import Progress, StudyCurves
from vae_study.study.search_dispatcher import SearchDispatcher
from vae_study.study.session import Shutdown
from vae_study.study.worker import SECONDS_BETWEEN_ASKS
from vae_study.tracking.record import EpochRecord
from vae_study.tracking.store import open_client
from vae_study.tracking.study import open_study

CONFIG = Path(__file__).parents[1] / "search_spaces" / "digits.yaml"
STARTED = "time/started_seconds"


class Sleeper(tune.Trainable):
    """A worker whose trials do nothing, for a second."""

    def setup(self, config: dict[str, Any]) -> None:
        self.channel = config["assignment"].channel

    def step(self) -> dict[str, Any]:
        commands = collect(self.channel)
        if not commands.start:
            time.sleep(0 if commands.is_over else SECONDS_BETWEEN_ASKS)
            return {"report": WorkerReport(slots=1), "done": commands.is_over}
        (task,) = commands.start
        started = time.time()
        time.sleep(float(os.environ.get("SLEEP_SECONDS", "1")))
        beta = task.parameters["beta"]
        metrics = {"val/reconstruction": 20 + beta, "val/kl": 10 / beta, "train/kl_weight": 1.0, STARTED: started}
        record = EpochRecord(epoch=1, timestamp_ms=time.time_ns() // 10**6, metrics=metrics)
        report = TrialReport(epochs=[record], state="finished")
        return {"report": WorkerReport(slots=1, tasks={task.key: report}), "done": False}


def intervals(client: MlflowClient, experiment: str) -> NDArray[np.float64]:
    """Start and end of each trial, seconds, (N, 2), without those that waited for the other workers to come up."""
    runs = client.search_runs([experiment], "tags.`vae_study.kind` = 'trial'", max_results=5000)
    pairs = [(run.data.metrics[STARTED], run.data.metrics[STARTED] + 1.0) for run in runs]
    return np.asarray(sorted(pairs))


def busy_below(intervals_N2: NDArray[np.float64], slots: int) -> float:
    """The longest time in which fewer than `slots` trials ran, seconds, between the first start and the last start."""
    events = sorted([(start, 1) for start, _ in intervals_N2] + [(end, -1) for _, end in intervals_N2])
    busy, since, longest = 0, None, 0.0
    last_start = intervals_N2[-1, 0]
    for moment, change in events:
        if since is not None and moment <= last_start:
            longest = max(longest, moment - since)
        busy += change
        since = moment if busy < slots and since is None else since if busy < slots else None
    return longest


def measure(plan: Plan, slots: int, uri: str) -> NDArray[np.float64]:
    """Run all trials, and give their intervals."""
    client = open_client(uri)
    store = StudyStore(plan.config, plan.name, f"sqlite:///{plan.scratch}/study.db")
    writer = open_study(client, plan.config, plan.name, plan.data, plan.reference, plan.rule, plan.scratch)
    shutdown, retention = Shutdown(), Retention(plan, writer.trials())
    progress = Progress(Console(), plan.config.trials)
    with progress.bar:
        curves = StudyCurves(plan.reference, plan.signs)
        dispatcher = SearchDispatcher(store, writer, {}, progress, retention, shutdown, slots, curves)
        driver.run_stage(plan, dispatcher, slots, plan.config.trials, shutdown, trainable=Sleeper)
    writer.drain()
    writer.close()
    if shutdown.reason:
        raise shutdown.reason
    return intervals(client, client.get_run(writer.parent_id).info.experiment_id)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--slots", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, session.connected(None):
        config = load_config(CONFIG, [f"trials={options.trials}", "confirm=null"])
        plan = check_study(config, name="driver", home=Path(folder))
        plan.scratch.mkdir(parents=True)
        found_N2 = measure(plan, options.slots, f"sqlite:///{folder}/mlflow.db")
    perfect = len(found_N2) / options.slots
    took = found_N2[:, 1].max() - found_N2[:, 0].min()
    print("| trials | slots | perfect, s | took, s | longer by | longest time below all slots, s |")
    print("|---|---|---|---|---|---|")
    print(
        f"| {len(found_N2)} | {options.slots} | {perfect:.0f} | {took:.1f} | {took / perfect - 1:.1%} "
        f"| {busy_below(found_N2, options.slots):.2f} |"
    )


if __name__ == "__main__":
    main()

"""What tracking costs the digits study, as a share of the epochs that it tells of: Markdown."""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import mlflow
import torch
from vae_study.api import check_study
from vae_study.errors import redacted_values
from vae_study.study.worker import SECONDS_PER_REPORT
from vae_study.tracking import schema
from vae_study.tracking.record import EpochRecord
from vae_study.tracking.store import open_client
from vae_study.tracking.study import open_study
from vae_study.tracking.writer import TrackingWriter
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.stacking import ModelSetup

CONFIG = Path(__file__).parents[1] / "search_spaces" / "digits.yaml"
Trials = list[list[EpochRecord]]


def trained(trials: int, home: Path) -> tuple[Trials, float]:
    """The epochs of some trials of the study, and the CPU time that one took, seconds."""
    plan, told = check_study(CONFIG, home=home), Trials()
    configs = [plan.config.trial({"beta": 1.0, "latent_dim": 8}) for _ in range(trials)]
    populations = [ModelBatch([ModelSetup(config=config, seed=seed)], plan.data) for seed, config in enumerate(configs)]
    started = time.process_time()
    for model_batch, config in zip(populations, configs, strict=True):
        metrics = [model_batch.train_epoch()[0] for _ in range(config.training.epochs)]
        told.append([record(epoch, values) for epoch, values in enumerate(metrics, 1)])
    return told, (time.process_time() - started) / sum(map(len, told))


def record(epoch: int, metrics: dict[str, float]) -> EpochRecord:
    """An epoch as a worker reports it."""
    return EpochRecord(epoch=epoch, timestamp_ms=time.time_ns() // 10**6, metrics=metrics)


def opened(home: Path, uri: str) -> TrackingWriter:
    """The writer of a study that has just begun, whose own records are in MLflow."""
    plan = check_study(CONFIG, home=home)
    plan.scratch.mkdir(parents=True)
    writer = open_study(open_client(uri), plan.config, plan.name, plan.data, plan.reference, plan.rule, plan.scratch)
    writer.drain()
    return writer


def reports(trials: Trials, epoch_seconds: float) -> Iterator[tuple[str, Sequence[EpochRecord]]]:
    """What the workers say, a report for about a second of training."""
    size = max(1, round(SECONDS_PER_REPORT / epoch_seconds))
    for number, epochs in enumerate(trials):
        for first in range(0, len(epochs), size):
            yield schema.trial_name(number), epochs[first : first + size]


def measure(trials: Trials, epoch_seconds: float, uri: str, home: Path) -> dict[str, float]:
    """CPU seconds an epoch of each part of the tracking."""
    writer, count = opened(home, uri), sum(map(len, trials))
    for number in range(len(trials)):
        writer.start(schema.trial_name(number), f"t{number}", {}, {schema.KIND: "trial", schema.TRIAL: str(number)})
    writer.drain()
    whole, own = time.process_time(), time.thread_time()
    for key, epochs in reports(trials, epoch_seconds):
        writer.log_epochs(key, epochs)
    handed = time.thread_time() - own
    # Once a second, as in a study; all at once would cost less.
    writer.drain()
    own = time.thread_time() - own
    brought = time.process_time() - whole - own
    writer.close()
    started = time.thread_time()
    for _, epochs in reports(trials, epoch_seconds):
        redacted_values([[epoch.epoch, epoch.timestamp_ms, epoch.metrics] for epoch in epochs])
    redaction = time.thread_time() - started
    parts = {"handing over": handed, "of it, looking for secrets": redaction, "bringing it to MLflow": brought}
    return {name: seconds / count for name, seconds in parts.items()}


def main() -> None:
    """Train, tell, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--trials", type=int, default=4)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        trials, epoch_seconds = trained(asked.trials, home / "trained")
        costs = measure(trials, epoch_seconds, f"sqlite:///{home}/mlflow.db", home)
    metrics = len(trials[0][0].metrics)
    sys.stdout.write(
        f"{date.today()}, mlflow {mlflow.__version__}, torch {torch.__version__}, SQLite, one thread: an epoch of "
        f"{1000 * epoch_seconds:.1f} ms with {metrics} metrics\n\n| for an epoch | CPU ms | share |\n|---|---|---|\n"
    )
    for name, seconds in costs.items():
        sys.stdout.write(f"| {name} | {1000 * seconds:.3f} | {seconds / epoch_seconds:.2%} |\n")


if __name__ == "__main__":
    main()

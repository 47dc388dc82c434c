"""What a training step costs one model alone and each model of a batch, for every family: a table in Markdown."""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import torch
from vae_study.config.model import TrialConfig
from vae_study.config.study import DataConfig
from vae_study.data import Dataset, prepare
from vae_study.vae.evaluation import metrics_of
from vae_study.vae.families import FAMILIES
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.stacking import ModelSetup

DATA = DataConfig(source="digits", anomaly_labels=(8,))
# What the rows differ in. All else is the default: hidden widths 256 and 128, channels 32 and 64, batches of 128.
MODELS: Mapping[str, dict[str, Any]] = {
    **{family: {"family": family} for family in FAMILIES},
    "denoising, deterministic code": {"family": "denoising", "code": "deterministic"},
    "vae, batch norm": {"network": {"batch_norm": True}},
    "vae, conv": {"network": {"kind": "conv"}},
}


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--models", type=int, default=16, help="models of a batch")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each row; their median counts")
    parser.add_argument("--epochs", type=int, default=2, help="epochs in each measurement")
    parser.add_argument("--only", nargs="*", choices=MODELS, metavar="ROW", help="rows to measure, by default all")
    return parser.parse_args()


@dataclass
class Trained:
    """Some models in training, and what they cost so far: milliseconds of own CPU time a model, a round each."""

    model_batch: ModelBatch
    step_ms: list[float] = field(default_factory=list)
    measuring_ms: list[float] = field(default_factory=list)

    def round(self, epochs: int) -> None:
        """Train for some epochs, and take off what their measurements on validation cost."""
        models = len(self.model_batch.setups)
        measuring_s = epoch_s = 0.0
        for _ in range(epochs):
            started = time.process_time()
            self.model_batch.train_epoch()
            trained = time.process_time()
            for measured in self.model_batch.measure("validation"):
                metrics_of(measured, "val", self.model_batch.score)
            epoch_s += trained - started
            measuring_s += time.process_time() - trained
        steps = epochs * self.model_batch.steps_per_epoch
        self.step_ms.append(1e3 * (epoch_s - measuring_s) / steps / models)
        self.measuring_ms.append(1e3 * measuring_s / epochs / models)


def make_batch(model: dict[str, Any], models: int, epochs: int, data: Dataset) -> Trained:
    """Models that differ in their seed only."""
    plain = {"model": {"likelihood": "bernoulli", "latent_dim": 16, **model}, "training": {"epochs": epochs}}
    config = TrialConfig.model_validate(plain)
    return Trained(ModelBatch([ModelSetup(config=config, seed=seed) for seed in range(models)], data))


def line(name: str, alone: Trained, stacked: Trained) -> str:
    """A row of the table, from the median rounds after the first, which warms up."""

    def cells(alone_ms: list[float], stacked_ms: list[float]) -> str:
        one, each = statistics.median(alone_ms[1:]), statistics.median(stacked_ms[1:])
        return f"{one:.2f} | {each:.2f} | {one / each:.2f}"

    return f"| {name} | {cells(alone.step_ms, stacked.step_ms)} | {cells(alone.measuring_ms, stacked.measuring_ms)} |"


def commit() -> str:
    """The checkout's commit, and whether it has changes."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=10"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def main() -> None:
    """Measure all rows in turn, round by round, so that a machine's slow minute meets them all."""
    asked = arguments()
    torch.set_num_threads(1)
    data, epochs = prepare(DATA), (asked.rounds + 1) * asked.epochs
    sizes = (1, asked.models)
    batches = {name: [make_batch(MODELS[name], size, epochs, data) for size in sizes] for name in asked.only or MODELS}
    for _ in range(asked.rounds + 1):
        for pair in batches.values():
            for batch in pair:
                batch.round(asked.epochs)
    head = (
        f"{date.today()}, torch {torch.__version__}, one thread of {os.cpu_count()} CPUs, commit {commit()}, "
        f"{asked.rounds} rounds of {asked.epochs} epochs\n\n"
        f"| | step alone, ms | step in a batch of {asked.models}, ms a model | alone / batch "
        f"| measuring alone, ms | measuring in the batch, ms a model | alone / batch |\n"
        "|---|---|---|---|---|---|---|\n"
    )
    sys.stdout.write(head + "".join(line(name, *pair) + "\n" for name, pair in batches.items()))


if __name__ == "__main__":
    main()

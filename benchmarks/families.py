"""What a training step costs one member alone and each member of a pack, for every family: a table in Markdown."""

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

from pipeline.data import Dataset, prepare
from pipeline.spec.schema import DataSpec
from pipeline.spec.trial import TrialSpec
from pipeline.vae.evaluation import metrics_of
from pipeline.vae.families import FAMILIES
from pipeline.vae.population import Member, Population

DATA = DataSpec(source="digits", anomaly_labels=(8,))
# What the rows differ in. All else is the default: hidden widths 256 and 128, channels 32 and 64, batches of 128.
MODELS: Mapping[str, dict[str, Any]] = {
    **{family: {"family": family} for family in FAMILIES},
    "denoising, point code": {"family": "denoising", "code": "point"},
    "vae, batch norm": {"network": {"batch_norm": True}},
    "vae, conv": {"network": {"kind": "conv"}},
}


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--members", type=int, default=16, help="members of a pack")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each row; their median counts")
    parser.add_argument("--epochs", type=int, default=2, help="epochs in each measurement")
    parser.add_argument("--only", nargs="*", choices=MODELS, metavar="ROW", help="rows to measure, by default all")
    return parser.parse_args()


@dataclass
class Pack:
    """Some members in training, and what they cost so far: milliseconds of own CPU time a member, a round each."""

    population: Population
    step_ms: list[float] = field(default_factory=list)
    measuring_ms: list[float] = field(default_factory=list)

    def round(self, epochs: int) -> None:
        """Train for some epochs, and take off what their measurements on validation cost."""
        members = len(self.population.members)
        measuring_s = epoch_s = 0.0
        for _ in range(epochs):
            started = time.process_time()
            self.population.train_epoch()
            trained = time.process_time()
            for measured in self.population.measure("validation"):
                metrics_of(measured, "val", self.population.score)
            epoch_s += trained - started
            measuring_s += time.process_time() - trained
        steps = epochs * self.population.steps_per_epoch
        self.step_ms.append(1e3 * (epoch_s - measuring_s) / steps / members)
        self.measuring_ms.append(1e3 * measuring_s / epochs / members)


def make_pack(model: dict[str, Any], members: int, epochs: int, data: Dataset) -> Pack:
    """Members that differ in their seed only."""
    plain = {"model": {"likelihood": "bernoulli", "latent_dim": 16, **model}, "training": {"epochs": epochs}}
    spec = TrialSpec.model_validate(plain)
    return Pack(Population([Member(spec=spec, seed=seed) for seed in range(members)], data))


def line(name: str, alone: Pack, stacked: Pack) -> str:
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
    sizes = (1, asked.members)
    packs = {name: [make_pack(MODELS[name], size, epochs, data) for size in sizes] for name in asked.only or MODELS}
    for _ in range(asked.rounds + 1):
        for pair in packs.values():
            for pack in pair:
                pack.round(asked.epochs)
    head = (
        f"{date.today()}, torch {torch.__version__}, one thread of {os.cpu_count()} CPUs, commit {commit()}, "
        f"{asked.rounds} rounds of {asked.epochs} epochs\n\n"
        f"| | step alone, ms | step in a pack of {asked.members}, ms a member | alone / pack "
        f"| measuring alone, ms | measuring in the pack, ms a member | alone / pack |\n"
        "|---|---|---|---|---|---|---|\n"
    )
    sys.stdout.write(head + "".join(line(name, *pair) + "\n" for name, pair in packs.items()))


if __name__ == "__main__":
    main()

"""What a sweep of beta finds beside separately trained models of fixed betas: Markdown.

All are trained with the same network, latent size and learning rate; only beta differs. Every number is of validation.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from vae_study.config.model import TrialConfig
from vae_study.config.study import DataConfig
from vae_study.data import Dataset, prepare
from vae_study.selection.ranking import hypervolume
from vae_study.vae.evaluation import trade_off_reference
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.stacking import ModelSetup

LOW, HIGH, FIXED_EPOCHS = 0.05, 5.0, 60
RANDOM, GRID = (9, 24, 48), 9
# A second hypervolume, to see how much the corner matters: it lies so much of its side further out.
FURTHER = 0.25
Floats = NDArray[np.float64]


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, nargs="*", default=[], help=".npz with X and y, beside digits")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, nargs="*", default=[60, 120, 240], help="of a sweep")
    parser.add_argument("--holds", type=float, nargs="*", default=[0.3])
    parser.add_argument("--highs", type=float, nargs="*", default=[HIGH])
    parser.add_argument("--points", type=int, nargs="*", default=[24, 48], help="models that a sweep keeps")
    parser.add_argument("--networks", nargs="*", choices=["mlp", "conv"], default=["mlp"], help="of the digits")
    return parser.parse_args()


@dataclass
class Found:
    """What one way of training has found: reconstruction, KL and AUROC of each model, its epochs and CPU seconds."""

    points_P3: Floats
    epochs: int
    seconds: float

    def loss(self, beta: float) -> float:
        """The least reconstruction + beta KL among the models."""
        return float((self.points_P3[:, 0] + beta * self.points_P3[:, 1]).min())


@dataclass(frozen=True)
class Case:
    """A data set and the network that is trained on it."""

    data: Dataset
    network: str

    def config(self, epochs: int, **objective: object) -> TrialConfig:
        """A trial; `objective` is what differs between trials."""
        likelihood = "bernoulli" if self.data.source == "digits" else "gaussian"
        model = {"likelihood": likelihood, "network": {"kind": self.network}}
        plain = {"model": model, "training": {"epochs": epochs}, "objective": objective}
        return TrialConfig.model_validate(plain)

    def corner(self, share: float) -> list[float]:
        """The corner of the hypervolume: the study's own, further out by a share of the box's side in nats."""
        reconstruction, kl = trade_off_reference(self.data, [self.config(1).model]).values()
        return [reconstruction + share * kl, kl + share * kl]


def trained(case: Case, configs: Sequence[TrialConfig], seed: int) -> Found:
    """Train some trials side by side, and take the models that they keep, or else the last ones."""
    setups = [ModelSetup(config=one, seed=seed + k) for k, one in enumerate(configs)]
    batch, began, points = ModelBatch(setups, case.data), time.process_time(), []
    epochs = batch.training.epochs
    kept = configs[0].kept_betas() or {epochs: 0.0}
    for epoch in range(1, epochs + 1):
        metrics = batch.train_epoch()
        if epoch in kept:
            points += [[one["val/reconstruction"], one["val/kl"], one["val/auroc"]] for one in metrics]
    return Found(np.array(points), epochs * len(configs), time.process_time() - began)


def ways(case: Case, seed: int, options: argparse.Namespace) -> Iterator[tuple[str, Found]]:
    """Every way of training, by its name; the grid of betas last."""
    for epochs, hold, high, points in product(options.epochs, options.holds, options.highs, options.points):
        path = {"low": LOW, "high": high, "hold": hold, "points": points}
        found = trained(case, [case.config(epochs, kind="sweep", sweep=path)], seed)
        yield f"a sweep to {high:g} of {epochs} epochs, hold {hold:g}, {points} points", found
    drawn = np.exp(np.random.default_rng(seed).uniform(np.log(LOW), np.log(HIGH), max(RANDOM)))
    every = trained(case, [case.config(FIXED_EPOCHS, beta=beta) for beta in drawn.tolist()], 1000 * (seed + 1))
    for count in RANDOM:
        share = count / max(RANDOM)
        yield f"{count} random betas", Found(every.points_P3[:count], count * FIXED_EPOCHS, every.seconds * share)
    grid = np.geomspace(LOW, HIGH, GRID).tolist()
    yield f"a grid of {GRID} betas", trained(case, [case.config(FIXED_EPOCHS, beta=beta) for beta in grid], seed)


def measured(case: Case, seed: int, options: argparse.Namespace) -> dict[str, list[float]]:
    """Of each way: epochs, CPU seconds, two hypervolumes, what its losses exceed those of the grid by, best AUROC."""
    found = dict(ways(case, seed, options))
    grid = [*found.values()][-1]
    betas = np.geomspace(LOW, HIGH, GRID).tolist()
    own = grid.points_P3[:, 0] + betas * grid.points_P3[:, 1]
    rows = {}
    for name, one in found.items():
        more = [one.loss(beta) - loss for beta, loss in zip(betas, own.tolist(), strict=True)]
        volumes = [hypervolume(one.points_P3[:, :2], case.corner(share)) for share in (0, FURTHER)]
        rows[name] = [one.epochs, one.seconds, *volumes, np.mean(more), max(more), one.points_P3[:, 2].max()]
    return rows


def cases(options: argparse.Namespace) -> Iterator[tuple[str, Case]]:
    """Every data set with its networks, by a name."""
    digits = prepare(DataConfig(source="digits", scale="unit", anomaly_labels=(8,)))
    for network in options.networks:
        yield f"digits, {network}", Case(digits, network)
    for table in options.tables:
        plain = {"source": "npz", "path": str(table), "arrays": {"x": "X", "y": "y"}, "anomaly_labels": [1]}
        yield f"{table.stem}, mlp", Case(prepare(DataConfig.model_validate(plain)), "mlp")


def main() -> None:
    """Measure all and print a table."""
    torch.set_num_threads(1)
    options = arguments()
    head = ("epochs", "CPU s", "hypervolume", f"corner {FURTHER:.0%} further", "loss above the grid’s, nats", "at most")
    print(f"{date.today()}: medians of {options.seeds} seeds, torch {torch.__version__}\n")
    print(f"| data | trained | {' | '.join(head)} | best AUROC |\n|{'---|' * (len(head) + 3)}")
    for name, case in cases(options):
        every = [measured(case, seed, options) for seed in range(options.seeds)]
        for way in every[0]:
            numbers = np.median([one[way] for one in every], axis=0)
            cells = [f"{numbers[0]:,.0f}", *(f"{value:.2f}" for value in numbers[1:6]), f"{numbers[6]:.3f}"]
            print(f"| {name} | {way} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

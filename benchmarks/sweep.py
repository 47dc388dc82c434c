"""What a sweep of beta finds beside separately trained models of fixed betas: Markdown.

All are trained with the same network, latent size and learning rate; only beta differs. Every number is of validation.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
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
Floats = NDArray[np.float64]


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, nargs="*", default=[], help=".npz with X and y, beside digits")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, nargs="*", default=[60, 120, 240], help="of a sweep")
    parser.add_argument("--holds", type=float, nargs="*", default=[0.3])
    parser.add_argument("--highs", type=float, nargs="*", default=[HIGH])
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


def config(data: Dataset, epochs: int, **objective: object) -> TrialConfig:
    """A trial; `objective` is what differs between trials."""
    likelihood = "bernoulli" if data.source == "digits" else "gaussian"
    plain = {"model": {"likelihood": likelihood}, "training": {"epochs": epochs}, "objective": objective}
    return TrialConfig.model_validate(plain)


def trained(data: Dataset, configs: Sequence[TrialConfig], seed: int) -> Found:
    """Train some trials side by side, and take the models that they keep, or else the last ones."""
    setups = [ModelSetup(config=one, seed=seed + k) for k, one in enumerate(configs)]
    batch, began, points = ModelBatch(setups, data), time.process_time(), []
    epochs = batch.training.epochs
    kept = configs[0].kept_betas() or {epochs: 0.0}
    for epoch in range(1, epochs + 1):
        metrics = batch.train_epoch()
        if epoch in kept:
            points += [[one["val/reconstruction"], one["val/kl"], one["val/auroc"]] for one in metrics]
    return Found(np.array(points), epochs * len(configs), time.process_time() - began)


def ways(data: Dataset, seed: int, options: argparse.Namespace) -> Iterator[tuple[str, Found]]:
    """Every way of training, by its name; the grid of betas last."""
    for epochs in options.epochs:
        for hold in options.holds:
            for high in options.highs:
                one = config(data, epochs, kind="sweep", sweep={"low": LOW, "high": high, "hold": hold})
                yield f"a sweep to {high:g} of {epochs} epochs, hold {hold:g}", trained(data, [one], seed)
    drawn = np.exp(np.random.default_rng(seed).uniform(np.log(LOW), np.log(HIGH), max(RANDOM)))
    every = trained(data, [config(data, FIXED_EPOCHS, beta=beta) for beta in drawn.tolist()], 1000 * (seed + 1))
    for count in RANDOM:
        yield (
            f"{count} random betas",
            Found(every.points_P3[:count], count * FIXED_EPOCHS, every.seconds * count / max(RANDOM)),
        )
    grid = np.geomspace(LOW, HIGH, GRID).tolist()
    yield f"a grid of {GRID} betas", trained(data, [config(data, FIXED_EPOCHS, beta=beta) for beta in grid], seed)


def measured(data: Dataset, seed: int, options: argparse.Namespace) -> dict[str, list[float]]:
    """Of each way: epochs, CPU seconds, hypervolume, what its losses exceed those of the grid by, and best AUROC."""
    corner = list(trade_off_reference(data, [config(data, 1).model]).values())
    found = dict(ways(data, seed, options))
    grid = [*found.values()][-1]
    betas = np.geomspace(LOW, HIGH, GRID).tolist()
    own = grid.points_P3[:, 0] + betas * grid.points_P3[:, 1]
    rows = {}
    for name, one in found.items():
        more = [one.loss(beta) - loss for beta, loss in zip(betas, own.tolist(), strict=True)]
        volume = hypervolume(one.points_P3[:, :2], corner)
        rows[name] = [one.epochs, one.seconds, volume, np.mean(more), max(more), one.points_P3[:, 2].max()]
    return rows


def main() -> None:
    """Measure all and print a table."""
    torch.set_num_threads(1)
    options = arguments()
    digits = DataConfig(source="digits", scale="unit", anomaly_labels=(8,))
    tables = [
        DataConfig.model_validate(
            {"source": "npz", "path": str(table), "arrays": {"x": "X", "y": "y"}, "anomaly_labels": [1]}
        )
        for table in options.tables
    ]
    head = ("epochs", "CPU s", "hypervolume", "loss above the grid’s, nats", "at most", "best AUROC")
    print(f"{date.today()}: medians of {options.seeds} seeds, torch {torch.__version__}\n")
    print(f"| data | trained | {' | '.join(head)} |\n|{'---|' * (len(head) + 2)}")
    for name, source in zip(["digits", *(table.stem for table in options.tables)], [digits, *tables], strict=True):
        data = prepare(source)
        every = [measured(data, seed, options) for seed in range(options.seeds)]
        for way in every[0]:
            numbers = np.median([one[way] for one in every], axis=0)
            cells = [f"{numbers[0]:,.0f}", *(f"{value:.2f}" for value in numbers[1:5]), f"{numbers[5]:.3f}"]
            print(f"| {name} | {way} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

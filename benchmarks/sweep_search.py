"""What a sampler is told of a sweep of beta, and what it then finds: Markdown.

Sweeps of 120 epochs whose latent size and learning rate are chosen by TPE, which is told of each one either the
reconstruction and KL of the one model with the largest hypervolume by itself, as the product does, or the hypervolume
of all of its models as a single objective; and at random. Every number is of validation.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from datetime import date
from pathlib import Path

import numpy as np
import optuna
import torch
from numpy.typing import NDArray
from vae_study.config.model import TrialConfig
from vae_study.search.sampler import SAMPLERS
from vae_study.selection.ranking import hypervolume
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.stacking import ModelSetup

from benchmarks.sweep import HIGH, LOW, Case, cases

EPOCHS, AFTER = 120, (4, 8, 12, 16)
Floats = NDArray[np.float64]
Values = Callable[[Floats, list[float]], list[float]]


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, nargs="*", default=[], help=".npz with X and y, beside digits")
    parser.add_argument("--networks", nargs="*", choices=["mlp", "conv"], default=["mlp"], help="of the digits")
    parser.add_argument("--seeds", type=int, default=5)
    return parser.parse_args()


def best_of_one(points_P2: Floats, corner: list[float]) -> list[float]:
    """The objectives of the model that has the largest hypervolume by itself."""
    return list(max(points_P2.tolist(), key=lambda point: hypervolume(np.array([point]), corner)))


def of_all(points_P2: Floats, corner: list[float]) -> list[float]:
    """The hypervolume of all models, to be minimized."""
    return [-hypervolume(points_P2, corner)]


WAYS: Mapping[str, tuple[str, Values]] = {
    "random": ("random", of_all),
    "TPE, one model": ("tpe", best_of_one),
    "TPE, hypervolume": ("tpe", of_all),
}


class Search:
    """A study of sweeps, one after the other."""

    def __init__(self, way: str, case: Case, seed: int):
        """With a sampler that begins as all others do."""
        sampler, self.values = WAYS[way]
        count = 1 if self.values is of_all else 2
        self.study = optuna.create_study(sampler=SAMPLERS[sampler](seed), directions=["minimize"] * count)
        self.corner, self.case, self.seed = case.corner(0), case, seed
        self.found: list[Floats] = []

    def ask(self) -> ModelSetup:
        """The next sweep."""
        self.trial = self.study.ask()
        size = self.trial.suggest_int("latent_dim", 2, 32, log=True)
        rate = self.trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
        plain = self.case.config(EPOCHS, kind="sweep", sweep={"low": LOW, "high": HIGH}).model_dump()
        plain["model"]["latent_dim"], plain["training"]["learning_rate"] = size, rate
        return ModelSetup(config=TrialConfig.model_validate(plain), seed=1000 * self.seed + len(self.found))

    def tell(self, points_P2: Floats) -> None:
        """What the models of the sweep have come to."""
        self.found.append(points_P2)
        self.study.tell(self.trial, self.values(points_P2, self.corner))

    def volumes(self) -> list[float]:
        """The hypervolume of the first sweeps."""
        return [hypervolume(np.concatenate(self.found[:count]), self.corner) for count in AFTER]


def trained(setups: list[ModelSetup], case: Case) -> Iterator[Floats]:
    """The reconstruction and KL of the models that each sweep keeps, trained side by side."""
    batch, kept = ModelBatch(setups, case.data), setups[0].config.kept_betas()
    told = []
    for epoch in range(1, EPOCHS + 1):
        metrics = batch.train_epoch()
        if epoch in kept:
            told.append([[one["val/reconstruction"], one["val/kl"]] for one in metrics])
    yield from np.array(told).swapaxes(0, 1)


def main() -> None:
    """Measure all and print a table."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    options = arguments()
    print(f"{date.today()}: hypervolume, medians of {options.seeds} seeds, optuna {optuna.__version__}\n")
    print(f"| data | chosen by | {' | '.join(f'{count} sweeps' for count in AFTER)} |\n|{'---|' * (2 + len(AFTER))}")
    for name, case in cases(options):
        searches = {way: [Search(way, case, seed) for seed in range(options.seeds)] for way in WAYS}
        every = [one for some in searches.values() for one in some]
        for _ in range(max(AFTER)):
            setups = [one.ask() for one in every]
            for one, points_P2 in zip(every, trained(setups, case), strict=True):
                one.tell(points_P2)
        for way, some in searches.items():
            cells = [f"{value:.4g}" for value in np.median([one.volumes() for one in some], axis=0)]
            print(f"| {name} | {way} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

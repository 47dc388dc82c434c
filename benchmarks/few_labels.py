"""How far a few labels go: accuracy on the digits' test rows, told 1, 5 and 20 % of the labels of train. Markdown.

Four ways, all told the same labels: `semi_supervised`, logistic regression on the code of a VAE that saw all rows and
no label (model M1 of Kingma et al. 2014), on the code of `semi_supervised` itself, and on the pixels.
"""

import argparse
import warnings
from collections import defaultdict
from collections.abc import Sequence
from datetime import date

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from vae_study.config.model import TrialConfig
from vae_study.config.study import DataConfig
from vae_study.data import Dataset, prepare
from vae_study.vae.families.semi_supervised import label_order
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.stacking import ModelSetup

Rows = NDArray[np.float64]


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shares", type=float, nargs="*", default=[0.01, 0.05, 0.2])
    parser.add_argument("--weights", type=float, nargs="*", default=[10.0], help="labels.weight")
    parser.add_argument("--betas", type=float, nargs="*", default=[0.3, 1.0])
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5, help="splits, and starts of models")
    return parser.parse_args()


def data_of(seed: int) -> Dataset:
    """The digits without an anomaly, split by a seed."""
    plain = {"source": "digits", "scale": "unit", "anomaly_labels": [], "split": {"seed": seed}}
    return prepare(DataConfig.model_validate(plain))


def setup(family: str, beta: float, epochs: int, seed: int, **labels: float) -> ModelSetup:
    """A model of 64-256-128-8."""
    model = {"family": family, "likelihood": "bernoulli", "latent_dim": 8, "labels": labels}
    plain = {"model": model, "training": {"epochs": epochs}, "objective": {"beta": beta}}
    return ModelSetup(config=TrialConfig.model_validate(plain), seed=seed)


def codes(setups: Sequence[ModelSetup], data: Dataset) -> list[tuple[Rows, Rows]]:
    """Posterior modes of train and of test, of models that are trained side by side."""
    batch = ModelBatch(setups, data)
    for _ in range(batch.training.epochs):
        batch.train_epoch()
    train, test = batch.measure("train"), batch.measure("test")
    return [(one.mean_NZ, other.mean_NZ) for one, other in zip(train, test, strict=True)]


def by_regression(train_ND: Rows, test_ND: Rows, data: Dataset, share: float) -> float:
    """The accuracy of a logistic regression that is told the same labels."""
    told_N = label_order(data.condition("train")) < share
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        classifier.fit(train_ND[told_N], data.splits["train"].label_N[told_N])
    return float(classifier.score(test_ND, data.splits["test"].label_N))


def measured(seed: int, options: argparse.Namespace) -> dict[tuple[str, float], float]:
    """The accuracy of each way with each share."""
    data, found = data_of(seed), {}
    truth, classes = data.splits["test"].label_N, np.array(data.classes)
    ways = [(beta, weight, share) for beta in options.betas for weight in options.weights for share in options.shares]
    setups = [setup("semi_supervised", b, options.epochs, seed, share=s, weight=w) for b, w, s in ways]
    for (beta, weight, share), (train_NZ, test_NZ) in zip(ways, codes(setups, data), strict=True):
        about = f"beta {beta:g}, weight {weight:g}"
        said_N = classes[test_NZ[:, : len(classes)].argmax(axis=1)]
        found[f"`semi_supervised`, {about}", share] = float((said_N == truth).mean())
        found[f"regression on its code, {about}", share] = by_regression(train_NZ, test_NZ, data, share)
    plain = codes([setup("vae", beta, options.epochs, seed) for beta in options.betas], data)
    for share in options.shares:
        for beta, (train_NZ, test_NZ) in zip(options.betas, plain, strict=True):
            found[f"regression on the code of `vae`, beta {beta:g}", share] = by_regression(
                train_NZ, test_NZ, data, share
            )
        x_of = {name: split.x_ND.astype(np.float64) for name, split in data.splits.items()}
        found["regression on the pixels", share] = by_regression(x_of["train"], x_of["test"], data, share)
    return found


def main() -> None:
    """Measure all and print a table."""
    torch.set_num_threads(1)
    options = arguments()
    every: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for seed in range(options.seeds):
        for (way, share), accuracy in measured(seed, options).items():
            every[way][share].append(100 * accuracy)
    told = [label_order(data_of(0).condition("train")) < share for share in options.shares]
    print(f"{date.today()}: means of {options.seeds} seeds (standard errors), torch {torch.__version__}\n")
    heads = (f"{share:.0%} ({flags.sum():,})" for share, flags in zip(options.shares, told, strict=True))
    print(f"| accuracy, told | {' | '.join(heads)} |\n|{'---|' * (1 + len(options.shares))}")
    for way, by_share in every.items():
        cells = (f"{np.mean(one):.1f} ({np.std(one, ddof=1) / len(one) ** 0.5:.1f})" for one in by_share.values())
        print(f"| {way} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

"""Does a larger beta disentangle, and does a weight on total correlation do more? Pictures of shapes: Markdown.

    python benchmarks/disentanglement.py                     # beta 1 and 4, beta_tc with weights 4 and 8, five seeds
    python benchmarks/disentanglement.py --epochs 10         # a look at it, in a minute or two

All models have the same network, latent size and learning rate, and are trained side by side; a seed decides on initial
weights, batches and noise. Every number is of the test pictures, of which no training picture is a copy.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from vae_study.config.data import DataConfig
from vae_study.config.model import TrialConfig
from vae_study.config.study import DiagnosticsConfig
from vae_study.data import Dataset, Table, build_dataset
from vae_study.data.sources.arrays import table_of_arrays
from vae_study.data.sources.category_index import factor_of_array
from vae_study.metrics import metric_of
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.outcome import outcomes_of
from vae_study.vae.stacking import ModelSetup

sys.path.insert(0, str(Path(__file__).parents[1] / "search_spaces"))
from make_shapes import shapes

SHOWN = (
    "test/reconstruction", "test/kl", "test/active_units", "test/mig", "test/dci_disentanglement",
    "test/dci_completeness", "test/dci_informativeness", "test/sap", "test/factor_vae_score", "test/modularity",
    "test/total_correlation",
)  # fmt: skip
MIG, RECONSTRUCTION = "test/mig", "test/reconstruction"
Floats = NDArray[np.float64]


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=9_216, help="pictures; 9,216 are all that there are")
    parser.add_argument("--size", type=int, default=32, help="pixels a side")
    parser.add_argument("--betas", type=float, nargs="+", default=[1, 4], help="the first two are compared")
    parser.add_argument("--tc-weights", type=float, nargs="*", default=[4, 8], help="of beta_tc, with beta 1")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--network", choices=["mlp", "conv"], default="mlp")
    return parser.parse_args()


def data_of(rows: int, size: int) -> Dataset:
    """The pictures with their factors, split 60 : 20 : 20."""
    arrays = shapes(rows, size, seed=0)
    config = DataConfig(source="npz", path="shapes.npz", split={"seed": 0})
    table: Table = table_of_arrays(arrays.pop("X"), None, where="shapes", config=config)
    factors = tuple(factor_of_array("shapes", name, value_N) for name, value_N in arrays.items())
    return build_dataset(Table(**{**vars(table), "factors": factors}), config)


def objectives(options: argparse.Namespace) -> Mapping[str, Mapping[str, object]]:
    """What is trained, by its name."""
    betas: dict[str, Mapping[str, object]] = {f"beta {beta:g}": {"beta": beta} for beta in options.betas}
    weights = {f"beta_tc, weight {w:g}": {"kind": "beta_tc", "tc_weight": w} for w in options.tc_weights}
    return {**betas, **weights}


def measured(options: argparse.Namespace) -> dict[str, list[Mapping[str, float]]]:
    """The test metrics of each seed, by objective."""
    data, named = data_of(options.rows, options.size), objectives(options)
    network = {"kind": "mlp", "hidden": [256, 128]} if options.network == "mlp" else {"kind": "conv"}
    model = {"likelihood": "bernoulli", "latent_dim": 10, "network": network}
    training = {"epochs": options.epochs, "batch_size": 64}
    setups = [
        ModelSetup(
            config=TrialConfig.model_validate({"model": model, "training": training, "objective": objective}), seed=seed
        )
        for objective in named.values()
        for seed in range(options.seeds)
    ]
    batch = ModelBatch(setups, data)
    for epoch in range(options.epochs):
        batch.train_epoch()
        print(f"epoch {epoch + 1} of {options.epochs}", end="\r", file=sys.stderr)
    outcomes = [outcome.metrics for outcome in outcomes_of(batch, DiagnosticsConfig(iwae_draws=0))]
    of_each = (outcomes[start : start + options.seeds] for start in range(0, len(outcomes), options.seeds))
    return dict(zip(named, of_each, strict=True))


def column(found: Sequence[Mapping[str, float]], metric: str) -> Floats:
    """A metric of each seed; NaN where it is not defined."""
    return np.array([metrics.get(metric, np.nan) for metrics in found])


def p_value(first_S: Floats, second_S: Floats) -> float:
    """Two-sided, of a difference of means: the share of all ways to part the values with at least this difference."""
    together, size = np.concatenate([first_S, second_S]), len(first_S)
    asked = abs(first_S.mean() - second_S.mean())
    parts = [np.isin(np.arange(len(together)), part) for part in combinations(range(len(together)), size)]
    every = [abs(together[part].mean() - together[~part].mean()) for part in parts]
    return float(np.mean(np.array(every) >= asked - 1e-12))


def lines(found: Mapping[str, Sequence[Mapping[str, float]]], options: argparse.Namespace) -> Iterator[str]:
    """The table, and what it says of beta and of total correlation."""
    yield f"| objective | {' | '.join(metric_of(metric).label for metric in SHOWN)} |"
    yield "|---" * (len(SHOWN) + 1) + "|"
    for name, seeds in found.items():
        columns = [column(seeds, metric) for metric in SHOWN]
        digits = [min(metric_of(metric).digits, 3) for metric in SHOWN]
        cells = [f"{x_S.mean():.{d}f} ± {x_S.std(ddof=1):.{d}f}" for x_S, d in zip(columns, digits, strict=True)]
        yield f"| {name} | {' | '.join(cells)} |"
    yield ""
    low, high, *_ = (column(found[f"beta {beta:g}"], MIG) for beta in options.betas)
    yield (
        f"MIG of beta {options.betas[1]:g} minus beta {options.betas[0]:g}: {high.mean() - low.mean():+.3f} "
        f"(p = {p_value(low, high):.3f}, all ways to part the {len(low) + len(high)} values)."
    )
    curve = sorted((column(found[f"beta {b:g}"], RECONSTRUCTION).mean(), column(found[f"beta {b:g}"], MIG).mean())
                   for b in options.betas)  # fmt: skip
    for weight in options.tc_weights:
        seeds = found[f"beta_tc, weight {weight:g}"]
        at, own = column(seeds, RECONSTRUCTION).mean(), column(seeds, MIG).mean()
        if curve[0][0] <= at <= curve[-1][0]:
            more = own - float(np.interp(at, *zip(*curve, strict=True)))
            yield f"MIG of beta_tc, weight {weight:g}, minus that of beta at the same reconstruction: {more:+.3f}."
        else:
            yield f"beta_tc, weight {weight:g}: no beta has its reconstruction ({at:.2f} nats); try other --betas."


def main() -> None:
    """Train all and print the table."""
    options = arguments()
    torch.set_num_threads(1)
    began = time.process_time()
    found = measured(options)
    print(f"{options.rows:,} pictures of {options.size} x {options.size}, {options.network}, {options.epochs} epochs,")
    print(f"{options.seeds} seeds, mean ± standard deviation. {time.process_time() - began:.0f} CPU seconds.")
    print(f"{date.today()}, torch {torch.__version__}\n")
    print("\n".join(lines(found, options)))


if __name__ == "__main__":
    main()

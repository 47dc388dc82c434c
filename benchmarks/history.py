"""What a search loses by looking at a part of its history only, on made-up trade-offs: Markdown.

    python benchmarks/history.py --trials 3000 --seeds 3

Each study is asked and told in memory, once with all of its history and once as search/history.py shows it.
"""

import argparse
import math
import os
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from vae_study.config.loading import load_config
from vae_study.search.sampler import BEST, NEWEST, WHOLE, History, TrialSampler, suggest
from vae_study.selection.ranking import hypervolume

CONFIG = Path(__file__).parents[1] / "search_spaces" / "digits.yaml"
# Beyond the worst of both objectives.
REFERENCE = (40.0, 40.0)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--samplers", nargs="*", default=["tpe", "nsga2"])
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="studies at once, a thread each")
    return parser.parse_args()


def objectives(parameters: Mapping[str, Any], random: np.random.Generator) -> list[float]:
    """Reconstruction and KL, nats: on the trade-off where all but beta is right, with a little noise."""
    beta, size = float(parameters["beta"]), float(parameters["latent_dim"])
    rate = 30 / (1 + beta**1.1)
    # More latent dimensions than are used cost a little, fewer cost much.
    gap = math.log(size) - math.log(2 + rate / 1.5)
    wrong = 2 * gap**2 if gap < 0 else 0.5 * gap**2
    wrong += {"none": 0.6, "linear": 0.0, "sigmoid": 0.2, "cyclical": 0.3}[parameters["kl_annealing.schedule"]]
    wrong += 20 * (parameters.get("kl_annealing.warmup", 0.3) - 0.3) ** 2
    wrong += {"none": 0.1, "total": 0.0, "per_dimension": 0.4}[parameters["free_bits.kind"]]
    wrong += 0.3 * abs(math.log10(parameters.get("free_bits.nats", 0.1)) + 1)
    told = [14 + 14 * math.exp(-rate / 10) + 2 * wrong, rate * (1 + 0.1 * wrong)]
    return [value * float(random.normal(1, 0.002)) for value in told]


def measure(kind: str, is_bounded: bool, seed: int, trials: int) -> dict[str, Any]:
    """One study: the hypervolume after each fifth, and the CPU time of its last hundred asks."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    config, random = load_config(CONFIG), np.random.default_rng(seed)
    study = optuna.create_study(directions=["minimize"] * 2)
    history = History(kind) if is_bounded else None
    values_NM, seconds = [], []
    for number in range(trials):
        started = time.thread_time()
        study.sampler = TrialSampler(kind, seed, number, history=history)
        trial = study.ask()
        parameters = suggest(trial, config.search)
        seconds.append(time.thread_time() - started)
        values_NM.append(objectives(parameters, random))
        study.tell(trial, values_NM[-1])
    found = [hypervolume(np.array(values_NM[: trials * part // 5]), REFERENCE) for part in range(1, 6)]
    return {"kind": kind, "bounded": is_bounded, "volumes": np.array(found), "ask": float(np.mean(seconds[-100:]))}


def rows(found: list[dict[str, Any]]) -> Iterator[list[str]]:
    """A row a sampler and way: medians over the seeds, and the extremes at the end."""
    for kind, is_bounded in dict.fromkeys((one["kind"], one["bounded"]) for one in found):
        some = [one for one in found if (one["kind"], one["bounded"]) == (kind, is_bounded)]
        volumes: NDArray[np.float64] = np.array([one["volumes"] for one in some])
        shown = [f"{value:.1f}" for value in np.median(volumes, axis=0)]
        yield [
            kind,
            "a part" if is_bounded else "all",
            *shown,
            f"{volumes[:, -1].min():.1f} to {volumes[:, -1].max():.1f}",
            f"{1000 * np.median([one['ask'] for one in some]):.0f}",
        ]


def main() -> None:
    """Search and print a table."""
    options = arguments()
    runs = list(product(options.samplers, (False, True), range(options.seeds)))
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        found = list(pool.map(measure, *zip(*runs, strict=True), [options.trials] * len(runs)))
    steps = [f"after {options.trials * part // 5:,}" for part in range(1, 6)]
    names = ["sampler", "looks at", *steps, "extremes at the end", "an ask at the end, ms"]
    print(f"{date.today()}, optuna {optuna.__version__}: {options.seeds} seeds, hypervolume")
    print(f"From {WHOLE:,} trials on, a part is {NEWEST} of the newest and {BEST} before them.\n")
    print("| " + " | ".join(names) + " |")
    print("|" + "---|" * len(names))
    for row in rows(found):
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()

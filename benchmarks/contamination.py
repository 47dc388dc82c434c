"""What anomalies among the training rows cost VAEDetector, and what leaving rows out wins back: Markdown.

Each table is an .npz with X and y (1 for an anomaly), as of benchmarks/court.py. Anomalies take the place of a share of
the training rows, and are then not among those to test, which are the same for every share. No detector sees a label.
A table that has too few anomalies for the largest share is left out.

python -m benchmarks.contamination --data DIR... [--shares 0 0.01 0.05 0.1] [--seeds 1] [--jobs 2]
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from vae_study import VAEDetector
from vae_study.anomaly.detection import auroc
from vae_study.data import frame_features

from benchmarks.court import Case

MOST_TRAIN = 500
# What is left out where nobody knows how many anomalies there are.
IN_ANY_CASE = 0.05
ROUNDS = 2
NOTHING, FOREST, ALWAYS, TRIMMED = "nothing", "forest", f"forest, {IN_ANY_CASE:.0%} in any case", "own scores"
Rows = NDArray[np.float64]


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of .npz files")
    parser.add_argument("--shares", type=float, nargs="*", default=[0, 0.01, 0.05, 0.1])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="tables at once, a thread each")
    return parser.parse_args()


def frame_of(x_ND: Rows) -> pd.DataFrame:
    """The rows as VAEDetector names their columns."""
    return pd.DataFrame(x_ND, columns=[f"x{place}" for place in range(x_ND.shape[1])])


def fitted(train_ND: Rows, seed: int, share: float = 0) -> VAEDetector:
    """A detector of these rows, without the share that data.contamination leaves out."""
    return VAEDetector(random_state=seed, settings={"data.contamination": share}).fit(frame_of(train_ND))


def trimmed(first: VAEDetector, train_ND: Rows, seed: int, share: float) -> VAEDetector:
    """Iteratively trimmed (Shen and Sanghavi 2019): fit, leave out those with the highest scores, and fit again."""
    detector = first
    for _ in range(ROUNDS):
        order = np.argsort(detector.score_samples(frame_of(train_ND)), kind="stable")
        detector = fitted(train_ND[np.sort(order[round(share * len(train_ND)) :])], seed)
    return detector


def scored(detector: VAEDetector, case: Case, test: NDArray[np.int64]) -> dict[str, float]:
    """AUROC in per cent by all of VAEDetector, by its VAE alone, and by its detectors without a model alone."""
    found = detector.detector_.score(frame_features(frame_of(case.test_TD[test]), detector.detector_.preprocessing))
    (vae,) = (name for name in found if "residual_mahalanobis" in name)
    names = {"all": "score", "VAE": vae, "without a model": "without_model"}
    return {name: 100 * auroc(case.is_anomaly_T[test], found[column].to_numpy()) for name, column in names.items()}


def measured(task: tuple[Path, int, Sequence[float]]) -> list[dict[str, Any]]:
    """Every share and way on one table with one seed; nothing where it has too few anomalies."""
    path, seed, shares = task
    torch.set_num_threads(1)
    case, random = Case.read(path, seed), np.random.default_rng(seed)
    clean_ND, rows = case.train_ND[:MOST_TRAIN], []
    anomalies = random.permutation(np.flatnonzero(case.is_anomaly_T))
    hidden = anomalies[: len(anomalies) // 2]
    test = np.setdiff1d(np.arange(len(case.test_TD)), hidden)
    if len(hidden) < round(max(shares) * len(clean_ND)):
        return []
    for share in shares:
        count = round(share * len(clean_ND))
        train_ND = np.concatenate([case.test_TD[hidden[:count]], clean_ND[count:]])
        train_ND = train_ND[random.permutation(len(train_ND))]
        plain = fitted(train_ND, seed)
        ways = {NOTHING: plain, ALWAYS: fitted(train_ND, seed, IN_ANY_CASE)}
        if share:
            ways |= {FOREST: fitted(train_ND, seed, share), TRIMMED: trimmed(plain, train_ND, seed, share)}
        about = {"table": path.stem, "seed": seed, "share": share}
        rows += [about | {"way": way} | scored(one, case, test) for way, one in ways.items()]
    return rows


def markdown(found: pd.DataFrame) -> Iterator[str]:
    """A table for each detector: points of AUROC beside training on normal rows, with standard errors over tables."""
    kinds = [name for name in found if name not in ("table", "seed", "share", "way")]
    mean = found.groupby(["share", "way", "table"])[kinds].mean()
    shares = [*dict.fromkeys(found["share"])]
    yield f"{date.today()}: {found['table'].nunique()} tables, {found['seed'].nunique()} seeds\n"
    for kind in kinds:
        clean = mean[kind].loc[0, NOTHING]
        yield f"\n| {kind}: {clean.mean():.1f} on normal rows | {' | '.join(f'{share:.0%}' for share in shares)} |"
        yield f"|{'---|' * (1 + len(shares))}"
        for way in (NOTHING, FOREST, TRIMMED, ALWAYS):
            cells = (_cell(mean[kind], share, way, clean) for share in shares)
            yield f"| {way} | {' | '.join(cells)} |"


def _cell(area: "pd.Series[float]", share: float, way: str, clean: "pd.Series[float]") -> str:
    if (share, way) not in area.index.droplevel("table"):
        return ""
    own = area.loc[share].loc[way]
    off, won = own - clean, own - area.loc[share].loc[NOTHING]
    return f"{off.mean():+.1f} ({off.sem():.1f}); {won.mean():+.1f} ({won.sem():.1f})"


def main() -> None:
    """Measure all and print the tables."""
    asked = arguments()
    paths = [path for folder in asked.data for path in sorted(folder.glob("*.npz"))]
    tasks = [(path, seed, asked.shares) for path in paths for seed in range(asked.seeds)]
    rows = []
    with ProcessPoolExecutor(asked.jobs, mp_context=get_context("spawn")) as pool:
        for (path, seed, _), found in zip(tasks, pool.map(measured, tasks), strict=True):
            print(f"{path.stem}, seed {seed}: {len(found)} rows", file=sys.stderr, flush=True)
            rows += found
    print("\n".join(markdown(pd.DataFrame(rows))))


if __name__ == "__main__":
    main()

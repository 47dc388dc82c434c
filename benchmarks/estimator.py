"""VAEDetector and PyOD's VAE and KNN, each with its defaults, on a folder of real sets: a table in Markdown.

Each set is an .npz. Of one with X and y (1 for an anomaly), a detector fits half of the normal rows and is tested on
the other half and the anomalies; one with X_train, X_test and y_test says which rows are for what. Columns are
standardized, and missing values are 0.

python -m benchmarks.estimator --data DIR
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler
from vae_study import VAEDetector
from vae_study.anomaly.detection import auroc, average_precision

from benchmarks.peers.environment import REPOSITORY, interpreter, machine, versions

PEERS = {"PyOD VAE": "vae", "PyOD KNN": "knn"}
OURS = "VAEDetector"


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of .npz files")
    parser.add_argument("--detectors", nargs="*", choices=[OURS, *PEERS], default=[OURS, *PEERS])
    parser.add_argument("--seeds", type=int, default=1, help="splits of each set")
    parser.add_argument("--rows", type=int, default=10_000, help="the most normal and the most anomalous rows of a set")
    parser.add_argument("--peers", type=Path, help="virtual environment of the peers; made if it is not there")
    return parser.parse_args()


def halves(path: Path, seed: int, most: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
    """The rows to fit, those to test, and which of these are anomalies."""
    with np.load(path) as arrays:
        if "X_train" in arrays:
            train_ND, test_ND = (np.nan_to_num(arrays[part].astype(np.float64)) for part in ("X_train", "X_test"))
            scaler = StandardScaler().fit(train_ND)
            return scaler.transform(train_ND), scaler.transform(test_ND), arrays["y_test"].astype(bool)
        x_ND, is_anomaly_N = arrays["X"].astype(np.float64), arrays["y"].astype(bool)
    random = np.random.default_rng(seed)
    normal, anomalous = (random.permutation(np.flatnonzero(is_anomaly_N == which))[:most] for which in (False, True))
    train, test = np.split(normal, [len(normal) // 2])
    scaler = StandardScaler().fit(x_ND[train])
    places = np.concatenate([test, anomalous])
    return scaler.transform(x_ND[train]), scaler.transform(x_ND[places]), is_anomaly_N[places]


def ours(train_ND: NDArray[Any], test_ND: NDArray[Any], seed: int) -> tuple[NDArray[Any], float]:
    """Anomaly scores, and the seconds of fitting and scoring."""
    started = time.perf_counter()
    score_N = -VAEDetector(random_state=seed).fit(train_ND).score_samples(test_ND)
    return score_N, time.perf_counter() - started


def theirs(
    python: str, name: str, train_ND: NDArray[Any], test_ND: NDArray[Any], seed: int
) -> tuple[NDArray[Any], float]:
    """The same of a peer, in a process of its own; the start of that is not counted."""
    with tempfile.TemporaryDirectory() as scratch:
        np.save(Path(scratch) / "train.npy", train_ND)
        np.save(Path(scratch) / "test.npy", test_ND)
        command = [python, "-m", "benchmarks.peers.outliers", PEERS[name], scratch, str(seed)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=REPOSITORY)
        return np.load(Path(scratch) / "scores.npy"), float(done.stdout.split()[-1])


def measured(path: Path, seed: int, most: int, detectors: Sequence[str], python: str) -> Iterator[dict[str, Any]]:
    """Each detector's AUROC and average precision on one split of a set, in per cent, and its seconds."""
    train_ND, test_ND, is_anomaly_N = halves(path, seed, most)
    for name in detectors:
        found = ours(train_ND, test_ND, seed) if name == OURS else theirs(python, name, train_ND, test_ND, seed)
        score_N, seconds = found
        areas = {"AUROC": auroc(is_anomaly_N, score_N), "AP": average_precision(is_anomaly_N, score_N)}
        about = {"set": path.stem, "rows": len(train_ND), "detector": name, "seconds": seconds}
        yield about | {area: 100 * value for area, value in areas.items()}


def markdown(results: pd.DataFrame) -> str:
    """A row a set, then the means; of each detector AUROC, average precision and seconds."""
    wide = results.pivot_table(index="set", columns="detector", values=["AUROC", "AP", "seconds"], sort=False)
    names = results["detector"].unique()
    rows = results.groupby("set", sort=False)["rows"].first()
    heads = [f"{name} {what}" for name in names for what in ("AUROC", "AP", "s")]
    lines = [f"| set | rows | {' | '.join(heads)} |", "|" + "---|" * (2 + len(heads))]
    wide.loc["**mean**"] = wide.mean()
    for name, row in wide.iterrows():
        cells = [f"{row[(what, one)]:.1f}" for one in names for what in ("AUROC", "AP", "seconds")]
        lines.append(f"| {name} | {rows.get(name, '')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure one set after another."""
    asked = arguments()
    torch.set_num_threads(1)
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        python = interpreter(asked.peers or Path(place) / "peers")
        for path in sorted(asked.data.glob("*.npz")):
            for seed in range(asked.seeds):
                results += measured(path, seed, asked.rows, asked.detectors, python)
            print(path.stem, file=sys.stderr, flush=True)
        print(f"{machine()}; peers: {versions(python, ('pyod',))}\n\n{markdown(pd.DataFrame(results))}")


if __name__ == "__main__":
    main()

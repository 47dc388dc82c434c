"""Detectors on many real tables that nobody tuned them on: how much better each is than the neighbours' distance.

Each table is an .npz. One with X_train, X_test and y_test says which rows are for what; of one with X and y (1 for an
anomaly), the first half of the normal rows is for training, and the rest and the anomalies are for testing. Training
rows are normal, no detector sees a label, and a random sample bounds the rows.

Scores are kept in the folder --output, a file for each table, seed and detector: what is there is not measured again,
and what fails is left out and named.

python -m benchmarks.court --data DIR... --output FOLDER [--seeds 3] [--jobs 2] [--detectors NAME...]
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import trim_mean
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from vae_study import VAEDetector
from vae_study.anomaly.conformal import TailScale
from vae_study.anomaly.detection import auroc, average_precision
from vae_study.anomaly.input_ensemble import MEMBERS, InputEnsemble
from vae_study.data import frame_features
from vae_study.metrics import SCORES
from vae_study.vae.inference import whole_blocks

from benchmarks.peers.environment import interpreter, machine
from benchmarks.peers.outliers import DETECTORS as PEERS
from benchmarks.peers.outliers import scored_by_peers

MOST_TRAIN, MOST_TEST = 3000, 6000
HELD_OUT_SHARE = 0.2
BAR = "KNN5"
# Points of AUROC up to which two detectors count as equal on a table.
TIE = 0.1
Rows = NDArray[np.float64]
# The scores of held-out normal rows, where a detector has any, and of the rows to test.
Scores = tuple[Rows, Rows]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A table and a seed.

    Attributes:
        path: Of the table.
        train_ND: Normal rows, shuffled.
        test_TD, is_anomaly_T: Rows to test, and which are anomalies.
    """

    path: Path
    seed: int
    train_ND: Rows
    test_TD: Rows
    is_anomaly_T: NDArray[np.bool_]

    @classmethod
    def read(cls, path: Path, seed: int) -> "Case":
        """Read a table, and take a sample of its rows."""
        random = np.random.default_rng(seed)
        with np.load(path) as arrays:
            if "X_train" in arrays:
                train_ND, test_TD, label_T = (arrays[name] for name in ("X_train", "X_test", "y_test"))
            else:
                x_ND, label_N = arrays["X"], arrays["y"].astype(bool)
                normal, anomalous = np.flatnonzero(~label_N), np.flatnonzero(label_N)
                first, second = np.split(normal, [len(normal) // 2])
                train_ND, test_TD = x_ND[first], x_ND[np.concatenate([second, anomalous])]
                label_T = np.arange(len(test_TD)) >= len(second)
        train = random.permutation(len(train_ND))[:MOST_TRAIN]
        test = random.permutation(len(test_TD))[:MOST_TEST]
        train_ND, test_TD = (np.nan_to_num(np.asarray(one, np.float64)) for one in (train_ND[train], test_TD[test]))
        return cls(path=path, seed=seed, train_ND=train_ND, test_TD=test_TD, is_anomaly_T=label_T[test].astype(bool))

    def scaled(self) -> tuple[Rows, Rows]:
        """Rows to train and to test, standardized by the former."""
        scaler = StandardScaler().fit(self.train_ND)
        return scaler.transform(self.train_ND), scaler.transform(self.test_TD)


def neighbours(case: Case) -> Mapping[str, Scores]:
    """The published bar, and means of the nearest distances (of five: DTE-NP)."""
    train_ND, test_TD = case.scaled()
    distance_TK = NearestNeighbors(n_neighbors=5).fit(train_ND).kneighbors(test_TD)[0]
    nothing = np.zeros(0)
    return {
        BAR: (nothing, distance_TK[:, 4]),
        "mean of 3 distances": (nothing, distance_TK[:, :3].mean(axis=1)),
        "mean of 5 distances": (nothing, distance_TK.mean(axis=1)),
    }


def isolation_forest(case: Case) -> Mapping[str, Scores]:
    """scikit-learn's defaults."""
    forest = IsolationForest(random_state=case.seed).fit(case.train_ND)
    return {"isolation forest": (np.zeros(0), -forest.score_samples(case.test_TD))}


def pca(case: Case) -> Mapping[str, Scores]:
    """Squared distance from the mean over all principal components, each by its own variance (Shyu et al. 2003)."""
    train_ND, test_TD = case.scaled()
    fitted = PCA(svd_solver="full").fit(train_ND)
    kept = fitted.explained_variance_ > 1e-9
    score_T = (fitted.transform(test_TD)[:, kept] ** 2 / fitted.explained_variance_[kept]).sum(axis=1)
    return {"PCA": (np.zeros(0), score_T)}


def without_model(case: Case) -> Mapping[str, Scores]:
    """The members of the ensemble without a model, each on its scale."""
    place = round((1 - HELD_OUT_SHARE) * len(case.train_ND))
    fitted = InputEnsemble.fit(case.train_ND[:place], case.train_ND[place:])
    held_out, test = (fitted.members(rows) for rows in (case.train_ND[place:], case.test_TD))
    return {f"input {name}": (held_out[name], test[name]) for name in test}


def default_vae(case: Case) -> Mapping[str, Scores]:
    """Every score of the model that VAEDetector trains by default."""
    return vae(case, "VAE", {})


def vae(case: Case, name: str, settings: Mapping[str, Any]) -> Mapping[str, Scores]:
    """Every score of a model with settings of its own."""
    columns = [f"x{place}" for place in range(case.train_ND.shape[1])]
    train, test = (pd.DataFrame(rows, columns=columns) for rows in (case.train_ND, case.test_TD))
    detector = VAEDetector(random_state=case.seed, settings=settings).fit(train)
    packed, held_out = detector.detector_, detector.study_.champion.scores
    x_TD = torch.as_tensor(frame_features(test, packed.preprocessing), dtype=torch.float32)
    (trial,) = packed.trials.values()
    found = trial.scores(whole_blocks(x_TD), SCORES)
    return {f"{name} {score}": (held_out[score].to_numpy(np.float64), found[score][: len(test)]) for score in found}


def estimator(case: Case) -> Mapping[str, Scores]:
    """`VAEDetector()` as a user calls it."""
    fitted = VAEDetector(random_state=case.seed).fit(case.train_ND)
    return {"VAEDetector()": (np.zeros(0), -fitted.score_samples(case.test_TD))}


def peer(case: Case, python: str, name: str) -> tuple[Mapping[str, Scores], float]:
    """A detector of PyOD with its defaults, on standardized rows; and its seconds."""
    found, seconds = scored_by_peers(python, [name], *case.scaled(), case.seed)
    return {f"PyOD {name}": (np.zeros(0), found[name])}, seconds[name]


OURS: Mapping[str, Callable[[Case], Mapping[str, Scores]]] = {
    "neighbours": neighbours,
    "forest": isolation_forest,
    "pca": pca,
    "without a model": without_model,
    "vae": default_vae,
    "estimator": estimator,
}
INPUTS = tuple(f"input {name}" for name in MEMBERS)
VOICES = ("VAE residual_mahalanobis", "VAE latent_knn")
# Sums of scores on their TailScale; inputs are on it already.
SUMS: Mapping[str, tuple[str, ...]] = {
    "without a model": INPUTS,
    "VAE, two scores": VOICES,
    "without a model and VAE": (*INPUTS, *VOICES),
    "without a model and VAE residual": (*INPUTS, VOICES[0]),
}


def measured(task: tuple[Path, int, Sequence[str], Path, str]) -> str:
    """Score one table with one seed by each detector that has no file yet; returns what failed, a line each."""
    path, seed, names, output, python = task
    torch.set_num_threads(1)
    case, failed = None, []
    for name in names:
        file = output / f"{path.stem} {seed} {name}.npz"
        if file.exists():
            continue
        try:
            case = case or Case.read(path, seed)
            started = time.perf_counter()
            if name in PEERS:
                found, seconds = peer(case, python, name)
            else:
                found = OURS[name](case)
                seconds = time.perf_counter() - started
        except Exception as error:  # Another table has to be measured nevertheless.
            failed.append(f"{path.stem}, seed {seed}, {name}: {error!r}")
            continue
        about = {"seconds": np.array(seconds), "is_anomaly": case.is_anomaly_T}
        arrays = {f"held/{one}": held_M for one, (held_M, _) in found.items()}
        arrays |= {f"test/{one}": score_T for one, (_, score_T) in found.items()}
        with tempfile.NamedTemporaryFile(dir=output, suffix=".part", delete=False) as whole:
            np.savez_compressed(whole, **arrays, **about)
        Path(whole.name).rename(file)
    return "\n".join(failed)


def areas(output: Path, path: Path, seed: int, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """AUROC and average precision of every score and sum on one table with one seed, in per cent."""
    scores: dict[str, Scores] = {}
    is_anomaly_T = np.zeros(0, bool)
    for name in names:
        file = output / f"{path.stem} {seed} {name}.npz"
        if file.exists():
            with np.load(file) as arrays:
                tests = [one.removeprefix("test/") for one in arrays if one.startswith("test/")]
                scores |= {one: (arrays[f"held/{one}"], arrays[f"test/{one}"]) for one in tests}
                is_anomaly_T = arrays["is_anomaly"]
    for name, members in SUMS.items():
        if all(member in scores for member in members):
            parts = [_on_scale(member, *scores[member]) for member in members]
            scores[name] = np.zeros(0), np.sum(parts, axis=0)
    for name, (_, score_T) in scores.items():
        score_T = np.nan_to_num(score_T)
        found = auroc(is_anomaly_T, score_T), average_precision(is_anomaly_T, score_T)
        about = {"folder": path.parent.name, "table": path.stem, "seed": seed, "detector": name}
        yield about | {"AUROC": 100 * found[0], "AP": 100 * found[1]}


def _on_scale(name: str, held_out_M: Rows, score_T: Rows) -> Rows:
    return score_T if name in INPUTS else TailScale.of(held_out_M)(score_T)


def times(output: Path, names: Sequence[str]) -> Iterator[str]:
    """The seconds of each detector on a table: reading it does not count, nor does starting a peer's process."""
    yield f"\n| | median seconds of fitting and scoring a table | largest |\n{'|---' * 3}|"
    for name in names:
        files = sorted(output.glob(f"* {name}.npz"))
        seconds_M = np.array([float(np.load(file)["seconds"]) for file in files])
        if len(seconds_M):
            yield f"| {name} | {np.median(seconds_M):.2f} | {seconds_M.max():.2f} |"


def markdown(found: pd.DataFrame) -> Iterator[str]:
    """A table for each folder: means over tables, and differences to the bar with standard errors over tables."""
    for folder, part in found.groupby("folder"):
        auroc_TD = part.pivot_table(index="table", columns="detector", values="AUROC").dropna(axis="columns")
        precision_TD = part.pivot_table(index="table", columns="detector", values="AP")
        yield f"\n{folder}: {len(auroc_TD)} tables, {part['seed'].nunique()} seeds\n"
        yield f"| | AUROC | AP | minus {BAR} (SE) | trimmed | minus 3 distances (SE) | won | lost | worst |"
        yield "|---" * 9 + "|"
        for name in auroc_TD.mean().sort_values(ascending=False).index:
            off_T = auroc_TD[name] - auroc_TD[BAR]
            other_T = auroc_TD[name] - auroc_TD["mean of 3 distances"]
            cells = (
                f"{auroc_TD[name].mean():.2f}",
                f"{precision_TD[name].mean():.2f}",
                f"{off_T.mean():+.2f} ({off_T.sem():.2f})",
                f"{trim_mean(off_T, 0.1):+.2f}",
                f"{other_T.mean():+.2f} ({other_T.sem():.2f})",
                f"{(off_T > TIE).sum()}",
                f"{(off_T < -TIE).sum()}",
                f"{off_T.min():+.1f} {off_T.idxmin()}",
            )
            yield f"| {name} | {' | '.join(cells)} |"


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of .npz files")
    parser.add_argument("--output", type=Path, required=True, help="folder for the scores")
    parser.add_argument("--detectors", nargs="*", choices=[*OURS, *PEERS], default=[*OURS, *PEERS])
    parser.add_argument("--seeds", type=int, default=3, help="samples of rows, and starts of models, of each table")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="tables at once, a thread each")
    parser.add_argument("--peers", type=Path, help="virtual environment of the peers; made if it is not there")
    return parser.parse_args()


def main() -> None:
    """Measure what is not measured yet, and print the tables."""
    asked = arguments()
    asked.output.mkdir(parents=True, exist_ok=True)
    paths = [path for folder in asked.data for path in sorted(folder.glob("*.npz"))]
    wants_peers = set(asked.detectors) & set(PEERS)
    python = interpreter(asked.peers or asked.output / "peers") if wants_peers else ""
    cases = [(path, seed) for seed in range(asked.seeds) for path in paths]
    tasks = [(*case, asked.detectors, asked.output, python) for case in cases]
    with ProcessPoolExecutor(asked.jobs, mp_context=get_context("spawn")) as pool:
        for number, failed in enumerate(pool.map(measured, tasks), start=1):
            print(failed or f"{number} of {len(tasks)}", file=sys.stderr, flush=True)
    rows = [row for case in cases for row in areas(asked.output, *case, asked.detectors)]
    print("\n".join((machine(), *markdown(pd.DataFrame(rows)), *times(asked.output, asked.detectors))))


if __name__ == "__main__":
    main()

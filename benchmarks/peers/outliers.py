"""PyOD's detectors with their defaults; as a program: a folder with train.npy and test.npy, the seed, detectors."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def vae(seed: int) -> Any:
    """PyOD's VAE."""
    from pyod.models.vae import VAE

    return VAE(random_state=seed, verbose=0)


def ecod(seed: int) -> Any:
    """PyOD's ECOD."""
    from pyod.models.ecod import ECOD

    return ECOD()


def hbos(seed: int) -> Any:
    """PyOD's HBOS."""
    from pyod.models.hbos import HBOS

    return HBOS()


def lof(seed: int) -> Any:
    """PyOD's LOF."""
    from pyod.models.lof import LOF

    return LOF()


DETECTORS: Mapping[str, Callable[[int], Any]] = {"VAE": vae, "ECOD": ecod, "HBOS": hbos, "LOF": lof}


def scored_by_peers(
    python: str, names: Sequence[str], train_ND: NDArray[Any], test_ND: NDArray[Any], seed: int
) -> tuple[dict[str, NDArray[Any]], dict[str, float]]:
    """Anomaly scores of each test row by each detector, and the seconds of fitting and scoring.

    Another interpreter computes them, in a process of its own, whose start does not count.
    """
    with tempfile.TemporaryDirectory() as scratch:
        np.save(Path(scratch) / "train.npy", train_ND)
        np.save(Path(scratch) / "test.npy", test_ND)
        command = [python, "-m", "benchmarks.peers.outliers", scratch, str(seed), *names]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
        if done.returncode:
            raise RuntimeError(done.stderr[-500:])
        scores = {name: np.load(Path(scratch) / f"{name}.npy") for name in names}
        return scores, dict(zip(names, map(float, done.stdout.split()), strict=True))


def main() -> None:
    """Fit and score; write the scores of each detector to a file of its name, and print the seconds of each."""
    torch.set_num_threads(1)
    folder, seed, *names = Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
    train_ND, test_ND = (np.load(folder / f"{part}.npy") for part in ("train", "test"))
    for name in names:
        detector = DETECTORS[name](seed)
        started = time.perf_counter()
        scores_N = detector.fit(train_ND).decision_function(test_ND)
        print(time.perf_counter() - started)
        np.save(folder / f"{name}.npy", scores_N)


if __name__ == "__main__":
    main()

"""PyOD's detectors with their defaults; as a program: a folder with train.npy and test.npy, the seed, detectors."""

import subprocess
import sys
import tempfile
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
) -> dict[str, NDArray[Any]]:
    """Anomaly scores of each test row by each detector, computed by another interpreter in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        np.save(Path(scratch) / "train.npy", train_ND)
        np.save(Path(scratch) / "test.npy", test_ND)
        command = [python, "-m", "benchmarks.peers.outliers", scratch, str(seed), *names]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
        if done.returncode:
            raise RuntimeError(done.stderr[-500:])
        return {name: np.load(Path(scratch) / f"{name}.npy") for name in names}


def main() -> None:
    """Fit and score; write the scores of each detector to a file of its name."""
    torch.set_num_threads(1)
    folder, seed, *names = Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
    train_ND, test_ND = (np.load(folder / f"{part}.npy") for part in ("train", "test"))
    for name in names:
        np.save(folder / f"{name}.npy", DETECTORS[name](seed).fit(train_ND).decision_function(test_ND))


if __name__ == "__main__":
    main()

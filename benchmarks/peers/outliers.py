"""PyOD's detectors with their defaults; as a program: detector, a folder with train.npy and test.npy, the seed."""

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch


def vae(seed: int) -> Any:
    """PyOD's VAE."""
    from pyod.models.vae import VAE

    return VAE(random_state=seed, verbose=0)


def knn(seed: int) -> Any:
    """PyOD's KNN, the distance to the fifth neighbour."""
    from pyod.models.knn import KNN

    return KNN()


DETECTORS: Mapping[str, Callable[[int], Any]] = {"vae": vae, "knn": knn}


def main() -> None:
    """Fit, score, write scores.npy, and print the seconds of both together."""
    torch.set_num_threads(1)
    name, folder, seed = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    train_ND, test_ND = (np.load(folder / f"{part}.npy") for part in ("train", "test"))
    detector, started = DETECTORS[name](seed), time.perf_counter()
    score_N = detector.fit(train_ND).decision_function(test_ND)
    seconds = time.perf_counter() - started
    np.save(folder / "scores.npy", score_N)
    print(seconds)


if __name__ == "__main__":
    main()

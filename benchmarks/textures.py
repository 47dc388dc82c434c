"""Flawed pictures and their flawed pixels: how well VAEs find them beside nearest neighbours and PCA on raw pixels.

The pictures lie in folders as search_spaces/make_textures.py makes them, or any data set in the layout of MVTec AD. All
detectors train on train/good, and each gives a picture of what it expects: the VAE's reconstruction, the mean of the
five nearest training pictures, the projection on principal components. Pictures are scored by the sum of squared
residuals and by the maximum of the anomaly map, pixels by the map, which is the same function of the residuals for all.

python benchmarks/textures.py --data textures [--seeds 3] [--epochs 30] [--networks residual conv]
"""

import argparse
import resource
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from peers.environment import machine
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from vae_study.anomaly.maps import FlawedPixels, anomaly_maps, pixel_metrics
from vae_study.config.data import DataConfig
from vae_study.config.model import TrialConfig
from vae_study.data import Dataset, prepare
from vae_study.vae.inference import feature_costs
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.stacking import ModelSetup

Rows = NDArray[np.float32]
NETWORKS: Mapping[str, Mapping[str, Any]] = {
    "residual": {"kind": "residual", "channels": [16, 32, 32, 32], "hidden": [64]},
    "conv": {"kind": "conv", "channels": [8, 16, 32, 32, 32], "hidden": [64]},
}
NEIGHBOURS = 5


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train, test and ground_truth")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--latent", type=int, default=16)
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=[*NETWORKS])
    return parser.parse_args()


def measured(data: Dataset, train_ND: Rows, test_ND: Rows) -> dict[str, float]:
    """What the residuals of training and test pictures find, in per cent."""
    test, image = data.splits["test"], (1, *data.image_shape)[-3:]
    sums_T = np.square(test_ND).sum(axis=1, dtype=np.float64)
    moments = train_ND.mean(axis=0, dtype=np.float64), train_ND.var(axis=0, dtype=np.float64)
    flawed, highest, parts = FlawedPixels.of(test.is_anomaly_NP, image[1:]), [], []
    for place, residual_D in enumerate(test_ND):
        [map_HW] = anomaly_maps(residual_D[None].astype(np.float64), *moments, image)
        highest.append(map_HW.max())
        parts.append(flawed.picked(place, map_HW))
    pixels = pixel_metrics(flawed, *(np.concatenate(part) for part in zip(*parts, strict=True)))
    areas = {"pictures, by the sum": sums_T, "pictures, by the map": np.array(highest)}
    found = {name: roc_auc_score(test.is_anomaly_N, score_T) for name, score_T in areas.items()}
    found |= {"pixels": pixels["pixel_auroc"], "per-region overlap": pixels["pixel_pro"]}
    return {name: 100 * value for name, value in found.items()}


def simple(data: Dataset, latent: int) -> Iterator[tuple[str, float, dict[str, float]]]:
    """Nearest neighbours and PCA: name, seconds, and what they find."""
    train_ND, test_ND = (np.asarray(data.splits[name].x_ND[:]) for name in ("train", "test"))
    started = time.perf_counter()
    search = NearestNeighbors(n_neighbors=NEIGHBOURS + 1, algorithm="brute").fit(train_ND)
    # A training picture is its own nearest one.
    own, other = search.kneighbors(train_ND)[1][:, 1:], search.kneighbors(test_ND)[1][:, :NEIGHBOURS]
    residuals = [rows - train_ND[near].mean(axis=1) for rows, near in ((train_ND, own), (test_ND, other))]
    yield f"{NEIGHBOURS} nearest neighbours", time.perf_counter() - started, measured(data, *residuals)
    for components in (latent, min(4 * latent, len(train_ND) - 1)):
        started = time.perf_counter()
        fitted = PCA(components, svd_solver="randomized", random_state=0).fit(train_ND)
        residuals = [rows - fitted.inverse_transform(fitted.transform(rows)) for rows in (train_ND, test_ND)]
        yield f"PCA of {components} components", time.perf_counter() - started, measured(data, *residuals)


def vae(data: Dataset, network: str, latent: int, epochs: int, seed: int) -> tuple[float, dict[str, float]]:
    """A VAE: the seconds of its training, and what it finds."""
    plain = {
        "model": {"network": NETWORKS[network], "latent_dim": latent, "likelihood": "gaussian", "sigma": 0.1},
        "training": {"epochs": epochs, "batch_size": 32, "learning_rate": 2e-3},
    }
    started = time.perf_counter()
    batch = ModelBatch([ModelSetup(config=TrialConfig.model_validate(plain), seed=seed)], data)
    for _ in range(epochs):
        batch.train_epoch()
    seconds = time.perf_counter() - started
    residuals = []
    for name in ("train", "test"):
        with torch.inference_mode():
            parts = [one[0].numpy() for _, one in feature_costs(batch.model, batch.examples[name], 1)]
        residuals.append(np.concatenate(parts))
    return seconds, measured(data, *residuals)


def main() -> None:
    """Measure, and print a table."""
    asked = arguments()
    torch.set_num_threads(1)
    source = {"source": "images", "path": str(asked.data), "layout": "mvtec"}
    data = prepare(
        DataConfig.model_validate({**source, "split": {"by": "folder", "validation": 0.1, "train": 0.8, "test": 0.1}})
    )
    rows = [{"detector": name, "seconds": seconds, **found} for name, seconds, found in simple(data, asked.latent)]
    for network in asked.networks:
        for seed in range(asked.seeds):
            seconds, found = vae(data, network, asked.latent, asked.epochs, seed)
            rows.append({"detector": f"VAE, {network}", "seconds": seconds, **found})
    every = pd.DataFrame(rows).groupby("detector", sort=False)
    means, errors = every.mean(), every.sem()
    print(f"{machine()}; {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GB at most\n")
    print("| | " + " | ".join(means) + " |\n" + "|---" * (1 + means.shape[1]) + "|")
    for name in means.index:
        pairs = zip(means.loc[name], errors.loc[name], strict=True)
        cells = (f"{mean:.1f}" + (f" ({error:.1f})" if np.isfinite(error) else "") for mean, error in pairs)
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

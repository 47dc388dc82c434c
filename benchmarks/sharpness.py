"""How sharp pictures are with a plain loss, with MS-SSIM in it, with a similarity that is learned, or by their code.

With `--codes`, a code that is one vector is compared with maps, and it is measured how well flaws are found. Tables in
Markdown: means over seeds, and differences from the first variant with the same seed, with standard errors.
`--pictures` writes a grid of images, and of what each variant makes of them, to look at.
"""

import argparse
from collections import defaultdict
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from vae_study.config.data import DataConfig
from vae_study.config.model import TrialConfig
from vae_study.config.study import DiagnosticsConfig
from vae_study.data import Dataset, prepare
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.outcome import Outcome, outcomes_of
from vae_study.vae.stacking import ModelSetup


def _gan(similarity: float, adversary: float, pixels: float = 1.0) -> dict[str, Any]:
    weights = {"pixels": pixels, "similarity": similarity, "adversary": adversary}
    return {"family": "vae_gan", "gan": weights}


# By what the table calls them; the first is what the others are compared with.
VARIANTS: Mapping[str, dict[str, Any]] = {
    "`vae`": {},
    "`ms_ssim: 0.1`": {"ms_ssim": 0.1},
    "`vae_gan`, the default": _gan(1, 1),
    "`vae_gan`, similarity 100, adversary 10": _gan(100, 10),
}
# The same network with another code; of textures of 64 x 64, its smallest maps have 8 x 8 places.
CODES: Mapping[str, dict[str, Any]] = {
    "a vector of 16": {},
    "a vector of 128": {"latent_dim": 128},
    "`latent: map`, 2 dimensions": {"latent": "map", "latent_dim": 2},
    "`hierarchical` maps, 2 dimensions": {"latent": "map", "latent_dim": 2, "family": "hierarchical"},
}
# What is trained on each kind of data. A plain convolutional network hardly learns the textures in as many epochs.
NETWORKS: Mapping[str, dict[str, Any]] = {
    "digits": {"likelihood": "bernoulli", "latent_dim": 8},
    "textures": {
        "likelihood": "gaussian",
        "sigma": 0.1,
        "latent_dim": 16,
        "network": {"kind": "residual", "channels": [16, 32, 32], "hidden": [64]},
    },
}
METRICS: Mapping[str, tuple[str, int]] = {
    "sharpness": ("test/sharpness", 3),
    "MS-SSIM": ("test/ms_ssim", 3),
    "distance of samples": ("test/sample_distance", 2),
    "reconstruction, nats": ("test/reconstruction", 1),
    "ELBO, nats": ("test/elbo", 1),
    "AUROC": ("test/auroc", 3),
}
OF_FLAWS: Mapping[str, tuple[str, int]] = {
    "KL, nats": ("test/kl", 1),
    "AUROC by the map": ("test_auroc/map_maximum", 3),
    "AUROC of pixels": ("test/pixel_auroc", 3),
}


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--textures", type=Path, help="a folder of search_spaces/make_textures.py; else the digits")
    parser.add_argument("--codes", action="store_true", help="compare codes in place of losses, on textures")
    parser.add_argument("--beta", type=float, default=1.0)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--pictures", type=Path, help="a PNG file: rows are images and the variants' reconstructions")
    return parser.parse_args()


def data_of(textures: Path | None) -> Dataset:
    """The pictures, with flaws or the eights as anomalies."""
    if textures is None:
        return prepare(DataConfig(source="digits", anomaly_labels=(8,)))
    folder = {"source": "images", "path": str(textures), "layout": "mvtec", "split": {"by": "folder"}}
    return prepare(DataConfig.model_validate(folder))


def trained(model: dict[str, Any], data: Dataset, options: argparse.Namespace) -> list[Outcome]:
    """The outcomes of one variant's models, which differ in their seed."""
    training = {"epochs": options.epochs, "batch_size": options.batch_size, "learning_rate": options.learning_rate}
    objective = {"beta": options.beta}
    config = TrialConfig.model_validate({"model": model, "training": training, "objective": objective})
    batch = ModelBatch([ModelSetup(config=config, seed=seed) for seed in range(options.seeds)], data)
    for _ in range(options.epochs):
        batch.train_epoch()
    return outcomes_of(batch, DiagnosticsConfig(iwae_draws=0))


def grid(rows: list[np.ndarray[Any, Any]], shape: tuple[int, ...]) -> Image.Image:
    """Rows of images (N, D), one below the other."""
    height, width = shape[-2:]
    lines = [np.concatenate([*np.clip(row_ND, 0, 1).reshape(-1, height, width)], axis=1) for row_ND in rows]
    picture = Image.fromarray((255 * np.concatenate(lines)).astype(np.uint8))
    factor = max(1, 96 // height)
    return picture.resize((factor * picture.width, factor * picture.height), Image.Resampling.NEAREST)


def main() -> None:
    """Train all variants and print the tables."""
    torch.set_num_threads(1)
    options = arguments()
    data, common = data_of(options.textures), NETWORKS["digits" if options.textures is None else "textures"]
    variants, metrics = VARIANTS, METRICS
    if options.codes:
        variants = CODES
    if options.textures:
        metrics = {**METRICS, **OF_FLAWS}
    found: dict[str, dict[str, np.ndarray[Any, Any]]] = defaultdict(dict)
    rows: list[np.ndarray[Any, Any]] = []
    for name, model in variants.items():
        outcomes = trained({**common, **model}, data, options)
        for label, (metric, _) in metrics.items():
            found[name][label] = np.array([outcome.metrics[metric] for outcome in outcomes])
        if not rows:
            rows.append(outcomes[0].arrays["inputs"][:10])
        rows.append(outcomes[0].arrays["reconstructions"][:10])
    if options.pictures:
        assert data.image_shape is not None
        grid(rows, data.image_shape).save(options.pictures)
    images = len(data.splits["train"].x_ND)
    print(
        f"{date.today()}: {images} images, {options.epochs} epochs, {options.seeds} seeds, torch {torch.__version__}\n"
    )
    print(f"| means | {' | '.join(metrics)} |\n|{'---|' * (1 + len(metrics))}")
    for name, values in found.items():
        cells = (f"{values[label].mean():.{digits}f}" for label, (_, digits) in metrics.items())
        print(f"| {name} | {' | '.join(cells)} |")
    plain, *others = found
    print(f"\n| differences from {plain} | {' | '.join(metrics)} |\n|{'---|' * (1 + len(metrics))}")
    for name in others:
        apart = ((found[name][label] - found[plain][label], digits) for label, (_, digits) in metrics.items())
        cells = (f"{a.mean():+.{n}f} ({a.std(ddof=1) / len(a) ** 0.5:.{n}f})" for a, n in apart)
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

"""Write the anomaly maps of images as pictures: the image beside the same one with its map in red."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image

from vae_study.data import Batch
from vae_study.detector.detector import FLAG, Detector
from vae_study.errors import UserError

# Of an anomaly map, in usual variances: nothing is red at the first value, and all at the second.
CLEAR, RED = 1.0, 6.0
#: Which images are written: those above this percentile of normal validation images.
PERCENTILE = "99"
# Most pixels that have a column each in a file of scores, and most that a score is computed again without.
MOST_COLUMNS, MOST_REPLACED = 4096, 1024
Pixels = NDArray[np.float32]


def require_columns(detector: Detector) -> None:
    """Raise UserError if an explanation would have too many columns, one for each pixel."""
    pixels, most, why = len(detector.data.feature_names), MOST_COLUMNS, "as each is a column"
    if detector.summands is None:
        most, why = MOST_REPLACED, f"as model {detector.description.name} scores the image again without each of them"
    if detector.data.image_shape is not None and pixels > most:
        raise UserError(
            f"--explain: got images of {pixels:,} values, expected at most {most:,}, {why}; "
            "--maps FOLDER writes their anomaly maps as pictures"
        )


class MapFolder:
    """A folder of pictures, one for each image that scores high; it is made when there is one.

    Attributes:
        path: The folder; None if no pictures are wanted.
        written: How many pictures it has.
    """

    def __init__(self, path: Path | None, detector: Detector):
        """Write nothing yet. Raise UserError if the model has no maps, or if the folder has something in it."""
        self.path, self.written = path, 0
        if path is None:
            return
        scorer = next((trial.rows for trial in detector.trials.values() if trial.rows.scorers_K[0].images), None)
        if scorer is None:
            name = detector.description.name
            raise UserError(f"--maps: model {name} has no anomaly maps; expected one of images, of this release")
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UserError(f"--maps: {path} is there already; expected a new or an empty folder")
        self._scorer, self._detector = scorer, detector

    def add(self, batch: Batch, scores: pd.DataFrame) -> None:
        """Write the pictures of those images of a batch that score above PERCENTILE, by the scores of them all."""
        if self.path is None:
            return
        keys = batch.keys
        files = keys["file"].to_pylist() if "file" in keys.column_names else None
        for place in np.flatnonzero(scores[f"{FLAG}{PERCENTILE}"].to_numpy()).tolist():
            x_1D = torch.as_tensor(np.asarray(batch.x_ND[place : place + 1]), dtype=torch.float32)
            [map_1HW] = self._scorer.maps(x_1D.to(self._detector.device))
            # Two folders may have files of one name, and a folder a.png and a.jpg.
            name = f"row_{batch.first + place}" if files is None else re.sub(r"[^\w.-]+", "_", files[place])
            self.path.mkdir(parents=True, exist_ok=True)
            self._picture(x_1D[0].numpy(), map_1HW[0]).save(self.path / f"{name.removesuffix('.png')}.png")
            self.written += 1

    def notes(self) -> Iterator[str]:
        """How many pictures were written, and where."""
        if self.path is None:
            return
        where = f" in {self.path}" if self.written else ""
        yield f"anomaly maps of images above the {PERCENTILE}th percentile: {self.written:,}{where}"

    def _picture(self, x_D: Pixels, map_HW: NDArray[np.float64]) -> Image.Image:
        shape = self._detector.data.image_shape
        assert shape is not None
        image = np.clip(self._unscaled(x_D).reshape(shape), 0, 1)
        colour_HW3 = np.moveaxis(image, 0, -1) if image.ndim == 3 else np.repeat(image[..., None], 3, axis=-1)
        red_HW1 = np.clip((map_HW - CLEAR) / (RED - CLEAR), 0, 1)[..., None]
        overlaid_HW3 = colour_HW3 * (1 - red_HW1) + np.array([0.8, 0.05, 0.05]) * red_HW1
        both = np.concatenate([colour_HW3, overlaid_HW3], axis=1)
        return Image.fromarray(np.round(255 * both).astype(np.uint8))

    def _unscaled(self, x_D: Pixels) -> Pixels:
        """The values of an image in [0, 1]: of `unit` as they are, others from their darkest to their lightest."""
        if x_D.min() >= 0 and x_D.max() <= 1:
            return x_D
        return (x_D - np.nanmin(x_D)) / (np.nanmax(x_D) - np.nanmin(x_D) or 1)

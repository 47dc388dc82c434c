"""What the chosen model makes of examples: as images where the data are images, else feature by feature."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.report.tables.detection import NO_CHAMPION
from pipeline.report.tables.frames import Missing
from pipeline.tracking.record import StudyRecord

Images = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Reconstructions:
    """Some test examples beside their reconstructions, normal ones first.

    Attributes:
        inputs, reconstructions: Images of shape (N, H, W) or (N, H, W, 3), or rows of shape (N, D), in the scale that
            the network sees.
        is_anomaly_N: Which are anomalies.
        feature_names: D names where the examples are rows, none where they are images.
    """

    inputs: Images
    reconstructions: Images
    is_anomaly_N: NDArray[np.bool_]
    feature_names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Draws from the prior, decoded: images of shape (M, H, W) or (M, H, W, 3)."""

    images: Images


def reconstructions(record: StudyRecord, most_images: int = 10, most_rows: int = 3) -> Reconstructions | Missing:
    """At most so many examples of each class."""
    champion = record.champion
    if champion is None:
        return Missing(NO_CHAMPION)
    inputs, outputs = (np.asarray(a, np.float32) for a in (champion.inputs_ND, champion.reconstructions_ND))
    is_anomaly = np.asarray(champion.input_is_anomaly_N, dtype=bool)
    if inputs.size == 0 or inputs.shape != outputs.shape or len(is_anomaly) != len(inputs):
        return Missing("The chosen model stored no reconstructions.")
    shape = image_shape(record.data, inputs[0].size)
    most = most_images if shape else most_rows
    kept = np.concatenate([np.flatnonzero(~is_anomaly)[:most], np.flatnonzero(is_anomaly)[:most]])
    return Reconstructions(
        inputs=_shaped(inputs[kept], shape),
        reconstructions=_shaped(outputs[kept], shape),
        is_anomaly_N=is_anomaly[kept],
        feature_names=() if shape else _feature_names(record.data, inputs[0].size),
    )


def samples(record: StudyRecord, most: int = 40) -> Samples | Missing:
    """At most so many draws from the prior, for images."""
    champion = record.champion
    if champion is None:
        return Missing(NO_CHAMPION)
    drawn = np.asarray(champion.samples_MD, np.float32)
    if drawn.size == 0:
        return Missing("The chosen model stored no samples from its prior.")
    shape = image_shape(record.data, drawn[0].size)
    if shape is None:
        return Missing("The examples are rows of a table and not images, so samples from the prior are not drawn.")
    return Samples(images=_shaped(drawn[:most], shape))


def image_shape(data: Any, features: int) -> tuple[int, ...] | None:
    """The data summary's image shape, None where it has none or does not hold this many features."""
    shape = tuple(int(side) for side in data.get("image_shape") or ())
    return shape if len(shape) in (2, 3) and int(np.prod(shape)) == features else None


def _shaped(flat: Images, shape: tuple[int, ...] | None) -> Images:
    """Images with the channels last (and no axis for a single one), or rows as they are."""
    flat = flat.reshape(len(flat), -1)
    if shape is None:
        return flat
    images = flat.reshape(len(flat), *shape)
    if len(shape) == 3 and shape[0] in (1, 3):
        images = np.moveaxis(images, 1, -1)
    if images.ndim == 4 and images.shape[-1] != 3:
        images = images[..., 0]
    return images


def _feature_names(data: Any, features: int) -> tuple[str, ...]:
    names = tuple(str(name) for name in data.get("feature_names") or ())
    return names if len(names) == features else tuple(f"feature {i + 1}" for i in range(features))

"""What the chosen model makes of examples: as images where the data are images, else feature by feature."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.report.tables.frames import Floats, Missing, feature_names, has_rate
from pipeline.report.tables.images import Images, image_shape, shaped
from pipeline.report.tables.scored import NO_CHAMPION
from pipeline.tracking.record import StudyRecord

NO_SAMPLES = "The chosen model stored no samples from its prior."
NO_PRIOR = "A code without a rate has no prior, so there is nothing to draw samples from."
NO_IMAGES = "The examples are rows of a table and not images, so {} are not drawn."


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


@dataclass(frozen=True, kw_only=True)
class Strips:
    """Rows of images, each a walk through the code.

    Attributes:
        images: Shape (L, S, H, W) or (L, S, H, W, 3): L walks of S steps.
        names: One for each walk; none where they have no names.
    """

    images: Images
    names: tuple[str, ...] = ()


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
        inputs=shaped(inputs[kept], shape),
        reconstructions=shaped(outputs[kept], shape),
        is_anomaly_N=is_anomaly[kept],
        feature_names=() if shape else feature_names(record.data, inputs[0].size),
    )


def samples(record: StudyRecord, most: int = 40) -> Samples | Missing:
    """At most so many draws from the prior, for images."""
    champion = record.champion
    if champion is None:
        return Missing(NO_CHAMPION)
    drawn = np.asarray(champion.samples_MD, np.float32)
    if drawn.size == 0:
        return Missing(NO_SAMPLES if has_rate(record, champion.trial) else NO_PRIOR)
    shape = image_shape(record.data, drawn[0].size)
    if shape is None:
        return Missing(NO_IMAGES.format("samples from the prior"))
    return Samples(images=shaped(drawn[:most], shape))


def traversals(record: StudyRecord) -> Strips | Missing:
    """One example with one latent dimension moved, a row a dimension."""
    champion = record.champion
    if champion is None:
        return Missing(NO_CHAMPION)
    found = _strips(record, champion.traversals_LSD, "latent traversals")
    if isinstance(found, Missing):
        return found
    return Strips(images=found.images, names=_moved(champion.latent_variance_Z, len(found.images)))


def interpolations(record: StudyRecord) -> Strips | Missing:
    """Straight lines between the codes of two examples."""
    champion = record.champion
    return Missing(NO_CHAMPION) if champion is None else _strips(record, champion.interpolations_PSD, "interpolations")


def _strips(record: StudyRecord, stored: Images | None, what: str) -> Strips | Missing:
    if not record.data.get("image_shape"):
        return Missing(NO_IMAGES.format(what))
    flat = np.asarray(() if stored is None else stored, np.float32)
    shape = image_shape(record.data, flat.shape[-1]) if flat.ndim == 3 and flat.size else None
    if shape is None:
        return Missing(f"The chosen model stored no {what}.")
    images = shaped(flat.reshape(-1, flat.shape[-1]), shape)
    return Strips(images=images.reshape(*flat.shape[:2], *images.shape[1:]))


def _moved(variance_Z: Floats | None, size: int) -> tuple[str, ...]:
    """Names of the dimensions that were moved: those whose means vary most, which is how traversals are made."""
    if variance_Z is None or len(variance_Z) < size:
        return ()
    order = np.argsort(-np.asarray(variance_Z, np.float64), kind="stable")[:size]
    return tuple(f"dim {dimension + 1}" for dimension in order)

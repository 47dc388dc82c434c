"""What the chosen model makes of examples: as images where the data are images, else feature by feature."""

from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure as Picture
from numpy.typing import NDArray

from vae_study.report.figure import Figure
from vae_study.report.formatting import captions, number
from vae_study.report.frames import Images, Missing, feature_names, image_shape, shaped
from vae_study.report.parameters import has_rate, setting
from vae_study.report.style import ANOMALY, FAINT, INK, NORMAL, WIDTH, figure, mosaic, padded, show, value_limits
from vae_study.report.tables import NO_CHAMPION
from vae_study.tracking.record import StudyRecord

NO_IMAGES = "The examples are rows of a table and not images, so {} are not drawn."
COLUMNS = 10
MOST_FEATURES = 12


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
class Strips:
    """Rows of images, each a walk through the code.

    Attributes:
        images: Shape (L, S, H, W) or (L, S, H, W, 3): L walks of S steps.
        names: One for each walk; none where they have no names.
        latent: The setting: `window`, or `map` where a dimension is moved at one place of a map.
    """

    images: Images
    names: tuple[str, ...] = ()
    latent: str = "window"


def reconstructions(record: StudyRecord, most_images: int = 10, most_rows: int = 3) -> Reconstructions | Missing:
    """The stored examples, at most `most_images` or `most_rows` of each class."""
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


def samples(record: StudyRecord, most: int = 40) -> Images | Missing:
    """The stored draws from the prior, decoded, at most `most`; `Missing` if the data are no images."""
    champion = record.champion
    if champion is None:
        return Missing(NO_CHAMPION)
    drawn = np.asarray(champion.samples_MD, np.float32)
    if drawn.size == 0 and not has_rate(record, champion.trial):
        return Missing("A code without a rate has no prior, so there is nothing to draw samples from.")
    if drawn.size == 0:
        return Missing("The chosen model stored no samples from its prior.")
    shape = image_shape(record.data, drawn[0].size)
    return Missing(NO_IMAGES.format("samples from the prior")) if shape is None else shaped(drawn[:most], shape)


def traversals(record: StudyRecord) -> Strips | Missing:
    """One example with one latent dimension moved, one row per dimension, those whose means vary most first."""
    champion = record.champion
    if champion is None:
        return Missing(NO_CHAMPION)
    found = _strips(record, champion.traversals_LSD, "latent traversals")
    variance_Z = np.asarray(() if champion.latent_variance_Z is None else champion.latent_variance_Z, np.float64)
    if isinstance(found, Missing) or len(variance_Z) < len(found.images):
        return found
    moved = np.argsort(-variance_Z, kind="stable")[: len(found.images)]
    names, latent = tuple(f"dim {dimension + 1}" for dimension in moved), setting(record, champion.trial, "latent")
    return Strips(images=found.images, names=names, latent=str(latent or "window"))


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


def draw_reconstructions(table: Reconstructions) -> Picture:
    """Images as pairs in a grid, rows of a table feature by feature."""
    return _rows(table) if table.feature_names else _pairs(table)


def _classes(table: Reconstructions) -> list[tuple[str, str, Images, Images]]:
    groups = (("normal", NORMAL, ~table.is_anomaly_N), ("anomaly", ANOMALY, table.is_anomaly_N))
    return [(name, colour, table.inputs[m], table.reconstructions[m]) for name, colour, m in groups if m.any()]


def _pairs(table: Reconstructions) -> Picture:
    classes = _classes(table)
    limits = value_limits(table.inputs)
    side = WIDTH / (COLUMNS + 1.6)
    drawn = figure((2 * side + 0.55) * len(classes))
    panels = drawn.subplots(len(classes), 1, squeeze=False)[:, 0]
    for axes, (name, colour, inputs, outputs) in zip(panels, classes, strict=True):
        show(axes, mosaic(np.concatenate([padded(inputs, COLUMNS), padded(outputs, COLUMNS)]), COLUMNS), limits)
        high, wide = inputs.shape[1] + 1, inputs.shape[2] + 1
        axes.set_yticks([high / 2, 1.5 * high], ["input", "recon-\nstruction"])
        axes.set_title(f"{'Normal' if name == 'normal' else 'Anomalous'} test examples", color=colour)
        errors = ((inputs - outputs) ** 2).reshape(len(inputs), -1).sum(axis=1)
        axes.set_xticks((np.arange(len(inputs)) + 0.5) * wide, [number(float(error), 1) for error in errors])
    panels[-1].set_xlabel("squared error of each, summed over its pixels")
    return drawn


def draw_samples(images: Images) -> Picture:
    """Decoded draws from the prior."""
    drawn = figure(-(-len(images) // COLUMNS) * WIDTH / COLUMNS + 0.1)
    show(drawn.add_subplot(), mosaic(images, COLUMNS), value_limits(images))
    return drawn


def draw_strips(table: Strips) -> Picture:
    """One row per walk, with its name where it has one."""
    walks, steps, high, wide = table.images.shape[:4]
    drawn = figure(walks * high * (WIDTH - 0.7 * bool(table.names)) / (steps * wide) + 0.1)
    axes = drawn.add_subplot()
    flat = table.images.reshape(walks * steps, *table.images.shape[2:])
    show(axes, mosaic(flat, steps), value_limits(flat))
    if table.names:
        axes.set_yticks((np.arange(walks) + 0.5) * (high + 1), table.names)
    return drawn


def _rows(table: Reconstructions) -> Picture:
    """A panel an example: the input as a dot, the reconstruction as a ring, the features that differ most on top."""
    # A missing value differs from nothing.
    error = np.nan_to_num(np.abs(table.inputs - table.reconstructions)).mean(axis=0)
    shown = np.argsort(error, kind="stable")[-MOST_FEATURES:]
    classes, rows = _classes(table), np.arange(len(shown))
    columns = max(len(inputs) for _, _, inputs, _ in classes)
    drawn = figure((0.24 * len(shown) + 0.75) * len(classes))
    grid = drawn.subplots(len(classes), columns, sharey=True, sharex=True, squeeze=False)
    for panels, (name, colour, inputs, outputs) in zip(grid, classes, strict=True):
        for i, axes in enumerate(panels):
            axes.set_visible(i < len(inputs))
            if i < len(inputs):
                axes.hlines(rows, inputs[i, shown], outputs[i, shown], color=FAINT, linewidth=1.6, zorder=1)
                axes.scatter(inputs[i, shown], rows, s=26, color=colour, zorder=3)
                axes.scatter(outputs[i, shown], rows, s=26, facecolors="white", edgecolors=INK, linewidths=1.1,
                             zorder=2)  # fmt: skip
                axes.set_title(f"{name} {i + 1}", color=colour)
        panels[0].set_yticks(rows, [table.feature_names[j][:24] for j in shown])
    drawn.supxlabel("value as the network sees it (scaled): ● input, ○ reconstruction", fontsize=10)
    return drawn


RECONSTRUCTIONS = Figure(
    name="reconstructions",
    numbers=lambda tables: tables.of(reconstructions),
    draw=draw_reconstructions,
    words=captions("reconstructions"),
    has_images=True,
)
SAMPLES = Figure(
    name="samples",
    numbers=lambda tables: tables.of(samples),
    draw=draw_samples,
    words=captions("samples"),
    has_images=True,
)
TRAVERSALS = Figure(
    name="traversals",
    numbers=lambda tables: tables.of(traversals),
    draw=draw_strips,
    words=captions("traversals"),
    has_images=True,
)
INTERPOLATIONS = Figure(
    name="interpolations",
    numbers=lambda tables: tables.of(interpolations),
    draw=draw_strips,
    words=captions("interpolations"),
    has_images=True,
)

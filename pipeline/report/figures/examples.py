"""Pictures of examples: inputs above their reconstructions, draws from the prior, walks through the code."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report.figures.images import grey_limits, mosaic, padded, show
from pipeline.report.figures.style import ANOMALY, FAINT, INK, NORMAL, WIDTH, figure
from pipeline.report.tables import Reconstructions, Samples, Strips
from pipeline.report.tables.images import Images
from pipeline.report.words import number

COLUMNS = 10
MOST_FEATURES = 12


def draw_reconstructions(table: Reconstructions) -> Figure:
    """Images as pairs in a grid, rows of a table feature by feature."""
    return _rows(table) if table.feature_names else _pairs(table)


def _classes(table: Reconstructions) -> list[tuple[str, str, Images, Images]]:
    groups = (("normal", NORMAL, ~table.is_anomaly_N), ("anomaly", ANOMALY, table.is_anomaly_N))
    return [(name, colour, table.inputs[m], table.reconstructions[m]) for name, colour, m in groups if m.any()]


def _pairs(table: Reconstructions) -> Figure:
    classes = _classes(table)
    limits = grey_limits(table.inputs)
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


def draw_samples(table: Samples) -> Figure:
    """Decoded draws from the prior."""
    rows = -(-len(table.images) // COLUMNS)
    drawn = figure(rows * WIDTH / COLUMNS + 0.1)
    show(drawn.add_subplot(), mosaic(table.images, COLUMNS), grey_limits(table.images))
    return drawn


def draw_strips(table: Strips) -> Figure:
    """A row a walk, with its name where it has one."""
    walks, steps, high, wide = table.images.shape[:4]
    drawn = figure(walks * high * (WIDTH - 0.7 * bool(table.names)) / (steps * wide) + 0.1)
    axes = drawn.add_subplot()
    flat = table.images.reshape(walks * steps, *table.images.shape[2:])
    show(axes, mosaic(flat, steps), grey_limits(flat))
    if table.names:
        axes.set_yticks((np.arange(walks) + 0.5) * (high + 1), table.names)
    return drawn


def _rows(table: Reconstructions) -> Figure:
    """A panel an example: the input as a dot, the reconstruction as a ring, the features that differ most on top."""
    error = np.abs(table.inputs - table.reconstructions).mean(axis=0)
    shown = np.argsort(error, kind="stable")[-MOST_FEATURES:]
    classes = _classes(table)
    columns = max(len(inputs) for _, _, inputs, _ in classes)
    drawn = figure((0.24 * len(shown) + 0.75) * len(classes))
    grid = drawn.subplots(len(classes), columns, sharey=True, sharex=True, squeeze=False)
    for panels, (name, colour, inputs, outputs) in zip(grid, classes, strict=True):
        for i, axes in enumerate(panels):
            axes.set_visible(i < len(inputs))
            if i < len(inputs):
                _dumbbells(axes, inputs[i, shown], outputs[i, shown], colour)
                axes.set_title(f"{name} {i + 1}", color=colour)
        panels[0].set_yticks(range(len(shown)), [table.feature_names[j][:24] for j in shown])
    drawn.supxlabel("value as the network sees it (scaled): ● input, ○ reconstruction", fontsize=10)
    return drawn


def _dumbbells(axes: Axes, inputs: Images, outputs: Images, colour: str) -> None:
    places = np.arange(len(inputs))
    axes.hlines(places, inputs, outputs, color=FAINT, linewidth=1.6, zorder=1)
    axes.scatter(inputs, places, s=26, color=colour, zorder=3)
    axes.scatter(outputs, places, s=26, facecolors="white", edgecolors=INK, linewidths=1.1, zorder=2)

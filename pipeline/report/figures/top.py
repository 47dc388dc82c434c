"""Picture of the most anomalous test rows, where they are images."""

import numpy as np
from matplotlib.figure import Figure

from pipeline.report.captions_detection import most_nats
from pipeline.report.figures.images import grey_limits, mosaic, padded, show
from pipeline.report.figures.style import ANOMALY, INK, WIDTH, figure
from pipeline.report.tables import Top
from pipeline.report.tables.top import MOST_ROWS
from pipeline.report.words import quantity

LONGEST_LABEL = 9


def draw_top(table: Top) -> Figure:
    """Inputs above reconstructions above what each pixel cost."""
    pictures = table.pictures
    assert pictures is not None
    drawn = figure(3 * WIDTH / (MOST_ROWS + 1.6) * pictures.inputs.shape[1] / pictures.inputs.shape[2] + 0.75)
    panels = drawn.subplots(3, 1)
    limits = grey_limits(pictures.inputs)
    images = (
        ("input", pictures.inputs, limits, "gray"),
        ("recon-\nstruction", pictures.reconstructions, limits, "gray"),
        ("cost", np.maximum(pictures.nats, 0), (0.0, most_nats(pictures)), "Reds"),
    )
    for axes, (name, some, ends, colours) in zip(panels, images, strict=True):
        show(axes, mosaic(padded(some, MOST_ROWS), MOST_ROWS), ends, colours)
        axes.set_yticks([axes.get_ylim()[0] / 2], [name])
    wide = pictures.inputs.shape[2] + 1
    names = [
        f"{row['row'][:LONGEST_LABEL]}\n{row['label'][:LONGEST_LABEL]}\n{quantity(row['score'])}"
        for row in table.rows.to_dict("records")
    ]
    panels[-1].set_xticks((np.arange(len(names)) + 0.5) * wide, names, fontsize=7.5)
    for text, is_anomaly in zip(panels[-1].get_xticklabels(), table.rows["anomaly"], strict=True):
        text.set_color(ANOMALY if is_anomaly else INK)
    return drawn

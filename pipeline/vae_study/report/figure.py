"""What a page is made of: figures, printed tables and sentences, one after the other in sections."""

import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from matplotlib.figure import Figure as Picture

from vae_study.report.formatting import Words
from vae_study.report.frames import Missing
from vae_study.report.interactive import Interactive, SampledTrials
from vae_study.report.style import png
from vae_study.report.tables import StudyTables

Numbers = TypeVar("Numbers")


@dataclass(frozen=True, kw_only=True)
class Figure(Generic[Numbers]):
    """A figure of a report: its numbers, and how they are drawn and described.

    Attributes:
        name: The stem of its file, and its name in the page's script.
        numbers: Computes what is drawn; `Missing` says why nothing is.
        draw: Draws the picture with matplotlib.
        words: Writes the caption and the alternative text.
        interactive: Makes the traces and the layout for plotly.js, which are shown where scripts run; None for a
            figure that is a picture only.
        is_optional: Whether nothing is shown instead where it is missing; else the reason is.
        has_images: Whether it shows pixels of the data, which are not inverted on a dark page.
    """

    name: str
    numbers: Callable[[StudyTables], Numbers | Missing]
    draw: Callable[[Numbers], Picture]
    words: Callable[[Numbers], Words]
    interactive: Callable[[Numbers, SampledTrials], Interactive] | None = None
    is_optional: bool = False
    has_images: bool = False


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A figure as it is shown, or the sentence that is shown instead.

    Attributes:
        name: The stem of its file.
        png: The picture; None where its data is missing.
        words: Its caption, and a text for those who do not see it.
        missing: Why there is no picture; empty where there is one.
        has_images: As of a figure.
    """

    name: str
    png: bytes | None
    words: Words
    missing: str = ""
    has_images: bool = False


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table as it is printed: headings, and rows of cells that are text already.

    Attributes:
        label: What the table holds.
        marked: The first cell of what was chosen; empty where there is none.
        heat: How dark each cell but the first of a row is shaded, 0 to 1; empty where none is.
        left_out: A sentence on rows that are not printed; empty where all are.
        missing: Why there is no row; empty where nothing is to be said of it.
        is_numeric: Whether its cells are numbers, which are on the right and never broken.
        is_wide: Whether it may be wider than the text.
        is_loose: Whether long words may break.
        has_links: Whether a trial's number links to its run.
    """

    head: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    label: str = ""
    marked: str = ""
    heat: tuple[tuple[float, ...], ...] = ()
    left_out: str = ""
    missing: str = ""
    is_numeric: bool = True
    is_wide: bool = False
    is_loose: bool = False
    has_links: bool = False

    @property
    def csv(self) -> str:
        """The table as CSV, as printed: the headings, then a line for each row."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\r\n").writerows([self.head, *self.rows])
        return text.getvalue()


@dataclass(frozen=True)
class Table:
    """A printed table of a report, or several.

    Attributes:
        grids: Makes it, or them.
        is_folded: Whether the reader unfolds it.
    """

    grids: Callable[[StudyTables], Grid | Iterable[Grid]]
    is_folded: bool = False


@dataclass(frozen=True)
class Sentences:
    """A paragraph of a report; its text is empty where there is nothing to say."""

    text: Callable[[StudyTables], str]


@dataclass(frozen=True)
class Part:
    """What stands under one heading of a section.

    Attributes:
        title: The heading; empty for what stands directly under the section's.
        blocks: From top to bottom.
        anchor: Where links to it lead; empty where none does.
        link: What the page's list of contents calls it; empty where it is not there.
        is_half: Whether it takes half of a wide page's width.
        is_folded: Whether the reader unfolds it.
    """

    title: str
    blocks: tuple[Figure[Any] | Table | Sentences, ...]
    anchor: str = ""
    link: str = ""
    is_half: bool = False
    is_folded: bool = False


@dataclass(frozen=True)
class Section:
    """A section of a report.

    Attributes:
        title, anchor, link: As of a part.
        parts: From top to bottom.
    """

    title: str
    parts: tuple[Part, ...]
    anchor: str
    link: str

    @property
    def figures(self) -> tuple[Figure[Any], ...]:
        """All of its figures."""
        return tuple(block for part in self.parts for block in part.blocks if isinstance(block, Figure))


def panel(figure: Figure[Any], tables: StudyTables) -> Panel:
    """Draw a study's figure."""
    numbers = tables.once(figure.numbers)
    if isinstance(numbers, Missing):
        return Panel(name=figure.name, png=None, words=Words(), missing=numbers.why)
    png = picture(figure, numbers)
    return Panel(name=figure.name, png=png, words=figure.words(numbers), has_images=figure.has_images)


def picture(figure: Figure[Numbers], numbers: Numbers) -> bytes:
    """The PNG of a figure's numbers."""
    return png(lambda: figure.draw(numbers))

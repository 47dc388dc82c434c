"""Pieces of Markdown for MLflow's descriptions, which its UI turns into HTML with the rules of GitHub."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

NONE = "–"
LONGEST_TEXT = 60
# All ASCII punctuation that Markdown, HTML or the placeholders of a link give a meaning, and what would become a link
# or a picture by itself: an address, a name after @, a word between colons.
# An underscore within a word is one anyway.
_MARKS = re.compile(r"[^\w\s.,/+=%'-]|(?<![a-zA-Z0-9])_|_(?![a-zA-Z0-9])", re.ASCII)
_HOST = re.compile(r"\bwww\.", re.IGNORECASE)


def escaped(text: Any, longest: int = LONGEST_TEXT) -> str:
    """Text of a user's as it is read, whatever it holds; a long one is cut, and what cannot be printed is a space."""
    words = " ".join("".join(letter if letter.isprintable() else " " for letter in str(text)).split())
    shown = words if len(words) <= longest else words[: longest - 1] + "…"
    return _HOST.sub(lambda host: f"{host[0][:-1]}&#46;", _MARKS.sub(_entity, shown))


def _entity(mark: re.Match[str]) -> str:
    return f"&#{ord(mark[0])};" if mark[0].isascii() else mark[0]


def cell(value: Any) -> str:
    """A value in a table: four significant digits, a dash where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NONE
    return f"{value:.4g}" if isinstance(value, float) else escaped(value)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already; nothing without rows."""
    lines = [_line(row) for row in rows]
    return "\n".join([_line(header), "|" + "---|" * len(header), *lines]) if lines else ""


def _line(cells: Sequence[str]) -> str:
    # The UI leaves no room between columns.
    return f"| {' | &ensp;'.join(cells)} |"


def interval(value: float, low: float, high: float) -> str:
    """Such as "0.912 [0.870, 0.947]"; a dash where it is unknown."""
    if math.isnan(value):
        return NONE
    return f"{value:.3f}" if math.isnan(low) or math.isnan(high) else f"{value:.3f} [{low:.3f}, {high:.3f}]"

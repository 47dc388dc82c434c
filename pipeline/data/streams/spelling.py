"""How a category is spelled in a model: a text of a file without types may be a number, written in another way."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import pyarrow as pa

from pipeline.data.sources.settling import INTEGER, MISSING_WORDS, REAL, TEXT, TRUTH, converted
from pipeline.data.sources.vocabulary import plain_text

# Read as a number and written again, such a text is the same.
_PLAIN_NUMBER = re.compile(r"-?[1-9]\d{0,14}|0")
_REMEMBERED = 65_536


class Spelling:
    """The categories of one column as its model knows them.

    Attributes:
        are_numbers: Whether some of them read as numbers or truth values.
    """

    def __init__(self, kept: Sequence[str | None]) -> None:
        """Look at the categories.

        Args:
            kept: Those that the model knows; None is the missing value.
        """
        self._kept = frozenset(value for value in kept if value is not None)
        kinds = (INTEGER, REAL, TRUTH)
        self.are_numbers = not self._kept or any(_read(value, kind) for value in self._kept for kind in kinds)
        # Had the training reader taken the column for text, its categories would not all look like what it writes.
        self._kinds = [kind for kind in kinds if all(_read(value, kind) == value for value in self._kept)]
        self.known = lru_cache(_REMEMBERED)(self._known)

    def _known(self, text: str) -> str | None:
        """The category that a text stands for, None for a missing one; itself if the model knows no such category."""
        if not self._kinds or _PLAIN_NUMBER.fullmatch(text):
            return text
        if text.strip() in MISSING_WORDS:
            return None
        return next((value for value in (_read(text, kind) for kind in self._kinds) if value in self._kept), text)


def _read(text: str, kind: Any) -> str | None:
    """What the training reader makes of a text in a column of a kind; None where it does not read as one."""
    values = converted(pa.array([text], TEXT), kind)
    return None if values is None else plain_text(values[0].as_py())

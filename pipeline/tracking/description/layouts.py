"""Parts put together to a text that MLflow takes."""

from collections.abc import Callable, Sequence

from pipeline.tracking.description.links import longest

# Characters; MLflow cuts a longer tag, in the midst of a word.
LONGEST_NOTE = 8000
# Rows of a table, as many of these as fit.
ROWS = (20, 12, 6, 3, 0)


def heading(text: str) -> str:
    """A line above a table."""
    # The UI shows its own headings as plain text, and a table ends without room below it.
    return f"&nbsp;\n**{text}**"


def joined(parts: Sequence[str]) -> str:
    """The parts that there are, as paragraphs."""
    return "\n\n".join(part for part in parts if part)


def fitting(text_of: Callable[[int], str]) -> str:
    """The longest text that MLflow takes, of those with so many rows in a table."""
    texts = map(text_of, ROWS)
    text = next((text for text in texts if longest(text) <= LONGEST_NOTE), None)
    return text if text is not None else text_of(0).partition("\n\n")[0]

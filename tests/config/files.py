from pathlib import Path

DIGITS = Path(__file__).parents[2] / "search_spaces" / "digits.yaml"


def edited(folder: Path, *edits: tuple[str, str]) -> Path:
    """A copy of the digits config with parts of its text replaced."""
    text = DIGITS.read_text(encoding="utf-8")
    for old, new in edits:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    file = folder / "study.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def line_of(file: Path, text: str) -> int:
    """The 1-based line on which a text begins."""
    return file.read_text(encoding="utf-8").split(text)[0].count("\n") + 1

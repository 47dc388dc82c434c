"""Secrets that must not be found again."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote


def leaks(secrets: Iterable[str], *places: Path | str) -> list[str]:
    """Where a secret is: files that hold it, or have it in their names, by their paths; texts by their beginnings."""
    forms = {form.encode() for secret in secrets for form in (secret, quote(secret, safe=""))}
    return [where for where, content in _contents(places) if any(form in content for form in forms)]


def _contents(places: Iterable[Path | str]) -> Iterator[tuple[str, bytes]]:
    for place in places:
        if isinstance(place, str):
            yield place[:200], place.encode()
            continue
        assert place.exists()
        for path in [place] if place.is_file() else sorted(place.rglob("*")):
            if path.is_file() and not path.is_symlink():
                yield str(path), path.name.encode() + b"\n" + path.read_bytes()

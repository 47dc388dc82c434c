"""What a report in a folder was made from, so that the same one is not made again. Imports nothing that draws."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

MADE_FROM = ".made-from.json"
PACKAGE = Path(__file__).parents[1]


def is_made_from(folder: Path, facts: Mapping[str, Any]) -> bool:
    """Whether a folder has the report that these facts and this version would give, and every file of it unchanged.

    Args:
        folder: The report's.
        facts: What was known of the study, as JSON values.
    """
    try:
        note = json.loads((folder / MADE_FROM).read_text(encoding="utf-8"))
        return bool(note == _note(folder, facts, note["files"]))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def remember(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write down beside the files of a whole report what they were made from."""
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    text = json.dumps(_note(folder, facts, names), indent=1, sort_keys=True)
    (folder / MADE_FROM).write_text(text + "\n", encoding="utf-8", newline="\n")


def _note(folder: Path, facts: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    # Digests only: a report may be handed on, and the facts name places of this machine.
    made_from = [version("vae-study"), _code(), json.dumps(facts, sort_keys=True)]
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    return {"made_from": hashlib.sha256(json.dumps(made_from).encode()).hexdigest(), "files": files}


@cache
def _code() -> str:
    """A digest of the package: an editable installation changes without its version."""
    digest = hashlib.sha256()
    for path in sorted(path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        digest.update(f"{path.relative_to(PACKAGE).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()

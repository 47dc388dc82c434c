"""What travels to the cluster with a job: this code, the study file, and a module of the user's own; never data."""

import shutil
from collections.abc import Iterable
from pathlib import Path

from pipeline.spec import StudySpec

CODE = Path(__file__).parents[1]
SPEC_FILE = "study.json"
FUNCTION = "python:"


def pack(spec: StudySpec, folder: Path) -> None:
    """Lay out in an empty folder what a driver on another machine needs.

    Args:
        spec: The study; written with what was given only, since a default that is spelled out counts as fixed.
        folder: Where to.
    """
    shutil.copytree(CODE, folder / CODE.name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / SPEC_FILE).write_text(spec.model_dump_json(indent=2, exclude_unset=True), encoding="utf-8")
    for path in _own_code(spec.data.source):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _own_code(source: str) -> Iterable[Path]:
    """The Python files of the module that a `python:` source names, as far as it lies in the current folder."""
    if not source.startswith(FUNCTION):
        return []
    root = Path(source.removeprefix(FUNCTION).strip().split(":")[0].split(".")[0])
    return (
        sorted(root.rglob("*.py")) if root.is_dir() else [path for path in [root.with_suffix(".py")] if path.is_file()]
    )

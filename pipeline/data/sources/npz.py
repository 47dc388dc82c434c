"""Numpy's archives of arrays."""

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.data.sources.arrays import table_of
from pipeline.data.sources.files import local_path
from pipeline.data.sources.problems import no_such, reading
from pipeline.data.table import Table
from pipeline.errors import UserError
from pipeline.spec.data import DataSpec

_KIND = "npz"


def read_npz(spec: DataSpec, *, has_labels: bool = True) -> Table:
    """The arrays X (or x, or the only one of two or more dimensions) and y (or `spec.label`) of an npz file.

    Args:
        spec: Which file.
        has_labels: Whether labels are wanted; else they may be whatever they are.
    """
    given = str(spec.path)
    path = local_path(given)
    # Numpy and zipfile meet damaged bytes with a dozen kinds of exception.
    with reading(given, _KIND, (Exception,)), _archive(path, given) as archive:
        label = _label(given, spec.label, archive.files)
        features = _features(given, archive, label)
        x, label_N = archive[features], archive[label] if label is not None and has_labels else None
    return table_of(x, label_N, where=given, names=(features, label or "y"), has_binary_labels=True)


def _archive(path: Path, given: str) -> Any:
    archive = np.load(path, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise UserError(f"{given}: a single array; expected an npz file with the arrays X and y")
    return archive


def _label(given: str, asked: str | None, names: list[str]) -> str | None:
    if asked is not None and asked not in names:
        raise no_such(given, "array (of data.label)", asked, names)
    return asked or ("y" if "y" in names else None)


def _features(given: str, archive: Any, label: str | None) -> str:
    names = [name for name in archive.files if name != label]
    for usual in ("X", "x"):
        if usual in names:
            return usual
    wide: list[str] = [name for name in names if archive[name].ndim >= 2]
    if len(wide) != 1:
        came = ", ".join(map(repr, archive.files)) or "none"
        raise UserError(f"{given}: came the arrays {came}; expected X, or one array of two or more dimensions")
    return wide[0]

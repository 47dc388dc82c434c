"""Where a data set's files and the node's prepared data are."""

import errno
import os
import tempfile
from pathlib import Path

from pipeline.spec.data import DataSpec

CACHE_VARIABLE = "VAE_STUDY_CACHE"


def resolved(spec: DataSpec) -> DataSpec:
    """The same data from any working folder: local paths are absolute; those with a scheme, such as s3://, stay."""
    # Of an idx file, the labels are another file.
    keys = ("path", "label") if spec.source == "idx" else ("path",)
    paths = {key: getattr(spec, key) for key in keys}
    return spec.model_copy(update={key: _absolute(path) for key, path in paths.items() if path is not None})


def _absolute(path: str) -> str:
    return path if "://" in path else os.path.abspath(Path(path).expanduser())


def cache_folder() -> Path:
    """The folder of the node's prepared data: VAE_STUDY_CACHE, or one of the user's own among temporary files."""
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given).absolute() if given else _own_folder() / "data"


def make_own(folder: Path) -> None:
    """Make a cache folder that others may not read.

    Raises:
        OSError: It cannot be made or written to, or it is another's, who could have laid it out among temporary files.
    """
    mine = _own_folder()
    if mine in folder.parents:
        mine.mkdir(mode=0o700, exist_ok=True)
        if mine.lstat().st_uid != os.getuid():
            raise PermissionError(errno.EPERM, f"{mine} belongs to another user")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def _own_folder() -> Path:
    return Path(tempfile.gettempdir()) / f"vae-study-{os.getuid()}"

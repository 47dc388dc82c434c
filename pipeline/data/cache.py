"""Prepared data, once a node: written by whoever comes first, mapped by all."""

import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import pyarrow as pa
from filelock import FileLock

from pipeline.data.arrow import map_split, write_split
from pipeline.data.dataset import Dataset, facts_from
from pipeline.data.draft import Draft
from pipeline.data.places import CACHE_VARIABLE, cache_folder, make_own
from pipeline.data.splits import SPLIT_NAMES
from pipeline.errors import UserError
from pipeline.spec.data import DataSpec

# Raised whenever what is written, or how it is computed, changes.
VERSION = 1
SECONDS_UNUSED = 7 * 24 * 3600
FACTS = "facts.json"
# What reading an entry that is torn, or not ours, may throw.
BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, pa.ArrowException)


def shared(spec: DataSpec, sha256: str, make: Callable[[], Draft]) -> Dataset:
    """The data set of a spec and a fingerprint, from the node's cache.

    Args:
        spec: Resolved.
        sha256: The fingerprint of the source's content.
        make: Called where the cache has no sound entry; the data set with that fingerprint.

    Raises:
        UserError: The cache cannot be written.
    """
    folder, key = cache_folder(), _key(spec, sha256)
    return _sound(folder / key, key) or _made(folder, key, make)


def _key(spec: DataSpec, sha256: str) -> str:
    return hashlib.sha256(f"{VERSION} {sha256} {spec.model_dump_json()}".encode()).hexdigest()


@lru_cache(maxsize=2)
def _opened(entry: Path, key: str) -> Dataset:
    """An entry that is sound as far as its sizes tell; a process maps it once."""
    plain = json.loads((entry / FACTS).read_text(encoding="utf-8"))
    files = {name: entry / f"{name}.arrow" for name in SPLIT_NAMES}
    sizes = {name: path.stat().st_size for name, path in files.items()}
    if (plain["key"], plain["sizes"]) != (key, sizes):
        raise ValueError(f"{entry} is torn, or another's")
    with suppress(OSError):
        os.utime(entry / FACTS)
    facts = facts_from(plain["facts"])
    return Dataset(**vars(facts), splits={name: map_split(path) for name, path in files.items()})


def _sound(entry: Path, key: str) -> Dataset | None:
    try:
        return _opened(entry, key)
    except BROKEN:
        return None


def _made(folder: Path, key: str, make: Callable[[], Draft]) -> Dataset:
    with _refusals(folder):
        make_own(folder)
        held = FileLock(folder / f"{key}.lock").acquire()
    with held:
        found = _sound(folder / key, key)
        if found is not None:
            return found
        draft = make()
        with _refusals(folder):
            _write(folder / key, draft)
            _remove_unused(folder)
    return _opened(folder / key, key)


@contextmanager
def _refusals(folder: Path) -> Iterator[None]:
    """In words what a disk that is full or not ours says."""
    try:
        yield
    except OSError as error:
        reason = f"{folder}: cannot keep prepared data here: {error.strerror or error}"
        raise UserError(f"{reason}; {CACHE_VARIABLE} names another folder") from None


def _write(entry: Path, draft: Draft) -> None:
    """Write an entry beside its place, then put it there whole."""
    new = entry.with_name(f"{uuid.uuid4().hex}.new")
    new.mkdir(mode=0o700)
    try:
        for name in SPLIT_NAMES:
            write_split(new / f"{name}.arrow", draft.split(name))
        sizes = {name: (new / f"{name}.arrow").stat().st_size for name in SPLIT_NAMES}
        plain = {"key": entry.name, "sizes": sizes, "facts": draft.facts.plain()}
        (new / FACTS).write_text(json.dumps(plain), encoding="utf-8")
        _clear(entry)
        new.rename(entry)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _clear(entry: Path) -> None:
    if entry.is_file():
        entry.unlink()
    shutil.rmtree(entry, ignore_errors=True)


def _remove_unused(folder: Path) -> None:
    """Forget what no process has opened for days; who has it mapped keeps it until it ends."""
    for entry in folder.iterdir():
        # Others may be clearing the same away.
        with suppress(OSError):
            if entry.is_dir() and time.time() - _last_use(entry) > SECONDS_UNUSED:
                shutil.rmtree(entry)


def _last_use(entry: Path) -> float:
    facts = entry / FACTS
    return (facts if facts.exists() else entry).stat().st_mtime

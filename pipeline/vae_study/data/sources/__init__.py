"""The registry of all sources, and reading one into a Table; each source is a module of this folder, or part of one."""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import PurePosixPath
from pkgutil import iter_modules

from pyarrow import fs

from vae_study.config.data import BUNDLED_SOURCES, FILE_SOURCES, PYTHON_SOURCE, DataConfig
from vae_study.data.sources.files import located
from vae_study.data.sources.source import FILE, FOLDER, URI, Rows, Source, reading_settings
from vae_study.data.sources.table_reader import build_table, time_columns
from vae_study.data.table import Table
from vae_study.errors import UserError

PYTHON = "python"
# In messages about scoring, the argument that names the data.
_ARGUMENT = "DATA"


@cache
def sources() -> Mapping[str, Source]:
    """All sources by name, in the order of config's lists of names: each module of this folder may define SOURCES."""
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    found = {source.name: source for module in modules for source in getattr(module, "SOURCES", ())}
    return {name: found[name] for name in (*FILE_SOURCES, *BUNDLED_SOURCES, PYTHON)}


def source_of(config: DataConfig) -> Source:
    """The source that a config names."""
    return sources()[PYTHON if re.fullmatch(PYTHON_SOURCE, config.source) else config.source]


def read_table(config: DataConfig) -> Table:
    """Read the examples that a config names, with their labels.

    A table's numbers are read in batches into one array: a file may be larger than memory if its features, in float32,
    are not. A relative path begins at the current directory.

    Raise UserError if a setting, a file, a column or a value is wrong; the message says which, how many, what was given
    and what was expected.
    """
    source = source_of(config)
    source.check_settings(config)
    try:
        opened = source.open(config, None)
        table = build_table(opened, config) if isinstance(opened, Rows) else opened.table(slice(None))
    except MemoryError as error:
        raise UserError(f"{config.path or config.source}: does not fit into this machine's memory ({error})") from error
    table = replace(table, reading={**reading_settings(config), **table.reading})
    if not len(table.x_ND):
        raise UserError(f"{table.where}: holds no rows; expected at least one")
    if not table.feature_names and not table.category_names:
        raise UserError(f"{table.where}: no feature; expected at least one")
    return table


def times_of(config: DataConfig) -> list[str]:
    """The columns of a table that hold or read as times; none of arrays and images."""
    opened = source_of(config).open(config, None)
    return time_columns(opened, config) if isinstance(opened, Rows) else []


def find_source(location: str, name: str | None = None) -> Source:
    """The source that reads what is at a location.

    Raise UserError if there is nothing, if the source is unknown, or if the source cannot read it.

    Args:
        location: A path, a URI, the name of a bundled data set, or `python:package.module:function`.
        name: The source's name; by default it follows from the location.
    """
    if name is not None and name not in FILE_SOURCES and name != location:
        raise _unknown(f"got the source {name!r}")
    if name is None or name == location:
        if location in BUNDLED_SOURCES:
            return sources()[location]
        if re.fullmatch(PYTHON_SOURCE, location):
            return sources()[PYTHON]
    system, info = located(location, _ARGUMENT)
    source = sources()[name] if name in FILE_SOURCES else _recognized(system, info)
    if source is None:
        raise _unknown(f"got {location!r}, whose kind its name does not tell")
    got, expected = (FOLDER, FILE) if info.type == fs.FileType.Directory else (FILE, FOLDER)
    if got not in source.paths:
        raise UserError(f"{_ARGUMENT}: got {location!r}, which is {got}; expected {expected} for source {source.name}")
    if URI not in source.paths and "://" in location:
        raise UserError(f"{_ARGUMENT}: got {location!r}; expected a place on this machine for source {source.name}")
    return source


def _unknown(got: str) -> UserError:
    names = ", ".join((*FILE_SOURCES, *BUNDLED_SOURCES, "python:package.module:function"))
    return UserError(f"{_ARGUMENT}: {got}; expected, or as --source, one of {names}")


def _recognized(system: fs.FileSystem, info: fs.FileInfo) -> Source | None:
    """The source of a file by its name, or of a folder by its name or the names of the files in it."""

    def matches(source: Source, path: str) -> bool:
        return bool(source.files and re.fullmatch(source.files, PurePosixPath(path).name.lower()))

    by_name = next((one for one in sources().values() if FILE in one.paths and matches(one, info.path)), None)
    if by_name is not None or info.type != fs.FileType.Directory:
        return by_name
    inside = system.get_file_info(fs.FileSelector(info.path, recursive=True))
    paths = [found.path for found in inside if found.type == fs.FileType.File]
    folders = [source for source in sources().values() if FOLDER in source.paths]
    return next((source for source in folders if any(matches(source, path) for path in paths)), None)

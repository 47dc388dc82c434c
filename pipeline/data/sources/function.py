"""A function of the user's own, named `python:package.module:function`."""

import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from typing import Any

import pandas as pd

from pipeline.data.sources.arrays import one_a_row, table_of
from pipeline.data.sources.frames import frame_rows
from pipeline.data.sources.labels import labels_of
from pipeline.data.sources.problems import no_such
from pipeline.data.sources.settings import TABLE_SETTINGS, forbid_setting
from pipeline.data.sources.tables import build
from pipeline.data.sources.wholeness import require_whole
from pipeline.data.table import Table
from pipeline.errors import UserError
from pipeline.spec.data import DataSpec

PREFIX = "python:"
_PAIR = ("X", "y")


def read_function(spec: DataSpec) -> Table:
    """What a function without arguments returns: a data frame, a pair of X and y, or a Table.

    The module is looked for in the current directory too.

    Raises:
        UserError: There is no such function, it fails, or returns something else.
    """
    where, returned = returned_by(spec.source)
    match returned:
        case pd.DataFrame():
            return build(frame_rows(returned, where), spec)
        case (pd.DataFrame() as x, label_N):
            return _labelled(x, label_N, where, spec)
        case (x, label_N):
            _forbid_settings(where, spec)
            return table_of(x, label_N, where=where, names=_PAIR, has_binary_labels=True)
        case Table():
            _forbid_settings(where, spec)
            return require_whole(replace(returned, where=where))
    raise unexpected(where, returned)


def returned_by(source: str) -> tuple[str, Any]:
    """What to call a function of the user's, and what it returns.

    Raises:
        UserError: There is no such function, or it fails.
    """
    name = source.removeprefix(PREFIX).strip()
    where = f"{PREFIX}{name}"
    with _current_directory_on_path():
        return where, _called(where, _function(where, *name.split(":")))


def unexpected(where: str, returned: Any) -> UserError:
    """An error for what a function must not return."""
    came = type(returned).__name__
    return UserError(f"{where}: returned {came}, expected a pandas DataFrame, a pair (X, y) or a Table")


def _labelled(x: pd.DataFrame, label_N: Any, where: str, spec: DataSpec) -> Table:
    """A pair such as scikit-learn's loaders give with `as_frame`."""
    forbid_setting(spec, "label", f"a pair (X, y), which {where} returned")
    table = build(frame_rows(x, where), spec)
    if label_N is None:
        return table
    label, labels = labels_of(where, "y", one_a_row(label_N, len(x), where, _PAIR))
    return replace(table, label_N=label, labels=labels)


def _forbid_settings(where: str, spec: DataSpec) -> None:
    for setting in TABLE_SETTINGS:
        forbid_setting(spec, setting, f"what {where} returned, which is no data frame")


def _function(where: str, module_name: str, name: str) -> Callable[[], Any]:
    try:
        module = import_module(module_name.strip())
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise UserError(f"{where}: importing {module_name} failed: {error}") from error
        raise UserError(f"{where}: no module {error.name!r}, neither installed nor in the current directory") from error
    except Exception as error:
        raise UserError(f"{where}: importing {module_name} failed: {type(error).__name__}: {error}") from error
    functions = [key for key, value in vars(module).items() if inspect.isfunction(value) and not key.startswith("_")]
    if not callable(getattr(module, name, None)):
        raise no_such(where, "function", name, functions)
    function: Callable[[], Any] = getattr(module, name)
    return function


def _called(where: str, function: Callable[[], Any]) -> Any:
    try:
        inspect.signature(function).bind()
    except TypeError as error:
        raise UserError(f"{where}: needs arguments ({error}); expected a function without any") from error
    except ValueError:
        pass  # Some functions written in C have no signature to look at.
    try:
        return function()
    except Exception as error:
        raise UserError(f"{where}: raised {type(error).__name__}: {error}") from error


@contextmanager
def _current_directory_on_path() -> Iterator[None]:
    """An installed command, other than `python -m`, does not look there."""
    added = os.getcwd()
    sys.path.insert(0, added)
    try:
        yield
    finally:
        sys.path.remove(added)

"""Kinds of pyarrow types, as far as tables tell them apart."""

from typing import Any

from pyarrow import types


def is_text(kind: Any) -> bool:
    """Whether values are strings, however they are stored."""
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def is_category(kind: Any) -> bool:
    """Whether values are text, or were declared categories."""
    return is_text(kind) or bool(types.is_dictionary(kind))


def is_number(kind: Any) -> bool:
    """Whether values are numbers or truth values; a column of nothing but nulls is one of missing numbers."""
    tests = (types.is_integer, types.is_floating, types.is_decimal, types.is_boolean, types.is_null)
    return any(test(kind) for test in tests)


def is_instant(kind: Any) -> bool:
    """Whether values are moments or days."""
    return bool(types.is_timestamp(kind) or types.is_date(kind))


def is_time(kind: Any) -> bool:
    """Whether values are moments, days, times of day or lengths of time."""
    return is_instant(kind) or bool(types.is_time(kind) or types.is_duration(kind))

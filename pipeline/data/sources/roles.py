"""Which column of a table is what: feature, label, or what splits the rows."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyarrow import types

from pipeline.data.sources.kinds import is_category, is_number, is_text, is_time
from pipeline.data.sources.labels import require_label_type
from pipeline.data.sources.problems import column_error, no_such
from pipeline.data.sources.rows import Rows
from pipeline.errors import UserError
from pipeline.spec.data import DataSpec


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The columns that a spec uses.

    Attributes:
        features: In the spec's order, or that of the file.
        label, split: None where there are none.
        notes: Which columns were left out unasked.
    """

    features: tuple[str, ...]
    label: str | None
    split: str | None
    notes: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, each once."""
        return tuple(dict.fromkeys(name for name in (*self.features, self.label, self.split) if name is not None))


def chosen(rows: Rows, spec: DataSpec) -> Chosen:
    """The columns that a spec uses, by name.

    Raises:
        UserError: A name occurs twice or not at all, a feature is the label too, or there is no feature.
    """
    require_once(rows.where, "the table", rows.schema.names)
    require_once(rows.where, "data.columns", spec.columns or ())
    asked = {"data.label": (spec.label,), "data.split.column": (spec.split.column,), "data.columns": spec.columns or ()}
    for key, names in asked.items():
        _require_known(rows.where, f"column (of {key})", names, rows.schema.names)
    features, notes = _features(rows, spec)
    _require_known(rows.where, "feature (of data.categories.columns)", spec.categories.columns, features)
    return Chosen(features=features, label=spec.label, split=spec.split.column, notes=notes)


def kinds_of(rows: Rows, features: Sequence[str], categories: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The features that are numbers, and those that are categories.

    Args:
        rows: A table whose types are settled.
        features: Its features.
        categories: Those that are categories whatever their type.

    Raises:
        UserError: A feature's type is neither.
    """
    kinds = {name: rows.schema.field(name).type for name in features}
    for name, kind in kinds.items():
        require_feature_type(rows.where, name, kind)
    coded = tuple(name for name, kind in kinds.items() if is_category(kind) or name in categories)
    return tuple(name for name in features if name not in coded), coded


def require_target_types(rows: Rows, columns: Chosen) -> None:
    """Nothing, where the label and the split column are of types that can serve.

    Raises:
        UserError: One is not.
    """
    if columns.label is not None:
        require_label_type(rows.where, columns.label, rows.schema.field(columns.label).type)
    if columns.split is not None:
        kind = rows.schema.field(columns.split).type
        if types.is_nested(kind):
            raise column_error(rows.where, columns.split, f"came {kind}, expected plain values to split the rows by")


def _features(rows: Rows, spec: DataSpec) -> tuple[tuple[str, ...], tuple[str, ...]]:
    used = {spec.label, spec.split.column}
    index: tuple[str, ...] = ()
    if spec.columns is not None:
        if spec.label in spec.columns:
            raise column_error(
                rows.where, spec.label, "is in data.columns and is data.label too; expected one of these"
            )
        features = spec.columns
    else:
        index = tuple(name for name in rows.index if name not in used)
        features = tuple(name for name in rows.schema.names if name not in used and name not in index)
    if not features:
        raise UserError(f"{rows.where}: no feature; came the columns {', '.join(map(repr, rows.schema.names))}")
    return features, tuple(f"column {name!r} is an index and was left out of the features" for name in index)


def _require_known(where: str, what: str, names: Sequence[str | None], valid: Sequence[str]) -> None:
    for name in names:
        if name is not None and name not in valid:
            raise no_such(where, what, name, valid)


def require_once(where: str, place: str, names: Sequence[str]) -> None:
    """Nothing, where no column's name occurs twice.

    Raises:
        UserError: One does.
    """
    for name, count in Counter(names).items():
        if count > 1:
            raise column_error(where, name, f"occurs {count} times in {place}; expected each name once")


def require_feature_type(where: str, name: str, kind: Any) -> None:
    """Nothing, where a type can hold a feature.

    Raises:
        UserError: It holds times, or nested values.
    """
    inner = kind.value_type if types.is_dictionary(kind) else kind
    if is_time(inner):
        said = f"came times ({inner}), which are no feature; leave it out through data.columns or turn it into numbers"
        raise column_error(where, name, said)
    if not is_number(inner) and not is_text(inner):
        raise column_error(where, name, f"came {kind}, expected numbers or text; leave it out through data.columns")

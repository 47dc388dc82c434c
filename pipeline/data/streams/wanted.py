"""Which columns of a table a model reads, and whether they are there and of its kinds."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyarrow import types

from pipeline.data.preprocessing import Preprocessing
from pipeline.data.sources.kinds import is_category, is_number
from pipeline.data.sources.problems import no_such
from pipeline.data.sources.roles import require_feature_type, require_once
from pipeline.data.sources.rows import Rows
from pipeline.data.streams.spelling import Spelling
from pipeline.errors import UserError

_NAMES_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """The columns that are read; all others may be whatever they are.

    Attributes:
        numbers: Features that are numbers.
        categories: Features that are categories, and how the model spells them.
        keys: What is to be handed on as it comes.
        image_shape: Where the numbers are pixels.
    """

    numbers: tuple[str, ...]
    categories: Mapping[str, Spelling]
    keys: tuple[str, ...] = ()
    image_shape: tuple[int, ...] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """All of them, each once."""
        return tuple(dict.fromkeys((*self.numbers, *self.categories, *self.keys)))


def wanted(preprocessing: Preprocessing, keys: Sequence[str] = ()) -> Wanted:
    """The columns that are features of a model, and keys."""
    pixels = preprocessing.pixels
    return Wanted(
        numbers=pixels.features
        if pixels
        else tuple(column.name for column in preprocessing.numbers if column.features),
        categories={column.name: Spelling(column.kept) for column in preprocessing.categories if column.features},
        keys=tuple(keys),
        image_shape=pixels.image_shape if pixels else None,
    )


def require_columns(rows: Rows, columns: Wanted) -> None:
    """Nothing, where all columns are there, each once, and can be what the model takes them for.

    Raises:
        UserError: One is not.
    """
    for key in columns.keys:
        if key not in rows.schema.names:
            raise no_such(rows.where, "column (of the keys)", key, rows.schema.names)
    require_once(rows.where, "the table", [name for name in rows.schema.names if name in {*columns.names}])
    require_once(rows.where, "the keys", columns.keys)
    wrong = [*_wrong(rows, columns)]
    if wrong:
        more = f" and {len(wrong) - _NAMES_SHOWN} columns more" if len(wrong) > _NAMES_SHOWN else ""
        said = f"{', '.join(wrong[:_NAMES_SHOWN])}{more}"
        raise UserError(f"{rows.where}: {said}; expected every column that the model was trained on")


def _wrong(rows: Rows, columns: Wanted) -> Iterator[str]:
    for name in (*columns.numbers, *columns.categories):
        if name not in rows.schema.names:
            yield f"no column {name!r}"
            continue
        kind = rows.schema.field(name).type
        require_feature_type(rows.where, name, kind)
        if name in columns.numbers and types.is_dictionary(kind):
            yield f"column {name!r} came as categories, expected numbers"
        if name in columns.categories and not _can_be_category(kind, columns.categories[name]):
            yield f"column {name!r} came as numbers, expected categories"


def _can_be_category(kind: Any, spelling: Spelling) -> bool:
    """Numbers are, where the model has categories that are; a column of nothing but nulls is as good as any."""
    return is_category(kind) or types.is_null(kind) or (is_number(kind) and spelling.are_numbers)

"""Which columns of a table a model needs, and whether they can be what it takes them for."""

from collections.abc import Iterator, Sequence

from pyarrow import types

from vae_study.data.preprocessing import Preprocessing
from vae_study.data.sources.files import no_such
from vae_study.data.sources.source import Rows, is_category, is_number, is_text
from vae_study.data.sources.table_reader import TABLE, FeatureColumns, require_feature_type, require_once
from vae_study.data.sources.type_inference import CategoryNormalizer, infer_types
from vae_study.data.windows import SequenceInput
from vae_study.errors import UserError

# A message names no more columns than these.
COLUMNS_SHOWN = 5


def model_columns(rows: Rows, preprocessing: Preprocessing, keys: Sequence[str] = ()) -> tuple[Rows, FeatureColumns]:
    """The rows, of windows with the types of times and series, and the columns that a model needs, and the keys.

    Raise UserError if one is not there, occurs twice, or cannot be what the model takes it for.
    """
    pixels, where, names = preprocessing.pixels, rows.where, rows.schema.names
    numbers = pixels.features if pixels else tuple(c.name for c in preprocessing.numbers if c.features)
    normalizers = {c.name: CategoryNormalizer(c.kept, c.kind) for c in preprocessing.categories if c.features}
    untyped = {*(rows.folder_keys if rows.is_typed else names)}
    columns = FeatureColumns(
        numbers=numbers,
        categories={
            name: one.of_source(is_untyped=name in untyped, is_number=name in names and _holds_numbers(rows, name))
            for name, one in normalizers.items()
        },
        others=tuple(keys),
        image_shape=pixels.image_shape if pixels else None,
        origins={name: 0 for name in numbers} if pixels else {c.name: c.origin for c in preprocessing.numbers},
    )
    sequence = preprocessing.sequence
    for key, name in zip(("time", "series"), sequence.columns if sequence else (), strict=False):
        if name not in names:
            raise no_such(where, f"column (of data.sequence.{key})", name, names)
    for key in keys:
        if key not in names:
            raise no_such(where, "column (of the keys)", key, names)
    used = {*columns.names}
    require_once(where, TABLE, [name for name in names if name in used])
    require_once(where, "the keys", keys)
    wrong = [*_wrong_columns(rows, numbers, normalizers)]
    if wrong:
        more = f" and {len(wrong) - COLUMNS_SHOWN} columns more" if len(wrong) > COLUMNS_SHOWN else ""
        said = f"{', '.join(wrong[:COLUMNS_SHOWN])}{more}"
        raise UserError(f"{where}: {said}; expected every column that the model was trained on")
    return rows if sequence is None else _ordered(rows, sequence, columns.names), columns


def _ordered(rows: Rows, sequence: SequenceInput, names: Sequence[str]) -> Rows:
    """The rows with the types of their times and series."""
    found = tuple(dict.fromkeys(name for name in (*names, *sequence.columns) if name in rows.schema.names))
    spelled = () if sequence.series is None else (sequence.series,)
    declared = {*found} - {sequence.time}
    if rows.is_typed:
        return infer_types(rows, found, as_declared=declared)
    return infer_types(rows, found, as_declared=declared - {*spelled}, as_spelled=spelled)


def _wrong_columns(rows: Rows, numbers: Sequence[str], normalizers: dict[str, CategoryNormalizer]) -> Iterator[str]:
    for name in (*numbers, *normalizers):
        if name not in rows.schema.names:
            yield f"no column {name!r}"
            continue
        dtype = rows.schema.field(name).type
        require_feature_type(rows.where, name, dtype)
        if name in normalizers:
            # Numbers can be categories if the model's are; a column of nulls can be anything.
            are_numbers = is_number(dtype) and normalizers[name].are_numbers
            if not is_category(dtype) and not types.is_null(dtype) and not are_numbers:
                yield f"column {name!r} holds numbers, expected categories"
        elif types.is_dictionary(dtype):
            yield f"column {name!r} holds categories, expected numbers"


def on_types(rows: Rows, preprocessing: Preprocessing) -> Iterator[str]:
    """Notes on the columns whose declared type is another one than the model's; all columns of a CSV file are text."""
    if not rows.is_typed:
        return
    names = [name for name in preprocessing.column_names if name in rows.schema.names and name not in rows.folder_keys]
    given = {name: rows.schema.field(name).type for name in names}
    found = {name: dtype.value_type if types.is_dictionary(dtype) else dtype for name, dtype in given.items()}
    kinds = {column.name: column.kind for column in preprocessing.categories}
    texts = [name for name, dtype in found.items() if is_text(dtype) and kinds.get(name, "numbers") == "numbers"]
    numbers = [
        name
        for name, dtype in found.items()
        if is_number(dtype) and not types.is_null(dtype) and kinds.get(name, "numbers") != "numbers"
    ]
    for names, came, read_as in ((texts, "text", "numbers"), (numbers, "numbers", "categories")):
        if names:
            more = f" and {len(names) - COLUMNS_SHOWN} columns more" if len(names) > COLUMNS_SHOWN else ""
            shown = f"{', '.join(map(repr, names[:COLUMNS_SHOWN]))}{more}"
            yield f"column{'s' * (len(names) > 1)} {shown} came as {came}, read as {read_as}"


def _holds_numbers(rows: Rows, name: str) -> bool:
    dtype = rows.schema.field(name).type
    return is_number(dtype.value_type if types.is_dictionary(dtype) else dtype)

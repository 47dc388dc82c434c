"""Whether a Table that somebody else made keeps what Table promises."""

from collections.abc import Iterator

import numpy as np

from pipeline.data.table import Table
from pipeline.errors import UserError


def require_whole(table: Table) -> Table:
    """The table itself, where its parts fit together.

    Raises:
        UserError: They do not; the message names the first that does not.
    """
    try:
        broken = next((promise for is_kept, promise in _promises(table) if not is_kept), None)
    except (AttributeError, TypeError) as error:
        broken = f"arrays of numpy and tuples in it ({error})"
    if broken is not None:
        raise UserError(f"{table.where}: returned a Table, expected {broken}")
    return table


def _promises(table: Table) -> Iterator[tuple[bool, str]]:
    yield isinstance(table.x_ND, np.ndarray) and table.x_ND.dtype == np.float32, "x_ND of float32"
    yield table.x_ND.ndim == 2, "x_ND of shape (N, D)"
    count, features = table.x_ND.shape
    yield len(table.feature_names) == features, "a name in feature_names for each column of x_ND"
    yield not np.isinf(table.x_ND).any(), "finite numbers or NaN in x_ND"
    yield len(table.categories) == len(table.category_names), "a name in category_names for each of categories"
    if table.categories:
        yield table.code_NC.dtype == np.int32, "code_NC of int32"
        yield table.code_NC.shape == (count, len(table.categories)), "code_NC of shape (N, C)"
        sizes_C = np.array([len(values) for values in table.categories])
        yield bool(((table.code_NC >= -1) & (table.code_NC < sizes_C)).all()), "code_NC of places in categories, or -1"
    if table.label_N is not None:
        yield table.label_N.shape == (count,) and table.label_N.dtype == np.int32, "label_N of shape (N,) and int32"
        are_places = (table.label_N >= 0) & (table.label_N < len(table.labels))
        yield bool(are_places.all()), "label_N of places in labels"
    yield table.split_N is None or table.split_N.shape == (count,), "split_N of shape (N,)"
    yield table.image_shape is None or int(np.prod(table.image_shape)) == features, "image_shape of D values"

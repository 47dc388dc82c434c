"""The identity of a table's content, wherever it came from."""

import hashlib
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.table import Table

ROWS_PER_CHUNK = 65_536


def fingerprint(table: Table) -> str:
    """The sha256 of names, types, values, categories, labels and what the table is split by; not of where it lies."""
    arrays = {"x": table.x_ND, "codes": table.code_NC, "labels": table.label_N, "split": table.split_N}
    schema = {
        "features": table.feature_names,
        "categories": [table.category_names, table.categories],
        # With its type: the number 1 is another label than the text.
        "labels": [[type(label).__name__, str(label)] for label in table.labels],
        "image_shape": table.image_shape,
        "has_binary_labels": table.has_binary_labels,
        "arrays": {name: None if a is None else [a.dtype.str, a.shape] for name, a in arrays.items()},
    }
    digest = hashlib.sha256(json.dumps(schema, sort_keys=True).encode())
    for array in arrays.values():
        if array is not None:
            _update(digest, array)
    return digest.hexdigest()


def _update(digest: Any, array_N: NDArray[Any]) -> None:
    for start in range(0, len(array_N), ROWS_PER_CHUNK):
        digest.update(np.ascontiguousarray(array_N[start : start + ROWS_PER_CHUNK]))

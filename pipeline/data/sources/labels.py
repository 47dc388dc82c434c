"""The label of each row, gathered batch by batch."""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import types

from pipeline.data.sources.kinds import is_number, is_text
from pipeline.data.sources.problems import column_error, of_values, require_none_missing
from pipeline.data.sources.vocabulary import MISSING, Vocabulary, encoded, plain_value
from pipeline.data.table import Label
from pipeline.errors import UserError

LABEL_LIMIT = 1_000


class Labels:
    """The label of each row."""

    def __init__(self, where: str, name: str, count: int) -> None:
        self._label_N = np.full(count, MISSING, np.int32)
        self._vocabulary = Vocabulary(plain_value, LABEL_LIMIT)
        self._where, self._name = where, name

    def add(self, start: int, column: Any) -> None:
        """Put a batch of labels at the rows from `start` on."""
        values, local_N = encoded(column)
        self._label_N[start : start + len(local_N)] = self._vocabulary.codes(values, local_N)

    def finish(self) -> tuple[NDArray[np.int32], tuple[Label, ...]]:
        """The place of each row's label among the sorted labels, and these.

        Raises:
            UserError: A label is missing or infinite, or there are too many.
        """
        if self._vocabulary.is_full:
            said = f"more than {LABEL_LIMIT:,} distinct labels in {len(self._label_N):,} rows"
            raise self._error(f"{said}; a regression target? expected classes")
        require_none_missing(
            self._where, self._name, int((self._label_N == MISSING).sum()), len(self._label_N), "a label"
        )
        labels = tuple(self._vocabulary.sorted_values())
        places = [place for label, place in self._vocabulary.places.items() if label in (np.inf, -np.inf)]
        if places:
            infinite = int(np.isin(self._label_N, places).sum())
            raise self._error(f"{of_values(infinite, len(self._label_N), 'infinite')}; expected classes")
        return self._vocabulary.ranks()[self._label_N], labels

    def _error(self, what: str) -> UserError:
        return column_error(self._where, self._name, what)


def labels_of(where: str, name: str, values: Any) -> tuple[NDArray[np.int32], tuple[Label, ...]]:
    """The labels of rows that came as one array.

    Args:
        where: The file.
        name: What the labels are called in it.
        values: An array, a series or a list, one value a row.

    Raises:
        UserError: They are no labels.
    """
    try:
        column = pa.array(values, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise column_error(where, name, f"labels of mixed or unknown type ({error})") from error
    require_label_type(where, name, column.type)
    labels = Labels(where, name, len(column))
    labels.add(0, column)
    return labels.finish()


def require_label_type(where: str, name: str, kind: Any) -> None:
    """Nothing, where a type can hold labels.

    Raises:
        UserError: It cannot.
    """
    inner = kind.value_type if types.is_dictionary(kind) else kind
    if not is_text(inner) and not is_number(inner):
        raise column_error(where, name, f"came {kind}, expected labels: numbers, true and false, or text")

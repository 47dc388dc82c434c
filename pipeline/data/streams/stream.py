"""The rows of a source as features, a bounded number at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.data.preprocessing import Preprocessing
from pipeline.data.streams.bad_rows import require_values
from pipeline.data.streams.batches import Part
from pipeline.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some rows of a source, one after another.

    Attributes:
        first: The place of the first one in the source, from 0.
        x_ND: Their features, float32.
        keys: Their key columns as they came, a pyarrow table; without a column where there are no keys.
    """

    first: int
    x_ND: NDArray[np.float32]
    keys: Any


@dataclass(frozen=True, kw_only=True)
class Stream:
    """The rows of a source in their order; it can be iterated over again and again.

    Attributes:
        where: What to call the source in a message.
        count: How many rows; None where only reading tells.
        preprocessing: What makes features of them.
        parts: Gives the rows as they came.
    """

    where: str
    count: int | None
    preprocessing: Preprocessing
    parts: Callable[[], Iterator[Part]]

    def __iter__(self) -> Iterator[Batch]:
        """Read the source from its beginning.

        Raises:
            UserError: A column or a value is not as the model takes it, the source is torn, or has no rows.
        """
        read = 0
        for part in self.parts():
            require_values(self.preprocessing, part.table, part.first)
            yield Batch(first=part.first, x_ND=self.preprocessing.transform(part.table), keys=part.keys)
            read = part.first + len(part.table.x_ND)
        if not read:
            raise UserError(f"{self.where}: holds no rows; expected at least one")
        if self.count is not None and read != self.count:
            raise UserError(f"{self.where}: holds {read:,} rows, expected {self.count:,}; is it torn, or changing?")

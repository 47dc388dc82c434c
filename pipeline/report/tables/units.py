"""Features as a user's columns: what rows have there and what a model expected, in the user's own units."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.data.preprocessing import Preprocessing
from pipeline.data.preprocessing.numbers import NumberColumn
from pipeline.data.preprocessing.scales import Affine
from pipeline.report.tables.frames import Floats

Rows = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of T rows.

    Attributes:
        name: The user's.
        value_T, expected_T: Numbers or text; None for a missing value.
        beyond_T: 1 or -1 where the value was cut off, so that the true one is as high or as low at least; else 0.
        nats_T: What its features cost above usual, together.
    """

    name: str
    value_T: tuple[float | str | None, ...]
    expected_T: tuple[float | str | None, ...]
    beyond_T: tuple[int, ...]
    nats_T: Floats


def preprocessing_of(data: Mapping[str, Any], features: int) -> Preprocessing | None:
    """The way back to the user's units; None where the record does not keep it, or for other features."""
    try:
        found = Preprocessing.from_plain(data["preprocessing"])
        return found if len(found.feature_names) == features and found.pixels is None else None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def user_columns(known: Preprocessing, inputs_TD: Rows, expected_TD: Rows, nats_TD: Floats) -> Iterator[Column]:
    """The table's columns that are features."""
    with np.errstate(over="ignore"):  # An overflowed row is shown as such.
        frames = known.inverse(inputs_TD), known.inverse(expected_TD)
    first = 0
    for column in known.columns:
        width = len(column.features)
        if width:
            yield Column(
                name=column.name,
                value_T=_values(frames[0][column.name]),
                expected_T=_values(frames[1][column.name]),
                beyond_T=_beyond(column, inputs_TD[:, first]),
                nats_T=nats_TD[:, first : first + width].sum(axis=1),
            )
        first += width


def scaled_columns(names: tuple[str, ...], inputs_TD: Rows, expected_TD: Rows, nats_TD: Floats) -> Iterator[Column]:
    """Each feature as the network sees it."""
    inside = (0,) * len(inputs_TD)
    for place, name in enumerate(names):
        value, expected = (_values(pd.Series(x_TD[:, place])) for x_TD in (inputs_TD, expected_TD))
        yield Column(name=name, value_T=value, expected_T=expected, beyond_T=inside, nats_T=nats_TD[:, place])


def _values(column: "pd.Series[Any]") -> tuple[float | str | None, ...]:
    return tuple(
        None if pd.isna(value) else value if isinstance(value, str) else float(value) for value in column.tolist()
    )


def _beyond(column: Any, scaled_T: Rows) -> tuple[int, ...]:
    """Where scaling has cut a number off."""
    if not isinstance(column, NumberColumn) or column.scale is None:
        return (0,) * len(scaled_T)
    scale = column.scale
    low, high = (scale.low, scale.high) if isinstance(scale, Affine) else (0.0, 1.0)
    above = np.zeros(len(scaled_T), bool) if high is None else scaled_T >= np.float32(high)
    below = np.zeros(len(scaled_T), bool) if low is None else scaled_T <= np.float32(low)
    return tuple((above.astype(int) - below.astype(int)).tolist())

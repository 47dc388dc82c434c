"""Why the most anomalous rows are: what each of their features costs the chosen model above usual."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.report.tables.frames import Floats, feature_names
from pipeline.report.tables.images import Images, shaped
from pipeline.report.tables.units import Column, preprocessing_of, scaled_columns, user_columns
from pipeline.tracking.record import ChampionRecord

LEAST_REASONS, MOST_REASONS = 3, 5
# A fourth and a fifth reason are told if they are this share of the first.
WORTH_TELLING = 0.1


@dataclass(frozen=True, kw_only=True)
class Reason:
    """A column that the model did not expect to be as it is.

    Attributes:
        column: Its name.
        value, expected: What it is and what the model gave back: a number or text; None where it is missing.
        beyond: 1 or -1 where the value was cut off, so that the true one is as high or as low at least; else 0.
        nats: What it cost above its usual cost in training rows.
    """

    column: str
    value: float | str | None
    expected: float | str | None
    beyond: int
    nats: float


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The rows as images: T inputs, their reconstructions, and what each pixel costs above usual in nats, (T, H, W)."""

    inputs: Images
    reconstructions: Images
    nats: Images


@dataclass(frozen=True, kw_only=True)
class Explained:
    """Inputs, reconstructions and contributions of T rows."""

    inputs_TD: NDArray[np.float32]
    expected_TD: NDArray[np.float32]
    nats_TD: Floats


def explained(champion: ChampionRecord, places: NDArray[np.int64]) -> Explained | None:
    """The stored arrays' rows of these places among the test rows; None unless all are there."""
    if champion.top_place_T is None:
        return None
    stored = [champion.top_inputs_TD, champion.top_reconstructions_TD, champion.top_contributions_TD]
    arrays = [np.asarray(() if array is None else array, np.float32) for array in stored]
    at = {int(place): index for index, place in enumerate(champion.top_place_T)}
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1 or arrays[0].ndim != 2 or len(arrays[0]) != len(at) or not set(places.tolist()) <= set(at):
        return None
    inputs, expected, nats = (array[[at[place] for place in places.tolist()]] for array in arrays)
    return Explained(inputs_TD=inputs, expected_TD=expected, nats_TD=nats.astype(np.float64))


def columns_of(data: Mapping[str, Any], found: Explained) -> tuple[list[Column], bool]:
    """The columns of a table, and whether they are in the user's units; else they are features as they were scaled."""
    arrays = found.inputs_TD, found.expected_TD, found.nats_TD
    features = found.inputs_TD.shape[1]
    known = preprocessing_of(data, features)
    if known is None:
        return list(scaled_columns(feature_names(data, features), *arrays)), False
    return list(user_columns(known, *arrays)), True


def reasons(columns: list[Column], place: int) -> tuple[Reason, ...]:
    """Those above usual, the largest first: three, and up to five while they still matter."""
    known = np.array([float(column.nats_T[place]) for column in columns])
    nats = np.where(np.isnan(known), 0.0, known)
    order = [int(i) for i in np.argsort(-nats, kind="stable")[:MOST_REASONS] if nats[i] > 0]
    told = [i for rank, i in enumerate(order) if rank < LEAST_REASONS or nats[i] >= WORTH_TELLING * nats[order[0]]]
    return tuple(
        Reason(
            column=columns[i].name,
            value=columns[i].value_T[place],
            expected=columns[i].expected_T[place],
            beyond=columns[i].beyond_T[place],
            nats=float(nats[i]),
        )
        for i in told
    )


def pictures(found: Explained, shape: tuple[int, ...]) -> Pictures:
    """The rows as images; the channels of a pixel cost together."""
    nats = shaped(found.nats_TD.astype(np.float32), shape)
    return Pictures(
        inputs=shaped(found.inputs_TD, shape),
        reconstructions=shaped(found.expected_TD, shape),
        nats=nats.sum(axis=-1) if nats.ndim == 4 else nats,
    )

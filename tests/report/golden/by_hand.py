"""The golden study's numbers in the slow and obvious way, from its Parquet files alone."""

import math
import statistics
from itertools import product
from typing import Any

import pandas as pd

from . import FOLDER

Row = dict[Any, Any]
OBJECTIVES = ("val/reconstruction", "val/kl")


def rows(name: str = "trials") -> list[Row]:
    return pd.read_parquet(FOLDER / f"{name}.parquet").to_dict("records")


def finished() -> list[Row]:
    return [row for row in rows() if row["state"] == "finished"]


def is_known(*values: Any) -> bool:
    return all(value is not None and math.isfinite(value) for value in values)


def frontier() -> list[Row]:
    """Whom no other finished trial equals or beats in both objectives and beats in one."""
    known = [row for row in finished() if is_known(*(row[metric] for metric in OBJECTIVES))]

    def beats(other: Row, row: Row) -> bool:
        no_worse = all(other[metric] <= row[metric] for metric in OBJECTIVES)
        return no_worse and any(other[metric] < row[metric] for metric in OBJECTIVES)

    return [row for row in known if not any(beats(other, row) for other in known)]


def numbers(*found: Row) -> list[int]:
    return [row["trial"] for row in found]


def scored_test_rows() -> tuple[list[float], list[float]]:
    """Scores of the normal and the anomalous test examples."""
    known = [row for row in rows("scores") if row["split"] == "test" and is_known(row["elbo"])]
    return tuple([row["elbo"] for row in known if row["anomaly"] == which] for which in (False, True))  # type: ignore[return-value]


def pairs(normal: list[float], anomalous: list[float]) -> float:
    won = sum((high > low) + 0.5 * (high == low) for high, low in product(anomalous, normal))
    return won / (len(normal) * len(anomalous))


def mean_precision(normal: list[float], anomalous: list[float]) -> float:
    """The precision at every anomaly's own score, averaged over the anomalies."""
    both = normal + anomalous
    return statistics.fmean(
        sum(other >= one for other in anomalous) / sum(other >= one for other in both) for one in anomalous
    )

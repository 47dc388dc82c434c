"""Which rows are anomalous, by their labels."""

import difflib

import numpy as np
from numpy.typing import NDArray

from pipeline.data.table import Label, Table
from pipeline.errors import UserError

# A message stays readable.
LARGEST_LIST = 10
# Labels that say whether a row is anomalous, as text: numbers, and truths.
NORMAL, ANOMALOUS = {"0", "False"}, {"1", "True"}


def anomalies(table: Table, anomaly_labels: tuple[Label, ...] | None) -> NDArray[np.bool_]:
    """Which of N rows are anomalous, (N,).

    Args:
        table: Its labels decide.
        anomaly_labels: Those that mean anomalous; None for label 1 where labels are 0 and 1 by their kind, else none.

    Raises:
        UserError: A label does not occur, there are no labels to look at, or every row is anomalous.
    """
    if table.label_N is None:
        if anomaly_labels:
            raise UserError(f"data.anomaly_labels: came {_listed(anomaly_labels)}, but {table.where} has no labels")
        return np.zeros(len(table.x_ND), bool)
    chosen = _binary(table) if anomaly_labels is None else tuple(_found(label, table) for label in anomaly_labels)
    is_anomalous_L = np.zeros(len(table.labels), bool)
    is_anomalous_L[list(chosen)] = True
    is_anomaly_N: NDArray[np.bool_] = is_anomalous_L[table.label_N]
    if is_anomaly_N.all():
        raise UserError(f"data.anomaly_labels: all {len(is_anomaly_N):,} rows of {table.where} are anomalous")
    return is_anomaly_N


def _found(label: Label, table: Table) -> int:
    """The place of a label among a table's."""
    for place, known in enumerate(table.labels):
        # To Python, True is 1.
        if label == known and isinstance(label, bool) == isinstance(known, bool):
            return place
    came = f"data.anomaly_labels: came {label!r}, which does not occur in {table.where}"
    raise UserError(f"{came}; expected some of {_listed(table.labels)}{_suggestion(label, table.labels)}")


def _suggestion(label: Label, labels: tuple[Label, ...]) -> str:
    known = {str(one): one for one in labels}
    close = difflib.get_close_matches(str(label), known, n=1, cutoff=0.5)
    # As Python writes it, so that the text '8' differs from the number.
    return f"; did you mean {known[close[0]]!r}?" if close else ""


def _binary(table: Table) -> tuple[int, ...]:
    """The places of label 1, where labels are of the kind that says whether a row is anomalous."""
    if not table.has_binary_labels:
        return ()
    if not {str(label) for label in table.labels} <= NORMAL | ANOMALOUS:
        assert table.label_N is not None
        counts = np.bincount(table.label_N, minlength=len(table.labels))
        found = [f"{label} ({count:,} rows)" for label, count in zip(table.labels, counts, strict=True)]
        raise UserError(f"{table.where}: labels not 0/1 and no data.anomaly_labels; came {_listed(tuple(found))}")
    return tuple(place for place, label in enumerate(table.labels) if str(label) in ANOMALOUS)


def _listed(labels: tuple[Label, ...]) -> str:
    shown = ", ".join(map(str, labels[:LARGEST_LIST]))
    return f"{shown} and {len(labels) - LARGEST_LIST:,} more" if len(labels) > LARGEST_LIST else shown

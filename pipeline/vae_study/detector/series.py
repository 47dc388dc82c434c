"""What a packed model makes of the series of test, row by row: its score, what it expected, and what that cost."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from vae_study.anomaly.ranges import COST, EXPECTED, VALUE, alarms_of
from vae_study.data import Split
from vae_study.data.windows import Segments, SequenceInput, Windows
from vae_study.detector.detector import Detector, TrialScorer
from vae_study.vae.inference import posterior_mode, rows_per_minibatch, whole_blocks

NANOSECONDS = 1e9


def series_frame(detector: Detector, split: Split) -> pd.DataFrame | None:
    """A row for each row that the windows of a split cover, series by series and in time; None where rows are examples.

    Args:
        detector: Of a single trial of windows, or of whole series.
        split: Test.

    Returns:
        `row` (in the source), `time` (nanoseconds, or the column's own numbers), `series` if a column names it;
        `segment`: A number for the series without a gap that the row is in.
        `anomaly`, and `score`: Of the window that ends with the row, of a segment's first rows of its first window; of
        whole series, that of the row's series.
        `value/COLUMN`, `expected/COLUMN`, `cost/COLUMN`: Of each column that is a feature, what it is, what the model
        gives back, and its reconstruction term, nats above the mean in train. For these three and for `kl`, windows
        lie one behind the other, so that each row is in one.
        `kl`: Where each step has a code of its own, its KL in nats.
    """
    windows: Any = split.x_ND
    sequence = detector.preprocessing.sequence
    if sequence is None or split.rows_R is None or not isinstance(windows, Windows):
        return None
    found: pd.DataFrame = split.rows_R.to_pandas()
    steps, length_N = windows.steps, windows.length_N
    if length_N is None:
        segments = _segments(found, sequence)
        length_S, tiles = segments.length_S, Windows(windows.rows_RF, segments.starts(steps, steps), steps)
        each_row = Windows(windows.rows_RF, segments.window_of_row(steps), steps)
        score_R = detector.score(each_row)["score"].to_numpy(np.float64)
    else:
        length_S, tiles = length_N, windows
        score_R = np.repeat(detector.score(windows)["score"].to_numpy(np.float64), length_N)
    found["segment"] = np.repeat(np.arange(len(length_S)), length_S)
    found["anomaly"], found["score"] = split.is_anomaly_R, score_R
    place_NT = tiles.start_N[:, None] + np.arange(steps)
    is_there_NT = np.ones_like(place_NT, bool) if length_N is None else np.arange(steps) < length_N[:, None]
    [trial] = detector.trials.values()
    for name, value_X in _reconstructed(detector, trial, tiles).items():
        column_R = np.empty(len(found), value_X.dtype)
        column_R[place_NT[is_there_NT]] = value_X[is_there_NT.ravel()]
        found[name] = column_R
    return found


def _segments(rows: pd.DataFrame, sequence: SequenceInput) -> Segments:
    """The rows cut where the series changes or times are further apart than the limit."""
    time_R = rows["time"].to_numpy()
    is_new_R = np.append(True, np.diff(time_R) > sequence.limit)
    if "series" in rows:
        is_new_R[1:] |= np.diff(rows["series"].cat.codes.to_numpy()) != 0
    first_S = np.flatnonzero(is_new_R)
    length_S = np.diff(np.append(first_S, len(rows)))
    return Segments(order_N=np.arange(len(rows)), shown_N=rows["row"].to_numpy(), first_S=first_S, length_S=length_S)


def _reconstructed(detector: Detector, trial: TrialScorer, windows: Windows) -> dict[str, NDArray[Any]]:
    """The columns of each sensor and `kl`, for each row of each window in turn."""
    size, parts = rows_per_minibatch(trial.rows.model), []
    for start in range(0, len(windows), size):
        parts.append(_minibatch(detector, trial, windows[start : start + size]))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@torch.inference_mode()
def _minibatch(detector: Detector, trial: TrialScorer, x_BD: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    model, known, count = trial.rows.model, detector.preprocessing, len(x_BD)
    x_KBD = whole_blocks(torch.as_tensor(x_BD)).to(detector.device)[None]
    mode = posterior_mode(model, x_KBD, x_KBD[..., :1] if model.is_conditional else None)
    expected_BD = (x_KBD - mode.residual_KBD)[0, :count].float().cpu().numpy()
    cost_BD = mode.negative_log_KBD[0, :count].double().cpu().numpy()
    # What is missing costs nothing, as usual.
    cost_BD = np.where(np.isnan(x_BD), 0, cost_BD - trial.usual_D)
    cost_XF, columns = cost_BD.reshape(-1, len(known.row_features)), {}
    values, expected, first = known.inverse(x_BD), known.inverse(expected_BD), 0
    for column in known.columns:
        own = slice(first, first + len(column.features))
        first = own.stop
        if column.features:
            columns[f"{VALUE}{column.name}"] = _stored(values[column.name])
            columns[f"{EXPECTED}{column.name}"] = _stored(expected[column.name])
            columns[f"{COST}{column.name}"] = cost_XF[:, own].sum(axis=1).astype(np.float32)
    if model.is_by_place and model.has_rate:
        rate_BzT = mode.rate_KBR[0, :count].reshape(count, -1, model.places)
        columns["kl"] = rate_BzT.sum(dim=1).flatten().float().cpu().numpy()
    return columns


def _stored(values: "pd.Series[Any]") -> NDArray[Any]:
    """Text as it is, numbers as float32."""
    is_text = values.dtype == object or isinstance(values.dtype, pd.StringDtype)
    return values.to_numpy(object) if is_text else values.to_numpy(np.float32)


def alarm_metrics(frame: pd.DataFrame, detector: Detector) -> dict[str, float]:
    """What the rows of `series_frame` above the highest threshold find, by the names of METRICS.

    Nothing of whole series, whose score is known once they have ended.
    """
    sequence, threshold = detector.preprocessing.sequence, max(detector.description.thresholds.values())
    assert sequence is not None
    if sequence.is_whole:
        return {}
    found = alarms_of(frame, threshold, sequence.steps)
    timed = {"detection_delay": found.delay / NANOSECONDS, "false_alarms_a_day": found.false_a_day}
    return {"ranges_found": found.found, **(timed if sequence.is_moment else {})}

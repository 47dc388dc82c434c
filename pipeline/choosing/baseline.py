"""The detector that a user has without any training: distance to the nearest training rows."""

import numpy as np
import pandas as pd

from pipeline.anomaly import BASELINE, Neighbours, reference_rows
from pipeline.data import Dataset


def baseline_scores(data: Dataset) -> pd.DataFrame:
    """The raw nearest neighbours' scores of the rows that trials score, in the same order.

    Returns:
        A row a validation or test example: `split`, `row`, `label`, `anomaly` and `input_knn`.
    """
    train_ND = data.splits["train"].x_ND
    neighbours = Neighbours(train_ND[reference_rows(len(train_ND))].astype(np.float64))
    frames = []
    for name in ("validation", "test"):
        split = data.splits[name]
        about = {"split": name, "row": split.row_N, "label": split.label_N, "anomaly": split.is_anomaly_N}
        frames.append(pd.DataFrame({**about, BASELINE: neighbours.distance(split.x_ND.astype(np.float64))}))
    return pd.concat(frames, ignore_index=True)

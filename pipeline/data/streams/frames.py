"""Data frames as features."""

import numpy as np
import pandas as pd

from pipeline.data.preprocessing import Preprocessing
from pipeline.data.preprocessing.scales import Floats
from pipeline.data.sources.frames import frame_rows
from pipeline.data.sources.rows import Rows
from pipeline.data.streams.bad_rows import require_values
from pipeline.data.streams.batches import parts_of
from pipeline.data.streams.wanted import Wanted, require_columns, wanted


def frame_features(frame: pd.DataFrame, preprocessing: Preprocessing) -> Floats:
    """The features of a data frame in the user's columns, read as all tables are.

    Args:
        frame: N rows; columns in any order, also others than those that the model was trained on.
        preprocessing: What the model's features are made by.

    Returns:
        x_ND.

    Raises:
        UserError: A column is not there, or a column or a value is not what the model takes it for.
    """
    columns = wanted(preprocessing)
    rows = wanted_rows(frame, "the data frame", columns)
    require_columns(rows, columns)
    x_ND = np.empty((len(frame), len(preprocessing.feature_names)), np.float32)
    for part in parts_of(rows, columns):
        require_values(preprocessing, part.table, part.first)
        x_ND[part.first : part.first + len(part.table.x_ND)] = preprocessing.transform(part.table)
    return x_ND


def wanted_rows(frame: pd.DataFrame, where: str, columns: Wanted) -> Rows:
    """The rows of a frame without the columns that nobody asks for, which may hold anything."""
    is_wanted = [str(name) in columns.names for name in frame.columns]
    return frame_rows(frame.loc[:, is_wanted], where)

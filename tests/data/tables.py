from unittest.mock import patch

import numpy as np

import pipeline.data as data
from pipeline.data import Dataset
from pipeline.data.sources import SOURCES, Table
from pipeline.spec import DataSpec

LABELS = np.arange(100) % 5


def table(x_ND, label_N=LABELS, **changes) -> Table:
    """A small table of numbers with five labels."""
    x_ND = np.asarray(x_ND, np.float32)
    names = tuple(f"feature {number}" for number in range(x_ND.shape[1]))
    return Table(**{"x_ND": x_ND, "label_N": np.asarray(label_N), "feature_names": names} | changes)


def prepared(source: Table, **spec) -> Dataset:
    """What becomes of a table in place of the bundled ones, past the cache of them."""
    with patch.dict(SOURCES, {"digits": lambda: source}):
        data._prepare.cache_clear()
        try:
            return data.prepare(DataSpec(**{"source": "digits", "anomaly_labels": (4,)} | spec))
        finally:
            data._prepare.cache_clear()

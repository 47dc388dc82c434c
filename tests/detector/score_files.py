"""New rows to score, as folders of files, and what is left beside these afterwards."""

import numpy as np
import pandas as pd

ROWS = 300
RANDOM = np.random.default_rng(0)


def frame_of(rows=ROWS) -> pd.DataFrame:
    """New rows with what nobody asked for among them, every fourth an anomaly."""
    numbers = {name: RANDOM.normal(size=rows) for name in ("e", "a", "b", "c")}
    numbers["a"][::4] *= 30
    numbers["constant"] = np.full(rows, 4.0)
    frame = pd.DataFrame({"card": np.arange(rows) * 7, "when": pd.Timestamp("2024-01-01"), **numbers})
    frame["kind"] = RANDOM.choice(["red", "green", "new"], rows)
    frame.loc[3, "c"] = np.nan
    return frame


def parts_in(folder, frame, size=50):
    """The frame as a folder of Parquet files, each of which is a batch."""
    folder.mkdir()
    for start in range(0, len(frame), size):
        frame[start : start + size].to_parquet(folder / f"{start:06}.parquet", index=False)
    return str(folder)


def left_in(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != "data")

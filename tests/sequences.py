"""A small plant of two machines and a model of its windows, which the tests of series share."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from vae_study.config.loading import load_config
from vae_study.data import Dataset, prepare
from vae_study.detector.detector import Detector
from vae_study.detector.series import series_frame
from vae_study.study.single import SingleModel
from vae_study.tracking.record import StudyRecord

from tests.packed import packed

STEPS = 6
SEQUENCE: Mapping[str, Any] = {"time": "ts", "series": "machine", "window": STEPS, "stride": 2, "max_gap": "5min"}


def plant(rows: int = 2400) -> pd.DataFrame:
    """Two machines whose heat follows their speed, except during faults; one has a gap."""
    random, minute = np.random.default_rng(0), np.repeat(np.arange(rows // 2), 2)
    speed = np.sin(minute / 5) + 0.1 * random.normal(size=rows)
    is_fault = (minute % 100 > 90) & (minute > rows * 0.3)
    heat = np.where(is_fault, random.normal(0, 2, rows), speed) + 0.1 * random.normal(size=rows)
    later = np.where((minute > rows * 0.45) & (np.arange(rows) % 2 == 1), 30, 0)
    return pd.DataFrame(
        {
            "ts": pd.Timestamp("2024-01-01") + pd.to_timedelta(minute + later, "min"),
            "machine": np.tile(["north", "south"], rows // 2),
            "speed": speed,
            "heat": heat,
            "mode": np.where(speed > 0, "fast", "slow"),
            "fault": is_fault.astype(int),
        }
    )


@dataclass(frozen=True)
class Plant:
    """The table, the data set, a packed model of it, what that makes of test, and the record of its study."""

    frame: pd.DataFrame
    data: Dataset
    detector: Detector
    rows: pd.DataFrame
    record: StudyRecord


def made(folder: Path) -> Plant:
    """Train the model and pack it in a folder."""
    plain: dict[str, Any] = {
        "study": "plant",
        "data": {"source": "parquet", "path": str(folder / "plant.parquet"), "label": "fault", "scale": "standard"},
        "model": {"likelihood": "gaussian_learned", "latent_dim": 2, "latent": "step"},
        "training": {"epochs": 4, "batch_size": 64},
        "diagnostics": {"iwae_draws": 0},
        "trials": 1,
    }
    plain["data"] |= {"sequence": SEQUENCE, "split": {"by": "time", "train": 0.5, "validation": 0.2, "test": 0.3}}
    plain["model"]["network"] = {"kind": "recurrent", "hidden": [8]}
    frame, config = plant(), load_config(plain)
    frame.to_parquet(folder / "plant.parquet")
    # By way of the cache, which keeps the times.
    data = prepare(config.data)
    model = SingleModel.train(config, data)
    detector, record = packed(model, folder / "packed"), model.record()
    rows = series_frame(detector, data.splits["test"])
    assert rows is not None
    assert record.champion is not None
    return Plant(frame, data, detector, rows, replace(record, champion=replace(record.champion, series=rows)))

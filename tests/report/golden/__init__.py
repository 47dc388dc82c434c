"""A small study of fixed numbers, kept as Parquet; `make.py` writes it from formulas without any chance in them."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from vae_study.tracking.record import ChampionRecord, StudyRecord

FOLDER = Path(__file__).parent
REFERENCE = {"val/reconstruction": 30.0, "val/kl": 25.0}
CONFIG: dict[str, Any] = {
    "study": "golden",
    "data": {"source": "digits", "split": {"train": 0.6, "validation": 0.2, "test": 0.2, "seed": 3}},
    "model": {"family": "vae"},
    "objective": {},
    "training": {"epochs": 8},
    "early_stopping": {"kind": "pareto", "metric": None, "reduction_factor": 3, "min_epochs": 2},
    "search": {
        "beta": {"low": 0.1, "high": 10.0, "log": True, "type": "float"},
        "latent_dim": {"low": 2, "high": 32, "log": True, "type": "int"},
        "kl_annealing.schedule": {"choices": ["none", "linear"]},
        "kl_annealing.warmup": {"low": 0.1, "high": 0.99, "when": {"kl_annealing.schedule": ["linear"]}},
    },
    "objectives": [
        {"metric": "val/reconstruction", "direction": "minimize"},
        {"metric": "val/kl", "direction": "minimize"},
    ],
    "sampler": {"kind": "tpe", "seed": 2},
    "trials": 56,
    "seed": 5,
    "anomaly": {"score": None},
    "champion": {"by": "val/auroc"},
    "confirm": {"top": 2, "seeds": 3},
}


def golden() -> StudyRecord:
    """The study as it would be read back."""
    frames = {path.stem: pd.read_parquet(path) for path in sorted(FOLDER.glob("*.parquet"))}
    none = np.zeros((0, 4), np.float32)
    champion = ChampionRecord(
        trial=21,
        rule="val/auroc",
        score="elbo",
        scores=frames["scores"],
        inputs_ND=none,
        reconstructions_ND=none,
        input_is_anomaly_N=np.zeros(0, bool),
        samples_MD=none,
    )
    return StudyRecord(
        name="golden",
        config=CONFIG,
        data={"source": "digits", "features": 4},
        environment={"python": "3.11", "package_commit": "0f" * 20, "package_is_clean": "true"},
        trials=frames["trials"],
        history=frames["history"],
        reference=REFERENCE,
        champion=champion,
        tracking_uri="sqlite:///mlflow.db",
        experiment_id="1",
        run_id="a" * 32,
        confirmations=frames["confirmations"],
    )

"""Made-up studies that look like real ones: digits as data, plausible trade-offs, every kind of trial."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from sklearn.datasets import load_breast_cancer, load_digits
from vae_study.tracking.record import ChampionRecord, StudyRecord

CONFIG: dict[str, Any] = {
    "study": "digits",
    "data": {
        "source": "digits",
        "anomaly_labels": [8],
        "scale": "unit",
        "split": {"train": 0.6, "validation": 0.2, "test": 0.2, "seed": 0},
    },
    "model": {"family": "vae", "network": {"kind": "mlp", "hidden": [256, 128]}, "likelihood": "bernoulli"},
    "objective": {"beta": 1.0, "kl_annealing": {"schedule": "none"}, "free_bits": {"kind": "none"}},
    "training": {"epochs": 60, "batch_size": 128, "learning_rate": 1e-3},
    "search": {
        "beta": {"low": 0.05, "high": 20.0, "log": True, "type": "float"},
        "latent_dim": {"low": 2, "high": 32, "log": True, "type": "int"},
        "kl_annealing.schedule": {"choices": ["none", "linear", "cyclical"]},
        "kl_annealing.warmup": {"low": 0.1, "high": 0.5, "when": {"kl_annealing.schedule": ["linear"]}},
        "free_bits.kind": {"choices": ["none", "total", "per_dimension"]},
    },
    "objectives": [
        {"metric": "val/reconstruction", "direction": "minimize"},
        {"metric": "val/kl", "direction": "minimize"},
    ],
    "sampler": {"kind": "tpe", "seed": 0},
    "trials": 64,
    "seed": 0,
    "anomaly": {"score": "elbo"},
    "champion": {"by": "val/auroc"},
}


def study(trials: int = 64, epochs: int = 60, seed: int = 0, labels: bool = True) -> StudyRecord:
    """A study of digits of which about a fifth of the trials was stopped and a few failed."""
    random = np.random.default_rng(seed)
    configurations = [_configuration(random, trial) for trial in range(trials)]
    history = pd.concat([_history(random, row, epochs, labels) for row in configurations], ignore_index=True)
    rows = [{**row, **_last(history, row), **_test(random, history, row, labels)} for row in configurations]
    frame = pd.DataFrame(rows)
    champion = _champion(frame, random, labels)
    return StudyRecord(
        name="digits",
        config=CONFIG,
        data=_data("digits", 64, (8, 8), [f"pixel_{i}" for i in range(64)]),
        environment={"python": "3.11.7", "torch": "2.13.0", "vae-study": "0.1.0", "optuna": "5.0.0"},
        trials=frame,
        history=history,
        reference={"val/reconstruction": 30.0, "val/kl": 45.0},
        champion=champion,
        tracking_uri="sqlite:////home/someone/studies/mlflow.db",
        experiment_id="1",
        run_id="9f86d081884c7d659a2feaa0c55ad015",
    )


def table_study(**options: Any) -> StudyRecord:
    """The same of a table with named features instead of images."""
    record = study(**options)
    if record.champion is None:
        return record
    table = load_breast_cancer()
    scaled = (table.data - table.data.mean(axis=0)) / table.data.std(axis=0)
    is_anomaly = table.target[:12] == 0
    inputs = np.concatenate([scaled[table.target == 1][:6], scaled[table.target == 0][:6]]).astype(np.float32)
    is_anomaly = np.arange(12) >= 6
    champion = replace(
        record.champion,
        inputs_ND=inputs,
        reconstructions_ND=(inputs * np.where(is_anomaly, 0.45, 0.8)[:, None]).astype(np.float32),
        input_is_anomaly_N=is_anomaly,
        samples_MD=inputs[:4],
    )
    data = _data("breast_cancer", 30, None, [str(name) for name in table.feature_names])
    return replace(record, data=data, champion=champion)


def _data(source: str, features: int, shape: tuple[int, int] | None, names: list[str]) -> dict[str, Any]:
    return {
        "source": source,
        "sha256": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
        "features": features,
        "image_shape": shape,
        "feature_names": names,
        "splits": {
            "train": {"rows": 974, "anomalies": 0},
            "validation": {"rows": 412, "anomalies": 87},
            "test": {"rows": 411, "anomalies": 87},
        },
    }


def _configuration(random: np.random.Generator, trial: int) -> dict[str, Any]:
    schedule = str(random.choice(["none", "linear", "cyclical"]))
    state = "finished" if trial == 0 else str(random.choice(["finished", "pruned", "failed"], p=[0.74, 0.2, 0.06]))
    return {
        "trial": trial,
        "state": state,
        "failure": str(random.choice(["diverged", "out_of_memory", "error"])) if state == "failed" else None,
        "run_id": f"{trial:032x}",
        "beta": float(np.exp(random.uniform(np.log(0.05), np.log(20)))),
        "latent_dim": round(float(np.exp(random.uniform(np.log(2), np.log(32))))),
        "kl_annealing.schedule": schedule,
        "kl_annealing.warmup": float(random.uniform(0.1, 0.5)) if schedule == "linear" else None,
        "free_bits.kind": str(random.choice(["none", "total", "per_dimension"])),
    }


def _history(random: np.random.Generator, row: dict[str, Any], epochs: int, labels: bool) -> pd.DataFrame:
    length = {"finished": epochs, "pruned": max(1, epochs // 3), "failed": max(1, epochs // 10)}[row["state"]]
    epoch = np.arange(length)
    kl_end = (5 + 30 * (1 - np.exp(-row["latent_dim"] / 8))) / (1 + row["beta"] ** 1.1) * random.uniform(0.75, 1.1)
    kl_end = 0.01 if kl_end < 1.6 else kl_end
    floor = 14.6 + 12.2 * np.exp(-kl_end / 11) + abs(random.normal(0, 0.35))
    weight = (
        np.minimum(1, epoch / max(1, 0.3 * epochs)) if row["kl_annealing.schedule"] == "linear" else np.ones(length)
    )
    noise = random.normal(0, 0.06, (3, length))
    reconstruction = floor + 12 * np.exp(-epoch / (epochs / 8)) + noise[0]
    kl = np.maximum(
        0.005, kl_end * (1 - 0.8 * np.exp(-epoch / (epochs / 6))) + kl_end * (1 - weight) * 0.5 + noise[1] * 0.3
    )
    peak = 0.62 + 0.31 * np.exp(-((np.log(max(kl_end, 0.3)) - np.log(11)) ** 2) / 1.5) + random.normal(0, 0.02)
    auroc = 0.5 + (peak - 0.5) * (1 - np.exp(-(epoch + 1) / (epochs / 6))) + noise[2] * 0.05
    return pd.DataFrame(
        {
            "trial": row["trial"],
            "epoch": epoch,
            "train/loss": reconstruction + row["beta"] * weight * kl,
            "train/reconstruction": reconstruction - 0.4,
            "train/kl": kl,
            "train/kl_weight": weight,
            "val/reconstruction": reconstruction,
            "val/kl": kl,
            "val/elbo": -(reconstruction + kl),
            "val/squared_error": 0.2 * (reconstruction - 10),
            "val/active_units": float(min(row["latent_dim"], kl_end // 1.6)),
            **({"val/auroc": np.clip(auroc, 0, 1)} if labels else {}),
            "time/epoch_seconds": random.uniform(0.4, 0.6, length),
        }
    )


def _last(history: pd.DataFrame, row: dict[str, Any]) -> dict[str, float]:
    mine = history[history["trial"] == row["trial"]]
    return {name: float(mine[name].iloc[-1]) for name in mine.columns if "/" in name}


def _test(random: np.random.Generator, history: pd.DataFrame, row: dict[str, Any], labels: bool) -> dict[str, float]:
    if row["state"] != "finished":
        return {}
    last = _last(history, row)
    found = {f"test/{name}": last[f"val/{name}"] + 0.1 for name in ("reconstruction", "kl", "elbo", "squared_error")}
    found["test/iwae"] = last["val/elbo"] + 0.9
    if labels:
        auroc = float(np.clip(last["val/auroc"] + random.normal(-0.01, 0.015), 0, 1))
        found |= {"test/auroc": auroc, "test/auroc_low": auroc - 0.036, "test/auroc_high": min(1.0, auroc + 0.031)}
        found["test/auprc"] = auroc - 0.12
    return found


def _champion(frame: pd.DataFrame, random: np.random.Generator, labels: bool) -> ChampionRecord | None:
    finished = frame[frame["state"] == "finished"]
    if finished.empty:
        return None
    rule = "val/auroc" if labels else "val/elbo"
    images, digits = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    shown = np.concatenate([np.flatnonzero(digits != 8)[:10], np.flatnonzero(digits == 8)[:10]])
    is_anomaly = labels & (digits[shown] == 8)
    smooth = np.stack([images[digits == min(digit, 7)].mean(axis=0) for digit in digits[shown]])
    samples = np.stack([images[random.choice(np.flatnonzero(digits == i % 8), 5)].mean(axis=0) for i in range(40)])
    return ChampionRecord(
        trial=int(finished.loc[finished[rule].idxmax(), "trial"]),
        rule=rule,
        scores=_scores(random, labels),
        inputs_ND=images[shown],
        reconstructions_ND=(0.6 * smooth + 0.4 * images[shown]).astype(np.float32),
        input_is_anomaly_N=is_anomaly,
        samples_MD=samples.astype(np.float32),
    )


def _scores(random: np.random.Generator, labels: bool) -> pd.DataFrame:
    frames = []
    for split in ("validation", "test"):
        anomaly = np.arange(411) >= 324 if labels else np.zeros(411, dtype=bool)
        elbo = random.gamma(20, 1.4, 411) + anomaly * random.gamma(8, 1.3, 411)
        frames.append(pd.DataFrame({"split": split, "row": np.arange(411), "label": np.where(anomaly, 8, 1),
                                    "anomaly": anomaly, "elbo": elbo, "squared_error": elbo / 8}))  # fmt: skip
    return pd.concat(frames, ignore_index=True)

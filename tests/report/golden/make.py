"""Writes the golden study's Parquet: `python -m tests.report.golden.make`. Formulas only, so that it is the same ever.

The numbers are a lattice (the fractional parts of multiples of irrational numbers) through formulas that give a
trade-off, ties, a collapsed corner, values that are not finite, and trials of every state.
"""

import math
from typing import Any

import pandas as pd

from . import FOLDER

TRIALS, EPOCHS, EXAMPLES = 56, 8, 120
STATES = {9: "pruned", 17: "pruned", 22: "pruned", 38: "pruned", 26: "failed", 41: "failed", 50: "running"}


def lattice(place: int, dimension: int) -> float:
    """A number from 0 to 1 that fills its dimension evenly."""
    return (place + 1) * math.sqrt((2, 3, 5, 7, 11, 13)[dimension]) % 1.0


def trial(number: int) -> dict[str, Any]:
    beta = round(0.1 * 100 ** lattice(number, 0), 4)
    latent = round(2 * 16 ** lattice(number, 1))
    linear = lattice(number, 2) < 0.5
    warmup = round(0.1 + 0.89 * lattice(number, 3), 3) if linear else None
    kl = round(14 * (1 - math.exp(-latent / 6)) / (1 + beta**1.2) + lattice(number, 4), 2)
    kl = 0.01 if kl < 0.6 else kl
    reconstruction = round(15 + 11 * math.exp(-kl / 5) + 1.5 * lattice(number, 5) + (warmup or 0), 1)
    state = STATES.get(number, "finished")
    return {
        "trial": number,
        "state": state,
        "failure": {26: "diverged", 41: "error"}.get(number),
        "reason": {26: "val/kl not finite in epoch 2", 41: "KeyError: 'hidden'"}.get(number),
        "feasible": True,
        "preemptions": 2 if number == 12 else 0,
        "run_id": f"{number:032x}",
        "beta": beta,
        "latent_dim": latent,
        "kl_annealing.schedule": "linear" if linear else "none",
        "kl_annealing.warmup": warmup,
        "val/reconstruction": math.inf if number == 33 else reconstruction,
        "val/kl": kl,
        "val/elbo": -math.inf if number == 33 else round(-reconstruction - kl, 2),
        "val/active_units": float(min(latent, int(kl))),
        "val/auroc": math.nan if number == 20 else round(0.5 + 0.4 * math.exp(-((kl - 6) ** 2) / 20), 3),
        "test/auroc": round(0.49 + 0.4 * math.exp(-((kl - 6) ** 2) / 20), 3) if state == "finished" else math.nan,
    }


def epochs_of(row: dict[str, Any]) -> list[dict[str, Any]]:
    number = row["trial"]
    length = {"finished": EPOCHS, "pruned": 2 + number % 3, "failed": 3, "running": 5}[row["state"]]
    warmup = row["kl_annealing.warmup"] or 1e-9
    return [
        {
            "trial": number,
            "epoch": epoch,
            "val/reconstruction": row["val/reconstruction"] + 5 / (1 + epoch),
            "val/kl": row["val/kl"] + 2 / (1 + epoch),
            "val/elbo": row["val/elbo"] - 7 / (1 + epoch),
            "val/active_units": row["val/active_units"],
            "train/kl_weight": min(1.0, (epoch + 0.5) / EPOCHS / warmup),
            "time/epoch_seconds": 1.0 + lattice(number, 2),
        }
        for epoch in range(length)
    ]


def scores() -> list[dict[str, Any]]:
    """Rounded to a tenth, so that normal and anomalous examples tie; one is not finite."""
    return [
        {
            "split": split,
            "row": place,
            "label": int(is_anomaly),
            "anomaly": is_anomaly,
            "elbo": math.nan if (split, place) == ("test", 7) else round(20 + 6 * drawn + 2.5 * is_anomaly, 1),
        }
        for shift, split in enumerate(("validation", "test"))
        for place in range(EXAMPLES)
        for is_anomaly, drawn in [(place % 4 == 0, lattice(place, 1 + shift) + lattice(place, 3 + shift))]
    ]


def confirmations(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"trial": number, "seed": seed, "val/elbo": rows[number]["val/elbo"] - lattice(number + seed, 0),
         "test/auroc": rows[number]["test/auroc"] - 0.05 * lattice(number + seed, 1)}
        for number in (21, 3) for seed in (1, 2, 3)
    ]  # fmt: skip


def main() -> None:
    rows = [trial(number) for number in range(TRIALS)]
    frames = {
        "trials": rows,
        "history": [epoch for row in rows for epoch in epochs_of(row)],
        "scores": scores(),
        "confirmations": confirmations(rows),
    }
    for name, content in frames.items():
        pd.DataFrame(content).to_parquet(FOLDER / f"{name}.parquet", index=False)


if __name__ == "__main__":
    main()

"""Write machines.csv, the table of the tutorial: readings of pumps, 1 % of them with a fault.

python docs/machines.py [--rows 20000] [--output machines.csv]
"""

import argparse

import numpy as np
import pandas as pd

FAULTS = 0.01


def machines(rows: int, seed: int = 0) -> pd.DataFrame:
    """Hourly readings: an id, a time, a site, five sensors that depend on two causes, and whether there was a fault."""
    random = np.random.default_rng(seed)
    load, heat = random.normal(size=rows), random.normal(size=rows)
    site = random.choice(["north", "south", "harbour"], rows, p=[0.5, 0.3, 0.2])
    noise = random.normal(scale=0.25, size=(rows, 5))
    is_fault = random.random(rows) < FAULTS
    # A fault breaks how the sensors go together; each by itself looks as always.
    noise[is_fault] += random.normal(scale=1.2, size=(int(is_fault.sum()), 5))
    sensors = {
        "pressure_bar": 6 + load + noise[:, 0],
        "flow_l_s": 40 + 8 * load + 3 * heat + 4 * noise[:, 1],
        "temperature_c": 55 + 9 * heat + 4 * noise[:, 2],
        "vibration_mm_s": np.exp(0.4 * load + 0.3 * noise[:, 3]),
        "current_a": 12 + 2 * load + heat + noise[:, 4] + (site == "harbour"),
    }
    about = {"id": np.arange(100_000, 100_000 + rows), "time": pd.date_range("2026-01-01", periods=rows, freq="h")}
    readings = pd.DataFrame(sensors).round(3)
    return pd.DataFrame({**about, "site": site}).join(readings).assign(fault=is_fault.astype(int))


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--output", default="machines.csv")
    asked = parser.parse_args()
    machines(asked.rows).to_csv(asked.output, index=False)


if __name__ == "__main__":
    main()

"""Make a table of a plant's sensors: pumps with a daily load, drifts, regimes, and five kinds of faults.

    python search_spaces/make_sensors.py                            # sensors.parquet, 3 pumps, 10 days of minutes
    python search_spaces/make_sensors.py --pumps 20 --days 60 --output sensors.parquet

The table is made up from a seed; no real pump is in it. Faults begin after the first 60 % of the time.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

MINUTES_A_DAY, FIRST_FAULT, SHORTEST, LONGEST = 1440, 0.6, 15, 90
KINDS = ("spikes", "shift", "stuck", "leak", "decoupled")


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pumps", type=int, default=3)
    parser.add_argument("--days", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("sensors.parquet"))
    return parser.parse_args()


def plant(pumps: int, days: int, seed: int) -> pd.DataFrame:
    """A row a pump and minute, in order of time: what its sensors say, and which fault it has."""
    made = [_pump(f"pump {number}", days, np.random.default_rng([seed, number])) for number in range(1, pumps + 1)]
    return pd.concat(made).sort_values(["time", "pump"], ignore_index=True)


def _pump(name: str, days: int, random: np.random.Generator) -> pd.DataFrame:
    count = days * MINUTES_A_DAY
    minute = np.arange(count)
    # A day's load; each pump changes between two speeds every few hours.
    season = 1 + 0.4 * np.sin(2 * np.pi * (minute / MINUTES_A_DAY - random.random()))
    mode = np.cumsum(random.random(count) < 1 / 300) % 2
    load = season * np.where(mode == 1, 1.0, 0.6) + random.normal(0, 0.02, count)
    # Bearings wear slowly; heat follows the load by about half an hour.
    wear = 0.3 * minute / count
    heat = pd.Series(load).ewm(halflife=30).mean().to_numpy()
    frame = pd.DataFrame(
        {
            "time": pd.Timestamp("2025-03-01") + pd.to_timedelta(minute, "min"),
            "pump": name,
            "speed": np.where(mode == 1, "full", "reduced"),
            "load": load,
            "flow": 40 * load + random.normal(0, 0.6, count),
            "pressure": 3 + load**2 + random.normal(0, 0.03, count),
            "temperature": 30 + 25 * heat + random.normal(0, 0.2, count),
            "vibration": (0.2 + wear + 0.3 * load) * random.lognormal(0, 0.1, count),
            "fault": "none",
        }
    )
    start = int(FIRST_FAULT * count)
    while (start := start + int(random.exponential(400)) + LONGEST) < count - LONGEST:
        stop = start + int(random.integers(SHORTEST, LONGEST))
        _fail(frame, str(random.choice(KINDS)), slice(start, stop), random)
        start = stop
    frame["is_fault"] = (frame["fault"] != "none").astype(int)
    return frame


def _fail(frame: pd.DataFrame, kind: str, at: slice, random: np.random.Generator) -> None:
    """Change some minutes of a pump as a fault of this kind does."""
    x = {name: frame[name].to_numpy().copy() for name in ("load", "flow", "pressure", "temperature", "vibration")}
    count = at.stop - at.start
    if kind == "spikes":
        x["vibration"][at] *= np.where(random.random(count) < 0.3, 3, 1)
    elif kind == "shift":
        x["temperature"][at] += 6
    elif kind == "stuck":
        x["pressure"][at] = x["pressure"][at.start]
    elif kind == "leak":
        x["flow"][at] *= np.linspace(1, 0.7, count)
    else:
        # Each sensor alone looks usual: only their relation is broken.
        x["flow"][at] = np.roll(x["flow"], MINUTES_A_DAY // 2)[at]
    for name, values in x.items():
        frame[name] = values
    frame.loc[frame.index[at], "fault"] = kind


def main() -> None:
    """Write the table."""
    given = arguments()
    frame = plant(given.pumps, given.days, given.seed)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    frame.to_parquet(given.output, index=False)
    print(f"{given.output}: {len(frame):,} rows, {frame['is_fault'].mean():.1%} with a fault")


if __name__ == "__main__":
    main()

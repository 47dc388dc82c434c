"""Make a table like those that card fraud is looked for in: times, categories, missing values, one row in 100 bad.

    python search_spaces/make_transactions.py                       # transactions.parquet, 30,000 rows
    python search_spaces/make_transactions.py --rows 5000000 --output transactions/part.parquet

The table is made up, row by row from a seed; no real card is in it.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

CATEGORIES = {
    "groceries": 0.31, "restaurant": 0.19, "transport": 0.14, "clothing": 0.1, "online": 0.09, "fuel": 0.07,
    "health": 0.04, "electronics": 0.03, "travel": 0.02, "jewellery": 0.005, "gambling": 0.003, "auction": 0.002,
}  # fmt: skip
COUNTRIES = {"home": 0.93, "neighbour": 0.05, "overseas": 0.02}
CHANNELS = {"chip": 0.55, "contactless": 0.3, "web": 0.15}
TYPICAL_AMOUNT = dict(zip(CATEGORIES, (32, 24, 9, 55, 48, 51, 27, 190, 310, 420, 60, 150), strict=True))
FRAUD_SHARE, CUSTOMERS_PER_ROW, DAYS = 0.01, 1 / 40, 90


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("transactions.parquet"))
    return parser.parse_args()


def transactions(rows: int, seed: int) -> pd.DataFrame:
    """A row a transaction, in order of time: what was known of it at the time, and whether it was fraud."""
    random = np.random.default_rng(seed)
    customers = max(1, round(rows * CUSTOMERS_PER_ROW))
    wealth = random.lognormal(0, 0.4, customers)
    customer = random.integers(0, customers, rows)
    hour = np.clip(random.normal(14, 4, rows), 0, 23.9)
    category = random.choice(list(CATEGORIES), rows, p=_shares(CATEGORIES))
    typical = pd.Series(category).map(TYPICAL_AMOUNT).to_numpy()
    frame = pd.DataFrame(
        {
            "hour": hour,
            "customer": customer,
            "category": category,
            "country": random.choice(list(COUNTRIES), rows, p=_shares(COUNTRIES)),
            "channel": random.choice(list(CHANNELS), rows, p=_shares(CHANNELS)),
            "amount": typical * wealth[customer] * random.lognormal(0, 0.5, rows),
            "hours_since_last": random.exponential(20, rows),
            "distance_km": random.gamma(1.2, 6, rows),
            "device_age_days": random.exponential(300, rows),
        }
    )
    frame["is_fraud"] = (random.random(rows) < FRAUD_SHARE).astype(int)
    _take_over(frame, random, frame["is_fraud"].eq(1) & (random.random(rows) < 0.6))
    _test_cards(frame, random, frame["is_fraud"].eq(1) & frame["device_age_days"].gt(1))
    _far_from_home(frame, random)
    frame.loc[frame["channel"] != "web", "device_age_days"] = np.nan
    return _timed(frame, random)


def _shares(table: dict[str, float]) -> np.ndarray:
    shares = np.array(list(table.values()))
    return shares / shares.sum()


def _take_over(frame: pd.DataFrame, random: np.random.Generator, where: pd.Series) -> None:
    """An account in other hands: a new device, at night, for more than the customer ever spends."""
    count = int(where.sum())
    frame.loc[where, "hour"] = random.uniform(0, 6, count)
    frame.loc[where, "channel"] = "web"
    frame.loc[where, "device_age_days"] = random.exponential(0.5, count)
    frame.loc[where, "category"] = random.choice(["electronics", "jewellery", "travel"], count)
    frame.loc[where, "amount"] *= random.uniform(3, 12, count)
    frame.loc[where, "country"] = random.choice(["home", "overseas"], count)


def _test_cards(frame: pd.DataFrame, random: np.random.Generator, where: pd.Series) -> None:
    """Stolen numbers tried out: tiny amounts, minutes apart."""
    count = int(where.sum())
    frame.loc[where, "channel"] = "web"
    frame.loc[where, "category"] = "online"
    frame.loc[where, "amount"] = random.uniform(0.5, 3, count)
    frame.loc[where, "hours_since_last"] = random.exponential(0.05, count)


def _far_from_home(frame: pd.DataFrame, random: np.random.Generator) -> None:
    factor = frame["country"].map({"home": 1, "neighbour": 30, "overseas": 500}).to_numpy()
    frame["distance_km"] = frame["distance_km"] * factor


def _timed(frame: pd.DataFrame, random: np.random.Generator) -> pd.DataFrame:
    day = random.integers(0, DAYS, len(frame))
    moment = pd.Timestamp("2026-01-01") + pd.to_timedelta(day * 24 + frame["hour"], unit="h")
    return frame.assign(time=moment).sort_values("time").reset_index(drop=True)


def main() -> None:
    """Write the table."""
    asked = arguments()
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    frame = transactions(asked.rows, asked.seed)
    frame.to_parquet(asked.output, index=False)
    print(f"{asked.output}: {len(frame):,} rows, {int(frame['is_fraud'].sum()):,} of them fraud")


if __name__ == "__main__":
    main()

"""What it costs to prefer trials that are not collapsed, and to choose by average precision: tables in Markdown.

For each set of a folder (see adbench.py) a small study is trained once. All rules then choose from the same trials and
the same validation rows; their choices are measured on test rows that no rule has seen.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import adbench
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from vae_study.anomaly.detection import auroc, average_precision
from vae_study.metrics import scores_of
from vae_study.selection.ranking import standard_error

WIDTHS = (0.0, 0.25, 0.5, 1.0)
# How pairs of trial and score within a width are ordered: the first column first, with whether less of it is better.
ORDERS = {
    "not collapsed, then value": {"collapsed": True, "value": False},
    "not collapsed, then ELBO, then simpler score": {"collapsed": True, "elbo": False, "score": True},
}
AREAS = {"val/auroc": auroc, "val/auprc": average_precision}


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of .npz files")
    parser.add_argument("--seeds", type=int, default=3, help="studies of each set")
    parser.add_argument("--trials", type=int, default=16, help="trials of a study")
    parser.add_argument("--rows", type=int, default=3000, help="the most rows of a set")
    parser.add_argument("--steps", type=int, nargs="*", default=(50, 200, 600), help="lengths of training")
    parser.add_argument("--output", type=Path, help="CSV with every number")
    return parser.parse_args()


def few(is_anomaly_N: NDArray[np.bool_], random: np.random.Generator) -> NDArray[np.bool_]:
    """A mask that keeps anomalies of 2 % of the normal rows, at least five."""
    anomalous = random.permutation(np.flatnonzero(is_anomaly_N))
    kept_N = np.ones(len(is_anomaly_N), np.bool_)
    kept_N[anomalous[max(5, round(0.02 * (~is_anomaly_N).sum())) :]] = False
    return kept_N


def measured(path: Path, seed: int, trials: int) -> Iterator[dict[str, Any]]:
    """Every rule's choice on one set: test AUROC and average precision, and whether it is collapsed."""
    data, parts, _ = adbench.dataset(path, "shuffled", seed)
    table, outcomes = adbench.trained(adbench.study_config(len(parts.train), trials, seed), data)
    table = table.set_index("trial")
    frames = {number: outcome.scores for number, outcome in outcomes.items()}
    rows = next(iter(frames.values()))
    is_test_N, is_anomaly_N = rows["split"].eq("test").to_numpy(), rows["anomaly"].to_numpy(np.bool_)
    kept_V = few(is_anomaly_N[~is_test_N], np.random.default_rng(seed))
    for is_rare in (False, True):
        kept_N = ~is_test_N
        if is_rare:
            kept_N = kept_N.copy()
            kept_N[np.flatnonzero(kept_N)[~kept_V]] = False
        anomalies, normals = int(is_anomaly_N[kept_N].sum()), int((~is_anomaly_N[kept_N]).sum())
        for rule, area in AREAS.items():
            pairs = pd.DataFrame(
                {
                    "trial": number,
                    "name": score,
                    "score": place,
                    "value": area(is_anomaly_N[kept_N], frame[score].to_numpy(np.float64)[kept_N]),
                    "collapsed": table.loc[number, "val/collapsed"],
                    "elbo": table.loc[number, "val/elbo"],
                }
                for number, frame in frames.items()
                for place, score in enumerate(scores_of(is_images=False))
            )
            error = standard_error(rule, pairs["value"].max(), (anomalies, normals))
            for width in WIDTHS:
                near = pairs[pairs["value"] >= pairs["value"].max() - width * error]
                for order, columns in ORDERS.items():
                    best = near.sort_values([*columns], ascending=[*columns.values()], kind="stable").iloc[0]
                    score_N = frames[int(best["trial"])][best["name"]].to_numpy(np.float64)
                    yield {
                        "set": path.stem, "seed": seed, "anomalies": "few" if is_rare else "half", "rule": rule,
                        "order": order, "width": width, "collapsed": 100 * best["collapsed"],
                        **{f"test {name[4:]}": 100 * one(is_anomaly_N[is_test_N], score_N[is_test_N])
                           for name, one in AREAS.items()},
                    }  # fmt: skip


def main() -> None:
    """Measure, and print the table."""
    asked = arguments()
    torch.set_num_threads(1)
    adbench.MOST_ROWS, adbench.STEPS = asked.rows, tuple(asked.steps)
    found: list[dict[str, Any]] = []
    for seed in range(asked.seeds):
        for path in sorted(asked.data.glob("*.npz")):
            found += measured(path, seed, asked.trials)
            if asked.output:
                pd.DataFrame(found).to_csv(asked.output, index=False)
    by = ["anomalies", "rule", "order", "width"]
    means = pd.DataFrame(found).groupby([*by, "set"]).mean(numeric_only=True).groupby(by).mean().drop(columns="seed")
    print("| " + " | ".join([*by, *means.columns]) + " |\n" + "|---" * (len(by) + len(means.columns)) + "|")
    for key, row in means.iterrows():
        print("| " + " | ".join([*map(str, key), *(f"{value:.1f}" for value in row)]) + " |")


if __name__ == "__main__":
    main()

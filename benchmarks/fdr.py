"""Whether conformal p-values and the flags of `vae-study score` keep what they promise: tables in Markdown.

Each set is an .npz with X and y (1 for an anomaly). It is split at random many times, as a study splits it: detectors
learn from the training rows, p-values are computed from the normal validation rows, and alarms are counted on test.
"""

import argparse
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from vae_study.anomaly.conformal import ALARM_LEVELS, FDR_LEVELS, promises
from vae_study.anomaly.detection import auroc
from vae_study.config.data import DataConfig
from vae_study.config.model import TrialConfig
from vae_study.config.study import DiagnosticsConfig
from vae_study.data import Dataset, Table, build_dataset, read_table
from vae_study.metrics import BASELINE, scores_of
from vae_study.selection.comparison import Baseline
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.outcome import outcomes_of
from vae_study.vae.stacking import ModelSetup

Floats = NDArray[np.float64]
SETS = ("2_annthyroid", "4_breastw", "6_cardio", "23_mammography", "28_pendigits")
MOST_ROWS = 4000
BETAS, STEPS, BATCH = (0.03, 0.1, 0.3, 1.0), 300, 64
# The logarithm of the density ratio grows by this for each standard deviation of the first feature, up to two.
DRIFT = 1.0
WEIGHTS = ("not weighted", "true ratio", "classifier")


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of .npz files")
    parser.add_argument("--sets", nargs="*", default=SETS, help="their names")
    parser.add_argument("--splits", type=int, default=200, help="random splits of each set")
    parser.add_argument("--trained", type=int, default=40, help="for how many of them VAEs are trained")
    parser.add_argument("--output", type=Path, help="CSV with every number")
    return parser.parse_args()


def split(table: Table, config: DataConfig, seed: int) -> Dataset:
    """At most MOST_ROWS rows of a set, by chance, split by chance."""
    rows = np.random.default_rng(seed).permutation(len(table.x_ND))[:MOST_ROWS]
    assert table.label_N is not None
    some = Table(
        x_ND=table.x_ND[rows],
        feature_names=table.feature_names,
        label_N=table.label_N[rows],
        labels=table.labels,
        has_binary_labels=True,
        where=table.where,
    )
    by = config.split.model_copy(update={"seed": seed})
    return build_dataset(some, config.model_copy(update={"split": by}))


def trained(data: Dataset, seed: int) -> list[pd.DataFrame]:
    """The scores of some VAEs that differ in beta."""
    epochs = max(1, STEPS * BATCH // len(data.splits["train"].x_ND))
    training = {"epochs": epochs, "batch_size": BATCH}
    plain = [
        {"model": {"latent_dim": 4, "network": {"hidden": (32, 16)}}, "objective": {"beta": beta}, "training": training}
        for beta in BETAS
    ]
    batch = ModelBatch([ModelSetup(config=TrialConfig.model_validate(one), seed=seed) for one in plain], data)
    for _ in range(epochs):
        batch.train_epoch()
    return [outcome.scores for outcome in outcomes_of(batch, DiagnosticsConfig(iwae_draws=0))]


def detectors(data: Dataset, with_vaes: bool, seed: int) -> Iterator[tuple[str, pd.Series]]:
    """Scores of all validation and test rows: of the neighbours, and of the VAE that each rule chooses."""
    rows = Baseline.of(data).scores
    yield "nearest neighbours", rows[BASELINE]
    if not with_vaes:
        return
    frames = trained(data, seed)
    is_validation = rows["split"].eq("validation")
    is_normal = is_validation & ~rows["anomaly"]
    yield "VAE, the first", frames[0]["elbo"]
    # On the normal validation rows themselves: the lowest mean, by which a study without labels chooses.
    yield "VAE, chosen by ELBO", min((one["elbo"] for one in frames), key=lambda score: score[is_normal].mean())
    pairs = [one[name] for one in frames for name in scores_of(is_images=False)]
    labels = rows.loc[is_validation, "anomaly"].to_numpy()
    best = max(pairs, key=lambda score: auroc(labels, score[is_validation].to_numpy()))
    yield "VAE and score, chosen by AUROC", best


def kept(normal_M: Floats, is_anomaly_N: NDArray[np.bool_], score_N: Floats) -> Iterator[dict[str, Any]]:
    """What was promised and what happened, with the share of the anomalies that is flagged."""
    for row in promises(normal_M, is_anomaly_N, score_N).to_dict("records"):
        power = (row["flagged"] - row["false"]) / is_anomaly_N.sum()
        yield {"by": row["by"], "level": row["level"], "realised": row["realised"], "power": power}


def measured(table: Table, config: DataConfig, seed: int, with_vaes: bool) -> Iterator[dict[str, Any]]:
    """All numbers of one split. Half of the normal test rows, which chose nothing, calibrate in a second version."""
    data = split(table, config, seed)
    for name, score in detectors(data, with_vaes, seed):
        rows = data_rows(data)
        score_N = score.to_numpy(np.float64)
        normal = {part: np.flatnonzero(rows["split"].eq(part) & ~rows["anomaly"]) for part in ("validation", "test")}
        unseen, tested = np.array_split(np.random.default_rng(seed).permutation(normal["test"]), 2)
        anomalous = np.flatnonzero(rows["split"].eq("test") & rows["anomaly"])
        places = np.concatenate([tested, anomalous])
        is_anomaly_N = np.arange(len(places)) >= len(tested)
        for which, calibration in (("validation rows", normal["validation"]), ("unseen rows", unseen)):
            for one in kept(score_N[calibration], is_anomaly_N, score_N[places]):
                yield {"detector": name, "calibration": which, "rows": len(calibration), **one}
        if name == "nearest neighbours":
            x_ND = np.concatenate([data.splits[part].x_ND for part in ("validation", "test")]).astype(np.float64)
            yield from drifted(x_ND, score_N, normal["validation"], normal["test"], anomalous, seed)


def data_rows(data: Dataset) -> pd.DataFrame:
    """`split` and `anomaly` of the validation and test rows, in the order in which they are scored."""
    parts = [
        pd.DataFrame({"split": name, "anomaly": data.splits[name].is_anomaly_N}) for name in ("validation", "test")
    ]
    return pd.concat(parts, ignore_index=True)


def drifted(
    x_ND: Floats, score_N: Floats, calibration: Any, normal: Any, anomalous: Any, seed: int
) -> Iterator[dict[str, Any]]:
    """The same where half of the normal test rows is drawn with a preference for high values of the first feature.

    Weighted p-values take the ratio of the densities (Tibshirani et al. 2019; Jin and Candès 2023): the true one, or
    that of a classifier which tells the scored rows, anomalies included, from the calibration rows.
    """
    x_N = x_ND[:, 0]
    ratio_N = np.exp(DRIFT * np.clip((x_N - x_N[calibration].mean()) / (x_N[calibration].std() or 1), -2, 2))
    random = np.random.default_rng(seed)
    chosen = random.choice(normal, len(normal) // 2, p=ratio_N[normal] / ratio_N[normal].sum())
    places = np.concatenate([chosen, anomalous])
    is_anomaly_N = np.arange(len(places)) >= len(chosen)
    both = np.concatenate([calibration, places])
    is_scored = np.arange(len(both)) >= len(calibration)
    classifier = LogisticRegression(max_iter=200).fit(np.clip(x_ND[both], -10, 10), is_scored)
    odds_N = np.exp(np.clip(classifier.decision_function(np.clip(x_ND, -10, 10)), -20, 20))
    for which, weight_N in zip(WEIGHTS, (np.ones_like(ratio_N), ratio_N, odds_N), strict=True):
        p_N = weighted_p_values(score_N[calibration], weight_N[calibration], score_N[places], weight_N[places])
        about = {"detector": "nearest neighbours, drift", "calibration": which, "rows": len(calibration)}
        for level in FDR_LEVELS:
            flagged_N = benjamini_hochberg(p_N, level)
            false = (flagged_N & ~is_anomaly_N).sum() / max(flagged_N.sum(), 1)
            yield {**about, "by": "fdr", "level": level, "realised": false, "power": flagged_N[is_anomaly_N].mean()}
        for level in ALARM_LEVELS:
            rate = (p_N[~is_anomaly_N] <= level).mean()
            power = (p_N[is_anomaly_N] <= level).mean()
            yield {**about, "by": "p_value", "level": level, "realised": rate, "power": power}


def weighted_p_values(normal_M: Floats, weight_M: Floats, score_N: Floats, weight_N: Floats) -> Floats:
    """Tibshirani et al. 2019, with the weight of the scored row counted in."""
    order = np.argsort(normal_M)
    above_M = np.append(np.cumsum(weight_M[order][::-1])[::-1], 0.0)
    higher_N = above_M[np.searchsorted(normal_M[order], score_N, side="left")]
    return np.asarray((higher_N + weight_N) / (weight_M.sum() + weight_N))


def benjamini_hochberg(p_N: Floats, level: float) -> NDArray[np.bool_]:
    """Which rows are flagged."""
    sorted_N = np.sort(p_N)
    kept_N = np.flatnonzero(sorted_N <= level * np.arange(1, len(p_N) + 1) / len(p_N))
    return np.asarray(p_N <= (sorted_N[kept_N[-1]] if len(kept_N) else -1))


def told(found: pd.DataFrame, by: str, level: float) -> str:
    """The mean of a realised rate over splits with its standard error, %."""
    values = 100 * found.loc[found["by"].eq(by) & found["level"].eq(level), "realised"]
    return f"{values.mean():.1f} ± {values.std(ddof=1) / np.sqrt(len(values)):.1f}"


def power(found: pd.DataFrame, level: float) -> str:
    """The share of the anomalies that is flagged, %."""
    return f"{100 * found.loc[found['by'].eq('fdr') & found['level'].eq(level), 'power'].mean():.0f}"


def markdown(found: pd.DataFrame) -> Iterator[str]:
    """A table of each set and detector, and one of each set with drift."""
    alone = found[~found["detector"].str.endswith("drift")]
    heads = [*(f"p ≤ {level:g}" for level in ALARM_LEVELS), *(f"FDR {level:g}" for level in FDR_LEVELS)]
    heads = ["set", "detector", "splits", "n", *heads, "anomalies found at FDR 0.1"]
    heads += ["calibrated on unseen rows: n", "p ≤ 0.05", "FDR 0.1"]
    yield f"| {' | '.join(heads)} |\n{'|---' * len(heads)}|"
    for (name, detector), group in alone.groupby(["set", "detector"], sort=False):
        used, unseen = (group[group["calibration"].eq(f"{one} rows")] for one in ("validation", "unseen"))
        cells = [str(name), str(detector), str(group["split"].nunique()), f"{used['rows'].mean():.0f}"]
        cells += [told(used, "p_value", level) for level in ALARM_LEVELS]
        cells += [*(told(used, "fdr", level) for level in FDR_LEVELS), power(used, 0.1)]
        cells += [f"{unseen['rows'].mean():.0f}", told(unseen, "p_value", 0.05), told(unseen, "fdr", 0.1)]
        yield f"| {' | '.join(cells)} |"
    heads = [f"{what}, {one}" for one in WEIGHTS for what in ("p ≤ 0.05", "FDR 0.1", "found")]
    yield f"\n| set | {' | '.join(heads)} |\n{'|---' * (1 + len(heads))}|"
    for name, group in found[found["detector"].str.endswith("drift")].groupby("set", sort=False):
        parts = [group[group["calibration"].eq(one)] for one in WEIGHTS]
        cells = [cell for one in parts for cell in (told(one, "p_value", 0.05), told(one, "fdr", 0.1), power(one, 0.1))]
        yield f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Measure, and print the tables."""
    asked, rows = arguments(), []
    torch.set_num_threads(1)
    with threadpool_limits(1):
        for name in asked.sets:
            config = DataConfig(source="npz", path=str(asked.data / f"{name}.npz"), scale="standard")
            table = read_table(config)
            for seed in range(asked.splits):
                found = measured(table, config, seed, seed < asked.trained)
                rows += [{"set": name.partition("_")[2], "split": seed, **one} for one in found]
            print(f"{name}: done", file=sys.stderr, flush=True)
            if asked.output:
                pd.DataFrame(rows).to_csv(asked.output, index=False)
    print(f"{date.today()}, torch {torch.__version__}, {asked.splits} splits, VAEs for {asked.trained} of them")
    print("\n".join(markdown(pd.DataFrame(rows))))


if __name__ == "__main__":
    main()

"""How well windows find anomalies in time series, beside simple detectors on the same rows.

    python benchmarks/series.py --data DIR [--seeds 3] [--networks mlp recurrent]

DIR has the folders `skab` (CSV files of the Skoltech Anomaly Benchmark) and `nab` (CSV files of the Numenta Anomaly
Benchmark, and its windows.json). A model for each file is fitted without labels to its first rows: 400 of SKAB, 15 % of
NAB (its probation period). The last quarter of these is held out. All methods have one rule: a point is flagged if the
median of its score and those of its two neighbours is above FACTOR times the 99th percentile of the held-out scores,
both less their median. The neighbours' median is part of SKAB's protocol, whose F1 counts the points of all files
together; of NAB, F1 is that of points too. There is no point adjustment.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import NearestNeighbors
from vae_study.anomaly.detection import area
from vae_study.anomaly.ranges import alarms, of_points, ranges, vus_pr
from vae_study.config.data import DataConfig, SequenceConfig, SplitConfig
from vae_study.config.model import TrialConfig
from vae_study.config.search_space import with_values
from vae_study.data import build_dataset, frame_features
from vae_study.data.sources.python import frame_rows
from vae_study.data.sources.table_reader import build_table
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.outcome import fit_scorer
from vae_study.vae.stacking import ModelSetup

Floats = NDArray[np.float64]
STEPS, HELD_OUT, FACTOR = 16, 0.25, 2.0
# Of all files: VUS-PR's largest buffer.
BUFFER = 64
SCORE = "residual_mahalanobis"
DEEP = {
    "mlp": {"network.hidden": (64, 32)},
    "recurrent": {"network.kind": "recurrent", "network.hidden": (32,)},
}


@dataclass(frozen=True, kw_only=True)
class Series:
    """One file.

    Attributes:
        name: Of the file.
        frame: Its sensors, and the column `time`.
        is_anomaly_N: Of its points.
        fitted: How many of the first points methods are fitted to, those held out included.
    """

    name: str
    frame: pd.DataFrame
    is_anomaly_N: NDArray[np.bool_]
    fitted: int

    @property
    def x_NF(self) -> Floats:
        """The sensors, with mean 0 and variance 1 in the points that are fitted and not held out."""
        x_NF = self.frame.drop(columns="time").to_numpy(np.float64)
        seen = x_NF[: self.train]
        deviation_F = seen.std(axis=0)
        return np.asarray((x_NF - seen.mean(axis=0)) / np.where(deviation_F > 0, deviation_F, 1))

    @property
    def time_N(self) -> NDArray[np.int64]:
        """In nanoseconds."""
        return self.frame["time"].to_numpy().astype("datetime64[ns]").astype(np.int64)

    @property
    def train(self) -> int:
        """How many points are fitted and not held out."""
        return round(self.fitted * (1 - HELD_OUT))

    @property
    def windows_ND(self) -> Floats:
        """The window that ends with each point; at first, the first whole one."""
        x_NF = self.x_NF
        place_N = np.maximum(np.arange(len(x_NF)), STEPS - 1)
        return np.asarray(x_NF[place_N[:, None] - np.arange(STEPS)[::-1]].reshape(len(x_NF), -1))


def skab(folder: Path) -> Iterator[Series]:
    """The files with anomalies."""
    for path in sorted(folder.glob("*.csv")):
        frame = pd.read_csv(path, sep=";", parse_dates=["datetime"]).rename(columns={"datetime": "time"})
        if "anomaly" in frame and frame["anomaly"].any():
            is_anomaly_N = frame["anomaly"].to_numpy() == 1
            sensors = frame.drop(columns=["anomaly", "changepoint"])
            yield Series(name=path.stem, frame=sensors, is_anomaly_N=is_anomaly_N, fitted=400)


def nab(folder: Path) -> Iterator[Series]:
    """The files with their windows of anomalies."""
    windows = json.loads((folder / "windows.json").read_text())
    for path in sorted(folder.glob("*.csv")):
        frame = pd.read_csv(path, parse_dates=["timestamp"]).rename(columns={"timestamp": "time"})
        frame = frame.drop_duplicates("time").sort_values("time", ignore_index=True)
        is_anomaly_N = np.zeros(len(frame), bool)
        for first, last in windows[path.name]:
            is_anomaly_N |= frame["time"].between(first, last).to_numpy()
        yield Series(name=path.stem, frame=frame, is_anomaly_N=is_anomaly_N, fitted=round(0.15 * len(frame)))


def pca(one: Series, seed: int) -> Floats:
    """The larger of Hotelling's T2 and the squared residual Q of each row, each divided by its 99th percentile."""
    x_NF = one.x_NF
    fitted = PCA(0.9 if x_NF.shape[1] > 1 else 1, svd_solver="full", random_state=seed).fit(x_NF[: one.train])
    code_NZ = fitted.transform(x_NF)
    t2_N = (code_NZ**2 / fitted.explained_variance_).sum(axis=1)
    q_N = ((x_NF - fitted.inverse_transform(code_NZ)) ** 2).sum(axis=1)
    limits = [np.quantile(part_N[: one.train], 0.99) or 1.0 for part_N in (t2_N, q_N)]
    return np.asarray(np.maximum(t2_N / limits[0], q_N / limits[1]))


def neighbours(one: Series, seed: int) -> Floats:
    """The distance of each window to the fifth nearest of the fitted ones; a point has the mean of its windows."""
    x_ND = one.windows_ND
    search = NearestNeighbors(n_neighbors=5).fit(x_ND[STEPS - 1 : one.train])
    return of_points(search.kneighbors(x_ND)[0][:, -1], STEPS)


def isolation_forest(one: Series, seed: int) -> Floats:
    """scikit-learn's isolation forest of windows; a point has the mean of its windows."""
    x_ND = one.windows_ND
    forest = IsolationForest(random_state=seed).fit(x_ND[STEPS - 1 : one.train])
    return of_points(-forest.score_samples(x_ND), STEPS)


def moving_z(one: Series, seed: int) -> Floats:
    """The largest distance of a sensor from the mean of the 64 rows before, in their standard deviations."""
    before = pd.DataFrame(one.x_NF).shift(1).rolling(64, min_periods=8)
    z_NF = (pd.DataFrame(one.x_NF) - before.mean()) / (before.std() + 1e-3)
    return np.asarray(z_NF.abs().max(axis=1).fillna(0).to_numpy())


def vae(network: str) -> Callable[[Series, int], Floats]:
    """A VAE on windows by this package, with one setting for all files; a point has the mean of its windows."""

    def score(one: Series, seed: int) -> Floats:
        count = len(one.frame)
        split = SplitConfig(
            by="time",
            train=one.train / count,
            validation=(one.fitted - one.train) / count,
            test=1 - one.fitted / count,
        )
        sequence = SequenceConfig(time="time", window=STEPS, max_gap="365d")
        config = DataConfig(source="parquet", path=one.name, scale="standard", sequence=sequence, split=split)
        data = build_dataset(build_table(frame_rows(one.frame, one.name), config), config)
        values = {"likelihood": "gaussian", "latent_dim": 8, "beta": 1.0, "training.epochs": 100}
        values |= {"training.batch_size": 32, **DEEP[network]}
        batch = ModelBatch([ModelSetup(config=TrialConfig.model_validate(with_values({}, values)), seed=seed)], data)
        for _ in range(100):
            batch.train_epoch()
        x_ND = np.asarray(frame_features(one.frame, data.preprocessing))
        return of_points(fit_scorer(batch).scores(batch.tensor(x_ND), [SCORE])[0][SCORE], STEPS)

    return score


def flagged(one: Series, score_N: Floats) -> NDArray[np.bool_]:
    """The points that the rule flags."""
    smooth_N = pd.Series(score_N).rolling(3, center=True, min_periods=1).median().to_numpy()
    held_out = smooth_N[one.train + STEPS : one.fitted]
    middle = np.median(held_out)
    return np.asarray(smooth_N - middle > FACTOR * (np.quantile(held_out, 0.99) - middle))


def f1(is_anomaly_N: NDArray[np.bool_], is_flagged_N: NDArray[np.bool_]) -> float:
    """Of points."""
    hits = int((is_anomaly_N & is_flagged_N).sum())
    return 2 * hits / max(int(is_anomaly_N.sum()) + int(is_flagged_N.sum()), 1)


def measured(files: list[Series], method: Callable[[Series, int], Floats], seed: int) -> dict[str, float]:
    """The metrics of a method over all files: F1 of all points together, the others as means."""
    scores = [method(one, seed) for one in files]
    flags = [flagged(one, score_N) for one, score_N in zip(files, scores, strict=True)]
    tests = [slice(one.fitted, None) for one in files]
    every = list(zip(files, scores, flags, tests, strict=True))
    found = [alarms(one.is_anomaly_N, flag_N, one.time_N) for one, _, flag_N, _ in every]
    labels_N, flags_N = np.concatenate([one.is_anomaly_N for one in files]), np.concatenate(flags)
    vus = [vus_pr(one.is_anomaly_N[cut], score_N[cut], BUFFER) for one, score_N, _, cut in every]
    return {
        "F1": f1(labels_N, flags_N),
        "false alarms %": 100 * float(flags_N[~labels_N].mean()),
        "missed %": 100 * float((~flags_N)[labels_N].mean()),
        "AUROC": float(np.mean([area("auroc", one.is_anomaly_N[cut], score_N[cut]) for one, score_N, _, cut in every])),
        "VUS-PR": float(np.mean(vus)),
        "ranges found %": 100 * float(np.mean([one.found for one in found])),
        "delay s": float(np.nanmean([one.delay for one in found])) / 1e9,
        "false a day": float(np.mean([one.false_a_day for one in found])),
    }


def main() -> None:
    """Print a table for each benchmark: means over seeds, and the rank by VUS-PR averaged over files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--networks", nargs="*", choices=DEEP, default=["mlp"])
    given = parser.parse_args()
    methods: Mapping[str, Callable[[Series, int], Floats]] = {
        "PCA (T2 + Q)": pca,
        "neighbours": neighbours,
        "isolation forest": isolation_forest,
        "moving z-score": moving_z,
        **{f"VAE, {name}": vae(name) for name in given.networks},
    }
    for name, read in (("skab", skab), ("nab", nab)):
        files = list(read(given.data / name))
        several = sum(len(ranges(one.is_anomaly_N)) for one in files)
        print(f"\n{name}: {len(files)} files, {several} ranges, {given.seeds} seeds")
        rows = {}
        for label, method in methods.items():
            every = [measured(files, method, seed) for seed in range(given.seeds)]
            rows[label] = pd.DataFrame(every).mean()
            print(label, rows[label].round(3).to_dict(), flush=True)
        table = pd.DataFrame(rows).T
        table.insert(0, "rank", table["VUS-PR"].rank(ascending=False))
        for cells in [["method", *table.columns], ["---"] * (1 + len(table.columns))]:
            print(f"| {' | '.join(cells)} |")
        for label, row in table.iterrows():
            print(f"| {label} | {' | '.join(f'{value:.3g}' for value in row)} |")


if __name__ == "__main__":
    main()

"""Whether a study finds anomalies that simple detectors do not: a table in Markdown over a folder of real sets.

Each set is an .npz with X and y (1 for an anomaly). A detector trains on half of the normal rows and is tested on the
other half and the anomalies. Half in file order is the protocol of published tables, half by chance another question:
the two are never averaged. A set with X_train, X_test and y_test says itself what to train on, in file order.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.ensemble import IsolationForest
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from vae_study.anomaly.detection import auroc
from vae_study.config.data import DataConfig
from vae_study.config.loading import load_config
from vae_study.config.model import TrialConfig
from vae_study.config.study import DiagnosticsConfig, StudyConfig
from vae_study.data import Dataset, DatasetBuilder, DatasetInfo, Preprocessing, Table, read_table
from vae_study.data.sources.arrays import table_of_arrays
from vae_study.errors import UserError
from vae_study.search.study_store import StudyStore
from vae_study.selection.comparison import Baseline, candidates, compare
from vae_study.selection.ranking import frontier_of
from vae_study.study.trial_run import trial_seed
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.outcome import Outcome, outcomes_of
from vae_study.vae.stacking import ModelSetup

CONFIG = Path(__file__).parent.parent / "search_spaces" / "breast_cancer.yaml"
PROTOCOLS = ("file_order", "shuffled")
# What the searched lengths of training mean on a set of any size, and the longest of them in steps.
STEPS = (100, 300, 1000, 3000)
MOST_ROWS, VALIDATION_SHARE = 50_000, 0.2
MOST_TRAIN, MOST_TEST = 3000, 6000
ABOUT = ["set", "protocol", "seed"]
Rows = NDArray[np.float64]
Places = NDArray[np.int64]


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of .npz files")
    parser.add_argument(
        "--protocol", nargs="*", choices=PROTOCOLS, default=PROTOCOLS, help="how normal rows are halved"
    )
    parser.add_argument("--seeds", type=int, default=3, help="studies of each set")
    parser.add_argument("--trials", type=int, default=48, help="trials of a study")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="studies at once, a thread each")
    parser.add_argument("--only", nargs="*", help="parts of the names of the sets to take")
    parser.add_argument(
        "--output", type=Path, help="CSV with every number; what it holds already is not measured again"
    )
    return parser.parse_args()


@dataclass(frozen=True)
class Halves:
    """The rows of one set.

    Attributes:
        train, validation: Of the half that a detector may learn from, four fifths and one.
        known, unknown: The anomalies, half of them for the rules that choose by labels.
        test: The other half of the normal rows.
    """

    train: Places
    validation: Places
    test: Places
    known: Places
    unknown: Places


def halves(is_anomaly_N: NDArray[np.bool_], protocol: str, seed: int, given: int | None = None) -> Halves:
    """Divide the rows of a set, of which the first ones may be given to train on."""
    random = np.random.default_rng(seed)
    normal, anomalous = np.flatnonzero(~is_anomaly_N), random.permutation(np.flatnonzero(is_anomaly_N))
    if protocol == "shuffled":
        normal = random.permutation(normal)
    learnt, test = np.split(normal, [len(normal) // 2 if given is None or protocol == "shuffled" else given])
    validation, train = np.split(random.permutation(learnt), [round(VALIDATION_SHARE * len(learnt))])
    known, unknown = np.split(anomalous, [len(anomalous) // 2])
    return Halves(*(np.sort(part) for part in (train, validation, test, known, unknown)))


def dataset(path: Path, protocol: str, seed: int) -> tuple[Dataset, Halves, Table]:
    """A set with its splits; the known anomalies are in validation."""
    config = DataConfig(source="npz", path=str(path), scale="standard")
    table, given = thinned_table(config, seed)
    if table.label_N is None or 1 not in table.labels:
        raise UserError(f"{path}: no y with a 1 in it")
    is_anomaly_N = table.label_N == table.labels.index(1)
    parts = halves(is_anomaly_N, protocol, seed, given)
    preprocessing = Preprocessing.fit(table, parts.train, config)
    info = DatasetInfo(
        source="npz",
        image_shape=None,
        classes=("0",),
        sha256="",
        preprocessing=preprocessing,
        notes=preprocessing.notes,
    )
    rows = {
        "train": parts.train,
        "validation": np.concatenate([parts.validation, parts.known]),
        "test": np.concatenate([parts.test, parts.unknown]),
    }
    return DatasetBuilder(table=table, rows=rows, is_anomaly_N=is_anomaly_N, info=info).build(), parts, table


def thinned_table(config: DataConfig, seed: int) -> tuple[Table, int | None]:
    """The rows of a set, and how many of the first ones it gives to train on; None if it does not say."""
    with np.load(str(config.path)) as arrays:
        if "X_train" not in arrays:
            return thinned(read_table(config), seed), None
        train_ND, test_ND, label_T = (arrays[name] for name in ("X_train", "X_test", "y_test"))
    random = np.random.default_rng(seed)
    # As many as the court of tables takes.
    train, test = (
        random.permutation(len(rows))[:most] for rows, most in ((train_ND, MOST_TRAIN), (test_ND, MOST_TEST))
    )
    x_ND = np.nan_to_num(np.concatenate([train_ND[train], test_ND[test]]).astype(np.float64))
    label_N = np.concatenate([np.zeros(len(train), np.int64), label_T[test].astype(np.int64)])
    return table_of_arrays(x_ND, label_N, where=str(config.path), config=config), len(train)


def thinned(table: Table, seed: int) -> Table:
    """At most as many rows as the published table takes, by chance, in their order."""
    rows = len(table.x_ND)
    if rows <= MOST_ROWS or table.label_N is None:
        return table
    kept = np.sort(np.random.default_rng(seed).choice(rows, MOST_ROWS, replace=False))
    return replace(table, x_ND=table.x_ND[kept], label_N=table.label_N[kept])


def study_config(rows: int, trials: int, seed: int) -> StudyConfig:
    """The shipped study of a table, with lengths of training that mean the same number of steps on any set."""
    batch = int(np.clip(2 ** int(np.log2(rows / 8)), 16, 256))
    epochs = sorted({max(1, round(steps / (rows // batch))) for steps in STEPS})
    changes = (
        f"training.batch_size={batch}",
        f"search.training.epochs.choices={epochs}",
        f"trials={trials}",
        f"seed={seed}",
        # All trials are asked for at once, so that there is nothing to learn from yet.
        "sampler.kind=random",
    )
    return load_config(CONFIG, changes)


def trained(config: StudyConfig, data: Dataset) -> tuple[pd.DataFrame, dict[int, Outcome]]:
    """Every trial of a study, those of one shape trained in one batch: metrics and outcomes by number."""
    store = StudyStore(config, "adbench", "sqlite://")
    proposals = [store.ask() for _ in range(config.trials)]
    batches: dict[str, list[ModelSetup]] = {}
    numbers: dict[str, list[int]] = {}
    for one in proposals:
        trial = config.trial(one.parameters)
        batches.setdefault(_shape(trial), []).append(ModelSetup(config=trial, seed=trial_seed(config.seed, one.number)))
        numbers.setdefault(_shape(trial), []).append(one.number)
    rows, outcomes = [], {}
    for shape, setups in batches.items():
        for place, metrics, outcome in _train(setups, data):
            number = numbers[shape][place]
            rows.append({"trial": number, "state": "finished", **metrics, **outcome.metrics})
            outcomes[number] = outcome
    return pd.DataFrame(rows), outcomes


def _shape(trial: TrialConfig) -> str:
    model = trial.model
    return f"{model.family} {model.likelihood} {model.learned_sigma} {trial.training.epochs}"


def _train(setups: list[ModelSetup], data: Dataset) -> Iterator[tuple[int, dict[str, float], Outcome]]:
    """The place, last metrics and outcome of each model; as in a study, a diverged one has none."""
    model_batch = ModelBatch(setups, data)
    metrics: list[dict[str, float]] = []
    for _ in range(model_batch.training.epochs):
        metrics = model_batch.train_epoch()
    finite = [place for place, one in enumerate(metrics) if np.isfinite(list(one.values())).all()]
    for place in sorted({*range(len(setups))} - {*finite}, reverse=True):
        model_batch.leave(place)
    outcomes = outcomes_of(model_batch, DiagnosticsConfig(iwae_draws=0)) if finite else []
    yield from zip(finite, (metrics[place] for place in finite), outcomes, strict=True)


def chosen(config: StudyConfig, data: Dataset) -> Iterator[tuple[str, bool, float]]:
    """Each rule's and ensemble's AUROC, and the study's own baseline's; whether the known anomalies were looked at."""
    trials, outcomes = trained(config, data)
    frontier = frontier_of(trials, [objective.metric for objective in config.objectives], [1, 1])["trial"].tolist()
    found = candidates(trials, frontier, ("val/elbo", "val/auroc"), None, config.ensemble.members)
    baseline = Baseline.of(data).scores
    for labels in (False, True):

        def seen(frame: pd.DataFrame, labels: bool = labels) -> pd.DataFrame:
            # Without labels, the known anomalies are rows to find like all others.
            known = frame["split"].eq("validation") & frame["anomaly"] & (not labels)
            return frame.assign(split=frame["split"].mask(known, "test"))

        wanted = [one for one in found if one.needs_labels == labels]
        table, _ = compare(wanted, lambda number, seen=seen: seen(outcomes[number].scores), seen(baseline))
        for row in table.to_dict("records"):
            yield row["rule"], labels, row["auroc"]


def default_vae(data: Dataset, rows: int, seed: int) -> NDArray[np.float64]:
    """The ELBO score of a VAE with nothing but defaults; the batch is no larger than the rows."""
    config = TrialConfig.model_validate({"training": {"batch_size": min(128, rows)}})
    ((_, _, outcome),) = _train([ModelSetup(config=config, seed=seed)], data)
    return outcome.scores["elbo"].to_numpy()


def knn(train: Rows, test: Rows, seed: int) -> Rows:
    """Distance to the fifth neighbour, as in the published table."""
    return np.asarray(NearestNeighbors(n_neighbors=5).fit(train).kneighbors(test)[0][:, -1])


def pca(train: Rows, test: Rows, seed: int) -> Rows:
    """Squared distance from the mean over all principal components, each by its own variance (Shyu et al. 2003)."""
    fitted = PCA(svd_solver="full").fit(train)
    kept = fitted.explained_variance_ > 1e-9
    return np.asarray((fitted.transform(test)[:, kept] ** 2 / fitted.explained_variance_[kept]).sum(axis=1))


def isolation_forest(train: Rows, test: Rows, seed: int) -> Rows:
    """scikit-learn's defaults."""
    return np.asarray(-IsolationForest(random_state=seed).fit(train).score_samples(test))


SIMPLE: Mapping[str, Callable[[Rows, Rows, int], Rows]] = {"KNN": knn, "PCA": pca, "isolation forest": isolation_forest}


def measured(task: tuple[Path, str, int, int]) -> list[dict[str, Any]]:
    """Every detector's AUROC on one set under one protocol with one seed."""
    path, protocol, seed, trials = task
    torch.set_num_threads(1)
    started = time.monotonic()
    try:
        data, parts, table = dataset(path, protocol, seed)
    except UserError as reason:
        print(f"not measured: {reason}", file=sys.stderr, flush=True)
        return []
    anomalies = np.concatenate([parts.known, parts.unknown])
    scaler = StandardScaler().fit(table.x_ND[np.concatenate([parts.train, parts.validation])].astype(np.float64))
    learnt = scaler.transform(table.x_ND[np.concatenate([parts.train, parts.validation])])
    found: list[tuple[str, bool, float]] = []
    for labels, wanted in ((False, anomalies), (True, parts.unknown)):
        is_anomaly = np.arange(len(parts.test) + len(wanted)) >= len(parts.test)
        test = scaler.transform(table.x_ND[np.concatenate([parts.test, wanted])])
        found += [(name, labels, auroc(is_anomaly, score(learnt, test, seed))) for name, score in SIMPLE.items()]
    elbo = default_vae(data, len(parts.train), seed)
    order = np.concatenate([parts.validation, parts.known, parts.test, parts.unknown])
    place = pd.Series(elbo, index=order)
    for labels, wanted in ((False, anomalies), (True, parts.unknown)):
        rows = np.concatenate([parts.test, wanted])
        found.append(("default VAE", labels, auroc(np.isin(rows, wanted), place[rows].to_numpy())))
    found += chosen(study_config(len(parts.train), trials, seed), data)
    print(f"{path.stem}, {protocol}, seed {seed}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    about = {"set": path.stem, "protocol": protocol, "seed": seed}
    return [{**about, "detector": name, "labels": labels, "auroc": 100 * value} for name, labels, value in found]


def markdown(results: pd.DataFrame) -> Iterator[str]:
    """A table a protocol and kind of choice: each set, the mean, the average rank, and the paired difference to KNN."""
    for (protocol, labels), part in results.groupby(["protocol", "labels"], sort=True):
        means = part.pivot_table(index="set", columns="detector", values="auroc", sort=False)
        order = means.mean().sort_values(ascending=False).index
        means = means[order]
        ranks = means.rank(axis=1, ascending=False).mean()
        told = "with half of the anomalies known in validation" if labels else "without labels"
        yield f"\n### {protocol.replace('_', ' ')}, {told}: AUROC in %, mean of the seeds\n"
        yield "| set | " + " | ".join(order) + " |"
        yield "|---" * (len(order) + 1) + "|"
        for name, row in means.iterrows():
            yield f"| {name} | " + " | ".join(f"{value:.1f}" for value in row) + " |"
        yield "| **mean** | " + " | ".join(f"**{value:.2f}**" for value in means.mean()) + " |"
        yield "| average rank | " + " | ".join(f"{value:.2f}" for value in ranks) + " |"
        off = means.sub(means["KNN"], axis=0)
        pairs = zip(off.mean(), off.sem(), strict=True)
        yield (
            "| minus KNN (standard error) | " + " | ".join(f"{mean:+.2f} ({error:.2f})" for mean, error in pairs) + " |"
        )


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def main() -> None:
    """Measure, and print the tables."""
    asked = arguments()
    files = sorted(asked.data.glob("*.npz"), key=lambda path: -path.stat().st_size)
    files = [path for path in files if not asked.only or any(part in path.stem for part in asked.only)]
    if not files:
        raise SystemExit(f"{asked.data}: no .npz file")
    known = pd.read_csv(asked.output) if asked.output and asked.output.exists() else pd.DataFrame(columns=ABOUT)
    done = set(known[ABOUT].itertuples(index=False, name=None))
    tasks = [
        (path, protocol, seed, asked.trials)
        for protocol in asked.protocol
        for path in files
        for seed in range(asked.seeds)
        if (path.stem, protocol, seed) not in done
    ]
    parts = [known]
    with ProcessPoolExecutor(asked.jobs, mp_context=get_context("spawn")) as pool:
        for rows in pool.map(measured, tasks):
            parts.append(pd.DataFrame(rows))
            if asked.output:
                pd.concat(parts).to_csv(asked.output, index=False)
    results = pd.concat(parts)
    print(f"{date.today()}, torch {torch.__version__}, commit {_commit()}, {asked.trials} trials, {asked.seeds} seeds")
    print("\n".join(markdown(results.sort_values(["set", "seed"]))))


if __name__ == "__main__":
    main()

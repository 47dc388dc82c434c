"""How many rows a second a packed detector scores on one CPU thread, from features or from files: Markdown."""

import argparse
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from pipeline.choosing import Pick
from pipeline.choosing.comparison import Detector as Choice
from pipeline.choosing.ensemble import voices
from pipeline.data import Dataset, Table, dataset_of
from pipeline.data.streams import open_stream
from pipeline.detector import Detector, baseline_of, pack
from pipeline.folders import Folder
from pipeline.scoring import score_file
from pipeline.spec.data import DataSpec
from pipeline.spec.schema import DiagnosticsSpec
from pipeline.spec.trial import TrialSpec
from pipeline.study.files import SCORER, WEIGHTS, read_scores, write_outcome
from pipeline.vae.outcome import outcomes_of
from pipeline.vae.population import Member, Population

SCORES = ("elbo", "residual_mahalanobis", "latent_mahalanobis", "latent_knn", "reconstruction_probability")
MODEL = {"network": {"hidden": (64, 32)}, "latent_dim": 8}
# What is trained on: enough that the nearest neighbours have all the reference rows that they ever have.
TRAINED_ROWS, MEGABYTE = 16_384, 1e6
ROWS_PER_WRITE = 250_000
Rows = NDArray[np.float32]


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rows", type=int, default=262_144, help="rows to score in each measurement")
    parser.add_argument("--columns", type=int, default=30, help="features of a row")
    parser.add_argument("--members", type=int, default=5, help="trials of the ensemble")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each line; their median counts")
    parser.add_argument("--file-rows", type=int, default=0, help="rows of files to score from end to end; 0: none")
    return parser.parse_args()


def rows_of(count: int, columns: int, seed: int) -> Rows:
    """Skewed numbers that hang together."""
    random = np.random.default_rng(seed)
    mixing_DD = np.random.default_rng(0).normal(size=(columns, columns)) / np.sqrt(columns)
    x_ND = random.normal(size=(count, columns)) @ mixing_DD
    return np.asarray(x_ND + 0.1 * x_ND**2, np.float32)


def names_of(columns: int) -> list[str]:
    """What the columns are called."""
    return [f"feature {number}" for number in range(columns)]


def data_of(columns: int) -> Dataset:
    """A table of such rows, prepared."""
    names = tuple(names_of(columns))
    table = Table(x_ND=rows_of(TRAINED_ROWS, columns, 1), feature_names=names, where="the table")
    return dataset_of(table, DataSpec(source="parquet", path="table.parquet", scale="standard"))


def train(data: Dataset, members: int, place: Path) -> dict[int, TrialSpec]:
    """Trials that leave their files as a study's do, after an epoch each."""
    spec = TrialSpec.model_validate({"model": MODEL, "training": {"epochs": 1}})
    for number in range(members):
        population = Population([Member(spec=spec, seed=number)], data)
        population.train_epoch()
        diagnostics = DiagnosticsSpec(iwae_draws=0)
        write_outcome(Folder.at(place / str(number)), outcomes_of(population, diagnostics)[0])
    return dict.fromkeys(range(members), spec)


def choices(members: int) -> dict[str, Choice]:
    """What is measured, by its name in the table."""
    single = {score: Choice(name=score, needs_labels=False, picks=(Pick(0, score, float("nan")),)) for score in SCORES}
    picks = tuple(voices(range(members)))
    joined = Choice(name="ensemble_best", needs_labels=False, picks=picks, with_baseline=True)
    return {**single, f"ensemble of {members}": joined}


def packed(data: Dataset, members: int, place: Path) -> dict[str, Detector]:
    """Every detector, packed and loaded."""
    specs, baseline = train(data, members, place), baseline_of(data)
    found = {}
    for name, choice in choices(members).items():
        pack(
            place / name,
            data,
            specs,
            choice,
            lambda number: {file: place / str(number) / file for file in (WEIGHTS, SCORER)},
            lambda number: read_scores(Folder.at(place / str(number))),
            baseline,
        )
        found[name] = Detector.load(place / name)
    return found


def pyod_scorer(data: Dataset) -> Callable[[Rows], Any] | None:
    """The same network by PyOD, where that is installed."""
    if find_spec("pyod") is None:
        return None
    from pyod.models.vae import VAE

    model = VAE(encoder_neuron_list=[64, 32], decoder_neuron_list=[32, 64], latent_dim=8, epoch_num=1, verbose=0)
    model.fit(data.splits["train"].x_ND)
    return lambda x_ND: model.decision_function(x_ND)


def scorers(data: Dataset, members: int, place: Path) -> dict[str, Callable[[Rows], Any]]:
    """What takes rows and gives their scores, by its name in the table."""
    found: dict[str, Callable[[Rows], Any]] = {}
    for name, detector in packed(data, members, place).items():
        found[name] = detector.score
        if name == "elbo":
            found["elbo, explained"] = lambda x_ND, one=detector: one.score(x_ND, explain=True)
    pyod = pyod_scorer(data)
    return found if pyod is None else {**found, "PyOD VAE": pyod}


def measure(found: Mapping[str, Callable[[Rows], Any]], x_ND: Rows, rounds: int) -> dict[str, float]:
    """Rows a second of each, of own CPU time: the median of the rounds after a first one, which warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(rounds + 1):
        for name, score in found.items():
            started = time.process_time()
            score(x_ND)
            seconds[name].append(time.process_time() - started)
    return {name: len(x_ND) / statistics.median(taken[1:]) for name, taken in seconds.items()}


def write_files(rows: int, columns: int, place: Path) -> list[Path]:
    """Such rows as Parquet and as CSV."""
    paths = [place / "rows.parquet", place / "rows.csv"]
    schema = pa.schema([(name, pa.float32()) for name in names_of(columns)])
    with pq.ParquetWriter(paths[0], schema) as parquet, pyarrow.csv.CSVWriter(paths[1], schema) as csv:
        for first in range(0, rows, ROWS_PER_WRITE):
            x_ND = rows_of(min(ROWS_PER_WRITE, rows - first), columns, first)
            table = pa.table([np.ascontiguousarray(column_N) for column_N in x_ND.T], schema)
            parquet.write_table(table)
            csv.write_table(table)
    return paths


def score_path(folder: Path, path: Path) -> tuple[float, int]:
    """CPU seconds of scoring a file into another one, all threads together, and the process's peak memory, bytes."""
    torch.set_num_threads(1)
    detector, started = Detector.load(folder), time.process_time()
    with threadpool_limits(1):
        score_file(detector, open_stream(str(path), detector.preprocessing), path.with_suffix(".scores"))
    return time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure_files(rows: int, columns: int, folder: Path, place: Path) -> str:
    """A table of the files, each scored by a process of its own."""
    lines = [
        f"\nFiles of {rows:,} rows, score elbo:\n\n| file | GB | rows a second | peak memory, MB |\n|---|---|---|---|\n"
    ]
    for path in write_files(rows, columns, place):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            seconds, peak = pool.apply(score_path, (folder, path))
        size = path.stat().st_size / 1e9
        lines.append(f"| {path.suffix[1:]} | {size:.2f} | {rows / seconds:,.0f} | {peak / MEGABYTE:,.0f} |\n")
    return "".join(lines)


def main() -> None:
    """Train some trials, pack them, and score the same rows by all in turn, so that a slow minute meets them all."""
    asked = arguments()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name, threadpool_limits(1):
        found = scorers(data_of(asked.columns), asked.members, Path(name))
        x_ND = rows_of(asked.rows, asked.columns, 2)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        rates = measure(found, x_ND, asked.rounds)
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        place = Path(name)
        files = measure_files(asked.file_rows, asked.columns, place / "elbo", place) if asked.file_rows else ""
    sys.stdout.write(
        f"{date.today()}, torch {torch.__version__}, one thread of {os.cpu_count()} CPUs, {asked.rounds} rounds of "
        f"{asked.rows:,} rows of {asked.columns} features, net {asked.columns}-64-32-8; scoring took "
        f"{grown / MEGABYTE:,.0f} MB beside the rows\n\n| score | rows a second |\n|---|---|\n"
    )
    sys.stdout.write("".join(f"| {line} | {rate:,.0f} |\n" for line, rate in rates.items()))
    if "PyOD VAE" not in rates:
        sys.stdout.write("\nPyOD is not installed, so it was not measured.\n")
    sys.stdout.write(files)


if __name__ == "__main__":
    main()

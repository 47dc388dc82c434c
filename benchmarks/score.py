"""How many rows a second a packed detector scores on one CPU thread, from features or from files: Markdown.

python -m benchmarks.score
"""

import argparse
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from vae_study.config.data import DataConfig
from vae_study.config.model import TrialConfig
from vae_study.config.study import DiagnosticsConfig
from vae_study.data import Dataset, Table, build_dataset, open_stream
from vae_study.detector.detector import Detector
from vae_study.detector.export import pack
from vae_study.detector.score_file import score_file
from vae_study.selection.comparison import Baseline, Candidate, votes
from vae_study.selection.ranking import Selection
from vae_study.storage import Folder
from vae_study.study.trial_files import SCORER, WEIGHTS, read_scores, write_outcome
from vae_study.vae.evaluation import iwae_nats
from vae_study.vae.inference import Examples, inference_model
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.outcome import outcomes_of
from vae_study.vae.stacking import ModelSetup

from benchmarks.peers.environment import interpreter, machine, versions
from benchmarks.turns import Worker

SCORES = ("elbo", "residual_mahalanobis", "latent_mahalanobis", "latent_knn", "reconstruction_probability")
MODEL = {"network": {"hidden": (64, 32)}, "latent_dim": 8}
# What is trained on: enough that the nearest neighbours have all the reference rows that they ever have.
TRAINED_ROWS, MEGABYTE = 16_384, 1e6
ROWS_PER_WRITE = 250_000
# How many rows each peer scores in a measurement: about a second's worth.
PEERS = {"PyOD decision_function": 16_384, "pythae get_nll": 2_048}
DRAWS = 100
Rows = NDArray[np.float32]


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rows", type=int, default=262_144, help="rows to score in each measurement")
    parser.add_argument("--columns", type=int, default=30, help="features of a row")
    parser.add_argument("--members", type=int, default=5, help="trials of the ensemble")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each line; their median counts")
    parser.add_argument("--peers", type=Path, help="virtual environment of the peers; made if it is not there")
    parser.add_argument("--no-peers", action="store_true", help="leave out what has to be installed first")
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
    return build_dataset(table, DataConfig(source="parquet", path="table.parquet", scale="standard"))


def train(data: Dataset, members: int, place: Path) -> dict[int, TrialConfig]:
    """Trials that leave their files as a study's do, after an epoch each."""
    config = TrialConfig.model_validate({"model": MODEL, "training": {"epochs": 1}})
    for number in range(members):
        model_batch = ModelBatch([ModelSetup(config=config, seed=number)], data)
        model_batch.train_epoch()
        diagnostics = DiagnosticsConfig(iwae_draws=0)
        write_outcome(Folder.at(place / str(number)), outcomes_of(model_batch, diagnostics)[0])
    return dict.fromkeys(range(members), config)


def choices(members: int) -> dict[str, Candidate]:
    """What is measured, by its name in the table."""
    single = {
        score: Candidate(name=score, needs_labels=False, selections=(Selection(0, score, float("nan")),))
        for score in SCORES
    }
    every = votes(range(members))
    joined = Candidate(name="ensemble_best", needs_labels=False, selections=every, with_baseline=True)
    return {**single, f"ensemble of {members}": joined}


def packed(data: Dataset, members: int, place: Path) -> dict[str, Detector]:
    """Every detector, packed and loaded."""
    configs, baseline = train(data, members, place), Baseline.of(data)
    found = {}
    for name, choice in choices(members).items():
        pack(
            place / name,
            data,
            configs,
            choice,
            lambda number: {file: place / str(number) / file for file in (WEIGHTS, SCORER)},
            lambda number: read_scores(Folder.at(place / str(number))),
            0.1,
            baseline,
        )
        found[name] = Detector.load(place / name)
    return found


def bound(data: Dataset) -> Callable[[Rows], Any]:
    """The importance-weighted bound with as many draws as the peer's, of one member."""
    config = TrialConfig.model_validate({"model": MODEL, "training": {"epochs": 1}})
    model_batch = ModelBatch([ModelSetup(config=config, seed=0)], data)
    model = inference_model(model_batch.model)

    def score(x_ND: Rows) -> object:
        examples = Examples(torch.as_tensor(x_ND), None)
        return iwae_nats(model, examples, model_batch.generators("evaluation"), DRAWS)

    return score


def scorers(data: Dataset, members: int, place: Path) -> dict[str, Callable[[Rows], Any]]:
    """What takes rows and gives their scores, by its name in the table."""
    found: dict[str, Callable[[Rows], Any]] = {}
    for name, detector in packed(data, members, place).items():
        found[name] = detector.score
        if name == "elbo":
            found["elbo, explained"] = lambda x_ND, one=detector: one.score(x_ND, explain=True)
    return found


def timed(score: Callable[[Rows], Any], x_ND: Rows) -> Callable[[], float]:
    """What scores these rows and gives the CPU seconds that a row took."""

    def seconds() -> float:
        started = time.process_time()
        score(x_ND)
        return (time.process_time() - started) / len(x_ND)

    return seconds


def peers(place: Path, columns: int) -> dict[str, Callable[[], float]]:
    """The same of others, which are slower, so that they get fewer rows."""
    found = {}
    for name, rows in PEERS.items():
        command = [interpreter(place), "-m", "benchmarks.peers.scorers", name.split()[0].lower(), str(columns)]
        worker = Worker([*command, str(rows)], rows, name)
        if worker.is_ready():
            found[name] = lambda one=worker: (one.round(), one.times_ms[-1] / 1e3)[1]
    return found


def measure(found: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds a row of each in the rounds after a first one, which warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(rounds + 1):
        for name, score in found.items():
            seconds[name].append(score())
    return {name: taken[1:] for name, taken in seconds.items()}


def table(seconds: Mapping[str, list[float]]) -> str:
    """Rows a second, and how many times that is of each peer: medians, of ratios within a round."""
    known = [name for name in PEERS if name in seconds]
    lines = [["score", "rows a second", *(f"times {name}" for name in known)]]
    lines.append(["---"] * len(lines[0]))
    for name, taken in seconds.items():
        ratios = [statistics.median(a / b for a, b in zip(seconds[peer], taken, strict=True)) for peer in known]
        lines.append([name, f"{1 / statistics.median(taken):,.0f}", *(f"{ratio:.1f}" for ratio in ratios)])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


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
        score_file(detector, open_stream(str(path), detector.preprocessing), path.with_name(f"{path.name}.parquet"))
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
        place, data = Path(name), data_of(asked.columns)
        x_ND = rows_of(asked.rows, asked.columns, 2)
        found = {line: timed(score, x_ND) for line, score in scorers(data, asked.members, place).items()}
        found |= {f"log-likelihood, {DRAWS} draws": timed(bound(data), x_ND[: asked.rows // DRAWS])}
        home = asked.peers or place / "peers"
        found |= {} if asked.no_peers else peers(home, asked.columns)
        known = "left out" if asked.no_peers else versions(interpreter(home))
        seconds = measure(found, asked.rounds)
        files = measure_files(asked.file_rows, asked.columns, place / "elbo", place) if asked.file_rows else ""
    print(
        f"{machine()}, {asked.rounds} rounds of {asked.rows:,} rows of {asked.columns} features, net "
        f"{asked.columns}-64-32-8; peers: {known}\n\n{table(seconds)}{files}"
    )


if __name__ == "__main__":
    main()

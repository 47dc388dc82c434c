"""Small packed detectors of a table with columns of every kind, and what a study says when it has some."""

from pathlib import Path

import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Metric, Run
from safetensors.torch import save_file

from pipeline.choosing import Pick
from pipeline.choosing.comparison import Detector as Choice
from pipeline.data import Dataset, prepare
from pipeline.data.streams import frame_features
from pipeline.detector import Detector, baseline_of, pack
from pipeline.spec.data import DataSpec
from pipeline.spec.schema import DiagnosticsSpec
from pipeline.tracking import layout
from pipeline.tracking.models import as_pyfunc, log_model
from pipeline.vae.outcome import SCORER_FILE, WEIGHTS_FILE, Outcome, outcomes_of
from pipeline.vae.population import Population
from tests.tracking.story import new_parent
from tests.vae.builders import member

COLUMNS = ["age", "income", "member", "city"]
TRIALS = (3, 7)
#: What is packed: a name, its voices, and whether the raw neighbours are one more.
CHOICES = {
    "trial-0007": ([(7, "elbo")], False),
    "trial-0003": ([(3, "elbo")], False),
    "trial-0007-by-latent": ([(7, "latent_knn")], False),
    "ensemble_best": ([(trial, score) for trial in TRIALS for score in ("elbo", "residual_mahalanobis")], True),
}


def customers(rows: int = 200) -> pd.DataFrame:
    """Whole numbers, numbers with some missing, yes or no, and text; the last tenth is anomalous."""
    chance = np.random.default_rng(0)
    is_odd_N = np.arange(rows) >= 0.9 * rows
    income_N = chance.normal(3000, 400, rows) + 4000 * is_odd_N
    income_N[::17] = np.nan
    return pd.DataFrame(
        {
            "age": chance.integers(20, 70, rows),
            "income": income_N,
            "member": chance.random(rows) < 0.5,
            "city": chance.choice(["Bonn", "Gießen", "Ulm"], rows),
            "fraud": is_odd_N.astype(int),
        }
    )


class Packed:
    """Packed detectors and models, made once.

    Attributes:
        frame: The rows that they were trained on, in the user's columns.
    """

    def __init__(self, folder: Path):
        self.folder, self.frame = folder, customers()
        data = _data(self.frame, folder)
        members = [member(seed, latent_dim=2, training__epochs=2) for seed in range(len(TRIALS))]
        population = Population(members, data)
        for _ in range(2):
            population.train_epoch()
        outcomes = dict(zip(TRIALS, outcomes_of(population, DiagnosticsSpec()), strict=True))
        specs = dict(zip(TRIALS, [one.spec for one in members], strict=True))
        files = {number: _files(outcome, folder / f"left-{number}") for number, outcome in outcomes.items()}
        scores = {number: outcome.scores for number, outcome in outcomes.items()}
        for name in CHOICES:
            pack(folder / name, data, specs, _choice(name), files.__getitem__, scores.__getitem__, baseline_of(data))

    def model(self, name: str) -> Path:
        """The folder of a model, as `as_pyfunc` writes it."""
        into = self.folder / "models" / name
        if not into.exists():
            as_pyfunc(self.folder / name, self.frame[COLUMNS], self.scores(name, self.frame), into)
        return into

    def scores(self, name: str, frame: pd.DataFrame) -> pd.DataFrame:
        """What a detector itself says of some rows."""
        detector = Detector.load(self.folder / name)
        return detector.score(frame_features(frame, detector.preprocessing))

    def record(self, name: str, called: str | None = None, **about) -> dict:
        """What the spool has of a model."""
        return {"folder": str(self.model(name)), "name": called or name, "about": about}


def _data(frame: pd.DataFrame, folder: Path) -> Dataset:
    frame.to_csv(folder / "customers.csv", index=False)
    place = str(folder / "customers.csv")
    return prepare(DataSpec(source="csv", path=place, label="fraud", missing="median", scale="standard"))


def _choice(name: str) -> Choice:
    picks, with_baseline = CHOICES[name]
    voices = tuple(Pick(trial, score, 0.0) for trial, score in picks)
    return Choice(name=name, needs_labels=False, picks=voices, with_baseline=with_baseline)


def _files(outcome: Outcome, folder: Path) -> dict[str, Path]:
    folder.mkdir()
    save_file(outcome.weights, folder / WEIGHTS_FILE)
    save_file(outcome.scorer, folder / SCORER_FILE)
    return {name: folder / name for name in (WEIGHTS_FILE, SCORER_FILE)}


def new_study(client: MlflowClient, study: str) -> tuple[Run, dict[str, Run]]:
    """A study's parent run, and those of its trials by name."""
    parent = new_parent(client, study)
    children = {}
    for number in TRIALS:
        tags = {layout.KIND: "trial", layout.STUDY: study, layout.PARENT: parent.info.run_id}
        run = client.create_run(parent.info.experiment_id, tags={**tags, layout.TRIAL: str(number)})
        points = [Metric("val/elbo", -9.5 - epoch, 1000 * epoch, epoch) for epoch in (1, 2)]
        client.log_batch(run.info.run_id, metrics=points)
        children[layout.trial_name(number)] = run
    return parent, children


def log_all(client: MlflowClient, packed: Packed, parent: Run, children: dict[str, Run]) -> None:
    """Two trials and an ensemble, as a study that finishes logs them."""
    for name, run in children.items():
        log_model(client, run.info.run_id, packed.record(name, tags={layout.CHAMPION_SCORE: "elbo"}))
    log_model(client, parent.info.run_id, packed.record("ensemble_best"))

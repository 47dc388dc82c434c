"""Small packed detectors of a table with columns of every kind, and what a study says when it has some."""

from pathlib import Path

import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Metric, Run
from mlflow.pyfunc import PyFuncModel
from safetensors.torch import save_file
from vae_study.config.data import DataConfig
from vae_study.config.study import DiagnosticsConfig
from vae_study.data import Dataset, frame_features, prepare
from vae_study.detector.detector import Detector
from vae_study.detector.export import pack
from vae_study.selection.comparison import Baseline, Candidate
from vae_study.selection.ranking import Selection
from vae_study.tracking import schema
from vae_study.tracking.code import write_pyfunc
from vae_study.tracking.events import ModelLogged
from vae_study.tracking.models import log_model
from vae_study.vae.inference import SCORER_FILE, WEIGHTS_FILE
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.outcome import Outcome, outcomes_of

from tests.tracking.story import new_parent
from tests.vae.builders import model_setup

COLUMNS = ["age", "income", "member", "city"]
TRIALS = (3, 7)
#: What is packed: a name, its votes, and whether the detector without a model is one more.
CHOICES = {
    "trial-0007": ([(7, "elbo")], False),
    "trial-0003": ([(3, "elbo")], False),
    "trial-0007-by-latent": ([(7, "latent_knn")], False),
    "ensemble_best": ([(trial, score) for trial in TRIALS for score in ("elbo", "residual_mahalanobis")], True),
    "without_model": ([], True),
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
        example: Some of them, in the types that a model's signature has.
    """

    def __init__(self, folder: Path):
        self.folder, self.frame = folder, customers()
        data = _data(self.frame, folder)
        self.example = data.frame(data.splits["validation"].normal_ND)
        members = [model_setup(seed, latent_dim=2, training__epochs=2) for seed in range(len(TRIALS))]
        model_batch = ModelBatch(members, data)
        for _ in range(2):
            model_batch.train_epoch()
        outcomes = dict(zip(TRIALS, outcomes_of(model_batch, DiagnosticsConfig()), strict=True))
        configs = dict(zip(TRIALS, [one.config for one in members], strict=True))
        files = {number: _files(outcome, folder / f"left-{number}") for number, outcome in outcomes.items()}
        scores = {number: outcome.scores for number, outcome in outcomes.items()}
        left = files.__getitem__, scores.__getitem__
        for name in CHOICES:
            pack(folder / name, data, configs, _choice(name), *left, 0.1, Baseline.of(data))

    def model(self, name: str) -> Path:
        """The folder of a model, as `write_pyfunc` writes it."""
        into = self.folder / "models" / name
        if not into.exists():
            write_pyfunc(self.folder / name, self.example, self.scores(name, self.frame), into)
        return into

    def scores(self, name: str, frame: pd.DataFrame) -> pd.DataFrame:
        """What a detector itself says of some rows."""
        detector = Detector.load(self.folder / name)
        return detector.score(frame_features(frame, detector.preprocessing))

    def event(self, name: str, called: str | None = None, **about) -> ModelLogged:
        """What the journal has of a model."""
        return ModelLogged(run="", time_ms=0, folder=str(self.model(name)), name=called or name, about=about)


def _data(frame: pd.DataFrame, folder: Path) -> Dataset:
    frame.to_csv(folder / "customers.csv", index=False)
    place = str(folder / "customers.csv")
    return prepare(DataConfig(source="csv", path=place, label="fraud", missing="median", scale="standard"))


def _choice(name: str) -> Candidate:
    picks, with_baseline = CHOICES[name]
    votes = tuple(Selection(trial, score, 0.0) for trial, score in picks)
    return Candidate(name=name, needs_labels=False, selections=votes, with_baseline=with_baseline)


def _files(outcome: Outcome, folder: Path) -> dict[str, Path]:
    folder.mkdir()
    save_file(outcome.weights, folder / WEIGHTS_FILE)
    save_file(outcome.scorer, folder / SCORER_FILE)
    return {name: folder / name for name in (WEIGHTS_FILE, SCORER_FILE)}


def typed(model: PyFuncModel, frame: pd.DataFrame) -> pd.DataFrame:
    """A frame in the types of a model's signature, as docs/models.md makes it; MLflow itself converts few."""
    schema = model.metadata.get_input_schema()
    return frame.astype(dict(zip(schema.input_names(), schema.pandas_types(), strict=True)))


def new_study(client: MlflowClient, study: str) -> tuple[Run, dict[str, Run]]:
    """A study's parent run, and those of its trials by name."""
    parent = new_parent(client, study)
    children = {}
    for number in TRIALS:
        tags = {schema.KIND: "trial", schema.STUDY: study, schema.PARENT: parent.info.run_id}
        run = client.create_run(parent.info.experiment_id, tags={**tags, schema.TRIAL: str(number)})
        points = [Metric("val/elbo", -9.5 - epoch, 1000 * epoch, epoch) for epoch in (1, 2)]
        client.log_batch(run.info.run_id, metrics=points)
        children[schema.trial_name(number)] = run
    return parent, children


def log_all(client: MlflowClient, packed: Packed, parent: Run, children: dict[str, Run]) -> None:
    """Two trials and an ensemble, as a study that finishes logs them."""
    for name, run in children.items():
        log_model(client, run.info.run_id, packed.event(name, tags={schema.CHAMPION_SCORE: "elbo"}))
    log_model(client, parent.info.run_id, packed.event("ensemble_best"))

"""What a small study would have left: really trained trials with their files, ready to be packed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from vae_study.config.model import TrialConfig
from vae_study.config.study import DataConfig, DiagnosticsConfig
from vae_study.data import Dataset, Table, build_dataset
from vae_study.detector.detector import Detector
from vae_study.detector.export import pack
from vae_study.selection.comparison import Baseline, Candidate, votes
from vae_study.selection.ranking import Selection
from vae_study.storage import Folder
from vae_study.study.trial_files import SCORER, WEIGHTS, read_scores, write_outcome
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.outcome import outcomes_of
from vae_study.vae.stacking import ModelSetup


@dataclass(frozen=True)
class Study:
    """Trials on one data set, by number, each with its files in a folder of its own."""

    data: Dataset
    place: Path
    configs: Mapping[int, TrialConfig]
    baseline: Baseline

    def files(self, number: int) -> Mapping[str, Path]:
        return {name: self.place / str(number) / name for name in (WEIGHTS, SCORER)}

    def scores(self, number: int) -> pd.DataFrame:
        return read_scores(Folder.at(self.place / str(number)))

    def pack(self, choice: Candidate, folder: Path) -> Path:
        pack(folder, self.data, self.configs, choice, self.files, self.scores, 0.1, self.baseline)
        return folder

    def packed(self, choice: Candidate, folder: Path) -> Detector:
        return Detector.load(self.pack(choice, folder))

    @property
    def held_out_ND(self) -> np.ndarray:
        """The rows of `scores`, in the same order."""
        return np.concatenate([self.data.splits[name].x_ND for name in ("validation", "test")])

    @property
    def is_normal_validation_N(self) -> np.ndarray:
        frame = self.scores(next(iter(self.configs)))
        return (frame["split"].eq("validation") & ~frame["anomaly"]).to_numpy()


def study(data: Dataset, members: Sequence[ModelSetup], place: Path) -> Study:
    """Train each member alone for its few epochs, as a study's trials are."""
    for number, one in enumerate(members):
        model_batch = ModelBatch([one], data)
        for _ in range(model_batch.training.epochs):
            model_batch.train_epoch()
        write_outcome(Folder.at(place / str(number)), outcomes_of(model_batch, DiagnosticsConfig(iwae_draws=0))[0])
    return Study(data, place, dict(enumerate(one.config for one in members)), Baseline.of(data))


def single(trial: int, score: str) -> Candidate:
    return Candidate(name="val/elbo", needs_labels=False, selections=(Selection(trial, score, 0.0),))


def ensemble(*trials: int) -> Candidate:
    """As `ensemble_best` and `ensemble_frontier` are made up."""
    return Candidate(name="ensemble_best", needs_labels=False, selections=votes(trials), with_baseline=True)


def labelled(*picks: tuple[int, str]) -> Candidate:
    """As `ensemble_labels` is made up."""
    chosen = tuple(Selection(trial, score, 0.0) for trial, score in picks)
    return Candidate(name="ensemble_labels", needs_labels=True, selections=chosen)


def table(rows: int = 400, seed: int = 0, missing: str = "median") -> Dataset:
    """Numbers of which some are missing, one that never varies, and categories of which some are rare."""
    random = np.random.default_rng(seed)
    x_ND = random.normal(size=(rows, 5)).astype(np.float32)
    x_ND[:, 1] = 2 * x_ND[:, 0] + 0.1 * x_ND[:, 1]
    x_ND[:, 3] = 4.0
    x_ND[random.random(rows) < 0.1, 2] = np.nan
    return build_dataset(
        Table(
            x_ND=x_ND,
            feature_names=("a", "b", "c", "constant", "e"),
            code_NC=random.choice(4, size=(rows, 1), p=[0.6, 0.3, 0.095, 0.005]).astype(np.int32),
            category_names=("kind",),
            categories=(("red", "green", "blue", "odd"),),
            label_N=(random.random(rows) < 0.1).astype(np.int32),
            labels=(0, 1),
            has_binary_labels=True,
            where="the table",
        ),
        DataConfig(source="parquet", path="table.parquet", missing=missing, scale="standard"),
    )

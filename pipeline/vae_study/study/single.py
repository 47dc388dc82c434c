"""One model trained in this process, without a search: what a study gives, of a single trial."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd

from vae_study.config.study import StudyConfig
from vae_study.data import Dataset
from vae_study.detector.detector import Detector
from vae_study.detector.export import pack
from vae_study.detector.series import series_frame
from vae_study.errors import UserError
from vae_study.selection.comparison import Baseline, Candidate
from vae_study.selection.ranking import Selection
from vae_study.storage import Folder
from vae_study.study.plan import Plan
from vae_study.study.trial_files import SCORER, WEIGHTS, write_outcome
from vae_study.study.trial_run import trial_seed
from vae_study.tracking.record import ChampionRecord, StudyRecord
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.outcome import Outcome, outcome_of
from vae_study.vae.stacking import ModelSetup


@dataclass(frozen=True, kw_only=True)
class SingleModel:
    """A model that was trained in this process, without Ray and MLflow.

    Attributes:
        config: Its study's; nothing is searched.
        data: What it was trained on.
        history: The metrics of each epoch.
        outcome: Its results.
    """

    config: StudyConfig
    data: Dataset
    history: Sequence[Mapping[str, float]]
    outcome: Outcome

    @classmethod
    def train(cls, config: StudyConfig, data: Dataset) -> Self:
        """Train it. Raise UserError if its metrics stop being finite, or if it would be a sweep of beta."""
        if config.objective.kind == "sweep":
            raise UserError("objective.kind: got 'sweep', expected 'beta' or another kind that gives a single model")
        setup = ModelSetup(config=config.trial({}), seed=trial_seed(config.seed, 0))
        batch = ModelBatch([setup], data, config.followed_score)
        history: list[dict[str, float]] = []
        for epoch in range(setup.config.training.epochs):
            (metrics,) = batch.train_epoch()
            bad = [name for name, value in metrics.items() if not np.isfinite(value)]
            if bad:
                remedy = "a lower training.learning_rate, or data without values far from all others"
                raise UserError(f"training diverged: {bad[0]} is not finite in epoch {epoch + 1}; expected {remedy}")
            history.append(metrics)
        return cls(config=config, data=data, history=history, outcome=outcome_of(batch, 0, config.diagnostics))

    @property
    def plan(self) -> Plan:
        """The plan of its study."""
        return Plan(config=self.config, name=self.config.study, folder=Folder.at("."), data=self.data)

    def packed(self, is_alone: bool) -> dict[str, bytes]:
        """The files that `Detector.load` reads, by their paths in the model's folder.

        Args:
            is_alone: Whether the model detects alone, or together with the detector without a model.
        """
        with tempfile.TemporaryDirectory() as scratch:
            return contents_of(self._pack(Path(scratch), is_alone))

    def _pack(self, scratch: Path, is_alone: bool) -> Path:
        trial, model = scratch / "trial", scratch / "model"
        write_outcome(Folder.at(trial), self.outcome)
        rule = self.plan.label_free_rule
        own = Selection(trial=0, score=self.config.followed_score, value=self.history[-1][rule])
        pack(
            model,
            self.data,
            {0: self.config.trial({})},
            Candidate(name=rule, needs_labels=False, selections=(own,), with_baseline=not is_alone),
            lambda _: {name: trial / name for name in (WEIGHTS, SCORER)},
            lambda _: self.outcome.scores,
            self.config.anomaly.fdr,
            None if is_alone else Baseline.of(self.data),
        )
        return model

    def _series(self) -> pd.DataFrame:
        """What the model makes of the series of test; no rows where rows are examples."""
        if self.data.preprocessing.sequence is None:
            return pd.DataFrame()
        with tempfile.TemporaryDirectory() as scratch:
            detector = Detector.load(self._pack(Path(scratch), is_alone=True))
        frame = series_frame(detector, self.data.splits["test"])
        return pd.DataFrame() if frame is None else frame

    def record(self) -> StudyRecord:
        """The model as a study of one trial."""
        trial = {
            "trial": 0,
            "state": "finished",
            "failure": None,
            "reason": None,
            "feasible": True,
            "preemptions": 0,
            "run_id": "",
            **self.history[-1],
            **self.outcome.metrics,
        }
        plan, score = self.plan, self.config.followed_score
        about = {
            "trial": 0,
            "rule": plan.label_free_rule,
            "score": score,
            "scores": self.outcome.scores,
            "series": self._series(),
        }
        return StudyRecord(
            name=plan.name,
            config=self.config.plain(),
            data={**self.data.summary(), "preprocessing": self.data.preprocessing.plain()},
            environment={},
            trials=pd.DataFrame([trial]),
            history=pd.DataFrame([{"trial": 0, "epoch": place + 1, **one} for place, one in enumerate(self.history)]),
            reference=plan.reference,
            champion=ChampionRecord.from_arrays(self.outcome.arrays, **about),
            tracking_uri="",
            experiment_id="",
            run_id="",
        )


def contents_of(folder: Path) -> dict[str, bytes]:
    """The content of every file in a folder, by its path there."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

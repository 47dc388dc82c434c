"""A study back out of MLflow, as plain frames and arrays. Nothing else is read: a report needs no study folder."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from pipeline.errors import UserError
from pipeline.secrets import redacted
from pipeline.tracking import layout
from pipeline.tracking.fingerprint import promoted_model
from pipeline.tracking.frames import RunFacts, confirmations_frame, joined, trials_frame
from pipeline.tracking.record import ChampionRecord, StudyRecord
from pipeline.tracking.store import find_children, require_parent

# Arrays that a study of an earlier version, or of other data, does not have.
OPTIONAL_ARRAYS = {
    "kl_per_dimension_R": "kl_per_dimension",
    "latent_mean_Z": "latent_mean",
    "latent_variance_Z": "latent_variance",
    "latent_map_N2": "latent_map",
    "traversals_LSD": "traversals",
    "interpolations_PSD": "interpolations",
    "top_place_T": "top_place",
    "top_inputs_TD": "top_inputs",
    "top_reconstructions_TD": "top_reconstructions",
    "top_contributions_TD": "top_contributions",
}


def read_study(client: MlflowClient, name: str) -> StudyRecord:
    """A study by its name, finished or still running.

    Raises:
        UserError: There is no such study in this tracking store.
    """
    parent = require_parent(client, name)
    with tempfile.TemporaryDirectory() as scratch:
        files = _Artifacts(client, Path(scratch))
        trials, history = _frames(client, parent, files)
        return StudyRecord(
            name=name,
            spec=files.json(parent, layout.SPEC_FILE),
            data=_data(parent, files),
            environment=files.json(parent, layout.ENVIRONMENT_FILE),
            trials=trials,
            history=history,
            reference=files.json(parent, layout.REFERENCE_FILE),
            champion=_champion(client, parent, trials, files),
            tracking_uri=redacted(client.tracking_uri),
            experiment_id=parent.info.experiment_id,
            run_id=parent.info.run_id,
            confirmations=confirmations_frame(map(RunFacts.of, find_children(client, parent, "confirmation"))),
            promoted=promoted_model(client, name),
            **_comparison(parent, files),
        )


class _Artifacts:
    """A run's files, downloaded once where they are needed."""

    def __init__(self, client: MlflowClient, scratch: Path):
        self.client, self.scratch = client, scratch

    def path(self, run_id: str, name: str) -> Path:
        folder = self.scratch / run_id
        folder.mkdir(exist_ok=True)
        return Path(self.client.download_artifacts(run_id, name, str(folder)))

    def json(self, parent: Run, name: str) -> Any:
        try:
            return json.loads(self.path(parent.info.run_id, name).read_text(encoding="utf-8"))
        except (MlflowException, OSError) as error:
            study = parent.data.tags[layout.STUDY]
            raise UserError(f"the study {study!r} has no readable {name} in MLflow: {error}") from None


def _frames(client: MlflowClient, parent: Run, files: _Artifacts) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Trials and history: from the parent's files once the study has ended, else from the runs of its trials."""
    if parent.data.tags.get(layout.STATE) != "running":
        paths = [files.path(parent.info.run_id, name) for name in (layout.TRIALS_FILE, layout.HISTORY_FILE)]
        return pd.read_parquet(paths[0]), pd.read_parquet(paths[1])
    children = find_children(client, parent)
    histories = downloaded_histories(client, {run.info.run_id: run for run in children})
    return trials_frame(map(RunFacts.of, children)), joined([*histories.values()])


def downloaded_histories(client: MlflowClient, runs: Mapping[str, Run]) -> dict[str, pd.DataFrame]:
    """The histories of the runs that have ended, by their keys: a row an epoch."""
    ended = {key: run for key, run in runs.items() if run.data.tags[layout.STATE] not in ("running", "waiting")}
    with tempfile.TemporaryDirectory() as scratch:
        files = _Artifacts(client, Path(scratch))
        return {key: pd.read_parquet(files.path(run.info.run_id, layout.HISTORY_FILE)) for key, run in ended.items()}


def _data(parent: Run, files: _Artifacts) -> dict[str, Any]:
    """The data summary, and how columns became features; a study of an earlier version has no `columns`."""
    summary: dict[str, Any] = files.json(parent, layout.DATA_FILE)
    if "columns" in summary:
        summary["preprocessing"] = files.json(parent, layout.PREPROCESSING_FILE)
    return summary


def _comparison(parent: Run, files: _Artifacts) -> dict[str, pd.DataFrame]:
    """The detectors of a study that has chosen; nothing for one of an earlier version, which has no such files."""
    if layout.CHAMPION_SCORE not in parent.data.tags:
        return {}
    names = {"choices": layout.CHOICES_FILE, "detectors": layout.DETECTORS_FILE}
    return {field: pd.read_parquet(files.path(parent.info.run_id, name)) for field, name in names.items()}


def _champion(client: MlflowClient, parent: Run, trials: pd.DataFrame, files: _Artifacts) -> ChampionRecord | None:
    number = parent.data.tags.get(layout.CHAMPION)
    if number is None:
        return None
    run_id = str(trials.set_index("trial").loc[int(number), "run_id"])
    with np.load(files.path(run_id, layout.EXAMPLES_FILE), allow_pickle=False) as arrays:
        return ChampionRecord(
            trial=int(number),
            rule=parent.data.tags[layout.CHAMPION_RULE],
            score=parent.data.tags.get(layout.CHAMPION_SCORE),
            scores=pd.read_parquet(files.path(run_id, layout.SCORES_FILE)),
            inputs_ND=arrays["inputs"],
            reconstructions_ND=arrays["reconstructions"],
            input_is_anomaly_N=arrays["input_is_anomaly"],
            samples_MD=arrays["samples"],
            **{field: arrays[name] for field, name in OPTIONAL_ARRAYS.items() if name in arrays},
        )

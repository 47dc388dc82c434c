"""A study back out of MLflow, as plain frames and arrays. Nothing else is read: a report needs no study folder."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from pipeline.errors import UserError
from pipeline.tracking import layout
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


TRIAL_COLUMNS = ["trial", "state", "failure", "reason", "feasible", "preemptions", "run_id"]


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
            tracking_uri=client.tracking_uri,
            experiment_id=parent.info.experiment_id,
            run_id=parent.info.run_id,
            confirmations=confirmations_frame(find_children(client, parent, "confirmation")),
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
    return children_frame(children), history_of_children(client, children)


def children_frame(children: Sequence[Run]) -> pd.DataFrame:
    """A row a trial: what is known of every trial, its parameters, its metrics at their last value."""
    rows = [_row(run) for run in children]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=TRIAL_COLUMNS)


def confirmations_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """A row a trial and further seed that finished: `trial`, `seed`, its metrics at their last value."""
    finished = [run for run in runs if run.data.tags[layout.STATE] == "finished"]
    rows = [
        {"trial": int(run.data.tags[layout.TRIAL]), "seed": int(run.data.tags[layout.SEED]), **run.data.metrics}
        for run in finished
    ]
    return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["trial", "seed"])


def _row(run: Run) -> dict[str, Any]:
    tags = run.data.tags
    about = {
        "trial": int(tags[layout.TRIAL]),
        "state": tags[layout.STATE],
        "failure": tags.get(layout.FAILURE),
        "reason": tags.get(layout.REASON),
        "feasible": tags.get(layout.FEASIBLE, "true") == "true",
        "preemptions": int(tags.get(layout.PREEMPTIONS, 0)),
        "run_id": run.info.run_id,
    }
    return {**about, **{name: _number(text) for name, text in run.data.params.items()}, **run.data.metrics}


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def history_of_children(client: MlflowClient, children: Sequence[Run]) -> pd.DataFrame:
    """A row a trial and epoch, of the trials that have ended."""
    ended = [run for run in children if run.data.tags[layout.STATE] not in ("running", "waiting")]
    with tempfile.TemporaryDirectory() as scratch:
        files = _Artifacts(client, Path(scratch))
        frames = [pd.read_parquet(files.path(run.info.run_id, layout.HISTORY_FILE)) for run in ended]
    frames = [frame for frame in frames if not frame.empty]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["trial", "epoch"])


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

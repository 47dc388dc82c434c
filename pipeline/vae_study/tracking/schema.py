"""The schema of a study in MLflow: names of tags, files and runs that readers and writers share.

Nothing here imports MLflow, which takes a second.
"""

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

# Tags of runs. Of a trial: why it failed (FAILURE, and REASON in words), how often it lost its worker and went on
# (PREEMPTIONS), whether it keeps the config's constraints (FEASIBLE), and what it was last trained on (DEVICE).
KIND, STUDY, TRIAL, STATE, UID = (f"vae_study.{name}" for name in ("kind", "study", "trial", "state", "uid"))
# Of the parent run and of the registered model: whose they are, see `storage.Owner`.
STUDY_ID, MADE_BY = "vae_study.study_id", "vae_study.made_by"
SEED, SAMPLER, IS_CLEAN = "vae_study.seed", "vae_study.sampler", "vae_study.is_clean"
FAILURE, REASON, PREEMPTIONS, FEASIBLE, DEVICE = (
    "vae_study.failure",
    "vae_study.reason",
    "vae_study.preemptions",
    "vae_study.feasible",
    "vae_study.device",
)
# Of a trial that is a model kept by a sweep: the sweep's number. Of one that trains such a model again, at its beta
# from beginning to end: the model's number. By their columns in `StudyRecord.trials`, and their fields in `Task`.
OF_SWEEPS = {"sweep": "vae_study.sweep", "retrains": "vae_study.retrains"}
CHAMPION, CHAMPION_RULE, CHAMPION_SCORE = "vae_study.champion", "vae_study.rule", "vae_study.score"
# Of the parent run: why the study ended with fewer trials than its config asks for; empty if it did not.
STOPPED = "vae_study.stopped"
CONFIG_SHA, DATA_SHA, COMMIT = "vae_study.config_sha256", "vae_study.data_sha256", "mlflow.source.git.commit"
PARENT, NOTE = "mlflow.parentRunId", "mlflow.note.content"
# The query of a link into MLflow's UI, which otherwise shows the view for language models without charts.
UI_VIEW = "workflowType=machine_learning"
# Of the experiment, with a study's run ID behind it: what its page shows by a link with that ID, as "Share" writes it.
# An uploader writes there what the parent run gets by the name VIEW.
SHARED_VIEW, VIEW = "mlflow.sharedViewState.", "vae_study.view"
# Of the experiment: without it MLflow 3 may show the view for language models, where metrics and charts are hidden.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
# Of the parent run: the sha256 of the report that is attached to it.
REPORT_SHA = "vae_study.report_sha256"

# States of a trial that has ended.
ENDED = ("finished", "pruned", "failed")

# Tags of a logged model: the parent run and the model's name, a hash of its files, and whether another one of the
# same name has replaced it.
MODEL_STUDY_RUN, MODEL_NAME, MODEL_CONTENT, MODEL_PLACE = (
    "vae_study.study_run",
    "vae_study.model",
    "vae_study.content",
    "vae_study.place",
)
CURRENT, SUPERSEDED = "current", "superseded"
# Tag of a version in the registry: its logged model.
MODEL_ID = "vae_study.model_id"
# Tag of a registered model: which model the study chose last, by which events.
CHOSEN = "vae_study.chosen"
# Where MLflow's UI looks for the versions of a logged model.
VERSIONS = "mlflow.modelVersions"
# Tag of a logged model: its trials with their scores, as JSON.
SELECTIONS = "vae_study.selections"
# Of a model that labels chose: whether the detector without a model is part of it.
WITH_BASELINE = "vae_study.with_baseline"
# Of the parent run: the champion before labels chose another one, see `tracking.learned`.
BEFORE_LABELS = "vae_study.before_labels"
# The alias of the champion's version, and the name of a study's best ensemble.
CHAMPION_ALIAS, ENSEMBLE = "champion", "ensemble"

# Files of the parent run.
CONFIG_FILE, DATA_FILE, ENVIRONMENT_FILE = "config.json", "data.json", "environment.json"
REFERENCE_FILE, PREPROCESSING_FILE = "reference.json", "preprocessing.json"
TRIALS_FILE, HISTORY_FILE = "trials.parquet", "history.parquet"
# What each rule, ensemble and baseline detects, and their scores of each example.
CHOICES_FILE, DETECTORS_FILE = "choices.parquet", "detectors.parquet"
# How far the seeds of each confirmed trial agree: `trial`, `seed` (0 its own) and this metric.
UDR_FILE, UDR = "udr.parquet", "test/udr"
# The labels by which the champion was chosen after the end of the study.
LABELS_FILE = "labels.csv"
# The frontier's picture in the description.
PICTURE_FILE = "frontier.png"
# Files of a trial's run, beside HISTORY_FILE.
SCORES_FILE, EXAMPLES_FILE = "scores.parquet", "examples.npz"
# Of time series, a file of the champion's run: what it makes of each row of test.
SERIES_FILE = "series.parquet"
# In a model's folder: the packed detector, and rows to try a served model with.
DETECTOR_FOLDER, EXAMPLE_ROWS_FILE = "data/detector", "serving_input_example.json"

# Prefix of metrics that are the logarithm of a log-scaled parameter, for MLflow's charts only.
LOG10 = "log10/"
# About 14 characters of a run's name show in MLflow's table.
SHORT_NAMES = {"beta": "b", "latent_dim": "z"}

SQLITE = "sqlite:///"
SECONDS_FOR_A_LOCK = 20.0


def trial_name(number: int) -> str:
    """A trial's name in Tune, folders and commands."""
    return f"trial-{number:04d}"


def repeat_name(number: int, seed: int) -> str:
    """The name of a trial trained again with its `seed`-th further seed."""
    return f"{trial_name(number)}-seed-{seed}"


def trial_run_name(number: int, parameters: Mapping[str, Any]) -> str:
    """The name of a trial's run: its number first, then its main parameters, such as "t007 b=4.2 z=8"."""
    shown = {short: parameters[name] for name, short in SHORT_NAMES.items() if name in parameters}
    texts = {short: f"{value:.2g}" if isinstance(value, float) else value for short, value in shown.items()}
    return " ".join([f"t{number:03d}", *(f"{short}={text}" for short, text in texts.items())])


def final_step(name: str, history: Mapping[int, Mapping[str, float]]) -> int:
    """The step of a metric that is measured once, at the end: 0, where MLflow compares trials by bars, not by dots.

    Args:
        name: The metric's.
        history: The metrics of each epoch. Where an epoch has this metric, the step is that of the last epoch.
    """
    return len(history) if any(name in metrics for metrics in history.values()) else 0


def text_value(value: Any) -> str:
    """A parameter as MLflow keeps it: text."""
    return str(list(value)) if isinstance(value, tuple) else str(value)


def sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite store; None for any other store."""
    return Path(unquote(uri.removeprefix(SQLITE).partition("?")[0])) if uri.startswith(SQLITE) else None


def missing_store(uri: str) -> Path | None:
    """The file of a SQLite store that is not there yet; None for any other store."""
    path = sqlite_path(uri)
    return path if path is not None and not path.exists() else None


def sqlite_uri(path: Path) -> str:
    """The address of a SQLite file, as SQLAlchemy reads it: % and ? in the path are escaped."""
    return f"{SQLITE}{str(path).replace('%', '%25').replace('?', '%3F')}"


def open_sqlite(path: Path) -> sqlite3.Connection:
    """A connection to a SQLite file that is there; a lock is waited for, for some seconds."""
    # Not for reading only: the first to read after a driver was killed rolls back what it had begun.
    return sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, timeout=SECONDS_FOR_A_LOCK)


def expected_address(address: str, usual: str) -> str:
    """What a message expects in place of an address: SQLAlchemy no longer knows postgres://."""
    return f"expected {'postgresql://...' if address.startswith('postgres://') else usual}"

"""How a study lies in MLflow: names of tags, artifacts and runs, which readers and writers share."""

from collections.abc import Mapping
from typing import Any

KIND, STUDY, TRIAL, STATE = "vae_study.kind", "vae_study.study", "vae_study.trial", "vae_study.state"
SEED, SAMPLER, IS_CLEAN = "vae_study.seed", "vae_study.sampler", "vae_study.is_clean"
FAILURE, UID, CHAMPION = "vae_study.failure", "vae_study.uid", "vae_study.champion"
CHAMPION_RULE, CHAMPION_SCORE = "vae_study.rule", "vae_study.score"
SPEC_SHA, DATA_SHA, COMMIT = "vae_study.spec_sha256", "vae_study.data_sha256", "mlflow.source.git.commit"
# How often a trial lost its worker and went on, why it failed, and whether it keeps the spec's constraints.
PREEMPTIONS, REASON, FEASIBLE = "vae_study.preemptions", "vae_study.reason", "vae_study.feasible"
PARENT, NOTE = "mlflow.parentRunId", "mlflow.note.content"

SPEC_FILE, DATA_FILE, ENVIRONMENT_FILE, REFERENCE_FILE = "spec.json", "data.json", "environment.json", "reference.json"
TRIALS_FILE, HISTORY_FILE, SCORES_FILE, EXAMPLES_FILE = (
    "trials.parquet",
    "history.parquet",
    "scores.parquet",
    "examples.npz",
)

# The frontier, as the parent's description shows it.
PICTURE_FILE = "frontier.png"
PREPROCESSING_FILE = "preprocessing.json"
# What each rule, ensemble and baseline detects, and their scores of each example.
CHOICES_FILE, DETECTORS_FILE = "choices.parquet", "detectors.parquet"

# Of a log-scaled parameter, for MLflow's charts only.
LOG10 = "log10/"

# A prefix of few letters: about 14 characters of a run's name show in MLflow's table.
SHORT_NAMES = {"beta": "b", "latent_dim": "z"}


def trial_name(number: int) -> str:
    """A trial's name in Tune, folders and commands."""
    return f"trial-{number:04d}"


def repeat_name(number: int, seed: int) -> str:
    """The name of a trial trained again with its `seed`-th further seed."""
    return f"{trial_name(number)}-seed-{seed}"


def trial_run_name(number: int, parameters: Mapping[str, Any]) -> str:
    """A run's name with the number first, such as "t007 b=4.2 z=8"."""
    words = [f"{short}={_short(parameters[name])}" for name, short in SHORT_NAMES.items() if name in parameters]
    return " ".join([f"t{number:03d}", *words])


def _short(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)


def final_step(name: str, history: Mapping[int, Mapping[str, float]]) -> int:
    """The step of a metric that is measured once, at the end: 0, where MLflow compares trials by bars, not by dots.

    Args:
        name: The metric's.
        history: The metrics of each epoch; one that they have, too, stands behind the last epoch's.
    """
    return len(history) if any(name in metrics for metrics in history.values()) else 0


def text_value(value: Any) -> str:
    """A parameter as MLflow keeps it: text."""
    return str(list(value)) if isinstance(value, tuple) else str(value)

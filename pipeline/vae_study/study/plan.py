"""The plan of a study: its config, data and folder, checked before anything is started or written."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from vae_study.config.base import dotted
from vae_study.config.model import ModelConfig
from vae_study.config.search_space import KINDS, LIKELIHOODS, SIZES, Choices, Range, reachable
from vae_study.config.study import CONFIG_FILE, StudyConfig, require_study_name
from vae_study.config.validation import followed_metrics
from vae_study.data import Dataset, prepare, with_absolute_paths
from vae_study.errors import UserError, opening
from vae_study.metrics import (
    LABEL_DEFAULTS,
    LABEL_FREE_DEFAULTS,
    LEAST_RARE,
    RARE_PREVALENCE,
    SCORES,
    SIGNS,
    STEERING,
    metric_of,
)
from vae_study.storage import Folder, words_of
from vae_study.tracking.schema import expected_address

PORTS = {"postgresql": 5432, "mysql": 3306}
# A weight in float32, its gradient and Adam's two moments.
BYTES_PER_WEIGHT = 16


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study that is about to run.

    Attributes:
        name: The study's name, also of its folder and its parent run.
        folder: HOME/NAME, on a disk or in an object store.
    """

    config: StudyConfig
    name: str
    folder: Folder
    data: Dataset

    @property
    def trials(self) -> Folder:
        """The results of trials, each in a folder of its own."""
        return self.folder / "trials"

    @property
    def checkpoints(self) -> Folder:
        """The checkpoints of trials, each in a folder of its own."""
        return self.folder / "checkpoints"

    @property
    def scratch(self) -> Path:
        """The folder of the driver's own files, on a local disk."""
        return self.folder.scratch

    @cached_property
    def reference(self) -> dict[str, float]:
        """The hypervolume's reference point, by objective metric. It takes torch, so it is computed on first use."""
        from vae_study.vae.evaluation import moments, trade_off_reference

        derived = trade_off_reference(self.data, _models(self.config))
        derived["val/elbo"] = -derived["val/reconstruction"]
        derived["val/squared_error"] = float(moments(self.data.splits["validation"].normal_ND)[1].sum())
        derived |= {name: metric.worst for name, metric in STEERING.items() if metric.worst is not None}
        return {
            objective.metric: derived[objective.metric] if objective.reference is None else objective.reference
            for objective in self.config.objectives
        }

    @property
    def signs(self) -> list[float]:
        """1 for each objective that is minimized, -1 for each that is maximized."""
        return [SIGNS[objective.direction] for objective in self.config.objectives]

    @property
    def label_free_rule(self) -> str:
        """The rule that ranks trials where no label may be looked at."""
        with_rate, without_rate = LABEL_FREE_DEFAULTS
        return with_rate if self.config.always_has_rate() else without_rate

    @property
    def rule(self) -> str:
        """The rule that chooses the champion."""
        return self.config.champion.by or (self.label_rule if self.data.has_anomalies else self.label_free_rule)

    @property
    def classes(self) -> tuple[int, int]:
        """How many anomalies and normal rows validation has."""
        is_anomaly_N = self.data.splits["validation"].is_anomaly_N
        return int(is_anomaly_N.sum()), int((~is_anomaly_N).sum())

    @property
    def label_rule(self) -> str:
        """The rule that ranks trials where labels may be looked at: the study's own if it is one, else the default."""
        if self.config.champion.by in LABEL_DEFAULTS:
            return self.config.champion.by
        rare, otherwise = LABEL_DEFAULTS
        anomalies, normals = self.classes
        is_rare = anomalies >= LEAST_RARE and anomalies < RARE_PREVALENCE * (anomalies + normals)
        return rare if is_rare else otherwise

    @property
    def why_rule(self) -> str:
        """Why the rule is the default, in words; empty if the study file names it."""
        if self.config.champion.by:
            return ""
        if not self.data.has_anomalies:
            return "no labelled anomalies"
        anomalies, normals = self.classes
        found = f"{anomalies} anomalies in validation, {anomalies / (anomalies + normals):.1%} of its rows"
        return f"{found}; average precision below {RARE_PREVALENCE:.0%} with at least {LEAST_RARE}, else AUROC"

    @property
    def how_to_continue(self) -> str:
        """How to continue a study that ended early, for messages."""
        if CONFIG_FILE not in self.folder.names():
            return "it had not begun"
        return f"continue with: vae-study resume {self.words}"

    @property
    def words(self) -> str:
        """The words of a command that mean this study: its name, with HOME unless that is the default one."""
        return words_of(self.name, self.folder.place.rpartition("/")[0])


@dataclass(frozen=True, kw_only=True)
class Locations:
    """Where a study keeps its runs and trials, and what Ray it runs on.

    Attributes:
        storage_of: Gives the database of a study in this HOME by its name.
        study_file: The user's study file, if the config comes from one.
    """

    tracking_uri: str
    storage_of: Callable[[str], str]
    ray_address: str | None = None
    study_file: Path | None = None


def require_database(storage: str) -> None:
    """Refuse the URL of a study store that SQLAlchemy cannot open, without connecting.

    Raises:
        UserError: It is no URL, of an unknown kind of database, or its driver is not installed.
    """
    expected = expected_address(storage, "a database of SQLAlchemy's, its driver installed")
    with opening(f"--study-storage {storage}", expected):
        make_url(storage).get_dialect().import_dbapi()


def require_apart(uri: str, storage: str) -> None:
    """Refuse one database for both stores: MLflow and Optuna each number their tables' version in `alembic_version`.

    Args:
        uri: The tracking store's.
        storage: The study store's URL.

    Raises:
        UserError: They are the same.
    """
    if _place(uri) == _place(storage):
        raise UserError(
            f"--study-storage {storage}: got the database of --tracking-uri; expected another one, even on the same "
            "server, since MLflow and Optuna keep their versions in a table of the same name"
        )


def _place(url: str) -> tuple[Any, ...]:
    """Where a database is, whoever opens it by whatever driver."""
    try:
        found = make_url(url)
    except ArgumentError:
        # No database, such as MLflow's address "databricks".
        return (url,)
    kind = found.get_backend_name()
    return kind, found.host, found.port or PORTS.get(kind), found.database


def make_plan(config: StudyConfig, name: str | None, home: str | Path) -> Plan:
    """Check all that can be checked before anything starts.

    Raises:
        UserError: The name or the data cannot be used, or do not fit the config.
    """
    name = require_study_name(name or config.study)
    # Workers have another working folder.
    config = config.model_copy(update={"data": with_absolute_paths(config.data)})
    data = prepare(config.data)
    _check_labels(config, data)
    _check_score(config, data)
    families = {config.trial(values).model.family for values in reachable(config.search, ("family",))}
    if (of_labels := sorted(families & {"conditional", "semi_supervised"})) and not data.classes:
        raise UserError(f"model.family: got {of_labels[0]!r}, which needs labels, and {data.source} has none")
    for values in reachable(config.search, KINDS):
        has_sequences = data.sequence_shape is not None
        config.trial(values).model.require_data(data.image_shape is not None, has_sequences)
    _check_batch(config, data)
    return Plan(config=config, name=name, folder=Folder.at(home) / name, data=data)


def require_memory(plan: Plan, node_bytes: float | None = None) -> None:
    """Refuse a study of which not even the smallest model fits, before anything is allocated.

    Args:
        node_bytes: The memory of a cluster's largest node; None for this machine's own.

    Raises:
        UserError: It needs more; the message says how much, and how much there is.
    """
    features, search = len(plan.data.feature_names), plan.config.search
    numbers = [name for name in ("latent_dim", "codebook.size", "codebook.dim") if name in search]
    smallest = {name: min(search[name].ends()) for name in numbers}
    models = (plan.config.trial({**values, **smallest}).model for values in reachable(search, SIZES))
    least = min(model.least_weights(features) for model in models) * BYTES_PER_WEIGHT
    there = psutil.virtual_memory().total if node_bytes is None else node_bytes
    if least > there:
        where = "this machine" if node_bytes is None else "the largest node"
        raise UserError(
            f"model.network.hidden, model.latent_dim: the smallest model of this study takes at least "
            f"{least / 2**30:,.1f} GiB for its weights and their training; {where} has {there / 2**30:,.1f} GiB"
        )


def _check_labels(config: StudyConfig, data: Dataset) -> None:
    for path, metric in followed_metrics(config):
        if "labels" in metric_of(metric).needs and not data.has_anomalies:
            raise UserError(
                f"{dotted(path)}: got {metric!r}, but {data.source} has no labelled anomaly in validation or none in "
                "test; expected a metric that needs no labels, or data.label and data.anomaly_labels"
            )


def _check_score(config: StudyConfig, data: Dataset) -> None:
    if config.score is not None and SCORES[config.score].of_images and data.image_shape is None:
        raise UserError(f"anomaly.score: got {config.score!r}, which only images have, and {data.source} holds none")


def _check_batch(config: StudyConfig, data: Dataset) -> None:
    rows = len(data.splits["train"].row_N)
    searched = config.search.get("training.batch_size")
    sizes = searched.ends() if searched else (config.training.batch_size,)
    largest = max(config.trial({"training.batch_size": size}).training.batch_size for size in sizes)
    if largest > rows:
        raise UserError(f"training.batch_size: got {largest}, expected at most the {rows} normal rows of train")


def _models(config: StudyConfig) -> list[ModelConfig]:
    """The models of the search space that differ in their likelihood."""
    models = [config.trial({}).model]
    for name in LIKELIHOODS:
        parameter: Range | Choices | None = config.search.get(name)
        if parameter is not None:
            models = [model.model_copy(update={name: value}) for model in models for value in parameter.ends()]
    return models

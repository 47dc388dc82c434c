"""A study before it starts: its spec, data and places, all checked, nothing made."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.data import Dataset, prepare, resolved
from pipeline.errors import UserError
from pipeline.folders import Folder
from pipeline.spec import SPEC_FILE, Choices, Range, StudySpec
from pipeline.spec.problems import dotted
from pipeline.spec.schema import require_study_name
from pipeline.spec.searching import reachable
from pipeline.spec.steering import followed_metrics
from pipeline.spec.trial import ModelSpec

# Hypervolume reference of metrics that have a natural worst value.
WORST = {"val/auroc": 0.5, "val/active_units": 0.0}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run is going to do.

    Attributes:
        name: The study's name, also of its folder and its parent run.
        folder: HOME/NAME, on a disk or in an object store.
    """

    spec: StudySpec
    name: str
    folder: Folder
    data: Dataset

    @property
    def trials(self) -> Folder:
        """Where trials leave their files, each in a folder of its own."""
        return self.folder / "trials"

    @property
    def checkpoints(self) -> Folder:
        """Where trials keep their checkpoints, each in a folder of its own."""
        return self.folder / "checkpoints"

    @property
    def scratch(self) -> Path:
        """The driver's own files, which have to lie on a local disk."""
        return self.folder.scratch

    @cached_property
    def reference(self) -> dict[str, float]:
        """The hypervolume's reference point, by objective metric; it takes torch, which a start has no time for."""
        return _reference(self.spec, self.data)

    @property
    def signs(self) -> list[float]:
        """1 for each objective that is minimized, -1 for each that is maximized."""
        return [1.0 if objective.direction == "minimize" else -1.0 for objective in self.spec.objectives]

    @property
    def label_free_rule(self) -> str:
        """The rule that ranks trials where no label may be looked at."""
        return "val/elbo" if self.spec.always_has_rate() else "val/reconstruction"

    @property
    def rule(self) -> str:
        """The rule that chooses the champion."""
        return self.spec.champion.by or ("val/auroc" if self.data.has_anomalies else self.label_free_rule)

    @property
    def how_to_go_on(self) -> str:
        """What to tell whose study ended early."""
        if SPEC_FILE not in self.folder.names():
            return "it had not begun"
        return f"go on with: vae-study resume {self.name}"


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where a study's parts live.

    Attributes:
        storage_of: Gives the database of a study in this HOME by its name.
        study_file: The user's, where the spec comes from one.
    """

    tracking_uri: str
    storage_of: Callable[[str], str]
    ray_address: str | None = None
    study_file: Path | None = None


def make_plan(spec: StudySpec, name: str | None, home: str | Path) -> Plan:
    """Check all that can be checked before anything starts.

    Raises:
        UserError: The name or the data will not do.
    """
    name = require_study_name(name or spec.study)
    # Workers have another working folder.
    spec = spec.model_copy(update={"data": resolved(spec.data)})
    data = prepare(spec.data)
    _check_labels(spec, data)
    _check_conditions(spec, data)
    _check_batch(spec, data)
    return Plan(spec=spec, name=name, folder=Folder.at(home) / name, data=data)


def _check_labels(spec: StudySpec, data: Dataset) -> None:
    for path, metric in followed_metrics(spec):
        if metric == "val/auroc" and not data.has_anomalies:
            raise UserError(
                f"{dotted(path)}: came 'val/auroc', but {data.source} has no labelled anomaly in validation or none in "
                "test; expected a metric that needs no labels, or data.anomaly_labels"
            )


def _check_conditions(spec: StudySpec, data: Dataset) -> None:
    families = {spec.trial(values).model.family for values in reachable(spec.search, ("family",))}
    if "conditional" in families and not data.classes:
        raise UserError(f"model.family: came 'conditional', which needs labels, and {data.source} came without any")


def _check_batch(spec: StudySpec, data: Dataset) -> None:
    rows = len(data.splits["train"].row_N)
    searched = spec.search.get("training.batch_size")
    sizes = searched.ends() if searched else (spec.training.batch_size,)
    largest = max(spec.trial({"training.batch_size": size}).training.batch_size for size in sizes)
    if largest > rows:
        raise UserError(f"training.batch_size: came {largest}, expected at most the {rows} normal rows of train")


def _reference(spec: StudySpec, data: Dataset) -> dict[str, float]:
    from pipeline.vae.reference import trade_off_reference

    derived = trade_off_reference(data, _models(spec))
    derived["val/elbo"] = -derived["val/reconstruction"]
    derived["val/squared_error"] = float(data.splits["validation"].normal_ND.var(axis=0).sum())
    derived |= WORST
    return {
        objective.metric: derived[objective.metric] if objective.reference is None else objective.reference
        for objective in spec.objectives
    }


def _models(spec: StudySpec) -> list[ModelSpec]:
    """The models that differ in their likelihood, as far as the search reaches."""
    models = [spec.trial({}).model]
    for name in ("likelihood", "sigma", "learned_sigma"):
        parameter: Range | Choices | None = spec.search.get(name)
        if parameter is not None:
            models = [model.model_copy(update={name: value}) for model in models for value in parameter.ends()]
    return models

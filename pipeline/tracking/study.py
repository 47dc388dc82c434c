"""The parent run of a study: how it begins and how it ends."""

import importlib.metadata
import json
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.choosing import Pick
from pipeline.data import Dataset
from pipeline.errors import UserError
from pipeline.spec import StudySpec
from pipeline.tracking import layout
from pipeline.tracking.store import create_parent, find_parent, runs_by_key
from pipeline.tracking.writer import TrackingWriter

PACKAGES = ("vae-study", "ray", "torch", "optuna", "mlflow", "pandas", "pyarrow", "scikit-learn", "numpy")


def open_study(
    client: MlflowClient, spec: StudySpec, name: str, data: Dataset, reference: Mapping[str, float], folder: Path
) -> TrackingWriter:
    """Make a study's parent run, or take up the one that it has, and start writing beneath it.

    Args:
        client: Of the tracking store.
        spec: The resolved spec.
        name: The study's name.
        data: What the study is about.
        reference: The hypervolume's reference point, by metric.
        folder: The study's, on a local disk.

    Raises:
        UserError: The study has begun with other data.
    """
    parent = find_parent(client, name)
    if parent is not None:
        _require_same_data(parent, name, data)
    begun = {"experiment": spec.study, "name": name, "tags": _tags(spec, name, data)}
    parent = parent or create_parent(client, begun)
    writer = TrackingWriter(client, parent, runs_by_key(client, parent), folder)
    writer.begin(begun)
    about = {
        layout.SPEC_FILE: spec.plain(),
        layout.DATA_FILE: data.summary(),
        layout.PREPROCESSING_FILE: data.preprocessing.plain(),
        layout.REFERENCE_FILE: dict(reference),
        layout.ENVIRONMENT_FILE: environment(),
    }
    for file, content in about.items():
        writer.log_text(json.dumps(content, indent=2, sort_keys=True), file)
    return writer


def _require_same_data(parent: Run, name: str, data: Dataset) -> None:
    begun, found = parent.data.tags.get(layout.DATA_SHA), data.sha256
    if begun not in (None, found):
        raise UserError(
            f"the data of the study {name!r} changed since it began: {data.source} has sha256 {found[:12]}, "
            f"expected {str(begun)[:12]}; expected the same data, or another --name"
        )


def _tags(spec: StudySpec, name: str, data: Dataset) -> dict[str, str]:
    commit = _git_commit()
    return {
        layout.KIND: "study",
        layout.STUDY: name,
        layout.STATE: "running",
        layout.SPEC_SHA: spec.sha256(),
        layout.DATA_SHA: data.sha256,
        layout.NOTE: f"{spec.trials} trials of {spec.model.family} on {data.source}, running.",
        **({layout.COMMIT: commit} if commit else {}),
    }


def close_study(writer: TrackingWriter, state: str, note: str, rule: str, champion: Pick | None) -> None:
    """The last words of the parent run: its frames, its description, the champion, its state."""
    writer.log_trials()
    tags = {layout.STATE: state, layout.NOTE: note, layout.CHAMPION_RULE: rule}
    if champion is not None:
        tags |= {layout.CHAMPION: str(champion.trial), layout.CHAMPION_SCORE: champion.score}
    writer.close_parent(tags, "FINISHED" if state == "finished" else "KILLED")


def environment() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _git_commit() -> str | None:
    """The commit that the package is run from, where it is a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=5).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None

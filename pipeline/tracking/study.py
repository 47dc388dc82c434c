"""The parent run of a study: how it begins and how it ends."""

import json
from collections.abc import Mapping
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.choosing import Pick
from pipeline.data import Dataset
from pipeline.errors import UserError
from pipeline.folders import Folder
from pipeline.spec import StudySpec
from pipeline.tracking import layout
from pipeline.tracking.description import plan_note
from pipeline.tracking.environment import environment
from pipeline.tracking.store import create_parent, find_parent, runs_by_key
from pipeline.tracking.views import shared_view
from pipeline.tracking.writer import TrackingWriter


def open_study(
    client: MlflowClient,
    spec: StudySpec,
    name: str,
    data: Dataset,
    reference: Mapping[str, float],
    rule: str,
    folder: Path,
    study_file: Path | None = None,
    archive: Folder | None = None,
) -> TrackingWriter:
    """Make a study's parent run, or take up the one that it has, and start writing beneath it.

    Args:
        client: Of the tracking store.
        spec: The resolved spec.
        name: The study's name.
        data: What the study is about.
        reference: The hypervolume's reference point, by metric.
        rule: The one that chooses the champion.
        folder: The study's, on a local disk.
        study_file: The user's, whose commit is kept; by default that of the working directory.
        archive: Where each run has a folder that lasts longer than that disk.

    Raises:
        UserError: The study has begun with other data.
    """
    parent = find_parent(client, name)
    if parent is not None:
        _require_same_data(parent, name, data)
    about_it = environment(study_file)
    begun = {"experiment": spec.study, "name": name, "tags": _tags(spec, name, data, about_it)}
    parent = parent or create_parent(client, begun)
    writer = TrackingWriter(client, parent, runs_by_key(client, parent), folder, archive)
    writer.begin(begun)
    writer.show(shared_view(spec.plain(), rule, "{parent}"), data.summary())
    about = {
        layout.SPEC_FILE: spec.plain(),
        layout.DATA_FILE: data.summary(),
        layout.PREPROCESSING_FILE: data.preprocessing.plain(),
        layout.REFERENCE_FILE: dict(reference),
        layout.ENVIRONMENT_FILE: about_it,
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


def _tags(spec: StudySpec, name: str, data: Dataset, about: Mapping[str, str]) -> dict[str, str]:
    # The code that a user may change is that of the spec; where that is under no git, the package's.
    whose = "spec" if "spec_commit" in about else "package"
    code = {layout.COMMIT: f"{whose}_commit", layout.IS_CLEAN: f"{whose}_is_clean"}
    return {
        layout.KIND: "study",
        layout.STUDY: name,
        layout.STATE: "running",
        layout.SPEC_SHA: spec.sha256(),
        layout.DATA_SHA: data.sha256,
        layout.NOTE: plan_note(spec.plain(), name, data.summary()),
        **{tag: about[field] for tag, field in code.items() if field in about},
    }


def close_study(writer: TrackingWriter, state: str, note: str, rule: str, champion: Pick | None) -> None:
    """The last words of the parent run: its frames, its description, the champion, its state."""
    writer.log_trials()
    tags = {layout.STATE: state, layout.NOTE: note, layout.CHAMPION_RULE: rule}
    if champion is not None:
        tags |= {layout.CHAMPION: str(champion.trial), layout.CHAMPION_SCORE: champion.score}
    writer.close_parent(tags, "FINISHED" if state == "finished" else "KILLED")

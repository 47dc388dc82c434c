"""Models attached to the runs that made them, as MLflow's logged models: each once, however often it is handed over."""

import hashlib
import json
import logging
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric, Run
from mlflow.models import Model

from pipeline.tracking import layout
from pipeline.tracking.models.names import CONTENT, CURRENT, DETECTOR, NAME, PLACE, STUDY_RUN, SUPERSEDED
from pipeline.tracking.spool import Record

logger = logging.getLogger(__name__)

MLMODEL, READY = "MLmodel", LoggedModelStatus.READY


def log_model(client: MlflowClient, run_id: str, record: Record) -> None:
    """Attach a model folder to a run, whatever of it has been done before.

    What is attached under the name already is kept where its numbers are the same. Else it stays, as superseded,
    since a version in the registry may be made of it.

    Args:
        client: Of the tracking store.
        run_id: The trial's run, or the study's.
        record: `folder` (as `as_pyfunc` writes it), `name` ("trial-0007", an ensemble) and `about`: `tags` (text by
            name) and `metrics` (the names of those of the run's metrics that are shown beside the model).
    """
    folder, run = Path(record["folder"]), client.get_run(run_id)
    if not (folder / MLMODEL).exists():
        if current_model(client, run, record["name"]) is None:
            logger.warning("the model %s is gone and cannot be attached", folder)
        return
    model = _same(client, run, record, folder)
    if model.status != READY:
        _upload(client, run, model, folder)
        client.finalize_logged_model(model.model_id, READY)
    _link(client, run, model)
    _show_metrics(client, run, model, record["about"].get("metrics", ()))
    _put_in_place(client, run, model)


def current_model(client: MlflowClient, run: Run, name: str) -> LoggedModel | None:
    """The model of that name of a study, given any of its runs; None where there is none."""
    return next((one for one in current_models(client, run) if one.tags[NAME] == name), None)


def current_models(client: MlflowClient, run: Run) -> list[LoggedModel]:
    """The models of a study, given any of its runs, by name."""
    found = _search(client, run, {STUDY_RUN: _study_run(run), PLACE: CURRENT})
    return sorted(found, key=lambda one: str(one.tags[NAME]))


def _same(client: MlflowClient, run: Run, record: Record, folder: Path) -> LoggedModel:
    """The model of this name with the folder's numbers, found or created."""
    identity = {layout.UID: f"{_study_run(run)}/{record['name']}", CONTENT: _content(folder / DETECTOR)}
    known = _search(client, run, identity)
    if known:
        model = min(known, key=lambda one: (one.status != READY, one.creation_timestamp))
        client.set_logged_model_tags(model.model_id, _tags(record))
        return model
    tags = {
        layout.KIND: "model",
        layout.STUDY: run.data.tags[layout.STUDY],
        STUDY_RUN: _study_run(run),
        NAME: record["name"],
        **identity,
        **_tags(record),
    }
    return client.create_logged_model(run.info.experiment_id, record["name"], run.info.run_id, tags)


def _tags(record: Record) -> dict[str, str]:
    return {name: str(value) for name, value in record["about"].get("tags", {}).items()}


def _content(folder: Path) -> str:
    """A fingerprint of a packed detector's files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(json.dumps([path.relative_to(folder).as_posix(), path.stat().st_size]).encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _upload(client: MlflowClient, run: Run, model: LoggedModel, folder: Path) -> None:
    client.log_model_artifacts(model.model_id, str(folder))
    about = Model.load(str(folder))
    about.model_id = about.model_uuid = model.model_id
    about.run_id, about.artifact_path = run.info.run_id, model.artifact_location
    with tempfile.TemporaryDirectory() as scratch:
        about.save(f"{scratch}/{MLMODEL}")
        client.log_model_artifact(model.model_id, f"{scratch}/{MLMODEL}")


def _link(client: MlflowClient, run: Run, model: LoggedModel) -> None:
    """Show the model on its run's page, which the store refuses to do twice."""
    outputs = run.outputs.model_outputs if run.outputs else []
    if model.model_id not in [one.model_id for one in outputs]:
        client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=0)])


def _show_metrics(client: MlflowClient, run: Run, model: LoggedModel, names: Iterable[str]) -> None:
    """Log the run's last points once more, as the model's too; for the run they are the same points."""
    histories = [client.get_metric_history(run.info.run_id, name) for name in names if name in run.data.metrics]
    last = [max(history, key=lambda one: (one.step, one.timestamp)) for history in histories]
    points = [
        Metric(one.key, one.value, one.timestamp, one.step, model_id=model.model_id, run_id=run.info.run_id)
        for one in last
    ]
    if points:
        client.log_batch(run.info.run_id, metrics=points)


def _put_in_place(client: MlflowClient, run: Run, model: LoggedModel) -> None:
    """Make it the one of its name; delete what a lost answer or a kill left of others."""
    client.set_logged_model_tags(model.model_id, {PLACE: CURRENT})
    for other in _search(client, run, {layout.UID: model.tags[layout.UID]}):
        if other.model_id == model.model_id:
            continue
        if other.status == READY:
            client.set_logged_model_tags(other.model_id, {PLACE: SUPERSEDED})
        else:
            client.delete_logged_model(other.model_id)


def _study_run(run: Run) -> str:
    return str(run.data.tags.get(layout.PARENT, run.info.run_id))


def _search(client: MlflowClient, run: Run, tags: Mapping[str, str]) -> list[LoggedModel]:
    query = " AND ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    found: list[LoggedModel] = []
    token: str | None = None
    while True:
        page: Any = client.search_logged_models([run.info.experiment_id], query, page_token=token)
        found += page
        token = page.token
        if not token:
            return found

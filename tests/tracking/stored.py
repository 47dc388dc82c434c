"""A made-up study, told to a tracking store as its driver would have told it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Run
from vae_study.tracking import schema
from vae_study.tracking.events import StudyBegun, TextLogged
from vae_study.tracking.record import StudyRecord
from vae_study.tracking.store import create_parent, find_parent, runs_by_key
from vae_study.tracking.writer import TrackingWriter

NOTE = "The model to take.\n\n[trials](#/a) · [files and report](#/b) · [what failed](#/c)\n\n**The frontier**"
ABOUT = ("trial", "state", "failure", "run_id")


def begin(client: MlflowClient, record: StudyRecord, folder: Path) -> TrackingWriter:
    """A driver that begins a study, or goes on with it."""
    tags = {schema.KIND: "study", schema.STUDY: record.name, schema.STATE: "running", schema.NOTE: "Running"}
    begun = {"experiment": record.name, "name": record.name, "tags": tags}
    parent = find_parent(client, record.name) or create_parent(client, **begun)
    writer = TrackingWriter(client, parent, runs_by_key(client, parent), folder)
    writer.log(StudyBegun(**begun))
    for file, content in (
        (schema.CONFIG_FILE, record.config),
        (schema.DATA_FILE, record.data),
        (schema.ENVIRONMENT_FILE, record.environment),
        (schema.REFERENCE_FILE, record.reference),
    ):
        writer.log(TextLogged(text=json.dumps(content), name=file))
    return writer


def tell(writer: TrackingWriter, row: Mapping[Any, Any]) -> None:
    """A trial from its start to its end."""
    key, known = schema.trial_name(int(row["trial"])), {k: v for k, v in row.items() if v is not None and v == v}
    parameters = {name: value for name, value in known.items() if "/" not in name and name not in ABOUT}
    writer.start(key, key, parameters, {schema.KIND: "trial", schema.TRIAL: str(row["trial"])})
    metrics = {name: value for name, value in known.items() if "/" in name}
    writer.end(key, int(row["trial"]), metrics, {schema.STATE: str(row["state"])})


def finish(writer: TrackingWriter, record: StudyRecord, outbox: Path) -> Run:
    """The parent's last words; gives the parent run as it is then."""
    tags = {schema.STATE: "finished", schema.NOTE: NOTE}
    writer.log_trials()
    writer.log_frame(record.history, schema.HISTORY_FILE)
    if record.champion is not None:
        tags |= {schema.CHAMPION: str(record.champion.trial), schema.CHAMPION_RULE: record.champion.rule}
        outbox.mkdir(exist_ok=True)
        record.champion.scores.to_parquet(outbox / schema.SCORES_FILE)
        np.savez(
            outbox / schema.EXAMPLES_FILE,
            inputs=record.champion.inputs_ND,
            reconstructions=record.champion.reconstructions_ND,
            input_is_anomaly=record.champion.input_is_anomaly_N,
            samples=record.champion.samples_MD,
        )
        files = [outbox / schema.SCORES_FILE, outbox / schema.EXAMPLES_FILE]
        writer.log_files(schema.trial_name(record.champion.trial), files)
    writer.close_parent(tags, "FINISHED")
    writer.drain()
    writer.close()
    return writer.client.get_run(writer.parent_id)


def store(client: MlflowClient, record: StudyRecord, folder: Path) -> Run:
    """The whole study, finished; gives its parent run."""
    writer = begin(client, record, folder)
    for row in record.trials.to_dict("records"):
        tell(writer, row)
    return finish(writer, record, folder / "files")

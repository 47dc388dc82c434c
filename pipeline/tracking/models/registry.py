"""The registry: a model by the study's name, a version for each model that was chosen, and the alias `champion`."""

import json
import logging
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LoggedModel
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException

from pipeline.tracking import layout
from pipeline.tracking.models.finding import find_model
from pipeline.tracking.models.logged import current_model
from pipeline.tracking.models.names import CHAMPION, CONTENT, CROWNED, MODEL_ID, NAME, PLACE, STUDY_RUN, VERSIONS
from pipeline.tracking.spool import Record
from pipeline.tracking.store import require_parent

logger = logging.getLogger(__name__)

# What a version does not take over from its model, since it tells nothing there.
OF_MODELS_ONLY = {layout.KIND, layout.STUDY, layout.UID, STUDY_RUN, CONTENT, PLACE, VERSIONS}
NOTHING_YET = json.dumps({"model_id": None, "records": []})
RECORDS_REMEMBERED = 100


def crown(client: MlflowClient, run_id: str, record: Record) -> None:
    """Register the model that a study chose, and make it the champion, unless it was that already.

    Where a user has moved the alias by hand, it stays until the study chooses another model.

    Args:
        client: Of the tracking store.
        run_id: The study's.
        record: `name` of a model that `log_model` has attached, `rule` (how it was chosen), `note` (a description) and
            `time_ms`.
    """
    parent = client.get_run(run_id)
    model, study = current_model(client, parent, record["name"]), parent.data.tags[layout.STUDY]
    if model is None:
        logger.warning("the study %r has no model %s that could be registered", study, record["name"])
        return
    registered = _registered(client, study)
    held = json.loads(registered.tags.get(CROWNED, NOTHING_YET))
    if record["time_ms"] in held["records"]:
        return
    version = _version(client, study, model)
    client.set_model_version_tag(study, version.version, layout.CHAMPION_RULE, record["rule"])
    client.update_model_version(study, version.version, record["note"])
    if held["model_id"] != model.model_id or CHAMPION not in registered.aliases:
        client.set_registered_model_alias(study, CHAMPION, version.version)
    records = [*held["records"], record["time_ms"]][-RECORDS_REMEMBERED:]
    client.set_registered_model_tag(study, CROWNED, json.dumps({"model_id": model.model_id, "records": records}))


def promote(client: MlflowClient, study: str, name: str) -> int:
    """Make a model of a study the champion by hand.

    Args:
        client: Of the tracking store.
        study: The study's name.
        name: "trial-0007", "ensemble", or one of the ensembles.

    Returns:
        The version that is the champion now.

    Raises:
        UserError: There is no such study, or it has kept no such model.
    """
    model = find_model(client, require_parent(client, study), name)
    _registered(client, study)
    version = _version(client, study, model)
    client.set_registered_model_alias(study, CHAMPION, version.version)
    return int(version.version)


def _registered(client: MlflowClient, study: str) -> RegisteredModel:
    try:
        return client.get_registered_model(study)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    try:
        client.create_registered_model(study, description=f"What the study {study} chose, and what was promoted.")
    except MlflowException as error:
        # MLflow's client sends a request again whose answer was lost.
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    return client.get_registered_model(study)


def _version(client: MlflowClient, study: str, model: LoggedModel) -> ModelVersion:
    """The one version made of a model."""
    if not _versions(client, study, model):
        note = f"{model.tags[NAME]} of the study {study}"
        tags = {name: value for name, value in model.tags.items() if name not in OF_MODELS_ONLY}
        tags |= {metric.key: f"{metric.value:.6g}" for metric in model.metrics or []}
        client.create_model_version(
            study,
            # Not "models:/m-...": MLflow would look that up in the store that the environment names.
            model.artifact_location,
            model.source_run_id,
            {**tags, MODEL_ID: model.model_id},
            description=note,
            model_id=model.model_id,
        )
    first, *others = _versions(client, study, model)
    for other in others:
        # Sent twice, too.
        client.delete_model_version(study, other.version)
    links = json.loads(model.tags.get(VERSIONS, "[]"))
    link = {"name": study, "version": str(first.version)}
    if link not in links:
        client.set_logged_model_tags(model.model_id, {VERSIONS: json.dumps([*links, link])})
    return first


def _versions(client: MlflowClient, study: str, model: LoggedModel) -> list[ModelVersion]:
    query, found = f"name = '{study}'", list[ModelVersion]()
    token: str | None = None
    while True:
        page: Any = client.search_model_versions(query, page_token=token)
        found += [version for version in page if version.tags.get(MODEL_ID) == model.model_id]
        token = page.token
        if not token:
            return sorted(found, key=lambda version: int(version.version))

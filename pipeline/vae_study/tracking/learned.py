"""The champion that labels chose after the end of a study, and the way back to the one before."""

import json
from collections.abc import Mapping
from pathlib import Path

from mlflow import MlflowClient

from vae_study.errors import UserError
from vae_study.metrics import LEARNED
from vae_study.tracking import schema
from vae_study.tracking.events import PARENT, ModelLogged
from vae_study.tracking.models import current_model, current_models, default_model, find_model, log_model, promote
from vae_study.tracking.ownership import champion_version, promoted_model
from vae_study.tracking.store import require_parent


def kept_trials(client: MlflowClient, study: str) -> dict[int, str]:
    """The trials of a study's models, each with the name of a model that it is part of.

    Raises:
        UserError: There is no such study.
    """
    found: dict[int, str] = {}
    for model in current_models(client, require_parent(client, study)):
        for trial, _ in json.loads(model.tags.get(schema.SELECTIONS, "[]")):
            found.setdefault(int(trial), str(model.tags[schema.MODEL_NAME]))
    return found


def default_tags(client: MlflowClient, study: str) -> dict[str, str]:
    """The tags of the model that scores where a user names none: MODEL_NAME, SELECTIONS and others.

    Raises:
        UserError: There is no such study, or it has kept no model.
    """
    parent, name = require_parent(client, study), default_model(client, study)
    version = champion_version(client, parent.data.tags) if name == schema.CHAMPION_ALIAS else None
    return dict(find_model(client, parent, name).tags if version is None else version.tags)


def set_learned(client: MlflowClient, study: str, folder: Path, tags: Mapping[str, str], labels: str) -> int:
    """Attach a model to a study as LEARNED, with the labels that chose it, and make it the champion.

    Args:
        client: Of the tracking store.
        study: The study's name.
        folder: Of the model, as `code.write_pyfunc` writes it.
        tags: Of the model.
        labels: The content of the file of labels.

    Returns:
        Its version in the registry.

    Raises:
        UserError: There is no such study, it has no champion, or the registered model of its name is somebody else's.
    """
    parent = require_parent(client, study)
    before = promoted_model(client, parent.data.tags)
    if before is None:
        raise UserError(f"the study {study!r} has no champion; expected a study that has finished")
    run_id = parent.info.run_id
    client.log_text(run_id, labels, schema.LABELS_FILE)
    log_model(client, run_id, ModelLogged(run=PARENT, name=LEARNED, folder=str(folder), about={"tags": tags}))
    if before != LEARNED:
        # Labels that come again replace the first ones: the way back stays that to the champion before those.
        client.set_tag(run_id, schema.BEFORE_LABELS, before)
    return promote(client, study, LEARNED)


def forget_learned(client: MlflowClient, study: str) -> str:
    """Make the champion before the labels the champion again, and return its name; the model LEARNED is superseded.

    Raises:
        UserError: There is no such study, or no labels chose its champion.
    """
    parent = require_parent(client, study)
    before, model = parent.data.tags.get(schema.BEFORE_LABELS), current_model(client, parent, LEARNED)
    if before is None or model is None:
        raise UserError(f"--forget: no labels chose a model of {study!r}; expected a study after `vae-study learn`")
    # A champion that a user has promoted since then stays.
    promoted = promoted_model(client, parent.data.tags)
    if promoted == LEARNED:
        promote(client, study, before)
    client.set_logged_model_tags(model.model_id, {schema.MODEL_PLACE: schema.SUPERSEDED})
    client.delete_tag(parent.info.run_id, schema.BEFORE_LABELS)
    return before if promoted == LEARNED else str(promoted)

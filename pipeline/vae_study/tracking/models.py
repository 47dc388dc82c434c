"""Models in MLflow: attached to their runs, registered, and found again by name."""

import difflib
import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric, Run
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from vae_study.errors import UserError, redacted
from vae_study.metrics import ENSEMBLE_PREFERENCE
from vae_study.tracking import schema
from vae_study.tracking.events import ChampionChosen, ModelLogged
from vae_study.tracking.ownership import champion_version, promoted_model, registered_model, require_own
from vae_study.tracking.schema import CHAMPION_ALIAS, ENSEMBLE, MODEL_NAME
from vae_study.tracking.store import all_pages, find_parent, own_parent, require_parent, runs_by_key

logger = logging.getLogger(__name__)

MLMODEL, READY = "MLmodel", LoggedModelStatus.READY
# Tags of a logged model that are not copied to its version in the registry.
MODEL_TAGS_ONLY = {
    schema.KIND,
    schema.STUDY,
    schema.UID,
    schema.MODEL_STUDY_RUN,
    schema.MODEL_CONTENT,
    schema.MODEL_PLACE,
    schema.VERSIONS,
}
NOTHING_CHOSEN = json.dumps({"model_id": None, "records": []})
EVENTS_REMEMBERED = 100


def log_model(client: MlflowClient, run_id: str, event: ModelLogged) -> None:
    """Attach a model folder to a run. A second call changes nothing, or completes what the first one left.

    If a model is attached under this name already, it is kept if its files are the same. Otherwise it is marked as
    superseded, since a version in the registry may use it.

    Args:
        client: Of the tracking store.
        run_id: The trial's run, or the study's.
        event: What to attach.
    """
    folder, run = Path(event.folder), client.get_run(run_id)
    if not (folder / MLMODEL).exists():
        if current_model(client, run, event.name) is None:
            logger.warning("the model %s is gone and cannot be attached", folder)
        return
    model = _found_or_created(client, run, event, folder)
    if model.status != READY:
        _upload(client, run, model, folder)
        client.finalize_logged_model(model.model_id, READY)
    # Show the model on its run's page; the store refuses to do that twice.
    if model.model_id not in [one.model_id for one in (run.outputs.model_outputs if run.outputs else [])]:
        client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=0)])
    _show_metrics(client, run, model, event.about.get("metrics", ()))
    _make_current(client, run, model)


def current_model(client: MlflowClient, run: Run, name: str) -> LoggedModel | None:
    """The model of that name of a study, given any of its runs; None if there is none."""
    return next((one for one in current_models(client, run) if one.tags[MODEL_NAME] == name), None)


def current_models(client: MlflowClient, run: Run) -> list[LoggedModel]:
    """The models of a study, given any of its runs, by name."""
    found = _search(client, run, {schema.MODEL_STUDY_RUN: _study_run(run), schema.MODEL_PLACE: schema.CURRENT})
    return sorted(found, key=lambda one: str(one.tags[MODEL_NAME]))


def _found_or_created(client: MlflowClient, run: Run, event: ModelLogged, folder: Path) -> LoggedModel:
    """The logged model of this name whose files are those of the folder."""
    identity = {
        schema.UID: f"{_study_run(run)}/{event.name}",
        schema.MODEL_CONTENT: _content(folder / schema.DETECTOR_FOLDER),
    }
    tags = {name: str(value) for name, value in event.about.get("tags", {}).items()}
    if known := _search(client, run, identity):
        model = min(known, key=lambda one: (one.status != READY, one.creation_timestamp))
        client.set_logged_model_tags(model.model_id, tags)
        return model
    about = {
        schema.KIND: "model",
        schema.STUDY: run.data.tags[schema.STUDY],
        schema.MODEL_STUDY_RUN: _study_run(run),
        MODEL_NAME: event.name,
    }
    return client.create_logged_model(
        run.info.experiment_id, event.name, run.info.run_id, {**about, **identity, **tags}
    )


def _content(folder: Path) -> str:
    """A hash of a packed detector's files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(json.dumps([path.relative_to(folder).as_posix(), path.stat().st_size]).encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _upload(client: MlflowClient, run: Run, model: LoggedModel, folder: Path) -> None:
    client.log_model_artifacts(model.model_id, str(folder))
    with tempfile.TemporaryDirectory() as scratch:
        # MLflow takes a path with %2F in it, which HOME may have, for a URI.
        about = Model.load(shutil.copy(folder / MLMODEL, scratch))
        about.model_id = about.model_uuid = model.model_id
        about.run_id, about.artifact_path = run.info.run_id, model.artifact_location
        about.save(f"{scratch}/{MLMODEL}")
        client.log_model_artifact(model.model_id, f"{scratch}/{MLMODEL}")


def _show_metrics(client: MlflowClient, run: Run, model: LoggedModel, names: Iterable[str]) -> None:
    """Log the run's last points again, as points of the model as well; for the run they are the same points."""
    histories = [client.get_metric_history(run.info.run_id, name) for name in names if name in run.data.metrics]
    last = [max(history, key=lambda one: (one.step, one.timestamp)) for history in histories]
    points = [
        Metric(one.key, one.value, one.timestamp, one.step, model_id=model.model_id, run_id=run.info.run_id)
        for one in last
    ]
    if points:
        client.log_batch(run.info.run_id, metrics=points)


def _make_current(client: MlflowClient, run: Run, model: LoggedModel) -> None:
    """Make it the current one of its name, and delete unfinished ones that a lost answer or a kill left."""
    client.set_logged_model_tags(model.model_id, {schema.MODEL_PLACE: schema.CURRENT})
    for other in _search(client, run, {schema.UID: model.tags[schema.UID]}):
        if other.model_id == model.model_id:
            continue
        if other.status == READY:
            client.set_logged_model_tags(other.model_id, {schema.MODEL_PLACE: schema.SUPERSEDED})
        else:
            client.delete_logged_model(other.model_id)


def _study_run(run: Run) -> str:
    return str(run.data.tags.get(schema.PARENT, run.info.run_id))


def _search(client: MlflowClient, run: Run, tags: Mapping[str, str]) -> list[LoggedModel]:
    query = " AND ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    experiments = [run.info.experiment_id]
    return all_pages(lambda token: client.search_logged_models(experiments, query, page_token=token))


def set_champion(client: MlflowClient, run_id: str, event: ChampionChosen) -> None:
    """Register the model that a study chose, and set the alias `champion` to it, unless this event has done so before.

    If a user has moved the alias by hand, it stays until the study chooses another model.

    Args:
        client: Of the tracking store.
        run_id: The study's.
        event: The choice; its model was attached by `log_model`.
    """
    parent = client.get_run(run_id)
    model, study = current_model(client, parent, event.name), parent.data.tags[schema.STUDY]
    if model is None:
        logger.warning("the study %r has no model %s that could be registered", study, event.name)
        return
    try:
        registered = _registered(client, parent)
    except UserError as error:
        # Somebody else has registered a model of this name since the study began: theirs stays as it is.
        logger.warning("no model of the study %r was registered: %s", study, error)
        return
    last = json.loads(registered.tags.get(schema.CHOSEN, NOTHING_CHOSEN))
    if event.time_ms in last["records"]:
        return
    version = _version(client, study, model)
    client.set_model_version_tag(study, version.version, schema.CHAMPION_RULE, event.rule)
    client.update_model_version(study, version.version, event.note)
    if last["model_id"] != model.model_id or CHAMPION_ALIAS not in registered.aliases:
        client.set_registered_model_alias(study, CHAMPION_ALIAS, version.version)
    events = [*last["records"], event.time_ms][-EVENTS_REMEMBERED:]
    client.set_registered_model_tag(study, schema.CHOSEN, json.dumps({"model_id": model.model_id, "records": events}))


def promote(client: MlflowClient, study: str, name: str) -> int:
    """Make a model of a study the champion by hand.

    Args:
        client: Of the tracking store.
        study: The study's name.
        name: "trial-0007", "ensemble", or one of the ensembles.

    Returns:
        The version that is the champion now.

    Raises:
        UserError: There is no such study, it has kept no such model, or the registered model of its name is somebody
            else's.
    """
    parent = require_parent(client, study)
    model = find_model(client, parent, name)
    _registered(client, parent)
    version = _version(client, study, model)
    client.set_registered_model_alias(study, CHAMPION_ALIAS, version.version)
    return int(version.version)


def _registered(client: MlflowClient, parent: Run) -> RegisteredModel:
    """The registered model of a study, created if there is none; raise UserError if it is somebody else's."""
    tags = parent.data.tags
    study, owner = tags[schema.STUDY], {name: tags[name] for name in (schema.STUDY_ID, schema.MADE_BY) if name in tags}
    if registered_model(client, study) is None:
        note = f"Models that the study {study} chose or a user promoted."
        try:
            client.create_registered_model(study, owner, note)
        except MlflowException as error:
            # MLflow's client sends a request again whose answer was lost.
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
    model = client.get_registered_model(study)
    require_own(client, model, tags.get(schema.STUDY_ID))
    return model


def _version(client: MlflowClient, study: str, model: LoggedModel) -> ModelVersion:
    """The one version of a model, created if there is none."""
    if not _versions(client, study, model):
        note = f"{model.tags[MODEL_NAME]} of the study {study}"
        tags = {name: value for name, value in model.tags.items() if name not in MODEL_TAGS_ONLY}
        tags |= {metric.key: f"{metric.value:.6g}" for metric in model.metrics or []}
        client.create_model_version(
            study,
            # Not "models:/m-...": MLflow would look that up in the store that the environment names.
            model.artifact_location,
            model.source_run_id,
            {**tags, schema.MODEL_ID: model.model_id},
            description=note,
            model_id=model.model_id,
        )
    first, *others = _versions(client, study, model)
    for other in others:
        # A request whose answer was lost, and was sent again.
        client.delete_model_version(study, other.version)
    links = json.loads(model.tags.get(schema.VERSIONS, "[]"))
    link = {"name": study, "version": str(first.version)}
    if link not in links:
        client.set_logged_model_tags(model.model_id, {schema.VERSIONS: json.dumps([*links, link])})
    return first


def _versions(client: MlflowClient, study: str, model: LoggedModel) -> list[ModelVersion]:
    found = all_pages(lambda token: client.search_model_versions(f"name = '{study}'", page_token=token))
    own = [version for version in found if version.tags.get(schema.MODEL_ID) == model.model_id]
    return sorted(own, key=lambda version: int(version.version))


def known_models(client: MlflowClient, study: str) -> list[str]:
    """The names of a study's models, `champion` first.

    Raises:
        UserError: There is no such study.
    """
    parent = require_parent(client, study)
    named = [str(one.tags[MODEL_NAME]) for one in current_models(client, parent)]
    short = [ENSEMBLE] if set(named) & set(ENSEMBLE_PREFERENCE) else []
    return [*([CHAMPION_ALIAS] if champion_version(client, parent.data.tags) else []), *short, *named]


def default_model(client: MlflowClient, study: str) -> str:
    """The model to score with where a user names none: `champion`, or `ensemble` where no labels could choose one.

    Without labels, the trial with the best ELBO detects worse than the ensemble of the best trials and the inputs
    (docs/benchmarks.md). A model that a user has promoted comes first.

    Raises:
        UserError: There is no such study.
    """
    parent = require_parent(client, study)
    named = {str(one.tags[MODEL_NAME]) for one in current_models(client, parent)}
    own = schema.trial_name(int(parent.data.tags.get(schema.CHAMPION, 0)))
    is_promoted = promoted_model(client, parent.data.tags) not in (None, own)
    without_labels = not is_promoted and ENSEMBLE_PREFERENCE[0] not in named and ENSEMBLE_PREFERENCE[1] in named
    return ENSEMBLE if without_labels else CHAMPION_ALIAS


def fetch_model(client: MlflowClient, study: str, name: str, into: Path) -> Path:
    """Download the files of a packed detector, without the source code in the model.

    Args:
        client: Of the tracking store.
        study: The study's name.
        name: "champion", "ensemble", one of the ensembles, or "trial-0007".
        into: A folder.

    Returns:
        The packed detector's folder, within `into`.

    Raises:
        UserError: There is no such study, it has kept no such model, or the champion is none of vae-study's models.
    """
    model, place = _model_and_place(client, study, name)
    place, what = f"{place}/{schema.DETECTOR_FOLDER}", f"the model {name!r} of the study {study!r}"
    try:
        found = Path(download_artifacts(artifact_uri=place, dst_path=str(into), tracking_uri=client.tracking_uri))
    except (MlflowException, OSError) as error:
        raise UserError(f"{what}: {place} cannot be read: {redacted(str(error))}") from None
    logged = model.tags.get(schema.MODEL_CONTENT) if model else None
    if logged not in (None, _content(found)):
        raise UserError(f"{what}: the files in {place} are not those that the study logged; expected them unchanged")
    return found


def fetch_example(client: MlflowClient, study: str, name: str) -> dict[str, Any] | None:
    """The rows to try a model with, as `columns` and `data`; None if it has none. Takes what `fetch_model` takes."""
    place = f"{_model_and_place(client, study, name)[1]}/{schema.EXAMPLE_ROWS_FILE}"
    with tempfile.TemporaryDirectory() as scratch, suppress(MlflowException, OSError, ValueError, KeyError):
        found = download_artifacts(artifact_uri=place, dst_path=scratch, tracking_uri=client.tracking_uri)
        example: dict[str, Any] = json.loads(Path(found).read_text(encoding="utf-8"))["dataframe_split"]
        return example
    return None


def _model_and_place(client: MlflowClient, study: str, name: str) -> tuple[LoggedModel | None, str]:
    """A model and the URI of its folder; a champion that a user has registered by hand is no model of the study's."""
    parent = require_parent(client, study)
    champion = champion_version(client, parent.data.tags) if name == CHAMPION_ALIAS else None
    if champion is None:
        model = find_model(client, parent, name)
        return model, str(model.artifact_location)
    place = str(client.get_model_version_download_uri(study, str(champion.version)))
    logged = champion.tags.get(schema.MODEL_ID)
    return client.get_logged_model(logged) if logged else None, place


def find_model(client: MlflowClient, parent: Run, name: str) -> LoggedModel:
    """A model of a study by name; `ensemble` is the best of its ensembles.

    Raises:
        UserError: There is none; the message names those that there are.
    """
    models = {str(one.tags[MODEL_NAME]): one for one in current_models(client, parent)}
    wanted = ENSEMBLE_PREFERENCE if name == ENSEMBLE else (name,)
    found = next((models[one] for one in wanted if one in models), None)
    if found is not None:
        return found
    missing = f"no model {name!r} in the study {parent.data.tags[schema.STUDY]!r}"
    known = known_models(client, parent.data.tags[schema.STUDY])
    if not known:
        raise UserError(f"{missing}: it has kept none yet; expected a study that has finished")
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    guess = f"did you mean {close[0]!r}? " if close else ""
    kept = "only the frontier's trials, the chosen one, the ensembles and the detector without a model are kept"
    raise UserError(f"{missing}; {guess}{kept}: {', '.join(known)}")


def delete_runs(client: MlflowClient, study: str, study_id: str | None, *, dry_run: bool) -> list[str]:
    """Delete a study's runs and models, and its registered model; what is not there needs no deleting.

    Args:
        client: Of the tracking store.
        study: The study's name.
        study_id: Its owner's.
        dry_run: Whether nothing is deleted.

    Returns:
        What was found, a line each.

    Raises:
        UserError: A study or registered model of this name is somebody else's.
    """
    parent = own_parent(client, study, study_id) if study_id else find_parent(client, study)
    if parent is None:
        return []
    registered = registered_model(client, study)
    if registered is not None:
        require_own(client, registered, study_id)
    children = [*runs_by_key(client, parent).values()]
    models = _search(client, parent, {schema.MODEL_STUDY_RUN: parent.info.run_id})
    if not dry_run:
        if registered is not None:
            client.delete_registered_model(study)
        for model in models:
            client.delete_logged_model(model.model_id)
        # The parent last: without it, the others would not be found again.
        for run in (*children, parent):
            client.delete_run(run.info.run_id)
    found = f"{len(children) + 1:,} runs and {len(models):,} models in {client.tracking_uri}"
    return [found] if registered is None else [found, f"the registered model {study}"]

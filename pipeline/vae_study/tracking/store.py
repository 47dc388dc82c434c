"""Opening a tracking store, finding a study's runs in it, and attaching a report to them."""

import hashlib
import json
import logging
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any

from alembic.util import CommandError
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from sqlalchemy import create_engine

from vae_study.errors import LONGEST_REASON, UserError, opening, redacted
from vae_study.storage import Folder, alone_in
from vae_study.tracking import schema
from vae_study.tracking.ownership import promoted_model, registered_model, require_own, taken
from vae_study.tracking.record import RunRecord

# For other packages, which only pass it on.
Client = MlflowClient

Refusal = MlflowException

RUNS_PER_PAGE = 1000
# MLflow's own limits, in characters.
LONGEST_NAME, LONGEST_DIGEST, LONGEST_SCHEMA = 500, 36, 1_000_000
REPORT_FOLDER, REPORT_LABEL = "report", "The report"
WRONG_PASSWORD = (
    "refuses the user or the password; expected those of the server in MLFLOW_TRACKING_USERNAME and "
    "MLFLOW_TRACKING_PASSWORD"
)
DATABASES = ("postgresql", "mysql", "mssql")
# By default a dead server holds one call for four minutes; the uploader has a patience of its own.
QUICK_TO_GIVE_UP = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


def open_client(uri: str) -> MlflowClient:
    """A client of a tracking store, without MLflow's log of how it creates the database.

    Raises:
        UserError: It is the database of another program, or in a folder where nothing can be written.
    """
    for variable, value in QUICK_TO_GIVE_UP.items():
        os.environ.setdefault(variable, value)
    for name in ("alembic", "mlflow.tracking", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # They print what they raise as well.
    for name in ("mlflow.store.db.utils", "mlflow.utils.databricks_utils"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    path = schema.sqlite_path(uri)
    if missing := schema.missing_store(uri):
        Folder.at(missing.parent).require_writable()
    expected = schema.expected_address(uri, "a store of MLflow's, such as sqlite:///mlflow.db or http://...")
    with opening(f"--tracking-uri {uri}", expected):
        try:
            # Of two processes that create a database at once, one would find half of its tables.
            with alone_in(path.parent) if path else nullcontext():
                if path and path.exists():
                    _require_readable(path)
                elif uri.startswith(DATABASES):
                    # MLflow would try for minutes.
                    engine = create_engine(uri)
                    engine.connect().close()
                    engine.dispose()
                return MlflowClient(uri)
        except CommandError as error:
            raise UserError(
                f"--tracking-uri {uri}: is a database of something else ({error}); expected one of MLflow's own"
            ) from None


def _require_readable(path: Path) -> None:
    """Raise an error at once where MLflow would try for minutes: for what is no database, or is locked."""
    if not path.is_file():
        raise OSError(f"{path} is not a file")
    with closing(schema.open_sqlite(path)) as database:
        database.execute("SELECT COUNT(*) FROM sqlite_master")


def reachable_client(uri: str) -> MlflowClient:
    """A client of a tracking store that answers.

    Raises:
        UserError: As `open_client`, or it does not answer.
    """
    client = open_client(uri)
    try:
        client.search_experiments(max_results=1)
    except Exception as error:
        refused = any(f"error code {status}" in str(error) for status in (401, 403))
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = WRONG_PASSWORD if refused else f"cannot be reached: {lines[0][:LONGEST_REASON]}"
        raise UserError(f"--tracking-uri {client.tracking_uri}: {reason}") from None
    return client


def open_experiment(client: MlflowClient, name: str) -> str:
    """The id of the experiment `name`, created if there is none; artifacts of a SQLite store are in a folder beside it.

    Raises:
        UserError: It is in MLflow's trash.
    """
    known = find_experiment(client, name)
    if known is not None:
        return known
    path = schema.sqlite_path(client.tracking_uri)
    location = (path.resolve().parent / "artifacts" / name).as_uri() if path is not None else None
    return str(client.create_experiment(name, artifact_location=location, tags=schema.EXPERIMENT_TAGS))


def find_experiment(client: MlflowClient, name: str) -> str | None:
    """The id of the experiment `name`; None if there is none.

    Raises:
        UserError: It is in MLflow's trash, where its name stays taken.
    """
    known = client.get_experiment_by_name(name)
    if known is None:
        return None
    if known.lifecycle_stage != "active":
        raise UserError(
            f"--tracking-uri {client.tracking_uri}: the experiment {name!r} is deleted; restore it (mlflow experiments "
            f"restore --experiment-id {known.experiment_id}), or give the study file another `study`"
        )
    return str(known.experiment_id)


def find_parent(client: MlflowClient, study: str) -> Run | None:
    """The parent run of the study called `study`, the latest if there are several; None if there is none."""
    return max(_parents(client, study), key=lambda run: run.info.start_time, default=None)


def _parents(client: MlflowClient, study: str) -> list[Run]:
    return runs_tagged(client, {schema.KIND: "study", schema.STUDY: study})


def own_parent(client: MlflowClient, study: str, study_id: str | None) -> Run | None:
    """The parent run of a study by its name and its ID; None if there is none.

    Args:
        client: Of the tracking store.
        study: The study's name.
        study_id: Its ID; None if it has not begun.

    Raises:
        UserError: The store has a study, or a registered model, of this name that is somebody else's.
    """
    runs = _parents(client, study)
    own = [run for run in runs if study_id is not None and run.data.tags.get(schema.STUDY_ID) == study_id]
    if runs and not own:
        raise taken(client, f"a study {study!r}", runs[0].data.tags)
    model = registered_model(client, study)
    if model is not None:
        if study_id is None:
            raise taken(client, f"a registered model {study!r}", model.tags)
        require_own(client, model, study_id)
    return max(own, key=lambda run: run.info.start_time, default=None)


def create_parent(client: MlflowClient, experiment: str, name: str, tags: Mapping[str, str]) -> Run:
    """Create the parent run of a study, by the names of its experiment and itself, and its tags.

    Raises:
        UserError: Somebody else has begun a study of this name, or this machine cannot write artifacts of this store.
    """
    uid = uuid.uuid4().hex
    run = client.create_run(open_experiment(client, experiment), tags={**tags, schema.UID: uid}, run_name=name)
    keep_only(client, run, uid)
    try:
        _require_artifacts(client, run)
    except UserError:
        client.delete_run(run.info.run_id)
        raise
    earlier = [one for one in _parents(client, name) if _age(one) < _age(run) and not _has_same_owner(one, run)]
    if earlier:
        # Somebody else has begun a study of this name at the same time.
        client.delete_run(run.info.run_id)
        raise taken(client, f"a study {name!r}", earlier[0].data.tags)
    return run


def _require_artifacts(client: MlflowClient, run: Run) -> None:
    """Raise UserError if this machine cannot write where a run's artifacts go; a server's own place is not tried."""
    place = run.info.artifact_uri
    scheme = place.partition(":")[0]
    if scheme in ("mlflow-artifacts", "http", "https"):
        return
    expected = "expected a place that this machine can write to, or a server that takes artifacts (--serve-artifacts)"
    with opening(f"--tracking-uri {client.tracking_uri}: the place of its artifacts, {redacted(place)}", expected):
        if place.startswith("/") or scheme == "file":
            folder, name = Folder.at(place), f".{uuid.uuid4().hex}"
            folder.write(name, b"")
            folder.remove(name)
        else:
            get_artifact_repository(place).list_artifacts()


def _age(run: Run) -> tuple[int, str]:
    return run.info.start_time, run.info.run_id


def _has_same_owner(run: Run, other: Run) -> bool:
    return run.data.tags.get(schema.STUDY_ID) == other.data.tags.get(schema.STUDY_ID)


def keep_only(client: MlflowClient, run: Run, uid: str) -> None:
    """Delete other runs with the same identity: MLflow's client repeats a request whose answer was lost."""
    # Only an HTTP client repeats requests; for a database, skip this search, whose time grows with the runs.
    is_remote = client.tracking_uri.startswith("http")
    for other in runs_with(client, run.info.experiment_id, uid) if is_remote else ():
        if other.info.run_id != run.info.run_id:
            client.delete_run(other.info.run_id)


def runs_with(client: MlflowClient, experiment: str, uid: str) -> list[Run]:
    """The runs with this value of the tag UID."""
    return _search(client, f"tags.`{schema.UID}` = '{uid}'", [experiment])


def find_children(client: MlflowClient, parent: Run, kind: str = "trial") -> list[Run]:
    """The runs beneath a parent that are trials, or confirmations, by number and seed."""
    query = f"tags.`{schema.PARENT}` = '{parent.info.run_id}' and tags.`{schema.KIND}` = '{kind}'"
    runs = _search(client, query, [parent.info.experiment_id])
    return sorted(runs, key=lambda run: (int(run.data.tags[schema.TRIAL]), int(run.data.tags.get(schema.SEED, 0))))


def runs_by_key(client: MlflowClient, parent: Run) -> dict[str, Run]:
    """All runs beneath a parent, by the keys that they were started with."""
    runs = [run for kind in ("trial", "confirmation") for run in find_children(client, parent, kind)]
    return {run.data.tags[schema.UID].partition("/")[2]: run for run in runs}


def require_parent(client: MlflowClient, study: str) -> Run:
    """The parent run of a study.

    Raises:
        UserError: There is no such study; the message names those that there are.
    """
    parent = find_parent(client, study)
    if parent is None:
        others = {run.data.tags[schema.STUDY] for run in runs_tagged(client, {schema.KIND: "study"})}
        known = ", ".join(sorted(others)) or "none"
        raise UserError(f"no study {study!r} in {client.tracking_uri}; the studies there: {known}")
    return parent


def run_record(run: Run) -> RunRecord:
    """A run as MLflow has it."""
    data, info = run.data, run.info
    return RunRecord(dict(data.tags), dict(data.params), dict(data.metrics), info.run_id, str(info.experiment_id))


def runs_tagged(client: MlflowClient, tags: Mapping[str, str]) -> list[Run]:
    """The runs in all experiments that have all of these tags, the oldest first."""
    if any("'" in value for value in tags.values()):
        # It would end the text in the query; no study has it in its name.
        return []
    query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    found = _search(client, query, _experiment_ids(client))
    return sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))


def dataset_input(summary: Mapping[str, Any]) -> DatasetInput:
    """A data summary as MLflow's UI shows it, as a dataset; logging it twice makes one entry."""
    splits: Mapping[str, Mapping[str, int]] = summary["splits"]
    profile = {
        "rows": sum(split["rows"] for split in splits.values()),
        "features": summary["features"],
        **{f"{name}_{count}": split[count] for name, split in splits.items() for count in ("rows", "anomalies")},
        "sha256": summary["sha256"],
    }
    about = Dataset(
        name=str(summary["source"])[:LONGEST_NAME],
        digest=str(summary["sha256"])[:LONGEST_DIGEST],
        source_type="code",
        source=json.dumps({"tags": {"mlflow.source.name": str(summary["source"])[:LONGEST_NAME]}}),
        schema=_columns(summary["feature_names"]),
        profile=json.dumps(profile),
    )
    return DatasetInput(about, [InputTag("mlflow.data.context", "train, validation, test")])


def _columns(names: Sequence[str]) -> str:
    """The features as MLflow's list of columns; if there are more than it takes, the first ones."""
    columns, left = [], LONGEST_SCHEMA
    for name in names:
        columns.append(json.dumps({"type": "float", "name": name, "required": True}))
        left -= len(columns[-1]) + 2
        if left < 0:
            columns.pop()
            break
    return f'{{"mlflow_colspec": [{", ".join(columns)}]}}'


def fingerprint(client: MlflowClient, name: str) -> dict[str, Any] | None:
    """A few facts that change whenever a study that has ended changes, as JSON values; None of a study that runs.

    A driver that continues a study, or `sync`, ends its parent run again, at another time. What a user promoted is
    in the registry.

    Raises:
        UserError: There is no such study in this tracking store.
    """
    parent = require_parent(client, name)
    tags = {key: value for key, value in parent.data.tags.items() if key.startswith("vae_study.")}
    tags.pop(schema.REPORT_SHA, None)
    if tags.get(schema.STATE) == "running" or parent.info.end_time is None:
        return None
    return {
        "store": redacted(client.tracking_uri),
        "run": parent.info.run_id,
        "status": parent.info.status,
        "ended_ms": parent.info.end_time,
        "tags": tags,
        "promoted": promoted_model(client, parent.data.tags),
    }


def attach_report(client: MlflowClient, name: str, page: Path) -> str:
    """Attach a report to the parent run of its study, unless it is there already, and link it in the run's description.

    Args:
        client: Of the tracking store.
        name: The study's.
        page: The report's one file, `report.html`.

    Returns:
        Why it could not be attached; empty if it was. This is no error, since the report itself exists.
    """
    digest = hashlib.sha256(page.read_bytes()).hexdigest()
    try:
        parent = require_parent(client, name)
        if parent.data.tags.get(schema.REPORT_SHA) != digest:
            client.log_artifact(parent.info.run_id, str(page), REPORT_FOLDER)
            client.set_tag(parent.info.run_id, schema.REPORT_SHA, digest)
        note = parent.data.tags.get(schema.NOTE, "")
        if f"[{REPORT_LABEL}](" not in note:
            client.set_tag(parent.info.run_id, schema.NOTE, _linked(note, parent, page.name))
    except Exception as error:
        # An artifact store fails with the errors of its own library.
        return redacted(str(error) or type(error).__name__).strip().partition("\n")[0][:LONGEST_REASON]
    return ""


def _linked(note: str, parent: Run, file: str) -> str:
    """A description with a link to the report at the end of its first line: the UI shows four lines by itself."""
    # It imports the selection, which takes a second.
    from vae_study.tracking.note import LONGEST_NOTE, filled, to_study

    tab = f"artifacts/{REPORT_FOLDER}/{file}"
    link = filled(to_study(REPORT_LABEL, tab), {}, parent.info.experiment_id, parent.info.run_id)
    first, end, rest = note.partition("\n")
    text = f"{first} {link}{end}{rest}".strip()
    return text if len(text) <= LONGEST_NOTE else note


def _experiment_ids(client: MlflowClient) -> list[str]:
    found = all_pages(
        lambda token: client.search_experiments(ViewType.ACTIVE_ONLY, max_results=RUNS_PER_PAGE, page_token=token)
    )
    return [str(experiment.experiment_id) for experiment in found]


def _search(client: MlflowClient, query: str, experiments: list[str]) -> list[Run]:
    return all_pages(lambda token: client.search_runs(experiments, query, max_results=RUNS_PER_PAGE, page_token=token))


def all_pages(request: Callable[[str | None], Any]) -> list[Any]:
    """All results of a search, given a request for the page with a token."""
    page = request(None)
    found = [*page]
    while page.token:
        page = request(page.token)
        found += page
    return found

"""Opening a tracking store, and finding a study's runs in it."""

import logging
import os
import uuid
from collections.abc import Mapping
from typing import Any

from alembic.util import CommandError
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from mlflow.exceptions import MlflowException
from sqlalchemy.engine import make_url

from pipeline.errors import UserError
from pipeline.folders import Folder
from pipeline.tracking import layout
from pipeline.tracking.places import sqlite_path

# What other rooms of the house hand on, and have no need to know more of.
Client = MlflowClient

RUNS_PER_PAGE = 1000
WRONG_PASSWORD = (
    "refuses the user or the password; expected those of the server in MLFLOW_TRACKING_USERNAME and "
    "MLFLOW_TRACKING_PASSWORD"
)
PORTS = {"postgresql": 5432, "mysql": 3306}
# By default a dead server holds one call for four minutes; the spool has a patience of its own.
QUICK_TO_GIVE_UP = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


def open_client(uri: str) -> MlflowClient:
    """A client of a tracking store, with the chatter of its database's making turned down.

    Raises:
        UserError: It is the database of something else, or in a place where nothing can be written.
    """
    for variable, value in QUICK_TO_GIVE_UP.items():
        os.environ.setdefault(variable, value)
    for name in ("alembic", "mlflow.tracking", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # It prints the traceback of every error that it raises as well.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    path = sqlite_path(uri)
    if path is not None and not path.exists():
        Folder.at(path.parent).require_writable()
    try:
        return MlflowClient(uri)
    except CommandError as error:
        raise UserError(
            f"--tracking-uri {uri}: is a database of something else ({error}); expected one of MLflow's own"
        ) from None


def reachable_client(uri: str) -> MlflowClient:
    """A client of a tracking store that answers.

    Raises:
        UserError: As `open_client`, or it does not answer.
    """
    client = open_client(uri)
    check_reachable(client)
    return client


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
            f"--study-storage {storage}: came the database of --tracking-uri; expected another one, even on the same "
            "server, since MLflow and Optuna keep their versions in a table of the same name"
        )


def _place(url: str) -> tuple[Any, ...]:
    """Where a database is, whoever opens it by whatever driver."""
    found = make_url(url)
    kind = found.get_backend_name()
    return kind, found.host, found.port or PORTS.get(kind), found.database


def open_experiment(client: MlflowClient, name: str) -> str:
    """The id of the experiment `name`, made if there is none; artifacts of a SQLite store lie in a folder beside it."""
    known = client.get_experiment_by_name(name)
    if known is not None:
        return str(known.experiment_id)
    path = sqlite_path(client.tracking_uri)
    location = (path.resolve().parent / "artifacts" / name).as_uri() if path is not None else None
    return str(client.create_experiment(name, artifact_location=location))


def find_parent(client: MlflowClient, study: str) -> Run | None:
    """The parent run of the study called `study`, the latest if there are several; None if there is none."""
    query = f"tags.`{layout.KIND}` = 'study' and tags.`{layout.STUDY}` = '{study}'"
    runs = _search(client, query, _experiment_ids(client))
    return max(runs, key=lambda run: run.info.start_time, default=None)


def create_parent(client: MlflowClient, begun: Mapping[str, Any]) -> Run:
    """The parent run of a study, made from what the spool says of its beginning: `experiment`, `name` and `tags`."""
    experiment, uid = open_experiment(client, begun["experiment"]), uuid.uuid4().hex
    run = client.create_run(experiment, tags={**begun["tags"], layout.UID: uid}, run_name=begun["name"])
    keep_only(client, run, uid)
    return run


def keep_only(client: MlflowClient, run: Run, uid: str) -> None:
    """Delete other runs with the same identity: MLflow's client repeats a request whose answer was lost."""
    # Into a database it writes at once, and only once; to look for others there would take ever longer.
    is_remote = client.tracking_uri.startswith("http")
    for other in runs_with(client, run.info.experiment_id, uid) if is_remote else ():
        if other.info.run_id != run.info.run_id:
            client.delete_run(other.info.run_id)


def runs_with(client: MlflowClient, experiment: str, uid: str) -> list[Run]:
    """The runs with an identity of ours."""
    return _search(client, f"tags.`{layout.UID}` = '{uid}'", [experiment])


def find_children(client: MlflowClient, parent: Run, kind: str = "trial") -> list[Run]:
    """The runs beneath a parent that are trials, or confirmations, by number and seed."""
    query = f"tags.`{layout.PARENT}` = '{parent.info.run_id}' and tags.`{layout.KIND}` = '{kind}'"
    runs = _search(client, query, [parent.info.experiment_id])
    return sorted(runs, key=lambda run: (int(run.data.tags[layout.TRIAL]), int(run.data.tags.get(layout.SEED, 0))))


def runs_by_key(client: MlflowClient, parent: Run) -> dict[str, Run]:
    """All runs beneath a parent, by the keys that they were started with."""
    runs = [run for kind in ("trial", "confirmation") for run in find_children(client, parent, kind)]
    return {run.data.tags[layout.UID].partition("/")[2]: run for run in runs}


def study_names(client: MlflowClient) -> list[str]:
    """The names of all studies in a store."""
    runs = _search(client, f"tags.`{layout.KIND}` = 'study'", _experiment_ids(client))
    return sorted({run.data.tags[layout.STUDY] for run in runs})


def require_parent(client: MlflowClient, study: str) -> Run:
    """The parent run of a study.

    Raises:
        UserError: There is no such study; the message names those that there are.
    """
    parent = find_parent(client, study)
    if parent is None:
        known = ", ".join(study_names(client)) or "none"
        raise UserError(f"no study {study!r} in {client.tracking_uri}; the studies there: {known}")
    return parent


def _experiment_ids(client: MlflowClient) -> list[str]:
    found = client.search_experiments(view_type=ViewType.ACTIVE_ONLY, max_results=RUNS_PER_PAGE)
    return [str(experiment.experiment_id) for experiment in found]


def _search(client: MlflowClient, query: str, experiments: list[str]) -> list[Run]:
    found: list[Run] = []
    token: str | None = None
    while True:
        page: Any = client.search_runs(experiments, query, max_results=RUNS_PER_PAGE, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def check_reachable(client: MlflowClient) -> None:
    """Refuse a store that does not answer.

    Raises:
        UserError: With the store's address and the reason.
    """
    try:
        client.search_experiments(max_results=1)
    except (MlflowException, OSError) as error:
        refused = any(f"error code {status}" in str(error) for status in (401, 403))
        reason = WRONG_PASSWORD if refused else f"cannot be reached: {error}"
        raise UserError(f"--tracking-uri {client.tracking_uri}: {reason}") from None

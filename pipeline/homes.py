"""What a HOME stands for: the studies in it, and their databases where no others are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.spec import SPEC_FILE, StudySpec

HOME = Path("studies")
#: A folder of studies: a path, or s3://bucket/prefix.
Home = str | Path


def saved_spec(name: str, home: Home = HOME) -> StudySpec:
    """The resolved spec of a study in `home`.

    Raises:
        UserError: There is no such study there.
    """
    from pipeline.errors import UserError
    from pipeline.folders import Folder
    from pipeline.spec.schema import require_study_name

    place = Folder.at(home)
    folder = place / require_study_name(name)
    if SPEC_FILE not in folder.names():
        known = sorted(path.parent.name for path in place.local.glob(f"*/{SPEC_FILE}")) if place.local else []
        raise UserError(f"no study {name!r} in {home}" + (f"; the studies there: {', '.join(known)}" if known else ""))
    return StudySpec.model_validate_json(folder.read(SPEC_FILE))


def tracking_uri_of(home: Home = HOME, tracking_uri: str | None = None) -> str:
    """MLflow's store of a HOME: what was given, else MLFLOW_TRACKING_URI, else a SQLite file in it."""
    from pipeline.tracking import places

    return places.tracking_uri_of(lambda: _local(home, "--tracking-uri"), tracking_uri)


def sqlite_of(home: Home, study: str) -> str:
    """Optuna's store of a study: a SQLite file in its folder."""
    return f"sqlite:///{_local(home, '--study-storage') / study / 'study.db'}"


def client_of(home: Home, tracking_uri: str | None) -> Any:
    """A client of the tracking store, which answers.

    Raises:
        UserError: It does not, or there is none.
    """
    from pipeline.tracking.store import reachable_client

    return reachable_client(tracking_uri_of(home, tracking_uri))


def _local(home: Home, option: str) -> Path:
    """HOME as a path, where `option` was not given and a database has to lie in it."""
    from pipeline.errors import UserError
    from pipeline.folders import Folder

    path = Folder.at(home).local
    if path is None:
        raise UserError(f"{option}: is missing; --home {home} is an object store, which cannot hold a database")
    return path

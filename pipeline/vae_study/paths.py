"""The studies and the data frames of a HOME folder, and the default stores of MLflow and Optuna in it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae_study.config.loading import load_config
from vae_study.config.study import CONFIG_FILE, StudyConfig, require_study_name
from vae_study.errors import LONGEST_REASON, UserError
from vae_study.storage import DEFAULT_HOME, STUDY_DATABASE, Folder

if TYPE_CHECKING:
    import pandas as pd

    from vae_study.tracking.sources import RunSource

HOME = Path(DEFAULT_HOME)
# The folder in HOME with the data frames that studies were run on; no study can be called so.
FRAMES = ".frames"
#: A folder of studies: a path, or s3://bucket/prefix.
Home = str | Path
#: A study file, its content as a dictionary, or a checked config.
Source = str | Path | Mapping[str, Any] | StudyConfig


def saved_config(name: str, home: Home = HOME) -> StudyConfig:
    """The resolved config of a study in `home`.

    Raises:
        UserError: There is no such study there.
    """
    place = Folder.at(home)
    folder = place / require_study_name(name)
    if CONFIG_FILE not in folder.names():
        known = sorted(path.parent.name for path in place.local.glob(f"*/{CONFIG_FILE}")) if place.local else []
        raise UserError(f"no study {name!r} in {home}" + (f"; the studies there: {', '.join(known)}" if known else ""))
    try:
        return StudyConfig.model_validate_json(folder.read(CONFIG_FILE))
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[2].strip().partition("[")[0].strip() or str(error)
        raise UserError(
            f"{folder / CONFIG_FILE}: cannot be read: {reason[:LONGEST_REASON]}; expected the config that the study "
            f"began with; its study file has it: vae-study run FILE --name {name}"
        ) from None


def scratch_of(name: str, home: Home = HOME) -> Path:
    """The folder on a local disk for the journal and the temporary files of a study."""
    return (Folder.at(home) / require_study_name(name)).scratch


def tracking_uri_of(home: Home = HOME, tracking_uri: str | None = None) -> str:
    """MLflow's store: `tracking_uri` if given, else MLFLOW_TRACKING_URI, else a SQLite file in `home`."""
    given = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if given:
        return given
    from vae_study.tracking.schema import sqlite_uri

    return sqlite_uri(_local(home, "--tracking-uri").resolve() / "mlflow.db")


def sqlite_of(home: Home, study: str) -> str:
    """Optuna's default store: a SQLite file in the study's folder."""
    from vae_study.tracking.schema import sqlite_uri

    return sqlite_uri(_local(home, "--study-storage") / study / STUDY_DATABASE)


def client_of(home: Home, tracking_uri: str | None, *, may_create: bool = False) -> Any:
    """A client of the tracking store, after a test request.

    Args:
        home, tracking_uri: As in `tracking_uri_of`.
        may_create: Whether a SQLite store that is not there is created.

    Raises:
        UserError: The store does not answer, or does not exist.
    """
    from vae_study.tracking.serving import require_store

    uri = tracking_uri_of(home, tracking_uri)
    if not may_create:
        require_store(uri)
    from vae_study.tracking.store import reachable_client

    return reachable_client(uri)


def source_of(home: Home, tracking_uri: str | None) -> RunSource:
    """What reads studies from the tracking store; one in a SQLite file is read without MLflow's client.

    Args:
        home, tracking_uri: As in `tracking_uri_of`.

    Raises:
        UserError: The store does not answer, or does not exist.
    """
    from vae_study.tracking.sources import ClientSource, light_source

    return light_source(tracking_uri_of(home, tracking_uri)) or ClientSource(client_of(home, tracking_uri))


def config_of(
    source: Source, overrides: Sequence[str] = (), data: pd.DataFrame | None = None, home: Home = HOME
) -> StudyConfig:
    """The checked config of a study file with overrides, on the rows of a data frame if there is one.

    Raises:
        UserError: With every problem found.
    """
    if data is None:
        return source if isinstance(source, StudyConfig) else load_config(source, overrides)
    file = {"source": "parquet", "path": stored_frame(data, home)}
    if isinstance(source, StudyConfig):
        return source.model_copy(update={"data": source.data.model_copy(update=file)})
    return load_config(source, [*overrides, *(f"data.{key}={json.dumps(value)}" for key, value in file.items())])


def stored_frame(frame: pd.DataFrame, home: Home) -> str:
    """Write a data frame to a Parquet file of HOME, whose name is a hash of its content, and return where it is.

    A study's workers, and whoever continues it, read it there. The index is left out.

    Raises:
        UserError: Two columns have one name.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from vae_study.data import frame_table

    table, buffer = frame_table(frame), pa.BufferOutputStream()
    pq.write_table(table, buffer)
    content = buffer.getvalue()
    folder, name = Folder.at(home) / FRAMES, f"{hashlib.sha256(content).hexdigest()[:16]}.parquet"
    if name not in folder.names():
        folder.write(name, memoryview(content))
    return (folder / name).place


def _local(home: Home, option: str) -> Path:
    """HOME as a local path; raises UserError if it is an object store, since a database must be in it."""
    path = Folder.at(home).local
    if path is None:
        raise UserError(f"{option}: is missing; --home {home} is an object store, which cannot hold a database")
    return path

"""Where a study is read from: MLflow's client, or MLflow's tables in a SQLite file, without the seconds of its import.

Which tables MLflow has is its own business: where this release's are not as expected, its client reads them.
"""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote, urlsplit

from vae_study.errors import UserError
from vae_study.tracking import schema
from vae_study.tracking.record import RunRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: Runs that are not deleted, with any number of tags.
RUNS = (
    "FROM runs JOIN experiments USING (experiment_id) "
    "WHERE runs.lifecycle_stage = 'active' AND experiments.lifecycle_stage = 'active'"
)
TAGGED = " AND run_uuid IN (SELECT run_uuid FROM tags WHERE key = ? AND value = ?)"


class RunSource(Protocol):
    """What reads the runs of studies."""

    @property
    def uri(self) -> str:
        """The tracking store's."""

    def tagged(self, tags: Mapping[str, str]) -> list[RunRecord]:
        """The runs that have all of these tags, the oldest first."""

    def file(self, run_id: str, name: str, folder: Path) -> Path:
        """A file of a run, in `folder` or where it is. Raise OSError if there is none."""

    def promoted(self, parent: RunRecord) -> str | None:
        """The model that is the registry's champion of a study, such as "trial-0007"; None if there is none."""


def study_names(source: RunSource) -> list[str]:
    """The names of all studies in a store."""
    return sorted({run.tags[schema.STUDY] for run in source.tagged({schema.KIND: "study"})})


def require_parent(source: RunSource, study: str) -> RunRecord:
    """The parent run of a study, the latest if there are several.

    Raises:
        UserError: There is no such study; the message names those that there are.
    """
    found = source.tagged({schema.KIND: "study", schema.STUDY: study})
    if not found:
        known = ", ".join(study_names(source)) or "none"
        raise UserError(f"no study {study!r} in {source.uri}; the studies there: {known}")
    return found[-1]


def children(source: RunSource, parent: RunRecord, kind: str = "trial") -> list[RunRecord]:
    """The runs beneath a parent that are trials, or confirmations, by number and seed."""
    found = source.tagged({schema.PARENT: str(parent.run_id), schema.KIND: kind})
    return sorted(found, key=lambda run: run.order)


@dataclass(frozen=True)
class ClientSource:
    """Reads by MLflow's client, whatever the store is."""

    client: "MlflowClient"

    @property
    def uri(self) -> str:
        """The tracking store's."""
        return str(self.client.tracking_uri)

    def tagged(self, tags: Mapping[str, str]) -> list[RunRecord]:
        """The runs that have all of these tags, the oldest first."""
        from vae_study.tracking.store import run_record, runs_tagged

        return [run_record(run) for run in runs_tagged(self.client, tags)]

    def file(self, run_id: str, name: str, folder: Path) -> Path:
        """A file of a run, downloaded to `folder`. Raise OSError if there is none."""
        from mlflow.exceptions import MlflowException

        try:
            return Path(self.client.download_artifacts(run_id, name, str(folder)))
        except MlflowException as error:
            raise FileNotFoundError(str(error)) from None

    def promoted(self, parent: RunRecord) -> str | None:
        """The model that is the registry's champion of a study; None if there is none."""
        from vae_study.tracking.ownership import promoted_model

        return promoted_model(self.client, parent.tags)


class SqliteSource:
    """Reads the tables of MLflow's SQLite file."""

    def __init__(self, uri: str, path: Path):
        """Read the file at `path`. Raise sqlite3.Error if it cannot be read, or has other tables."""
        self.uri, self._path = uri, path
        self._query(f"SELECT run_uuid, experiment_id, start_time, artifact_uri {RUNS} LIMIT 0")
        for table in ("tags", "params"):
            self._query(f"SELECT run_uuid, key, value FROM {table} LIMIT 0")
        self._query("SELECT run_uuid, key, value, is_nan FROM latest_metrics LIMIT 0")

    def tagged(self, tags: Mapping[str, str]) -> list[RunRecord]:
        """The runs that have all of these tags, the oldest first."""
        which, values = RUNS + TAGGED * len(tags), [text for pair in tags.items() for text in pair]
        rows = self._query(f"SELECT run_uuid, experiment_id {which} ORDER BY start_time, run_uuid", *values)
        found = {run: RunRecord(run_id=run, experiment_id=str(experiment)) for run, experiment in rows}
        ids = f"run_uuid IN (SELECT run_uuid {which})"
        for run, key, value in self._query(f"SELECT run_uuid, key, value FROM tags WHERE {ids}", *values):
            found[run].tags[key] = value
        for run, key, value in self._query(f"SELECT run_uuid, key, value FROM params WHERE {ids}", *values):
            found[run].params[key] = value
        metrics = f"SELECT run_uuid, key, value, is_nan FROM latest_metrics WHERE {ids}"
        for run, key, value, is_nan in self._query(metrics, *values):
            found[run].metrics[key] = float("nan") if is_nan else value
        return [*found.values()]

    def file(self, run_id: str, name: str, folder: Path) -> Path:
        """A file of a run: where it is on this machine, else downloaded. Raise OSError if there is none."""
        rows = self._query("SELECT artifact_uri FROM runs WHERE run_uuid = ?", run_id)
        place = urlsplit(rows[0][0]) if rows else None
        if place is None or place.scheme not in ("", "file"):
            from vae_study.tracking.store import open_client

            return ClientSource(open_client(self.uri)).file(run_id, name, folder)
        path = Path(unquote(place.path)) / name
        if not path.exists():
            raise FileNotFoundError(f"{path} is not there")
        return path

    def promoted(self, parent: RunRecord) -> str | None:
        """The model that is the registry's champion of a study; None if there is none."""
        study = parent.tags[schema.STUDY]
        owner = "SELECT value FROM registered_model_tags WHERE name = ? AND key = ?"
        owners = [value for (value,) in self._query(owner, study, schema.STUDY_ID)]
        if owners != [own for own in [parent.tags.get(schema.STUDY_ID)] if own is not None]:
            return None
        alias = "SELECT version FROM registered_model_aliases WHERE name = ? AND alias = ?"
        for (version,) in self._query(alias, study, schema.CHAMPION_ALIAS):
            tag = "SELECT value FROM model_version_tags WHERE name = ? AND version = ? AND key = ?"
            names = self._query(tag, study, version, schema.MODEL_NAME)
            return str(names[0][0]) if names else f"version {version}"
        return None

    def _query(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with closing(schema.open_sqlite(self._path)) as database:
            return database.execute(query, values).fetchall()


def light_source(uri: str) -> SqliteSource | None:
    """The source for a store in a SQLite file that can be read without MLflow's client; else None."""
    path = schema.sqlite_path(uri)
    try:
        return SqliteSource(uri, path) if path is not None and path.is_file() else None
    except sqlite3.Error:
        return None

"""A whole study as one file, to take it to another machine; and the end of one: export, import, delete."""

import json
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from pyarrow.fs import FileSelector

from vae_study.config.study import require_study_name
from vae_study.errors import UserError
from vae_study.paths import HOME, Home, client_of, saved_config, scratch_of, source_of, sqlite_of
from vae_study.storage import STUDY_DATABASE, UNFINISHED, Folder, owner_of
from vae_study.tracking.journal import JOURNAL_FILE, LOCK_FILE, MARKER_SUFFIX, locked

# In an exported file: the study's folder of HOME, its report, and what identifies it.
STUDY, REPORT, SUMMARY_FILE = "study", "report", "summary.json"
SUFFIX = ".zip"
# What belongs to the old place: the lock, and how far MLflow there had the records.
LEFT_OUT = (LOCK_FILE, Path(JOURNAL_FILE).with_suffix(MARKER_SUFFIX).name)


def export_study(
    name: str,
    output: Path | None = None,
    *,
    home: Home = HOME,
    tracking_uri: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Path:
    """Write a study to one zip file: config, data summary, trials with their models, records, and its report.

    The data are not in it, nor is an Optuna study that is not in HOME.

    Args:
        name: The study's name.
        output: The file; by default NAME.zip.
        home, tracking_uri: As in `vae_study.run_study`.
        say: Called with what is not in the file.

    Returns:
        The file.

    Raises:
        UserError: There is no such study, a driver is running it, or the file cannot be written.
    """
    from vae_study.report.build import write_report
    from vae_study.tracking.reader import read_study

    output = Path(output or f"{name}{SUFFIX}")
    if output.suffix != SUFFIX:
        raise UserError(f"{output}: has the suffix {output.suffix!r}, expected {SUFFIX!r}")
    record = read_study(source_of(home, tracking_uri), name)
    with _at_rest(name, home, None) as folder, _whole(output) as file:
        if STUDY_DATABASE not in folder.names():
            say(f"the trials as Optuna knows them are not in the file, since {folder} has no {STUDY_DATABASE}")
        about = {"study": name, "data": dict(record.data), "environment": dict(record.environment)}
        file.writestr(SUMMARY_FILE, json.dumps(about, indent=1))
        for place in {folder.place: folder, str(scratch_of(name, home)): Folder.at(scratch_of(name, home))}.values():
            for inside in _files(place):
                with (
                    place.system.open_input_stream(f"{place.path}/{inside}") as content,
                    file.open(f"{STUDY}/{inside}", "w", force_zip64=True) as copy,
                ):
                    shutil.copyfileobj(content, copy, 2**20)
        with TemporaryDirectory() as scratch:
            write_report(record, Path(scratch) / REPORT)
            for path in sorted((Path(scratch) / REPORT).rglob("*")):
                file.write(path, path.relative_to(scratch))
    return output


def import_study(file: Path, *, home: Home = HOME, tracking_uri: str | None = None) -> str:
    """Take a study from a file of `export_study` into HOME, and log it to MLflow.

    Returns:
        The study's name.

    Raises:
        UserError: The file is no such file, or HOME or the tracking store has a study of that name.
    """
    from vae_study.tracking.store import find_parent
    from vae_study.tracking.study import sync

    place = Folder.at(home).local
    if place is None:
        raise UserError(f"--home {home}: is an object store; expected a folder on this machine")
    with _readable(Path(file)) as archive:
        name = require_study_name(str(json.loads(archive.read(SUMMARY_FILE))["study"]))
        if (place / name).exists():
            raise UserError(f"{place / name}: is there already; expected a HOME without a study {name!r}")
        client = client_of(home, tracking_uri, may_create=True)
        if (known := find_parent(client, name)) is not None:
            raise UserError(f"{client.tracking_uri}: has a study {name!r} already (run {known.info.run_id})")
        unfinished = place / f"{UNFINISHED}{name}"
        try:
            archive.extractall(unfinished, [one for one in archive.namelist() if one.startswith(f"{STUDY}/")])
            (unfinished / STUDY).rename(place / name)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    sync(client, name, place / name, lambda left: None)
    return name


def delete_study(
    name: str,
    *,
    home: Home = HOME,
    tracking_uri: str | None = None,
    study_storage: str | None = None,
    dry_run: bool = False,
) -> list[str]:
    """Delete a study: its folder in HOME, its Optuna study, and its runs and models in MLflow.

    MLflow keeps what is deleted until `mlflow gc`: `mlflow runs restore` brings a run back. The folder does not come
    back. Reports and data stay.

    Args:
        name: The study's name.
        home, tracking_uri, study_storage: As in `vae_study.run_study`.
        dry_run: Whether nothing is deleted.

    Returns:
        What was deleted, a line each.

    Raises:
        UserError: There is no such study, a driver is running it, or it is somebody else's.
    """
    from vae_study.search.study_store import delete_trials
    from vae_study.tracking.models import delete_runs

    saved_config(name, home)
    with _at_rest(name, home, study_storage) as folder:
        owner, scratch = owner_of(folder), scratch_of(name, home)
        client = client_of(home, tracking_uri)
        lines = delete_runs(client, name, owner.study_id if owner else None, dry_run=dry_run)
        if study_storage is not None:
            lines.append(f"the Optuna study {name}")
            if not dry_run:
                delete_trials(study_storage, name)
        lines.append(f"{len(_files(folder)):,} files in {folder}")
        if not dry_run:
            # Last, since it says whose the study is, should this have to be done again.
            folder.clear()
            shutil.rmtree(scratch, ignore_errors=True)
    return lines


@contextmanager
def _at_rest(name: str, home: Home, study_storage: str | None) -> Iterator[Folder]:
    """The folder of a study that no driver runs; raise UserError if one does."""
    from vae_study.search.study_store import require_at_rest

    saved_config(name, home)
    folder = Folder.at(home) / name
    if study_storage is not None or (folder.local is not None and STUDY_DATABASE in folder.names()):
        require_at_rest(study_storage or sqlite_of(home, name), name)
    with locked(scratch_of(name, home)):
        yield folder


def _files(folder: Folder) -> list[str]:
    """The paths of all files below a folder, within it; without those that belong to their place."""
    found = folder.system.get_file_info(FileSelector(folder.path, recursive=True, allow_not_found=True))
    inside = (one.path.removeprefix(folder.path).lstrip("/") for one in found if one.is_file)
    return sorted(one for one in inside if one not in LEFT_OUT and UNFINISHED not in one)


@contextmanager
def _whole(output: Path) -> Iterator[zipfile.ZipFile]:
    """A zip file to write, which is there whole or not at all."""
    unfinished = output.with_name(f"{UNFINISHED}{output.name}")
    try:
        with zipfile.ZipFile(unfinished, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
            yield file
        unfinished.replace(output)
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror or error}") from error
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def _readable(path: Path) -> Iterator[zipfile.ZipFile]:
    """A file of `export_study` to read, which fits on the disk; raise UserError if it is none."""
    expected = "expected a file that `vae-study export` wrote"
    try:
        with zipfile.ZipFile(path) as archive:
            if SUMMARY_FILE not in archive.namelist():
                raise UserError(f"{path}: has no {SUMMARY_FILE}; {expected}")
            yield archive
    except (OSError, zipfile.BadZipFile, zlib.error, json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read: {error}; {expected}") from error

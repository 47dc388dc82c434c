"""A study in MLflow: opened with its software and hardware, closed, and uploaded later or to another store (`sync`)."""

import importlib.metadata
import json
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from mlflow import MlflowClient
from mlflow.entities import Run

from vae_study.config.study import StudyConfig
from vae_study.data import Dataset
from vae_study.errors import UserError
from vae_study.selection.ranking import Selection
from vae_study.storage import Folder, Owner, words_of
from vae_study.tracking import schema
from vae_study.tracking.events import DataDescribed, StudyBegun, TextLogged, parsed
from vae_study.tracking.journal import JOURNAL_FILE, Journal, Marker, locked
from vae_study.tracking.note import plan_note
from vae_study.tracking.store import create_parent, find_parent, own_parent, runs_by_key
from vae_study.tracking.writer import TrackingWriter

PACKAGES = ("vae-study", "ray", "torch", "optuna", "mlflow", "pandas", "pyarrow", "scikit-learn", "numpy")
SECONDS_FOR_GIT, SECONDS_FOR_GPUS = 5.0, 10.0
GPU_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")
# Inside a hook or a rebase these would lead git to another repository than the one of the folder.
MISLEADING = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY")


def open_study(
    client: MlflowClient,
    config: StudyConfig,
    name: str,
    data: Dataset,
    reference: Mapping[str, float],
    rule: str,
    folder: Path,
    study_file: Path | None = None,
    trial_folders: Folder | None = None,
    owner: Owner | None = None,
) -> TrackingWriter:
    """Create a study's parent run, or open the one that it has, and start writing below it.

    Args:
        client: Of the tracking store.
        config: The resolved config.
        name: The study's name.
        data: The study's data.
        reference: The hypervolume's reference point, by metric.
        rule: The rule that chooses the champion.
        folder: The study's, on a local disk.
        study_file: The user's, whose commit is logged; by default that of the working directory.
        trial_folders: Has a folder for each run that outlasts that disk, for its log.
        owner: Whose the study is; None if nobody else uses the store.

    Raises:
        UserError: The study has begun with other data, or one of its name is somebody else's.
    """
    parent = find_parent(client, name) if owner is None else own_parent(client, name, owner.study_id)
    if parent is not None:
        _require_same_data(parent, name, data)
    about_it = environment(study_file)
    tags = _tags(config, name, data, rule, about_it)
    if owner is not None:
        tags |= {schema.STUDY_ID: owner.study_id, schema.MADE_BY: owner.made_by}
    parent = parent or create_parent(client, config.study, name, tags)
    writer = TrackingWriter(client, parent, runs_by_key(client, parent), folder, trial_folders)
    writer.log(StudyBegun(experiment=config.study, name=name, tags=tags))
    writer.log(DataDescribed(summary=data.summary()))
    about = {
        schema.CONFIG_FILE: config.plain(),
        schema.DATA_FILE: data.summary(),
        schema.PREPROCESSING_FILE: data.preprocessing.plain(),
        schema.REFERENCE_FILE: dict(reference),
        schema.ENVIRONMENT_FILE: about_it,
    }
    for file, content in about.items():
        writer.log(TextLogged(text=json.dumps(content, indent=2, sort_keys=True), name=file))
    return writer


def _require_same_data(parent: Run, name: str, data: Dataset) -> None:
    begun, found = parent.data.tags.get(schema.DATA_SHA), data.sha256
    if begun not in (None, found):
        raise UserError(
            f"the data of the study {name!r} changed since it began: {data.source} has sha256 {found[:12]}, "
            f"expected {str(begun)[:12]}; expected the same data, or another --name"
        )


def _tags(config: StudyConfig, name: str, data: Dataset, rule: str, about: Mapping[str, str]) -> dict[str, str]:
    # The code that a user may change is beside the config; where that is not under git, show the package's commit.
    whose = "config" if "config_commit" in about else "package"
    code = {schema.COMMIT: f"{whose}_commit", schema.IS_CLEAN: f"{whose}_is_clean"}
    return {
        schema.KIND: "study",
        schema.STUDY: name,
        schema.STATE: "running",
        schema.CONFIG_SHA: config.sha256(),
        schema.DATA_SHA: data.sha256,
        schema.NOTE: plan_note(config.plain(), name, data.summary(), rule),
        **{tag: about[field] for tag, field in code.items() if field in about},
    }


def close_study(
    writer: TrackingWriter,
    state: str,
    note: str,
    view: str,
    rule: str,
    champion: Selection | None,
    own: Mapping[str, Any],
    stopped: str = "",
) -> None:
    """Give the parent run its frames, its description and the view of its trials, the champion, and its state.

    Args:
        writer: Of the study.
        state: "finished" or "interrupted".
        note, view: As `note.result_note` and `note.trials_view` give them.
        rule: That chose the champion.
        champion: The chosen trial.
        own: Its parameters. They are tags, since MLflow keeps the first value of a param, and a study that goes on may
            choose another trial.
        stopped: Why it ended early.
    """
    writer.log_trials()
    tags = {
        schema.VIEW: view,
        schema.STATE: state,
        schema.NOTE: note,
        schema.CHAMPION_RULE: rule,
        schema.STOPPED: stopped,
    }
    if champion is not None:
        tags |= {schema.CHAMPION: str(champion.trial), schema.CHAMPION_SCORE: champion.score}
        tags |= {f"{schema.CHAMPION}.{name}": schema.text_value(value) for name, value in own.items()}
    writer.close_parent(tags, "FINISHED" if state == "finished" else "KILLED")


def sync(client: MlflowClient, name: str, folder: Path, show: Callable[[int], None], *, rebuild: bool = False) -> int:
    """Upload all records of a study's journal, and mark what a dead driver left running.

    Args:
        client: Of the tracking store.
        name: The study's name.
        folder: Has the journal.
        show: Called with the number of pending records whenever it has changed.
        rebuild: Whether to upload those again that were uploaded before; what MLflow still has of them stays.

    Returns:
        How many records were uploaded.

    Raises:
        UserError: There is no journal, or another process is writing it.
        StudyError: The store does not answer, or refused a record.
    """
    if not has_journal(folder):
        raise UserError(
            f"{folder} has no {JOURNAL_FILE}: no records of the study {name!r} are here; if its trials' folders are, "
            f"write them again: vae-study sync {words_of(name, folder.parent)} --rebuild"
        )
    begun = _begun(folder)
    study_id = begun.tags.get(schema.STUDY_ID) if begun else None
    parent = own_parent(client, name, study_id) if study_id else find_parent(client, name)
    if parent is None:
        if begun is None:
            missing = f"no study {name!r} in {client.tracking_uri}"
            raise UserError(f"{missing}, and the journal in {folder} lacks its beginning")
        parent = create_parent(client, begun.experiment, begun.name, begun.tags)
    if rebuild:
        with locked(folder):
            Marker(folder / JOURNAL_FILE).forget()
    writer = TrackingWriter(client, parent, runs_by_key(client, parent), folder)
    try:
        writer.abandon()
        count = writer.uploader.pending()
        writer.drain(show)
        writer.require_accepted()
    finally:
        writer.close()
    return count


def has_journal(folder: Path) -> bool:
    """Whether the journal of a study is there."""
    return (folder / JOURNAL_FILE).exists()


def _begun(folder: Path) -> StudyBegun | None:
    """The first event of a study's journal; None if it is lost."""
    events = (parsed(plain) for _, plain in Journal(folder / JOURNAL_FILE).read())
    return next((event for event in events if isinstance(event, StudyBegun)), None)


def environment(study_file: Path | None = None) -> dict[str, str]:
    """What is known of the software, the driver's machine and the code, by name.

    Args:
        study_file: The user's; by default the user's code is in the working directory.

    Returns:
        Versions by package, `python` and `platform`; `cpu`, `cpu_cores`, `memory_gib` and, if there are any, `gpus`;
        and of code under git `package_commit` and `config_commit`, each with `package_is_clean` or `config_is_clean`:
        "true" where the files are as they were committed, else "false".
    """
    own = checkout(Path(__file__).parent, Path(__file__))
    users = checkout(study_file.parent if study_file else Path.cwd(), study_file)
    return {**versions(), **hardware(), **_plain("package", own), **_plain("config", users)}


def versions() -> dict[str, str]:
    """Versions of Python, the platform, and the packages that the numbers depend on."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, str]:
    """This machine's processor, cores, memory and GPUs."""
    found = {"cpu": _cpu_model(), "cpu_cores": _cores(), "memory_gib": f"{psutil.virtual_memory().total / 2**30:.1f}"}
    gpus = _gpus()
    return found | ({"gpus": gpus} if gpus else {})


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _cores() -> str:
    """Such as "16, of which 4 may be used" if a container or a scheduler limits this process."""
    there = psutil.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else there
    return str(there) if usable == there else f"{there}, of which {usable} may be used"


def _gpus() -> str:
    """Such as "NVIDIA L4, 23034 MiB, driver 550.54"; importing PyTorch for this would take a second."""
    rows = [line.split(",") for line in (_output(GPU_QUERY, SECONDS_FOR_GPUS) or "").splitlines()]
    names = [f"{row[0].strip()}, {row[1].strip()} MiB, driver {row[2].strip()}" for row in rows if len(row) == 3]
    counts = Counter(names)
    return "; ".join(f"{count} x {name}" if count > 1 else name for name, count in counts.items())


@dataclass(frozen=True)
class Checkout:
    """Where a git repository stands.

    Attributes:
        commit: The hash of its last commit.
        is_clean: Whether no file that git knows has changed since.
    """

    commit: str
    is_clean: bool


def checkout(folder: Path, file: Path | None = None) -> Checkout | None:
    """The commit of the repository that a folder is in; None without a repository, or without git.

    Args:
        folder: Anywhere in the repository.
        file: One whose content matters; if git does not track it, the repository is not clean. For a file that git
            ignores, such as an installed package in a user's repository, the result is None.
    """
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    if commit is None or changes is None:
        return None
    if file is None or _git(folder, "ls-files", "--error-unmatch", str(file.resolve())) is not None:
        return Checkout(commit, not changes)
    is_ignored = _git(folder, "check-ignore", "--quiet", str(file.resolve())) is not None
    return None if is_ignored else Checkout(commit, False)


def _git(folder: Path, *words: str) -> str | None:
    # A monitor is a program of the repository's choice, and taking a lock may hinder the user's own git.
    command = ("git", "-C", str(folder), "-c", "core.fsmonitor=false", "--no-optional-locks", *words)
    return _output(command, SECONDS_FOR_GIT)


def _output(command: Sequence[str], seconds: float) -> str | None:
    """The output of a command; None if it is missing, fails or takes too long."""
    variables = {name: value for name, value in os.environ.items() if name not in MISLEADING}
    try:
        done = subprocess.run(command, capture_output=True, check=True, timeout=seconds, env=variables)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace").strip()


def _plain(prefix: str, found: Checkout | None) -> dict[str, str]:
    if found is None:
        return {}
    return {f"{prefix}_commit": found.commit, f"{prefix}_is_clean": str(found.is_clean).lower()}

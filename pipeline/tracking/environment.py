"""What a study's numbers depend on beside its spec: package versions, hardware, code and data."""

import importlib.metadata
import json
import os
import platform
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from mlflow.entities import Dataset, DatasetInput, InputTag

PACKAGES = ("vae-study", "ray", "torch", "optuna", "mlflow", "pandas", "pyarrow", "scikit-learn", "numpy")
SECONDS_FOR_GIT, SECONDS_FOR_GPUS = 5.0, 10.0
GPU_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")
# Inside a hook or a rebase these would lead git to another repository than the one of the folder.
MISLEADING = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY")
# MLflow's own limits, in characters.
LONGEST_NAME, LONGEST_DIGEST, LONGEST_SCHEMA = 500, 36, 1_000_000


def environment(study_file: Path | None = None) -> dict[str, str]:
    """What is known of the software, the driver's machine and the code, by name.

    Args:
        study_file: The user's; without one, the code of the user is what lies in the working directory.

    Returns:
        Versions by package, `python` and `platform`; `cpu`, `cpu_cores`, `memory_gib` and, if there are any, `gpus`;
        and of code under git `package_commit` and `spec_commit`, each with `package_is_clean` or `spec_is_clean`:
        "true" where the files are as they were committed, else "false".
    """
    own = checkout(Path(__file__).parent, Path(__file__))
    users = checkout(study_file.parent if study_file else Path.cwd(), study_file)
    return {**versions(), **hardware(), **_plain("package", own), **_plain("spec", users)}


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
    """Such as "16, of which 4 may be used", where a container or a scheduler has bound this process to some."""
    there = psutil.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else there
    return str(there) if usable == there else f"{there}, of which {usable} may be used"


def _gpus() -> str:
    """Such as "NVIDIA L4, 23034 MiB, driver 550.54"; asking PyTorch would take this room a second to import."""
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
    """The commit of the repository that a folder lies in; None where there is none, or no git.

    Args:
        folder: Anywhere in the repository.
        file: One whose content matters; where git does not know it, the repository is not clean. Of a file that git is
            told to ignore, such as an installed package in a user's repository, the commit says nothing: None.
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
    """What a command prints; None where it is missing, fails or takes too long."""
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


def dataset_input(summary: Mapping[str, Any]) -> DatasetInput:
    """A study's data as MLflow's UI shows them, under "Datasets"; logged twice, it is there once.

    Args:
        summary: The data summary.
    """
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
        schema=_schema(summary["feature_names"]),
        profile=json.dumps(profile),
    )
    return DatasetInput(about, [InputTag("mlflow.data.context", "train, validation, test")])


def _schema(names: Sequence[str]) -> str:
    """The features as MLflow's list of columns; of more than it takes, the first ones."""
    columns, left = [], LONGEST_SCHEMA
    for name in names:
        columns.append(json.dumps({"type": "float", "name": name, "required": True}))
        left -= len(columns[-1]) + 2
        if left < 0:
            columns.pop()
            break
    return f'{{"mlflow_colspec": [{", ".join(columns)}]}}'

"""A study as a manifest for Kubernetes, where KubeRay starts a Ray cluster for it.

The kinds RayJob and RayCronJob are described in KubeRay's API reference (v1.7). The manifest is the user's own file:
the study is written into it, and nothing else is changed.
"""

import io
import re
import shlex
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.scalarstring import LiteralScalarString

from vae_study.cluster.jobs import CONFIG_FILE, STUDY, config_text, own_code, run_words
from vae_study.config.study import StudyConfig
from vae_study.errors import StudyError, UserError

BLANK = re.compile(r"YOUR-([A-Z]+(?:-[A-Z]+)*)")
# Where pods find the study, which is on their PYTHONPATH, too.
FOLDER = "/etc/vae-study"
VOLUME = "study"
# KubeRay adds to the names of what it makes of a RayJob, and more for a RayCronJob (its validation.go); a time is ours.
LONGEST_NAME, LONGEST_CRON_NAME, TIME = 47, 36, "-%Y%m%d-%H%M%S"
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
# Kubernetes takes no larger ConfigMap.
MOST_BYTES = 2**20
CRON_FIELDS = 5


def kubernetes_manifest(
    file: Path,
    config: StudyConfig,
    name: str,
    *,
    home: str | None = None,
    concurrency: int | str | None = None,
    limits: Sequence[str] = (),
    schedule: str | None = None,
) -> tuple[str, str]:
    """Write a study into a copy of a manifest.

    Args:
        file: Manifest with one RayJob, and one ConfigMap of the same name for the study, all blanks filled in.
        config: The study.
        name: Its name.
        home: As in `run`; by default that of the manifest.
        concurrency: As in `run`, by default max, as there is no worker at the start.
        limits: Options of `run` that limit it.
        schedule: Five fields of cron, in UTC. Then the RayJob becomes a RayCronJob, and each day's study has the date
            in its name.

    Returns:
        The manifest, and the name of the RayJob or RayCronJob in it.

    Raises:
        UserError: The file or the name is wrong, or the study does not fit.
    """
    documents = _documents(file)
    job, study = _parts(file, documents)
    _require_name(name, LONGEST_CRON_NAME if schedule else LONGEST_NAME - len(f"{datetime.now(UTC):{TIME}}"))
    called = name if schedule else f"{name}{datetime.now(UTC):{TIME}}"
    paths = own_code(config.data.source)
    # A key has no slash; a module's name has no dot.
    keys = {CONFIG_FILE: CONFIG_FILE, **{path.as_posix().replace("/", "."): path.as_posix() for path in paths}}
    study["metadata"]["name"] = called
    study["data"] = {
        CONFIG_FILE: LiteralScalarString(config_text(config) + "\n"),
        **{path.as_posix().replace("/", "."): _text(path) for path in paths},
    }
    _require_size(study["data"])
    for volume in _volumes(file, job):
        volume["configMap"] = {"name": called, "items": [{"key": key, "path": path} for key, path in keys.items()]}
    words = run_words(None, home, concurrency or "max", limits)
    # The shell of KubeRay's submitter fills the date in.
    dated = f"{name}-$(date -u +%Y%m%d)" if schedule else name
    # As in `jobs`, `exec` makes a signal to the job reach the driver.
    command = f"exec python -m vae_study run {FOLDER}/{CONFIG_FILE} --name {dated} {shlex.join(words)}"
    job["metadata"]["name"] = called
    job["spec"]["entrypoint"] = command
    job["spec"]["metadata"] = {STUDY: name}
    if schedule:
        _repeat(job, schedule)
    return _dumped(documents), called


def apply(manifest: str) -> str:
    """Give a manifest to kubectl, which knows the cluster, and return what it says.

    Raises:
        UserError: There is no kubectl.
        StudyError: It refuses.
    """
    try:
        done = subprocess.run(["kubectl", "apply", "-f", "-"], input=manifest, capture_output=True, text=True)
    except FileNotFoundError:
        raise UserError(
            "--apply: there is no kubectl on the PATH; expected it there, with access to a cluster. Without --apply "
            "the manifest is printed, for `kubectl apply -f -` elsewhere"
        ) from None
    if done.returncode:
        raise StudyError(f"kubectl apply ended with code {done.returncode}: {done.stderr.strip()[-1000:]}")
    return done.stdout


def _documents(file: Path) -> list[Any]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(
            f"--kubernetes {file}: cannot be read ({why}); expected a manifest such as docs/cluster.kuberay.yaml of "
            "this project"
        ) from None
    for number, line in enumerate(text.splitlines(), 1):
        if (found := BLANK.search(line)) and not line.lstrip().startswith("#"):
            raise UserError(
                f"--kubernetes {file}:{number}: {found[0]} is to be filled in; docs/cluster.md says by what"
            )
    try:
        return [one for one in _yaml().load_all(text) if one is not None]
    except YAMLError as error:
        raise UserError(f"--kubernetes {file}: is no YAML: {' '.join(str(error).split())[:300]}") from None


def _yaml() -> YAML:
    yaml = YAML(typ="rt")
    yaml.width, yaml.preserve_quotes = 4096, True
    yaml.indent(mapping=2, sequence=4, offset=2)
    return yaml


def _dumped(documents: list[Any]) -> str:
    stream = io.StringIO()
    _yaml().dump_all(documents, stream)
    return stream.getvalue()


def _parts(file: Path, documents: list[Any]) -> tuple[Any, Any]:
    """The RayJob of a manifest, and its study's ConfigMap."""
    jobs = [one for one in documents if isinstance(one, dict) and one.get("kind") == "RayJob"]
    if len(jobs) != 1:
        raise UserError(f"--kubernetes {file}: has {len(jobs)} documents of the kind RayJob; expected one")
    [job] = jobs
    try:
        name = job["metadata"]["name"]
        maps = [one for one in documents if one["kind"] == "ConfigMap" and one["metadata"]["name"] == name]
        job["spec"]["rayClusterSpec"]["headGroupSpec"]
    except (KeyError, TypeError) as error:
        raise UserError(f"--kubernetes {file}: a document of it lacks {error}") from None
    if len(maps) != 1:
        raise UserError(f"--kubernetes {file}: has {len(maps)} ConfigMaps named {name!r} as its RayJob; expected one")
    return job, maps[0]


def _volumes(file: Path, job: Any) -> list[Any]:
    """The volumes by which head and workers see the study."""
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", [])]
    found = []
    for group in groups:
        volumes = [one for one in group["template"]["spec"].get("volumes") or [] if one.get("name") == VOLUME]
        if len(volumes) != 1:
            where = group.get("groupName", "the head")
            raise UserError(f"--kubernetes {file}: {where} has {len(volumes)} volumes named {VOLUME!r}; expected one")
        found += volumes
    return found


def _require_name(name: str, longest: int) -> None:
    if NAME.fullmatch(name) and len(name) <= longest:
        return
    near = re.sub(r"[^a-z0-9]+", "-", name.lower()).lstrip("-0123456789")[:longest].rstrip("-") or "study"
    raise UserError(
        f"--name: got {name!r}; expected at most {longest} small letters, digits and '-', with a letter first, as "
        f"Kubernetes takes them, such as {near}"
    )


def _text(path: Path) -> LiteralScalarString:
    return LiteralScalarString(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def _require_size(data: dict[str, str]) -> None:
    size = sum(len(text.encode()) for text in data.values())
    if size > MOST_BYTES:
        largest = max(data, key=lambda key: len(data[key]))
        raise UserError(
            f"the study and its code have {size:,} bytes, the most of them {largest}; expected at most {MOST_BYTES:,} "
            "as Kubernetes takes them: install the code of a `python:` source in the image instead"
        )


def _repeat(job: Any, schedule: str) -> None:
    """Make a RayJob a RayCronJob."""
    if len(schedule.split()) != CRON_FIELDS:
        raise UserError(f"--schedule: got {schedule!r}, expected five fields of cron, such as '0 3 * * *' for 3:00 UTC")
    job["kind"] = "RayCronJob"
    job["spec"] = {"schedule": schedule, "timeZone": "Etc/UTC", "jobTemplate": job["spec"]}

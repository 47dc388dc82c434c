"""Studies as jobs of a Ray cluster, through the job API of its head.

The API is described in Ray's documentation under "Ray Jobs Python SDK".
"""

import asyncio
import logging
import os
import shlex
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from aiohttp import ClientError
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from vae_study.config.study import StudyConfig
from vae_study.data import with_absolute_paths
from vae_study.errors import StudyError, UserError, holds_secret
from vae_study.storage import SCHEME

STUDY = "vae_study.study"
CODE = Path(__file__).parents[1]
CONFIG_FILE = "study.json"
FUNCTION = "python:"
SECONDS_TO_CONNECT = 5.0
ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
QUIET = ("ray", "ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk")
TOKEN = "expected the cluster's token in ~/.ray/auth_token or RAY_AUTH_TOKEN"
# A head answers some seconds before it accepts jobs.
SECONDS_TO_COME_UP = 60
NOT_UP_YET = "No available agent"
# On SIGINT, the driver saves its trials before it ends. SIGTERM, the other stop signal of a Ray job, is not used: Ray
# itself handles it before the driver can.
SECONDS_TO_END = 60
KIND_END = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": str(SECONDS_TO_END)}
# Run in ~/vae-study: Ray deletes the job's own folder with the job, and records not yet in MLflow must survive that.
# `exec` makes a signal to the job reach the driver.
DRIVE = (
    'config="$PWD/{file}" && mkdir -p ~/vae-study && cd ~/vae-study && exec python -m vae_study run "$config" {words}'
)
REQUIRE_HOME = ': "${VAE_STUDY_HOME:?is not set on the cluster: give --home}" && '


@dataclass(frozen=True)
class Job:
    """A study that was submitted.

    Attributes:
        state: pending, running, succeeded, failed or stopped.
        started: None before it started.
        seconds: How long it has run so far, or ran.
    """

    id: str
    study: str
    state: str
    started: datetime | None
    seconds: float


class JobQueue:
    """The jobs of the cluster at an address; opening it raises UserError where there is none, or it refuses."""

    def __init__(self, address: str):
        self.address = address
        self._client = connect(address)

    def submit(
        self,
        config: StudyConfig,
        name: str,
        home: str | None = None,
        concurrency: int | str | None = None,
        limits: Sequence[str] = (),
    ) -> str:
        """Submit a study, with options of `run` that limit it, and return the id of its job."""
        job = f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
        with tempfile.TemporaryDirectory() as folder, refusals(self.address):
            pack(config, Path(folder))
            self._send(
                entrypoint=_entrypoint(name, home, concurrency, limits),
                submission_id=job,
                runtime_env={"working_dir": folder, "env_vars": KIND_END},
                metadata={STUDY: name},
            )
        return job

    def _send(self, **job: Any) -> None:
        deadline = time.monotonic() + SECONDS_TO_COME_UP
        while True:
            try:
                self._client.submit_job(**job)
                return
            except RuntimeError as error:
                if NOT_UP_YET not in str(error) or time.monotonic() > deadline:
                    raise
            time.sleep(1)

    def jobs(self) -> list[Job]:
        """All studies that were submitted since the cluster started, the oldest first."""
        with refusals(self.address):
            details = self._client.list_jobs()
        mine = [one for one in details if one.submission_id and STUDY in (one.metadata or {})]
        return sorted((_job(one) for one in mine), key=lambda job: job.started or datetime.max.replace(tzinfo=UTC))

    def find(self, word: str) -> Job:
        """A job by its id, or the latest one of a study by the study's name.

        Raises:
            UserError: There is none.
        """
        jobs = self.jobs()
        found = [job for job in jobs if word in (job.id, job.study)]
        if not found:
            known = ", ".join(job.id for job in jobs) or "none"
            raise UserError(f"no job {word!r} on {self.address}; the jobs there: {known}")
        return found[-1]

    def follow(self, job: str, say: Callable[[str], None]) -> None:
        """Pass on a job's log from its beginning until the job ends.

        Args:
            job: Its id.
            say: Called with a piece of the log.

        Raises:
            UserError: The driver refused the study; its log says why.
            StudyError: The study failed or was stopped, or the connection broke, which does not affect the job.
        """
        try:
            asyncio.run(self._tail(job, say))
        except (OSError, RuntimeError, ClientError) as error:
            raise StudyError(f"connection lost: {error}; the job keeps running: vae-study logs {job}") from None
        with refusals(self.address):
            ended = self._client.get_job_info(job)
        _raise_for(job, ended)

    async def _tail(self, job: str, say: Callable[[str], None]) -> None:
        async for piece in self._client.tail_job_logs(job):
            say(piece)

    def cancel(self, job: str) -> str:
        """Tell a job to save its trials and end; wait for that, and return its state then."""
        with refusals(self.address):
            self._client.stop_job(job)
            deadline = time.monotonic() + SECONDS_TO_END + 15
            while not (status := JobStatus(self._client.get_job_status(job))).is_terminal():
                if time.monotonic() > deadline:
                    break
                time.sleep(0.5)
        return str(status.value).lower()


def jobs_text(jobs: list[Job]) -> str:
    """A table of jobs, one line per job."""
    rows = [("JOB", "STATE", "STARTED (UTC)", "TOOK")]
    for job in jobs:
        started = f"{job.started:%Y-%m-%d %H:%M}" if job.started else "-"
        rows.append((job.id, job.state, started, str(timedelta(seconds=round(job.seconds)))))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines) if jobs else "no studies were submitted here yet"


def run_words(
    name: str | None, home: str | None, concurrency: int | str | None, limits: Sequence[str] = ()
) -> list[str]:
    """The options of `run` for a driver on a cluster; those that are None are left to it."""
    given = {"--name": name, "--home": home, "--concurrency": concurrency}
    words = [str(word) for option in given.items() if option[1] is not None for word in option]
    return [*words, *limits, "--no-report"]


def _entrypoint(name: str, home: str | None, concurrency: int | str | None, limits: Sequence[str]) -> str:
    drive = DRIVE.format(file=CONFIG_FILE, words=shlex.join(run_words(name, home, concurrency, limits)))
    return drive if home else REQUIRE_HOME + drive


def _job(details: JobDetails) -> Job:
    start, end = details.start_time, details.end_time
    seconds = ((end or time.time() * 1000) - start) / 1000 if start else 0.0
    started = datetime.fromtimestamp(start / 1000, UTC) if start else None
    state = JobStatus(details.status).value.lower()
    return Job(str(details.submission_id), (details.metadata or {})[STUDY], state, started, seconds)


def _raise_for(job: str, ended: Any) -> None:
    if ended.status == JobStatus.SUCCEEDED:
        return
    if ended.driver_exit_code == 2:
        raise UserError(f"the cluster refused {job}; its log above says why")
    how = "was stopped" if ended.status == JobStatus.STOPPED else "failed"
    raise StudyError(f"{job} {how}; finished work is kept: submit the same study again to continue")


def connect(address: str) -> JobSubmissionClient:
    """A client of the job API at an address such as http://127.0.0.1:8265.

    Raises:
        UserError: Nothing answers there, it is no Ray cluster, or it refuses the token.
    """
    _require_reachable(address)
    token = _token()
    headers = {"Authorization": f"Bearer {token}"} if token else None
    with refusals(address), _addressed(address):
        client = JobSubmissionClient(address, headers=headers)
    # These loggers report every upload.
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    return client


@contextmanager
def refusals(address: str) -> Iterator[None]:
    """Turn the exceptions of Ray's client into UserError."""
    try:
        yield
    except AuthenticationError:
        why = "rejects the token that was sent" if _token() else "requires a token, and none was sent"
        raise UserError(f"--address {address}: {why}; {TOKEN}") from None
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0][:300]
        raise UserError(f"--address {address}: this is not the answer of a Ray cluster: {reason}") from None


def _require_reachable(address: str) -> None:
    """Raise UserError if nothing answers; Ray's client would try for minutes."""
    try:
        parts = urlsplit(address)
        usual = {"http": 80, "https": 443}[parts.scheme]
        host, port = parts.hostname, parts.port or usual
    except (ValueError, KeyError):
        host, port = None, 0
    if not host:
        raise UserError(f"--address {address}: is no such address; expected one such as http://127.0.0.1:8265")
    try:
        socket.create_connection((host, port), SECONDS_TO_CONNECT).close()
    except OSError as error:
        raise UserError(
            f"--address {address}: nothing answers there ({error.strerror or error}); expected a cluster's dashboard, "
            "which `ray dashboard cluster.yaml` in another terminal forwards to http://127.0.0.1:8265"
        ) from None


def _token() -> str | None:
    """The token, from where Ray itself looks for it. Ray's client uses it only if another variable is set, too."""
    if given := os.environ.get("RAY_AUTH_TOKEN"):
        return given
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


@contextmanager
def _addressed(address: str) -> Iterator[None]:
    """Make Ray's client use the address in place of RAY_ADDRESS."""
    before = os.environ.get(ADDRESS_VARIABLE)
    os.environ[ADDRESS_VARIABLE] = address
    try:
        yield
    finally:
        if before is None:
            del os.environ[ADDRESS_VARIABLE]
        else:
            os.environ[ADDRESS_VARIABLE] = before


def pack(config: StudyConfig, folder: Path) -> None:
    """Write everything that a driver on another machine needs to an empty folder.

    Args:
        config: The study.
        folder: Where to.
    """
    shutil.copytree(CODE, folder / CODE.name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / CONFIG_FILE).write_text(config_text(config), encoding="utf-8")
    for path in own_code(config.data.source):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def config_text(config: StudyConfig) -> str:
    """A study as JSON. It has only the keys that the user gave: an explicit default would count as fixed."""
    return config.model_dump_json(indent=2, exclude_unset=True)


def own_code(source: str) -> Iterable[Path]:
    """The Python files of the module of a `python:` source, if it is in the current folder."""
    if not source.startswith(FUNCTION):
        return []
    root = Path(source.removeprefix(FUNCTION).strip().split(":")[0].split(".")[0])
    return (
        sorted(root.rglob("*.py")) if root.is_dir() else [path for path in [root.with_suffix(".py")] if path.is_file()]
    )


def require_portable(config: StudyConfig, home: str | None) -> None:
    """Refuse a study that needs something of the submitting machine.

    Raises:
        UserError: The data or HOME are given by a path of this machine, or HOME with a password, which everybody on
            the cluster could read.
    """
    moved = with_absolute_paths(config.data)
    for key in ("path", "label"):
        given = getattr(config.data, key)
        # A path that depends on the current folder would mean another file there.
        if given != getattr(moved, key):
            raise UserError(
                f"data.{key}: got {given!r}, which is on this machine only; expected an address such as "
                "s3://bucket/key, or the absolute path of a folder that all nodes share"
            )
    if home is not None and holds_secret(home):
        raise UserError(
            "--home: got an address with a password in it; expected it without: nodes have keys of their own"
        )
    if home is not None and not SCHEME.match(home) and not home.startswith("/"):
        raise UserError(
            f"--home: got {home!r}, which is on this machine only; expected an address such as s3://bucket/studies, "
            "or the absolute path of a folder that all nodes share"
        )

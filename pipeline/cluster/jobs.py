"""The jobs of a Ray cluster that are studies, through the job API of its head.

The API is described in Ray's documentation under "Ray Jobs Python SDK".
"""

import asyncio
import shlex
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from aiohttp import ClientError
from ray.job_submission import JobDetails, JobStatus

from pipeline.cluster.connection import connect, refusals
from pipeline.cluster.package import SPEC_FILE, pack
from pipeline.errors import StudyError, UserError
from pipeline.spec import StudySpec

STUDY = "vae_study.study"
# A head answers some seconds before it can take a job.
SECONDS_TO_COME_UP = 60
NOT_UP_YET = "No available agent"
# A driver that is asked to end saves its trials first. To SIGTERM, the other signal that a job can be sent, Ray itself
# answers before the driver does.
SECONDS_TO_END = 60
KIND_END = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": str(SECONDS_TO_END)}
# Not the package's folder, which goes with the job: what waits for MLflow has to stay. `exec`, so that a signal to
# the job is one to the driver.
DRIVE = 'spec="$PWD/{file}" && mkdir -p ~/vae-study && cd ~/vae-study && exec python -m pipeline run "$spec" {words}'
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

    def submit(self, spec: StudySpec, name: str, home: str | None = None, concurrency: int | str | None = None) -> str:
        """Send a study, and return the id of its job."""
        job = f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
        with tempfile.TemporaryDirectory() as folder, refusals(self.address):
            pack(spec, Path(folder))
            self._send(
                entrypoint=_entrypoint(name, home, concurrency),
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
        """All studies that this cluster was sent since it came up, the oldest first."""
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
        """Hand on a job's log from its beginning until the job ends.

        Args:
            job: Its id.
            say: Called with a piece of the log.

        Raises:
            UserError: The driver refused the study; its log says why.
            StudyError: The study failed or was stopped, or the connection broke, which the job does not notice.
        """
        try:
            asyncio.run(self._tail(job, say))
        except (OSError, RuntimeError, ClientError) as error:
            raise StudyError(f"lost the connection: {error}; the job goes on: vae-study logs {job}") from None
        with refusals(self.address):
            ended = self._client.get_job_info(job)
        _raise_for(job, ended)

    async def _tail(self, job: str, say: Callable[[str], None]) -> None:
        async for piece in self._client.tail_job_logs(job):
            say(piece)

    def cancel(self, job: str) -> str:
        """Ask a job to save its trials and end; wait for that, and return its state then."""
        with refusals(self.address):
            self._client.stop_job(job)
            deadline = time.monotonic() + SECONDS_TO_END + 15
            while not (status := JobStatus(self._client.get_job_status(job))).is_terminal():
                if time.monotonic() > deadline:
                    break
                time.sleep(0.5)
        return str(status.value).lower()


def jobs_text(jobs: list[Job]) -> str:
    """Jobs for people, a line a job."""
    rows = [("JOB", "STATE", "STARTED (UTC)", "TOOK")]
    for job in jobs:
        started = f"{job.started:%Y-%m-%d %H:%M}" if job.started else "-"
        rows.append((job.id, job.state, started, str(timedelta(seconds=round(job.seconds)))))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines) if jobs else "no studies were sent here yet"


def _entrypoint(name: str, home: str | None, concurrency: int | str | None) -> str:
    given = {"--name": name, "--home": home, "--concurrency": concurrency}
    words = [str(word) for option in given.items() if option[1] is not None for word in option]
    drive = DRIVE.format(file=SPEC_FILE, words=shlex.join([*words, "--no-report"]))
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
    raise StudyError(f"{job} {how}; what is done is kept: submit the same study again to go on")

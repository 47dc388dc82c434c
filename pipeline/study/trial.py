"""One trial inside a Ray worker: train for about a second, report, and at the end measure and leave files."""

import logging
import math
import time
import traceback
from typing import Any

import numpy as np
import torch
from ray import tune

from pipeline.data import prepare
from pipeline.errors import Diverged
from pipeline.folders import Folder
from pipeline.search.early_stopping import due
from pipeline.secrets import guard_process, redacted
from pipeline.spec import StudySpec
from pipeline.study.checkpoints import Checkpoints, Pace, Snapshot
from pipeline.study.files import write_outcome
from pipeline.study.judging import kl_weights_of, rungs_of
from pipeline.study.messages import Assignment, Failure, TrialReport
from pipeline.study.roster import sign_in, wait_for_others
from pipeline.study.system import SystemMetrics
from pipeline.tracking.record import EpochRecord
from pipeline.vae.outcome import outcomes_of
from pipeline.vae.population import Member, Population
from pipeline.vae.snapshot import member_state, restore_member

logger = logging.getLogger(__name__)

# A report costs the driver some milliseconds, a small epoch less than that.
SECONDS_PER_REPORT = 1.0
HOST_IS_FULL = ("can't allocate memory", "not enough memory")


def trial_seed(study_seed: int, number: int, repeat: int = 0) -> int:
    """The seed of everything random in one trial, so that any one of them can be trained again alone."""
    words = [study_seed, number, repeat] if repeat else [study_seed, number]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)


def make_population(spec: StudySpec, assignment: Assignment) -> Population:
    """The one-member population that a task trains, on the data that its node has prepared once for all."""
    task = assignment.task
    member = Member(spec=spec.trial(task.parameters), seed=trial_seed(spec.seed, task.number, task.repeat))
    device = "cuda" if spec.resources.gpu and torch.cuda.is_available() else "cpu"
    return Population([member], prepare(spec.data, assignment.data_sha256), spec.anomaly.followed, device)


class VaeTrial(tune.Trainable):
    """Ray Tune's view of a trial. Whatever goes wrong inside becomes a report; only a dying process reaches Tune."""

    def setup(self, config: dict[str, Any]) -> None:
        """A fresh worker: one thread, so that equal seeds give equal bits, and its name on the list of workers."""
        guard_process()
        torch.set_num_threads(1)
        self.assignment: Assignment = config["assignment"]
        self.course: Course | None = None
        sign_in(self.assignment.roster, self.assignment.task.key)
        self.began = time.monotonic()

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """A used worker takes the next trial."""
        before, self.assignment = self.assignment, new_config["assignment"]
        self.course, self.began = None, time.monotonic()
        sign_in(self.assignment.roster, self.assignment.task.key, before.task.key)
        return True

    def step(self) -> dict[str, Any]:
        """Some epochs, and what became of them."""
        report = self._step()
        if report.state != "running":
            self.course = None
        return {"report": report, "done": report.state != "running"}

    def cleanup(self) -> None:
        """The study ends, or this worker does: what is under way can be gone on with."""
        if self.course is not None:
            self.course.save()

    def _step(self) -> TrialReport:
        epochs: list[EpochRecord] = []
        try:
            if self.course is None:
                self.course = Course(self.assignment)
                epochs += self.course.history
            self.course.advance(epochs)
            if not self.course.is_trained:
                return TrialReport(epochs=epochs)
            metrics = self.course.measure()
            wait_for_others(self.assignment.roster, self.assignment.workers, self.began)
            return TrialReport(epochs=epochs, state="finished", metrics=metrics)
        except Diverged as reason:
            return TrialReport(epochs=epochs, state="failed", failure="diverged", error=str(reason))
        except Exception as error:
            kind: Failure = "out_of_memory" if is_out_of_memory(error) else "error"
            return TrialReport(epochs=epochs, state="failed", failure=kind, error=redacted(traceback.format_exc()))


class Course:
    """The way of one task from its first epoch, or its last checkpoint, to its files.

    Attributes:
        history: Every epoch so far, also those before the checkpoint.
    """

    def __init__(self, assignment: Assignment):
        task, home = assignment.task, Folder.at(assignment.folder)
        self.spec = StudySpec.model_validate(assignment.spec)
        self.rungs = rungs_of(self.spec, task)
        self.files = home / "trials" / task.key if not task.repeat else None
        self.checkpoints = Checkpoints(home / "checkpoints" / task.key)
        self.pace = Pace(self.spec.checkpoints.every_seconds)
        self.history: list[EpochRecord] = []
        self.system = SystemMetrics() if self.spec.diagnostics.system_metrics else None
        self.population = make_population(self.spec, assignment)
        self._restore()

    def _restore(self) -> None:
        """Go on from the last good checkpoint; one of another machine's making, say, is no reason to fail."""
        saved = self.checkpoints.latest()
        if saved is None:
            return
        try:
            restore_member(self.population, 0, saved.state)
            self.history = list(saved.history)
        except ValueError as error:
            logger.warning("the trial begins anew, its checkpoint cannot be used: %s", error)

    @property
    def is_trained(self) -> bool:
        """Whether the budget of epochs is spent."""
        return self.population.epoch >= self.population.training.epochs

    def advance(self, epochs: list[EpochRecord]) -> None:
        """Train for about a second, or up to an epoch at which the trial is judged; epochs are added as they end.

        Raises:
            Diverged: An epoch's metrics are not finite.
        """
        started = time.monotonic()
        while not self.is_trained and time.monotonic() - started < SECONDS_PER_REPORT:
            metrics = self.population.train_epoch()[0]
            bad = [name for name, value in metrics.items() if not math.isfinite(value)]
            if bad:
                raise Diverged(f"{', '.join(bad)} not finite in epoch {self.population.epoch}")
            if self.system is not None:
                metrics |= self.system.sample()
            stamp = time.time_ns() // 10**6
            epochs.append(EpochRecord(epoch=self.population.epoch, timestamp_ms=stamp, metrics=metrics))
            self.history.append(epochs[-1])
            if self.pace.is_due():
                self.save()
            if due(self.rungs, kl_weights_of(self.history)) is not None:
                break

    def save(self) -> None:
        """Write a checkpoint; where there is no room for one, the trial goes on without."""
        state = member_state(self.population, 0)
        try:
            with self.pace.paying():
                self.checkpoints.save(Snapshot(epoch=self.population.epoch, state=state, history=self.history))
        except OSError as error:
            logger.warning("no checkpoint: %s", error)

    def measure(self) -> dict[str, float]:
        """The final metrics of a trained task, once its files are written."""
        outcome = outcomes_of(self.population, self.spec.diagnostics)[0]
        if self.files is not None:
            write_outcome(self.files, outcome)
        return outcome.metrics


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device's or the host's memory did not suffice."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # PyTorch has no class of its own for the host's memory.
    return isinstance(error, RuntimeError) and any(words in str(error) for words in HOST_IS_FULL)

"""One trial inside a Ray worker: train for about a second, report, and at the end measure and leave files."""

import math
import time
import traceback
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray import tune

from pipeline.data import prepare
from pipeline.errors import Diverged
from pipeline.spec import StudySpec
from pipeline.study.files import write_outcome
from pipeline.study.messages import Assignment, TrialReport
from pipeline.tracking.record import EpochRecord
from pipeline.vae.outcome import outcomes_of
from pipeline.vae.population import Member, Population

# A report costs the driver some milliseconds, a small epoch less than that.
SECONDS_PER_REPORT = 1.0
SECONDS_FOR_WORKERS = 60.0


def trial_seed(study_seed: int, number: int, repeat: int = 0) -> int:
    """The seed of everything random in one trial, so that any one of them can be trained again alone."""
    words = [study_seed, number, repeat] if repeat else [study_seed, number]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)


def make_population(spec: StudySpec, assignment: Assignment) -> Population:
    """The one-member population that a trial trains, on the data that its node has prepared once for all trials."""
    seed = trial_seed(spec.seed, assignment.number, assignment.repeat)
    member = Member(spec=spec.trial(assignment.parameters), seed=seed)
    device = "cuda" if spec.resources.gpu and torch.cuda.is_available() else "cpu"
    return Population([member], prepare(spec.data, assignment.data_sha256), spec.anomaly.followed, device)


class VaeTrial(tune.Trainable):
    """Ray Tune's view of a trial. Whatever goes wrong inside becomes a report; only a dying process reaches Tune."""

    def setup(self, config: dict[str, Any]) -> None:
        """A fresh worker: one thread, so that equal seeds give equal bits, and its name on the list of workers."""
        torch.set_num_threads(1)
        self.assignment: Assignment = config["assignment"]
        self.population: Population | None = None
        workers_folder = Path(self.assignment.workers_folder)
        workers_folder.mkdir(parents=True, exist_ok=True)
        (workers_folder / uuid.uuid4().hex).touch()
        self.is_first = True

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """A used worker takes the next trial."""
        self.assignment = new_config["assignment"]
        self.population = None
        return True

    def step(self) -> dict[str, Any]:
        """Some epochs, and what became of them."""
        report = self._step()
        return {"report": report, "done": report.state != "running"}

    def _step(self) -> TrialReport:
        epochs: list[EpochRecord] = []
        try:
            if self.population is None:
                self.population = self._start()
            self._train(self.population, epochs)
            if self.population.epoch < self.population.training.epochs:
                return TrialReport(epochs=epochs)
            outcome = outcomes_of(self.population, self.spec.diagnostics)[0]
            write_outcome(Path(self.assignment.folder), outcome)
            self._wait_for_workers()
            return TrialReport(epochs=epochs, state="finished", metrics=outcome.metrics)
        except Diverged as reason:
            return TrialReport(epochs=epochs, state="failed", failure="diverged", error=str(reason))
        except Exception:
            return TrialReport(epochs=epochs, state="failed", failure="error", error=traceback.format_exc())

    def _start(self) -> Population:
        self.spec = StudySpec.model_validate(self.assignment.spec)
        return make_population(self.spec, self.assignment)

    def _train(self, population: Population, epochs: list[EpochRecord]) -> None:
        started = time.monotonic()
        while population.epoch < population.training.epochs and time.monotonic() - started < SECONDS_PER_REPORT:
            metrics = population.train_epoch()[0]
            bad = [name for name, value in metrics.items() if not math.isfinite(value)]
            if bad:
                raise Diverged(f"{', '.join(bad)} not finite in epoch {population.epoch}")
            epochs.append(EpochRecord(epoch=population.epoch, timestamp_ms=time.time_ns() // 10**6, metrics=metrics))

    def _wait_for_workers(self) -> None:
        """Let no worker end its first trial before its fellows are up.

        Tune gives a free worker to a trial whose own is still starting, and ends that one: with trials shorter than a
        worker's start, a single worker would do all the work.
        """
        deadline = time.monotonic() + SECONDS_FOR_WORKERS
        folder = Path(self.assignment.workers_folder)
        while self.is_first and time.monotonic() < deadline:
            if len(list(folder.iterdir())) >= self.assignment.workers:
                break
            time.sleep(0.05)
        self.is_first = False

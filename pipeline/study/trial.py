"""One task inside a worker: what it was asked for, how far it is, and what it leaves on the disk."""

import logging
import math
import time
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import Diverged
from pipeline.folders import Folder
from pipeline.search.early_stopping import due
from pipeline.spec import StudySpec
from pipeline.study.checkpoints import Checkpoints, Snapshot
from pipeline.study.judging import kl_weights_of, rungs_of
from pipeline.study.messages import Task
from pipeline.tracking.record import EpochRecord
from pipeline.vae.population import Member

logger = logging.getLogger(__name__)

HOST_IS_FULL = ("can't allocate memory", "not enough memory")


def trial_seed(study_seed: int, number: int, repeat: int = 0) -> int:
    """The seed of everything random in one trial, so that any one of them can be trained again alone."""
    words = [study_seed, number, repeat] if repeat else [study_seed, number]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)


class Course:
    """The way of one task from its first epoch, or its last checkpoint, to its files.

    Attributes:
        member: What is trained.
        history: Every epoch so far, also those before the checkpoint.
        files: Where it leaves its files; None for a repeat, which leaves none.
    """

    def __init__(self, task: Task, spec: StudySpec, home: Folder):
        self.key, self.rungs = task.key, rungs_of(spec, task)
        self.member = Member(spec=spec.trial(task.parameters), seed=trial_seed(spec.seed, task.number, task.repeat))
        self.files = home / "trials" / task.key if not task.repeat else None
        self.checkpoints = Checkpoints(home / "checkpoints" / task.key)
        self.history: list[EpochRecord] = []
        self._reported = 0

    def begin(self) -> Mapping[str, Tensor] | None:
        """The state of the last good checkpoint, which brings its history along; None where there is none."""
        saved = self.checkpoints.latest()
        self.history, self._reported = list(saved.history) if saved else [], 0
        return saved.state if saved else None

    def begin_anew(self, why: ValueError) -> None:
        """A checkpoint of another machine's making, say, is no reason to fail."""
        logger.warning("the trial begins anew, its checkpoint cannot be used: %s", why)
        self.history = []

    def record(self, metrics: dict[str, float]) -> None:
        """Add an epoch.

        Raises:
            Diverged: Its metrics are not finite.
        """
        epoch = len(self.history) + 1
        bad = [name for name, value in metrics.items() if not math.isfinite(value)]
        if bad:
            raise Diverged(f"{', '.join(bad)} not finite in epoch {epoch}")
        self.history.append(EpochRecord(epoch=epoch, timestamp_ms=time.time_ns() // 10**6, metrics=metrics))

    def unreported(self) -> list[EpochRecord]:
        """The epochs since this was last asked for; after a restart, all of them."""
        first, self._reported = self._reported, len(self.history)
        return self.history[first:]

    @property
    def is_trained(self) -> bool:
        """Whether the budget of epochs is spent."""
        return len(self.history) >= self.member.spec.training.epochs

    @property
    def is_judged(self) -> bool:
        """Whether its last epoch is one after which it is judged."""
        return due(self.rungs, kl_weights_of(self.history)) is not None

    def save(self, state: dict[str, Tensor]) -> None:
        """Write a checkpoint; where there is no room for one, the task goes on without."""
        try:
            self.checkpoints.save(Snapshot(epoch=len(self.history), state=state, history=self.history))
        except OSError as error:
            logger.warning("no checkpoint: %s", error)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device's or the host's memory did not suffice."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # PyTorch has no class of its own for the host's memory.
    return isinstance(error, RuntimeError) and any(words in str(error) for words in HOST_IS_FULL)

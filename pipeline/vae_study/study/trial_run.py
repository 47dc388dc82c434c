"""A task while a worker trains it: its model, its epochs so far and its files; and the group it is trained with."""

import logging
import math
import time
from collections.abc import Iterator, Mapping

import numpy as np
from torch import Tensor

from vae_study.config.study import ResourcesConfig, StudyConfig
from vae_study.data import Dataset
from vae_study.errors import Diverged
from vae_study.search.early_stopping import due
from vae_study.storage import Folder
from vae_study.study.messages import Task, kl_weights_of, rungs_of
from vae_study.study.trial_files import Checkpoints, Snapshot
from vae_study.tracking.record import EpochRecord
from vae_study.vae.autotune import models_per_device
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.outcome import Outcome, outcome_of, outcomes_of, outcomes_of_kept, weights_of
from vae_study.vae.stacking import ModelSetup, compatibility_key

logger = logging.getLogger(__name__)


def trial_seed(study_seed: int, number: int, repeat: int = 0) -> int:
    """The seed of everything random in one trial, so that any one of them can be trained again alone."""
    words = [study_seed, number, repeat] if repeat else [study_seed, number]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> 1)


class TrialRun:
    """One task in a worker, from its first epoch or its last checkpoint to its files.

    Attributes:
        setup: What is trained.
        history: Every epoch so far, also those before the checkpoint.
        files: Where it leaves its files; None for a repeat, which leaves none but its code.
        code: Where it leaves its code, to be compared with that of other seeds; None if the study has no others.
        points: The numbers of the trials that become of the models that it keeps along its way.
    """

    def __init__(self, task: Task, config: StudyConfig, home: Folder):
        self.key, self.rungs, self.points = task.key, rungs_of(config, task), task.points
        self.setup = ModelSetup(
            config=config.trial(task.parameters), seed=trial_seed(config.seed, task.number, task.repeat)
        )
        self.files = home / "trials" / task.key if not task.repeat else None
        self.code = home / "trials" / task.key if config.confirm.top else None
        self.checkpoints = Checkpoints(home / "checkpoints" / task.key)
        self.history: list[EpochRecord] = []
        self._reported = 0

    def begin(self) -> Mapping[str, Tensor] | None:
        """Take the history of the last good checkpoint, and return its state; None if there is none."""
        saved = self.checkpoints.latest()
        self.history, self._reported = list(saved.history) if saved else [], 0
        return saved.state if saved else None

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
        return len(self.history) >= self.setup.config.training.epochs

    @property
    def is_at_rung(self) -> bool:
        """Whether the driver decides after its last epoch if it continues."""
        return due(self.rungs, kl_weights_of(self.history)) is not None

    @property
    def kept(self) -> list[tuple[int, float]]:
        """The epochs after which its model is kept for a trial in `points`, each with its beta."""
        return [*self.setup.config.kept_betas().items()][: len(self.points)]

    @property
    def is_to_keep(self) -> bool:
        """Whether its model is to be kept after its last epoch."""
        return len(self.history) in dict(self.kept)

    def keep(self, state: Mapping[str, Tensor]) -> None:
        """Keep the model; what is written again after a restart is the same. Raise OSError if the disk is full."""
        self.checkpoints.keep_weights(len(self.history), weights_of(state))

    def save(self, state: dict[str, Tensor]) -> None:
        """Write a checkpoint; if the disk is full, training continues without one."""
        try:
            self.checkpoints.save(Snapshot(epoch=len(self.history), state=state, history=self.history))
        except OSError as error:
            logger.warning("no checkpoint: %s", error)


class RunGroup:
    """Tasks of one shape, which one ModelBatch trains together; its models are in the order of `runs`.

    Attributes:
        is_open: Whether others may join.
    """

    def __init__(
        self,
        config: StudyConfig,
        data: Dataset,
        first: TrialRun,
        is_open: bool = True,
        beside: "RunGroup | None" = None,
    ):
        """Begin with one task; `beside` is another group on the same device, which has the data there already."""
        self.diagnostics, self.is_open = config.diagnostics, is_open
        self.key = compatibility_key(first.setup.config)
        device = device_of(config.resources)
        # Padded to the same size whatever it is trained with, so that a trial always has the same bits.
        capacity = largest_latent_dim(config)
        self.model_batch: ModelBatch = ModelBatch(
            [first.setup],
            data,
            config.followed_score,
            device,
            latent_capacity=capacity,
            beside=beside.model_batch if beside else None,
        )
        # Remove it again: it joins below as all others do, from its checkpoint.
        self.model_batch.leave(0)
        self.runs: list[TrialRun] = []
        self.join(first)

    def admits(self, run: TrialRun) -> bool:
        """Whether a task can be trained with the others."""
        return self.is_open and compatibility_key(run.setup.config) == self.key

    def join(self, run: TrialRun) -> None:
        """Take a task in at its last good checkpoint, or at its beginning if that was made for another model."""
        try:
            self.model_batch.join(run.setup, run.begin())
        except ValueError as why:
            logger.warning("the trial starts again, its checkpoint cannot be used: %s", why)
            run.history = []
            self.model_batch.join(run.setup)
        self.runs.append(run)

    def leave(self, run: TrialRun) -> None:
        """Let a task go."""
        index = self.runs.index(run)
        self.model_batch.leave(index)
        del self.runs[index]

    def models_per_device(self, run: TrialRun) -> int:
        """How many tasks like this one to train at once for the highest throughput."""
        of = self.model_batch
        return models_per_device(run.setup, of.data, of.score, of.device, of.latent_capacity)

    def state(self, run: TrialRun) -> dict[str, Tensor]:
        """All that the rest of a task's training depends on, by name."""
        return self.model_batch.state(self.runs.index(run))

    def outcomes(self, trained: list[TrialRun]) -> list[Outcome]:
        """The final metrics and arrays of tasks that have spent their epochs, in their order."""
        if len(trained) == len(self.runs):
            return outcomes_of(self.model_batch, self.diagnostics)
        return [outcome_of(self.model_batch, self.runs.index(run), self.diagnostics) for run in trained]

    def outcomes_of_kept(self, run: TrialRun) -> Iterator[Outcome]:
        """The same of the models that a task has kept, in the order of its points."""
        kept = [(beta, run.checkpoints.kept_weights(epoch)) for epoch, beta in run.kept]
        return outcomes_of_kept(self.model_batch, run.setup, kept, self.diagnostics)


def device_of(resources: ResourcesConfig) -> str:
    """Where a worker trains: on a GPU where it asks for one, even if there is none."""
    return "cuda" if resources.gpu else "cpu"


def largest_latent_dim(config: StudyConfig) -> int:
    """The largest latent size that the search can reach."""
    searched = config.search.get("latent_dim")
    return max(int(size) for size in searched.ends()) if searched else config.model.latent_dim

"""An estimate of a study's training time: from its trials so far, or from a short measurement on this machine."""

import math
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch

from vae_study.config.search_space import Range, in_branch_order, is_active
from vae_study.config.study import StudyConfig
from vae_study.errors import UserError
from vae_study.study.plan import Plan, require_memory
from vae_study.study.trial_run import device_of, largest_latent_dim
from vae_study.vae.autotune import first_rows
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.stacking import ModelSetup

# Configurations to try, and no further one after this many seconds.
DRAWS, SECONDS = 5, 2.0
# The time of all batches is estimated from this many.
BATCHES = 8


@dataclass(frozen=True, kw_only=True)
class Cost:
    """About how long training a study takes, without the start of workers and the scoring of trained models.

    Attributes:
        trial_seconds: The mean trial's share of a worker's time.
        trials: All that are to be trained, those that confirm the best included.
        samples: How many trials or configurations this was measured on.
        device: What configurations were measured on, on this machine; empty if the study's trials were used.
    """

    trial_seconds: float
    trials: int
    samples: int
    device: str = ""

    @property
    def worker_hours(self) -> float:
        """The time of all workers together."""
        return self.trials * self.trial_seconds / 3600


def cost_from_trials(plan: Plan, trials: pd.DataFrame, history: pd.DataFrame) -> Cost | None:
    """The cost from the trials so far, on whatever machines they ran; None if none has ended."""
    ended = trials.loc[trials["state"].isin(["finished", "pruned"]), "trial"]
    if "time/epoch_seconds" not in history or ended.empty:
        return None
    seconds = history.loc[history["trial"].isin(ended), "time/epoch_seconds"].astype(float).sum()
    return Cost(trial_seconds=seconds / len(ended), trials=_runs(plan.config), samples=len(ended))


def measured_cost(plan: Plan) -> Cost:
    """The cost from some seconds of training here: configurations drawn at random, some batches each.

    Raises:
        MemoryError, torch.OutOfMemoryError: This machine has too little memory.
    """
    try:
        # Of a study for a cluster it is not known yet.
        require_memory(plan)
    except UserError as error:
        raise MemoryError(str(error)) from None
    config, draw, found = plan.config, random.Random(plan.config.seed), list[float]()
    # The machine that asks may be a laptop without the GPU of the workers.
    device = device_of(config.resources) if torch.cuda.is_available() else "cpu"
    began = time.monotonic()
    with _one_thread():
        while len(found) < (DRAWS if config.search else 1) and time.monotonic() - began < SECONDS:
            found.append(_trial_seconds(plan, drawn(config, draw), device))
    return Cost(
        trial_seconds=math.fsum(found) / len(found),
        trials=_runs(config),
        samples=len(found),
        device=device,
    )


def drawn(config: StudyConfig, draw: random.Random) -> dict[str, Any]:
    """A configuration of the search space, drawn at random."""
    values: dict[str, Any] = {}
    for name in in_branch_order(config.search):
        parameter = config.search[name]
        if not is_active(parameter, values):
            continue
        values[name] = _within(parameter, draw) if isinstance(parameter, Range) else draw.choice(parameter.choices)
    return values


def _within(parameter: Range, draw: random.Random) -> float:
    low, high = parameter.low, parameter.high
    value = low * (high / low) ** draw.random() if parameter.log else draw.uniform(low, high)
    value = min(max(value, low), high)
    return round(value) if parameter.type == "int" else value


def _runs(config: StudyConfig) -> int:
    return config.trials + min(config.confirm.top, config.trials) * config.confirm.seeds


def _trial_seconds(plan: Plan, values: dict[str, Any], device: str) -> float:
    config = plan.config.trial(values)
    epochs = config.training.epochs
    # Of the two timed epochs, the first is a warm-up (memory allocation) and is not counted.
    lasting = config.model_copy(update={"training": config.training.model_copy(update={"epochs": max(2, epochs)})})
    asked = plan.config.resources.trials_per_device
    co_located = 1 if asked == "auto" else min(asked, plan.config.trials)
    # A part of every split, with enough rows to train for BATCHES batches.
    splits = plan.data.splits
    share = min(1.0, BATCHES * config.training.batch_size / len(splits["train"].row_N))
    parts = {name: first_rows(split, math.ceil(share * len(split.row_N))) for name, split in splits.items()}
    data = replace(plan.data, splits=parts)
    setups = [ModelSetup(config=lasting, seed=number) for number in range(co_located)]
    capacity = largest_latent_dim(plan.config)
    model_batch = ModelBatch(setups, data, plan.config.followed_score, device, latent_capacity=capacity)
    seconds = [metrics[0]["time/epoch_seconds"] for metrics in (model_batch.train_epoch(), model_batch.train_epoch())]
    return epochs * seconds[-1] / share


@contextmanager
def _one_thread() -> Iterator[None]:
    """As in a worker."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

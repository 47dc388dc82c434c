"""What a study costs in its workers' time, told before it starts: by its trials so far, or by a few tries here."""

import math
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch

from pipeline.data import Dataset
from pipeline.spec import Range, StudySpec
from pipeline.spec.searching import in_branch_order, is_active
from pipeline.study.group import device_of, largest_latent_dim
from pipeline.study.plan import Plan
from pipeline.vae.crowding import first_rows
from pipeline.vae.population import Member, Population

# Tries end after the first that goes beyond.
DRAWS, SECONDS = 5, 2.0
# So many batches say what all of them take.
BATCHES = 8


@dataclass(frozen=True, kw_only=True)
class Cost:
    """About what training a study takes, without the start of workers and the scoring of trained models.

    Attributes:
        trial_seconds: The mean trial's share of a worker's time.
        trials: All that are to be trained, those again that confirm the best included.
        known_from: How many trials, or tried configurations, say so.
        is_tried: Whether they were tried on this machine, and for a moment only.
        device: What they were tried on.
    """

    trial_seconds: float
    trials: int
    known_from: int
    is_tried: bool
    device: str = ""

    @property
    def worker_hours(self) -> float:
        """Of all workers together."""
        return self.trials * self.trial_seconds / 3600


def told_cost(plan: Plan, trials: pd.DataFrame, history: pd.DataFrame) -> Cost | None:
    """The cost by the trials so far, on whatever machines they ran; None where none has ended."""
    ended = trials.loc[trials["state"].isin(["finished", "stopped"]), "trial"]
    if "time/epoch_seconds" not in history or ended.empty:
        return None
    seconds = history.loc[history["trial"].isin(ended), "time/epoch_seconds"].astype(float).sum()
    return Cost(trial_seconds=seconds / len(ended), trials=_runs(plan.spec), known_from=len(ended), is_tried=False)


def tried_cost(plan: Plan) -> Cost:
    """The cost by some seconds of training here: of configurations drawn at random, some batches each.

    Raises:
        MemoryError, torch.OutOfMemoryError: This machine is too small for it.
    """
    spec, draw, found = plan.spec, random.Random(plan.spec.seed), list[float]()
    device = device_of(spec.resources)
    began = time.monotonic()
    with _one_thread():
        while len(found) < (DRAWS if spec.search else 1) and time.monotonic() - began < SECONDS:
            found.append(_trial_seconds(plan, drawn(spec, draw), device))
    return Cost(
        trial_seconds=math.fsum(found) / len(found),
        trials=_runs(spec),
        known_from=len(found),
        is_tried=True,
        device=device,
    )


def drawn(spec: StudySpec, draw: random.Random) -> dict[str, Any]:
    """A configuration of the search space, drawn at random."""
    values: dict[str, Any] = {}
    for name in in_branch_order(spec.search):
        parameter = spec.search[name]
        if not is_active(parameter, values):
            continue
        values[name] = _within(parameter, draw) if isinstance(parameter, Range) else draw.choice(parameter.choices)
    return values


def _within(parameter: Range, draw: random.Random) -> float:
    low, high = parameter.low, parameter.high
    value = low * (high / low) ** draw.random() if parameter.log else draw.uniform(low, high)
    value = min(max(value, low), high)
    return round(value) if parameter.type == "int" else value


def _runs(spec: StudySpec) -> int:
    return spec.trials + min(spec.confirm.top, spec.trials) * spec.confirm.seeds


def _trial_seconds(plan: Plan, values: dict[str, Any], device: str) -> float:
    spec = plan.spec.trial(values)
    epochs = spec.training.epochs
    # The first one of the two lays out the memory.
    lasting = spec.model_copy(update={"training": spec.training.model_copy(update={"epochs": max(2, epochs)})})
    asked = plan.spec.resources.trials_per_device
    company = 1 if asked == "auto" else min(asked, plan.spec.trials)
    share, data = _part(plan.data, BATCHES * spec.training.batch_size)
    members = [Member(spec=lasting, seed=number) for number in range(company)]
    capacity = largest_latent_dim(plan.spec)
    population = Population(members, data, plan.spec.anomaly.followed, device, latent_capacity=capacity)
    seconds = [metrics[0]["time/epoch_seconds"] for metrics in (population.train_epoch(), population.train_epoch())]
    return epochs * seconds[-1] / share


def _part(data: Dataset, rows: int) -> tuple[float, Dataset]:
    """A part of every split, with so many rows to train, and which share of the whole it is."""
    share = min(1.0, rows / len(data.splits["train"].row_N))
    splits = {name: first_rows(split, math.ceil(share * len(split.row_N))) for name, split in data.splits.items()}
    return share, replace(data, splits=splits)


@contextmanager
def _one_thread() -> Iterator[None]:
    """As in a worker."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)

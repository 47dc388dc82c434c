"""What the tests of checkpoints run in processes of their own, to kill them."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import torch

from pipeline.data import Dataset, prepare
from pipeline.folders import Folder
from pipeline.spec.schema import DataSpec
from pipeline.study.checkpoints import Checkpoints, Snapshot
from pipeline.tracking.record import EpochRecord
from pipeline.vae.population import Population
from pipeline.vae.snapshot import member_state, restore_member
from tests.vae.builders import member

EPOCHS = 6


def numbered(epoch: int, numbers: int) -> Snapshot:
    """A checkpoint that can be told to be whole."""
    state = {"numbers": torch.full((numbers,), float(epoch)), "epoch": torch.tensor(epoch)}
    history = [EpochRecord(epoch=one, timestamp_ms=one, metrics={"val/kl": one / 3}) for one in range(1, epoch + 1)]
    return Snapshot(epoch=epoch, state=state, history=history)


def save_without_end(place: str, numbers: int) -> None:
    """Save one checkpoint after another, from the latest on."""
    checkpoints = Checkpoints(Folder.at(place))
    latest = checkpoints.latest()
    for epoch in count(latest.epoch + 1 if latest else 1):
        checkpoints.save(numbered(epoch, numbers))


def small_digits() -> Dataset:
    """Some rows of each split of the digits."""
    digits = prepare(DataSpec(source="digits", anomaly_labels=(8,)))
    names = ("x_ND", "is_anomaly_N", "row_N", "label_code_N")
    cut = {key: {name: getattr(split, name)[:90] for name in names} for key, split in digits.splits.items()}
    return replace(digits, splits={key: replace(split, **cut[key]) for key, split in digits.splits.items()})


def train_a_trial(place: str, dies_after: int | None) -> None:
    """A trial as a worker trains it, a checkpoint an epoch; the process ends by its own kill -9 if it is to."""
    torch.set_num_threads(1)
    checkpoints = Checkpoints(Folder.at(place))
    for history in trained(checkpoints):
        if len(history) == dies_after:
            os.kill(os.getpid(), signal.SIGKILL)


def trained(checkpoints: Checkpoints) -> Iterator[list[EpochRecord]]:
    """The history after each epoch, from the latest checkpoint on."""
    values = {"training__learning_rate_schedule": "cosine", "network__batch_norm": True, "family": "denoising"}
    population = Population([member(3, training__epochs=EPOCHS, **values)], small_digits())
    latest = checkpoints.latest()
    history = list(latest.history) if latest else []
    if latest:
        restore_member(population, 0, latest.state)
    while population.epoch < EPOCHS:
        metrics = {name: one for name, one in population.train_epoch()[0].items() if not name.startswith("time/")}
        history.append(EpochRecord(epoch=population.epoch, timestamp_ms=population.epoch, metrics=metrics))
        checkpoints.save(Snapshot(epoch=population.epoch, state=member_state(population, 0), history=history))
        yield history

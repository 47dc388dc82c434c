"""What the tests of checkpoints run in processes of their own, to kill them."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from itertools import count

import torch
from vae_study.config.study import DataConfig
from vae_study.data import Dataset, prepare
from vae_study.storage import Folder
from vae_study.study.trial_files import Checkpoints, Snapshot
from vae_study.tracking.record import EpochRecord
from vae_study.vae.model_batch import ModelBatch

from tests.vae.builders import model_setup

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
    digits = prepare(DataConfig(source="digits", anomaly_labels=(8,)))
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
    model_batch = ModelBatch([model_setup(3, training__epochs=EPOCHS, **values)], small_digits())
    latest = checkpoints.latest()
    history = list(latest.history) if latest else []
    if latest:
        model_batch.restore(0, latest.state)
    while model_batch.epoch < EPOCHS:
        metrics = {name: one for name, one in model_batch.train_epoch()[0].items() if not name.startswith("time/")}
        history.append(EpochRecord(epoch=model_batch.epoch, timestamp_ms=model_batch.epoch, metrics=metrics))
        checkpoints.save(Snapshot(epoch=model_batch.epoch, state=model_batch.state(0), history=history))
        yield history

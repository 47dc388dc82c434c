"""Autotuning: how many models a device should train at once, found by timing batches of growing size."""

import time
from dataclasses import replace

import torch

from vae_study.config.study import MOST_PER_DEVICE
from vae_study.data import Dataset, Split
from vae_study.data.pixels import part_of
from vae_study.vae.device import is_out_of_memory
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.stacking import ModelSetup

# A larger batch has to make one model's epoch cheaper by this share.
WORTH_IT = 0.1
# The excerpt of the data: enough minibatches for a timing, few enough for a second.
BATCHES, HELD_OUT_ROWS = 8, 1024
REPETITIONS = 3


def models_per_device(
    setup: ModelSetup, data: Dataset, score: str, device: torch.device | str, latent_capacity: int | None
) -> int:
    """How many models a device should train at once, found by doubling a batch of equal models.

    The search ends when the epoch time per model improves by less than 10 %, or memory runs out.

    Args:
        setup: An example of the trials to come.
        data: The study's data; some minibatches of it are used.
        score, device, latent_capacity: As of a ModelBatch.

    Returns:
        A power of two, 64 at most.
    """
    training = setup.config.training.model_copy(update={"epochs": REPETITIONS})
    setup = replace(setup, config=setup.config.model_copy(update={"training": training}))
    rows = {"train": BATCHES * training.batch_size}
    splits = {name: first_rows(split, rows.get(name, HELD_OUT_ROWS)) for name, split in data.splits.items()}
    excerpt = replace(data, splits=splits)
    best, least = 1, float("inf")
    while best <= MOST_PER_DEVICE:
        try:
            model_batch = ModelBatch([setup] * best, excerpt, score, device, latent_capacity=latent_capacity)
            seconds = _epoch_seconds(model_batch) / best
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            break
        if seconds > (1 - WORTH_IT) * least:
            break
        best, least = 2 * best, seconds
    return max(1, best // 2)


def _epoch_seconds(model_batch: ModelBatch) -> float:
    """The time of the quickest of some epochs: other work on the machine only ever slows one down."""
    found = []
    for _ in range(REPETITIONS):
        started = time.perf_counter()
        model_batch.train_epoch()
        found.append(time.perf_counter() - started)
    return min(found)


def first_rows(split: Split, rows: int) -> Split:
    """The first rows of a split."""
    codes, files = (None if array is None else array[:rows] for array in (split.label_code_N, split.file_N))
    return replace(
        split, x_ND=part_of(split.x_ND, slice(rows)), is_anomaly_N=split.is_anomaly_N[:rows], row_N=split.row_N[:rows],
        label_code_N=codes, file_N=files,
    )  # fmt: skip

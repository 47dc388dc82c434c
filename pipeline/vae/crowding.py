"""How many members a device trains at once with most profit, found by trying."""

import time
from dataclasses import replace

import torch

from pipeline.data import Dataset, Split
from pipeline.spec.schema import MOST_PER_DEVICE
from pipeline.vae.population import Member, Population

# A doubling has to make a member's epoch cheaper by this share.
WORTH_IT = 0.1
# What is tried on: enough batches for a timing, few enough for a second.
BATCHES, HELD_OUT_ROWS = 8, 1024
REPETITIONS = 3


def most_profitable(
    member: Member, data: Dataset, score: str, device: torch.device | str, latent_capacity: int | None
) -> int:
    """Double a pack of equal members until a member's epoch gets hardly cheaper, or memory does not suffice.

    Args:
        member: Stands for the trials that are to come.
        data: Of which some batches are tried.
        score, device, latent_capacity: As of a Population.

    Returns:
        A power of two, 64 at most.
    """
    excerpt, member = _excerpt(data, member.spec.training.batch_size), _lasting(member)
    best, least = 1, float("inf")
    while best <= MOST_PER_DEVICE:
        try:
            population = Population([member] * best, excerpt, score, device, latent_capacity=latent_capacity)
            seconds = _epoch_seconds(population) / best
        except (MemoryError, torch.OutOfMemoryError):
            break
        if seconds > (1 - WORTH_IT) * least:
            break
        best, least = 2 * best, seconds
    return max(1, best // 2)


def _lasting(member: Member) -> Member:
    """With a budget that suffices."""
    training = member.spec.training.model_copy(update={"epochs": REPETITIONS})
    return replace(member, spec=member.spec.model_copy(update={"training": training}))


def _epoch_seconds(population: Population) -> float:
    """The quickest of some epochs, as other work only ever slows one."""
    found = []
    for _ in range(REPETITIONS):
        started = time.perf_counter()
        population.train_epoch()
        found.append(time.perf_counter() - started)
    return min(found)


def _excerpt(data: Dataset, batch_size: int) -> Dataset:
    rows = {"train": BATCHES * batch_size}
    splits = {name: first_rows(split, rows.get(name, HELD_OUT_ROWS)) for name, split in data.splits.items()}
    return replace(data, splits=splits)


def first_rows(split: Split, rows: int) -> Split:
    """The first rows of a split."""
    codes = None if split.label_code_N is None else split.label_code_N[:rows]
    return replace(
        split, x_ND=split.x_ND[:rows], is_anomaly_N=split.is_anomaly_N[:rows], row_N=split.row_N[:rows],
        label_code_N=codes,
    )  # fmt: skip

from dataclasses import replace

import pytest
import torch
from vae_study.data import Dataset

from tests.vae.builders import digits_data, first


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return digits_data()


@pytest.fixture(scope="session")
def few(digits) -> Dataset:
    """Some rows of each split; train leaves a rest behind its last whole batch."""
    counts = {"train": 70, "validation": 60, "test": 80}
    return replace(digits, splits={name: first(split, counts[name]) for name, split in digits.splits.items()})

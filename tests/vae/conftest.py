import pytest
import torch

from pipeline.data import Dataset, prepare
from pipeline.spec.schema import DataSpec


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return prepare(DataSpec(source="digits", anomaly_labels=(8,)))

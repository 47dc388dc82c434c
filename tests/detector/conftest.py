import pytest
import torch

from pipeline.data import Dataset, prepare
from pipeline.spec.schema import DataSpec
from tests.detector.builders import Study, study, table
from tests.vae.builders import member

GAUSSIAN = {"likelihood": "gaussian_learned", "network__hidden": (16, 9)}


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return prepare(DataSpec(source="digits", anomaly_labels=(8,)))


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Study:
    """Three trials on a table, one of them with an odd latent size."""
    members = [member(1, **GAUSSIAN, latent_dim=3), member(2, **GAUSSIAN, latent_dim=7, beta=0.3)]
    members.append(member(3, **GAUSSIAN, family="hierarchical", latent_dim=4, learned_sigma="per_example"))
    return study(table(), members, tmp_path_factory.mktemp("trials"))

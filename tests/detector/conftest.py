import pytest
from vae_study.detector.detector import Detector

from tests.detector.builders import Study, ensemble, single, study, table
from tests.vae.builders import model_setup
from tests.vae.conftest import digits, one_thread

__all__ = ["digits", "one_thread"]
GAUSSIAN = {"likelihood": "gaussian_learned", "network__hidden": (16, 9)}


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Study:
    """Three trials on a table, one of them with an odd latent size."""
    members = [model_setup(1, **GAUSSIAN, latent_dim=3), model_setup(2, **GAUSSIAN, latent_dim=7, beta=0.3)]
    members.append(model_setup(3, **GAUSSIAN, family="hierarchical", latent_dim=4, learned_sigma="per_example"))
    return study(table(), members, tmp_path_factory.mktemp("trials"))


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """Two trials on a table with gaps and categories."""
    network = {"likelihood": "gaussian_learned", "network__hidden": (8,), "latent_dim": 2}
    return study(table(), [model_setup(1, **network), model_setup(2, **network)], tmp_path_factory.mktemp("trials"))


@pytest.fixture(scope="session", params=["single", "ensemble"])
def folder(request, trained, tmp_path_factory):
    choice = single(0, "elbo") if request.param == "single" else ensemble(0, 1)
    return trained.pack(choice, tmp_path_factory.mktemp("packed") / "model")


@pytest.fixture
def detector(folder) -> Detector:
    return Detector.load(folder)

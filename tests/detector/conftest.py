import pytest

from tests.detector.builders import Study, study, table
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

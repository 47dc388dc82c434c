import pytest

from tests.detector.builders import Study, study, table
from tests.vae.builders import member
from tests.vae.conftest import digits, one_thread

__all__ = ["digits", "one_thread"]
GAUSSIAN = {"likelihood": "gaussian_learned", "network__hidden": (16, 9)}


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Study:
    """Three trials on a table, one of them with an odd latent size."""
    members = [member(1, **GAUSSIAN, latent_dim=3), member(2, **GAUSSIAN, latent_dim=7, beta=0.3)]
    members.append(member(3, **GAUSSIAN, family="hierarchical", latent_dim=4, learned_sigma="per_example"))
    return study(table(), members, tmp_path_factory.mktemp("trials"))

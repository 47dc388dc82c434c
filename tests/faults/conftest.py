import pytest
import ray

from pipeline.api import run_study
from tests.faults.runs import CONFIRMED, SMALL, SPEC


@pytest.fixture(scope="session")
def undisturbed(ray_session, tmp_path_factory):
    """The study that every disturbed one is compared with, trial after trial."""
    home = tmp_path_factory.mktemp("undisturbed")
    run_study(SPEC, [*SMALL, CONFIRMED], home=home, concurrency=1)
    return home


@pytest.fixture(scope="session")
def ray_address(ray_session):
    return ray.get_runtime_context().gcs_address

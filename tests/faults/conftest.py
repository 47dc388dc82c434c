import pytest
import ray
from filelock import FileLock
from vae_study.api import run_study

from tests.faults.runs import CONFIG, CONFIRMED, SMALL


@pytest.fixture(scope="session")
def undisturbed(ray_session, tmp_path_factory, worker_id):
    """The study that every disturbed one is compared with, trial after trial; run once for all workers of pytest."""
    folder = tmp_path_factory.getbasetemp()
    home = (folder if worker_id == "master" else folder.parent) / "undisturbed"
    with FileLock(f"{home}.lock"):
        if not (home / "is-done").exists():
            run_study(CONFIG, [*SMALL, CONFIRMED], home=home, concurrency=1)
            (home / "is-done").touch()
    return home


@pytest.fixture(scope="session")
def ray_address(ray_session):
    return ray.get_runtime_context().gcs_address

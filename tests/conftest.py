import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from tests.command import take_signals
from tests.object_store import bucket_in, served_store

# The machine may be busy with other work: no single example is timed.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")

take_signals()

# Before anything imports Ray or MLflow: no test may reach a store or a cluster of the person who runs it.
for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "VAE_STUDY_HOME", "VAE_STUDY_STORAGE"):
    os.environ.pop(name, None)

# Nor prepare its data among theirs. Ray's workers inherit it.
_cache = tempfile.TemporaryDirectory(prefix="vae-study-tests-")
os.environ["VAE_STUDY_CACHE"] = _cache.name

# Each commit to SQLite waits for the disk, and MLflow makes a new database in a hundred. No test cuts the power, so
# memory will do for their folders, where there is enough that is shown as a disk.
_memory, _room_bytes = Path("/dev/shm"), 4 * 2**30
if os.access(_memory, os.W_OK) and shutil.disk_usage(_memory).free > _room_bytes:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_memory))

# What a test needs that asks for one of these fixtures. What a file starts by itself, the file says.
NEEDS = {
    "ray_session": "studies",
    "server": "processes",
    "processes": "processes",
    "bucket": "object_store",
    "browser": "browser",
    "team": "database",
    "head": "cluster",
    "node": "cluster",
}


def pytest_collection_modifyitems(items):
    """Mark each test by what it needs; the slow files come first, so that no worker is left with one at the end."""
    for item in items:
        for fixture in NEEDS.keys() & set(item.fixturenames):
            item.add_marker(NEEDS[fixture])
    markers = {item: {marker.name for marker in item.iter_markers()} for item in items}
    slow = {item.path for item in items if markers[item] & {"end_to_end", "thorough", *NEEDS.values()}}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def store_address(tmp_path_factory):
    """Of one stand-in for S3 for all tests of the session."""
    with served_store(tmp_path_factory.mktemp("s3") / "log") as address:
        yield address


@pytest.fixture(scope="module")
def bucket(store_address):
    """The URI of a bucket that is empty at the first test of a file."""
    with bucket_in(store_address) as uri:
        yield uri


@pytest.fixture(scope="session")
def ray_session():
    """One Ray for all tests of the session; the code under test uses it because it is there."""
    from vae_study.study.session import connected

    with connected(None):
        yield


@pytest.fixture(scope="session")
def plant(tmp_path_factory):
    """A model of windows of two machines, trained once."""
    from tests.sequences import made

    return made(tmp_path_factory.mktemp("plant"))

import os
import tempfile

import pytest
from hypothesis import settings

# The machine may be busy with other work: no single example is timed.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")

# Before anything imports Ray or MLflow: no test may reach a store or a cluster of the person who runs it.
for name in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "VAE_STUDY_HOME", "VAE_STUDY_STORAGE"):
    os.environ.pop(name, None)

# Nor prepare its data among theirs. Ray's workers inherit it.
_cache = tempfile.TemporaryDirectory(prefix="vae-study-tests-")
os.environ["VAE_STUDY_CACHE"] = _cache.name


@pytest.fixture(scope="session")
def ray_session():
    """One Ray for all tests of the session; the code under test uses it because it is there."""
    from pipeline.study.local_ray import connected

    with connected(None):
        yield

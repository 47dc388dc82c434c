import pytest


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory):
    """A cache of prepared data that no other run has seen."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAE_STUDY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield

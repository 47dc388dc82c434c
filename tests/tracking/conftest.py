import multiprocessing
import uuid

import pytest
from vae_study.tracking import uploader
from vae_study.tracking.store import open_client

from tests.tracking.servers import Server


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """A client of a tracking store in a SQLite file."""
    return open_client(f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}")


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A tracking server in a process of its own."""
    with Server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture(scope="session")
def processes():
    """Processes that begin where MLflow is imported already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.tracking.processes"])
    return context


@pytest.fixture
def name():
    """Of a study, an experiment and a folder that nobody has used."""
    return f"study-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def impatient(monkeypatch):
    """All that an uploader and its client wait for is short."""
    monkeypatch.setattr(uploader, "SECONDS_BETWEEN_BATCHES", 0.02)
    monkeypatch.setattr(uploader, "LONGEST_PAUSE_SECONDS", 0.1)
    for wait in ("BACKOFF_FACTOR", "BACKOFF_JITTER"):
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{wait}", "0")

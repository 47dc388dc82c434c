"""A stand-in for S3, served from a process of its own."""

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyarrow.fs import FileSystem

from tests.tracking.servers import free_port
from tests.waiting import listens, until

BUCKET = "s3://bucket"
# Where a folder may lie, as parameters of a test or fixture.
KINDS = ("local", pytest.param("object store", marks=pytest.mark.object_store))


@contextmanager
def served_store(log: Path) -> Iterator[str]:
    """The address of a store that is empty at first."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as file:
        server = subprocess.Popen(command, stdout=file, stderr=file)
    try:
        until(lambda: listens(port), "the S3 server answers", server, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


@contextmanager
def bucket_in(address: str) -> Iterator[str]:
    """The URI of an empty bucket, all else in the store is gone; address and credentials are in the environment."""
    urllib.request.urlopen(urllib.request.Request(f"{address}/moto-api/reset", method="POST")).close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", address)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        # Of pyarrow's ways to a store, only that by URI looks into the environment for its address.
        system, name = FileSystem.from_uri(f"{BUCKET}?allow_bucket_creation=true")
        system.create_dir(name)
        yield BUCKET


@contextmanager
def served_bucket(log: Path) -> Iterator[str]:
    """The URI of a bucket in a store of its own."""
    with served_store(log) as address, bucket_in(address) as uri:
        yield uri

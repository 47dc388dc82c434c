"""A real S3 server for tests."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pyarrow.fs import FileSystem

BUCKET = "s3://bucket"
SECONDS_TO_START = 60.0


@contextmanager
def served_bucket(log: Path) -> Iterator[str]:
    """The URI of an empty bucket; its server's address and credentials are in the environment meanwhile."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as file, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        server = subprocess.Popen(command, stdout=file, stderr=file)
        try:
            _wait_for(port, server)
            # Of pyarrow's ways to a store, only that by URI looks into the environment for its address.
            system, name = FileSystem.from_uri(f"{BUCKET}?allow_bucket_creation=true")
            system.create_dir(name)
            yield BUCKET
        finally:
            server.kill()
            server.wait()


def _wait_for(port: int, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            assert server.poll() is None, "the S3 server ended at once"
            assert time.monotonic() < deadline, "the S3 server does not answer"
            time.sleep(0.05)

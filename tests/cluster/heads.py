"""A real head of a cluster: Ray with its dashboard and job API, and with token authentication."""

import os
import secrets
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.tracking.servers import free_port
from tests.waiting import until

BIN = Path(sys.executable).parent


@dataclass
class Head:
    """A running head.

    Attributes:
        address: Of its dashboard.
        gcs: Where nodes join.
        token: What it lets in.
        home: The home folder of its user, beside which everything of its own lies.
        temp: Where Ray has its logs.
    """

    address: str
    gcs: str
    token: str
    home: Path
    temp: Path


@contextmanager
def served_head(
    folder: Path, environment: Mapping[str, str], words_for: Callable[[str], Sequence[str]] = lambda gcs: ()
) -> Iterator[Head]:
    """A head with two CPUs.

    Args:
        folder: Its own; the path has to be short, since Ray makes sockets in it.
        environment: What its processes find beside what is here.
        words_for: Gives further words of `ray start` from the address where nodes join.
    """
    port, gcs, token, home = free_port(), free_port(), secrets.token_hex(16), folder / "home"
    home.mkdir(parents=True)
    own = {"HOME": str(home), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "PATH": f"{BIN}:{os.environ['PATH']}"}
    command = [BIN / "ray", "start", "--head", "--block", "--num-cpus=2", f"--port={gcs}"]
    # Where another Ray on this machine has the usual one, this one could take no jobs.
    command += [f"--dashboard-agent-listen-port={free_port()}", f"--dashboard-agent-grpc-port={free_port()}"]
    command += [f"--dashboard-port={port}", f"--temp-dir={folder / 'ray'}", "--disable-usage-stats"]
    command += words_for(f"127.0.0.1:{gcs}")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, **own, **environment}, stdout=log, stderr=log)
    try:
        address = f"http://127.0.0.1:{port}"
        until(lambda: _answers(address), "the head asks for a token", process, folder / "log")
        yield Head(address, f"127.0.0.1:{gcs}", token, home, folder / "ray")
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """At once: asked kindly, Ray waits for minutes for what it has ended itself."""
    for one in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    process.wait()


def _answers(address: str) -> bool:
    try:
        urllib.request.urlopen(f"{address}/api/version", timeout=5)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return False

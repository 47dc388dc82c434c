"""A machine's user who runs the scripts that nodes run, with a home folder of his own."""

import os
import subprocess
from pathlib import Path

import psutil
from vae_study.cluster.jobs import CODE

from tests.cluster.heads import BIN
from tests.tracking.servers import free_port
from tests.waiting import PATIENCE_SECONDS

NODES = CODE / "cluster" / "nodes"


class Node:
    """The user; what is in the file `environment` of his home differs from what nodes have otherwise.

    Attributes:
        uri: Where MLflow's server is to answer: this machine's first address, and a port that is free.
    """

    def __init__(self, home: Path):
        self.home, self.uri = home, f"http://{private_address()}:{free_port()}"
        (home / "vae-study").mkdir()
        (home / "vae-study" / "environment").write_text(f"MLFLOW_TRACKING_URI={self.uri}\n")

    def run(self, words: str, place: str = "s3://bucket") -> "subprocess.CompletedProcess[str]":
        """Run a command line in a node's environment; without a place, in that of a worker."""
        command = f". {NODES / 'environment.sh'} {place} && {words}"
        environment = {**os.environ, "HOME": str(self.home), "PATH": f"{BIN}:{os.environ['PATH']}"}
        return subprocess.run(
            ["bash", "-c", command],
            env=environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
        )

    def server(self, word: str) -> "subprocess.CompletedProcess[str]":
        """The script beside the head."""
        return self.run(f"bash {NODES / 'mlflow_server.sh'} {word}")

    def processes(self) -> list[psutil.Process]:
        """All that runs with this home folder."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("HOME") == str(self.home) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found


def private_address() -> str:
    return subprocess.run(["hostname", "-I"], capture_output=True, text=True, check=True).stdout.split()[0]

"""The person with a cluster: a home folder with keys, and commands that see nothing of the tests' environment."""

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.aws import Account
from tests.cluster.heads import BIN
from tests.cluster.hosts import SSH
from tests.cluster.yamls import ROOT
from tests.faults.runs import CONFIG
from tests.tracking.servers import free_port
from tests.waiting import PATIENCE_SECONDS, listens, until

# The machines have no way to a package registry, and see the environment that the tests run in.
SETUP = [f"echo 'export PATH={BIN}:$PATH' >> ~/.bashrc"]


class Operator:
    """The person.

    Attributes:
        folder: The home folder.
        cluster: The person's cluster file, yet to be written.
        secrets: What must be in no log.
    """

    def __init__(self, folder: Path, key: Path, account: Account, environment: Mapping[str, str]):
        """Bring the token, and for the nodes the keys of the account.

        Args:
            folder: An empty one.
            key: What ssh lets in.
            account: Where the nodes have their bucket.
            environment: What the person's commands find beside what is here.
        """
        self.folder, self.key, self.account, self.began = folder, key, account, time.monotonic()
        self.cluster, self._more = folder / "cluster.yaml", environment
        token = secrets.token_hex(16)
        self.secrets = [token, account.secret]
        self.write(".ray/auth_token", token)
        keys = account.environment.items()
        self.write(".vae-study/environment", "".join(f"{name}={value}\n" for name, value in keys))

    def write(self, name: str, text: str) -> None:
        """A file in the home folder that its owner alone reads."""
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o600)

    def write_cluster(self, config: Mapping[str, Any]) -> None:
        self.write("cluster.yaml", yaml.safe_dump(dict(config)))

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_", "MLFLOW_"))}
        own = {"HOME": str(self.folder), "RAY_USAGE_STATS_ENABLED": "0", "PATH": f"{BIN}:{kept['PATH']}"}
        return {**kept, **own, **self._more}

    def say(self, text: str) -> None:
        """With the time since the person began."""
        sys.stderr.write(f"{time.monotonic() - self.began:5.0f} s  {text}\n")

    def run(self, *words: str, seconds: float = 180) -> str:
        """Run a command from the project's folder; its output."""
        self.say(" ".join(words))
        done = subprocess.run(
            words, env=self._environment(), cwd=ROOT, capture_output=True, text=True, timeout=seconds,
            stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @contextmanager
    def beside(self, *words: str) -> Iterator["subprocess.Popen[str]"]:
        """Run a command meanwhile, as in another window."""
        self.say(" ".join(words))
        log = self.folder / f"{Path(words[0]).name}-{words[1].strip('-')}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                words, env=self._environment(), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 15)
            process.wait()

    @contextmanager
    def dashboard(self) -> Iterator[str]:
        """The way to the cluster; its address."""
        port = free_port()
        with self.beside("ray", "dashboard", "--port", str(port), str(self.cluster)):
            address = f"http://127.0.0.1:{port}"
            until(lambda: self._answers(address), "the dashboard is forwarded")
            yield address

    def _answers(self, address: str) -> bool:
        words = ["vae-study", "jobs", "--address", address]
        return subprocess.run(words, env=self._environment(), capture_output=True, check=False).returncode == 0

    @contextmanager
    def mlflow(self, head: str) -> Iterator[str]:
        """The way to MLflow on a head; its address."""
        port = free_port()
        to = ["-L", f"{port}:127.0.0.1:5000", *SSH, "-i", str(self.key), f"root@{head}"]
        with self.beside("ssh", "-N", *to):
            until(lambda: listens(port), "MLflow is forwarded")
            yield f"http://127.0.0.1:{port}"

    def submit(self, settings: list[str], concurrency: int, address: str) -> str:
        """Send the study of digits, as set; the id of its job."""
        words = [word for setting in settings for word in ("--set", setting)]
        places = ["--concurrency", str(concurrency), "--detach", "--address", address]
        return self.run("vae-study", "submit", str(CONFIG), *words, *places).split()[2].rstrip(";")

    def follow(self, job: str, address: str) -> str:
        """Wait for the good end of a job; its log."""
        log = self.run("vae-study", "logs", "digits", "--address", address, seconds=PATIENCE_SECONDS)
        assert "MLflow UI" in log, log
        assert not [secret for secret in self.secrets if secret in log]
        assert f"{job}  succeeded" in self.run("vae-study", "jobs", "--address", address)
        return log

    def report(self, tracking: str) -> None:
        """Write the study's report."""
        told = self.run(
            "vae-study", "report", "digits", "--tracking-uri", tracking, "--output", str(self.folder / "report")
        )
        assert (self.folder / "report" / "report.html").stat().st_size > 100_000, told

    def trials_under_way(self) -> set[str]:
        """Those that have a checkpoint, which they lose when they end."""
        return {key.split("/")[3] for key in self.account.under("studies/digits/checkpoints/")}

"""The whole way over ssh, on three machines of which one dies: `make test-cluster`.

Our own file for machines that one has already, but for its set-up commands: the machines have no way to a package
registry, and see the environment that the tests run in.
"""

import os
import re
import secrets
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from botocore.exceptions import EndpointConnectionError
from mlflow import MlflowClient

from pipeline.api import load_study
from pipeline.search.store import STATE_NAMES
from pipeline.tracking import layout
from pipeline.tracking.store import find_children, require_parent
from tests.cluster.heads import BIN
from tests.cluster.hosts import GATEWAY, SSH, Host, booted, missing
from tests.cluster.yamls import LOCAL, ROOT, filled
from tests.faults.runs import SPEC
from tests.tracking.servers import free_port

TRIALS, EPOCHS = 8, 60
# Of each worker, so that more trials than that are on both.
CPUS = 2
SETTINGS = [
    f"trials={TRIALS}",
    f"training.epochs={EPOCHS}",
    "training.batch_size=32",
    "checkpoints.every_seconds=0.5",
    "diagnostics.iwae_draws=0",
    "early_stopping={kind: pareto, min_epochs: 20}",
    "confirm=null",
]
SECONDS_PATIENCE = 300.0
TRAINABLE = re.compile(r"ray::\S*(VaeTrial|Trainable)")


class Operator:
    """The person's machine: a home folder with keys, and commands that see nothing of the tests' environment."""

    def __init__(self, folder: Path, hosts: list[Host], bucket_server: str, bucket: Any):
        self.folder, self.hosts, self.bucket, self.began = folder, hosts, bucket, time.monotonic()
        self.token = secrets.token_hex(16)
        self.cluster = folder / "cluster.yaml"
        self._write(".ray/auth_token", self.token)
        keys = {"AWS_ENDPOINT_URL": bucket_server, "AWS_DEFAULT_REGION": "us-east-1"}
        keys |= {"AWS_ACCESS_KEY_ID": "of-the-nodes", "AWS_SECRET_ACCESS_KEY": secrets.token_hex(16)}
        self._write(".vae-study/environment", "".join(f"{name}={value}\n" for name, value in keys.items()))
        self.secrets = [self.token, keys["AWS_SECRET_ACCESS_KEY"]]
        self._write_cluster()

    def _write(self, name: str, text: str) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text)

    def _write_cluster(self) -> None:
        head, worker, other = (host.address for host in self.hosts)
        config = filled(LOCAL, **{"HEAD": head, "WORKER": worker, "OTHER-WORKER": other, "USER": "root"})
        config["cluster_name"] = f"vae-study-{secrets.token_hex(4)}"
        config["auth"]["ssh_private_key"] = str(self.hosts[0].folder / "key")
        config["setup_commands"] = [f"echo 'export PATH={BIN}:$PATH' >> ~/.bashrc"]
        config["worker_start_ray_commands"][-1] += f" --num-cpus={CPUS}"
        self._write("cluster.yaml", yaml.safe_dump(config))

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RAY_", "MLFLOW_"))}
        own = {"HOME": str(self.folder), "RAY_UP_enable_autoscaler_v2": "0", "RAY_USAGE_STATS_ENABLED": "0"}
        return {**kept, **own, "PATH": f"{BIN}:{kept['PATH']}"}

    def trials_under_way(self) -> set[str]:
        """Those that have a checkpoint, which they lose when they end."""
        found = self.bucket.list_objects_v2(Bucket="bucket", Prefix="studies/digits/checkpoints/").get("Contents", [])
        return {one["Key"].split("/")[3] for one in found}

    def say(self, text: str) -> None:
        sys.stderr.write(f"{time.monotonic() - self.began:5.0f} s  {text}\n")

    def run(self, *words: str, seconds: float = 180) -> str:
        """Run a command from the project's folder; its output."""
        self.say(" ".join(words))
        done = subprocess.run(
            words, env=self.environment(), cwd=ROOT, capture_output=True, text=True, timeout=seconds,
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
                words, env=self.environment(), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 15)
            process.wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    lacking = missing()
    if lacking:
        pytest.skip(f"three machines on this one: {lacking}")
    return tmp_path_factory.mktemp("operator")


@pytest.fixture(scope="module")
def operator(folder):
    machines = folder / "machines"
    machines.mkdir()
    with booted(machines, 3) as hosts, bucket_server(folder) as (address, bucket):
        yield Operator(folder, hosts, address, bucket)
    shutil.rmtree(machines, ignore_errors=True)


@contextmanager
def bucket_server(folder: Path) -> Iterator[tuple[str, Any]]:
    """S3 on the network of the machines, with one bucket; its address, and a client."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", GATEWAY, "-p", str(port)]
    with (folder / "s3.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        address = f"http://{GATEWAY}:{port}"
        keys = {"aws_access_key_id": "any", "aws_secret_access_key": "any", "region_name": "us-east-1"}
        client = boto3.client("s3", endpoint_url=address, **keys)
        wait_for(lambda: _made(client), "S3 answers")
        yield address, client
    finally:
        server.kill()
        server.wait()


def _made(client: Any) -> bool:
    try:
        client.create_bucket(Bucket="bucket")
    except EndpointConnectionError:
        return False
    return True


def wait_for(condition, what: str, seconds: float = SECONDS_PATIENCE) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.3)


def in_a_trial(host: Host) -> bool:
    return any(TRAINABLE.match(line) for line in host.processes())


def test_a_study_survives_the_crash_of_a_worker_and_nothing_is_left_of_the_cluster(operator, folder):
    head, *workers = operator.hosts
    operator.run("ray", "up", "--yes", "--no-config-cache", str(operator.cluster))
    dashboard, mlflow = free_port(), free_port()
    forward = [
        "ssh",
        "-N",
        "-L",
        f"{mlflow}:127.0.0.1:5000",
        *SSH,
        "-i",
        str(head.folder / "key"),
        f"root@{head.address}",
    ]
    with operator.beside("ray", "dashboard", "--port", str(dashboard), str(operator.cluster)):
        address = f"http://127.0.0.1:{dashboard}"
        wait_for(lambda: _answers(operator, address), "the dashboard is forwarded")
        _study(operator, workers, address)
    with operator.beside(*forward):
        tracking = f"http://127.0.0.1:{mlflow}"
        wait_for(lambda: _listens(mlflow), "MLflow is forwarded")
        check_invariants(tracking, database_of(head, folder))
        told = operator.run(
            "vae-study", "report", "digits", "--tracking-uri", tracking, "--output", str(folder / "report")
        )
        assert (folder / "report" / "report.html").stat().st_size > 100_000, told
    _shut_down(operator, [head, *[host for host in workers if host.process.poll() is None]])
    operator.say("done")


def _study(operator: Operator, workers: list[Host], address: str) -> None:
    """Submit, wait for trials on both workers, take the power from one, and wait for the end."""
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    places = ["--concurrency", str(2 * CPUS), "--detach", "--address", address]
    sent = operator.run("vae-study", "submit", str(SPEC), *settings, *places)
    wait_for(lambda: len(operator.trials_under_way()) > CPUS, "trials are trained on both workers")
    assert all(in_a_trial(host) for host in workers)
    operator.say(f"the power of {workers[1].name} goes, with a trial on it")
    workers[1].crash()
    log = operator.run("vae-study", "logs", "digits", "--address", address, seconds=SECONDS_PATIENCE)
    assert "MLflow UI" in log, log
    assert not [secret for secret in operator.secrets if secret in log]
    jobs = operator.run("vae-study", "jobs", "--address", address)
    assert f"{sent.split()[2].rstrip(';')}  succeeded" in jobs


def _shut_down(operator: Operator, left: list[Host]) -> None:
    """As the file's head says; then the machines run what they ran before."""
    nodes = "~/vae-study/project/pipeline/cluster/nodes"
    stop = f". {nodes}/environment.sh s3://bucket && bash {nodes}/mlflow_server.sh stop"
    operator.run("ray", "exec", str(operator.cluster), stop)
    operator.run("ray", "down", "--yes", str(operator.cluster))
    for host in left:
        operator.say(f"ray stop on {host.name}")
        assert host.run("bash -lic 'ray stop'").returncode == 0
        wait_for(lambda host=host: not host.processes(), f"nothing is left on {host.name}: {host.processes()}", 60)


def _answers(operator: Operator, address: str) -> bool:
    words = ["vae-study", "jobs", "--address", address]
    return subprocess.run(words, env=operator.environment(), capture_output=True, check=False).returncode == 0


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def database_of(head: Host, folder: Path) -> Path:
    """A copy of the study store, which lies on the head."""
    copy = folder / "studies.db"
    shell = " ".join(["ssh", *SSH, "-i", str(head.folder / "key")])
    subprocess.run(["rsync", "--rsh", shell, f"root@{head.address}:vae-study/studies.db", str(copy)], check=True)
    return copy


def check_invariants(tracking: str, database: Path) -> None:
    """Each trial once, in both stores, in one state, with a whole history; and one went on from its checkpoint."""
    with sqlite3.connect(database) as store:
        rows = store.execute("SELECT number, state FROM trials ORDER BY number").fetchall()
    assert [number for number, _ in rows] == list(range(TRIALS))
    client = MlflowClient(tracking)
    parent = require_parent(client, "digits")
    assert parent.info.status == "FINISHED"
    children = find_children(client, parent)
    assert [int(run.data.tags[layout.TRIAL]) for run in children] == list(range(TRIALS))
    names = {state.name: name for state, name in STATE_NAMES.items()}
    record = load_study("digits", tracking_uri=tracking)
    epochs = record.history.groupby("trial")["epoch"].apply(list)
    for (number, state), run in zip(rows, children, strict=True):
        assert run.data.tags[layout.STATE] == names[state]
        assert run.info.status == ("FAILED" if state == "FAIL" else "FINISHED")
        assert epochs[number] == list(range(1, len(epochs[number]) + 1))
        points = Counter(point.step for point in client.get_metric_history(run.info.run_id, "val/reconstruction"))
        assert points == Counter(epochs[number])
    assert record.trials["state"].isin(["finished", "stopped"]).all()
    assert record.trials["preemptions"].sum() >= 1
    assert record.champion is not None

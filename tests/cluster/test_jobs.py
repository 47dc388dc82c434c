"""Studies sent to a real head, with its dashboard, its job API and token authentication."""

import os
import shutil
import socket
import subprocess
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner
from vae_study.api import load_study
from vae_study.cli import main
from vae_study.cluster.jobs import CONFIG_FILE, JobQueue, pack
from vae_study.config.loading import load_config
from vae_study.errors import StudyError, UserError
from vae_study.submission import submit_study

from tests.cluster.heads import BIN, served_head
from tests.leaks import leaks
from tests.waiting import PATIENCE_SECONDS, until

SPACES = Path(__file__).parents[2] / "search_spaces"
DIGITS = SPACES / "digits.yaml"
SMALL = ["--trials", "2", "--epochs", "2", "--set", "confirm=null", "--set", "early_stopping.kind=none"]
SECRETS = {"MLFLOW_TRACKING_PASSWORD": "of-the-tracking-server", "AWS_SECRET_ACCESS_KEY": "of-the-bucket-with-data"}


@pytest.fixture(scope="module")
def head():
    # Ray makes sockets beneath it, whose paths may not be as long as pytest's are.
    folder = Path(tempfile.mkdtemp(prefix="vae-"))
    places = {
        "VAE_STUDY_HOME": f"{folder}/studies",
        "VAE_STUDY_STORAGE": f"sqlite:///{folder}/studies.db",
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
    }
    try:
        with served_head(folder / "head", {**places, **SECRETS}) as head:
            yield head
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def laptop(head, monkeypatch, tmp_path):
    """A machine that has the token, and is no part of the cluster."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.99:6379")
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text(f"{head.token}\n")
    return tmp_path


def invoke(head, command, *words):
    return CliRunner().invoke(main, [command, *map(str, words), "--address", head.address])


def test_a_study_runs_as_a_job_and_its_log_and_report_are_there_for_who_comes_back(head, laptop):
    sent = invoke(head, "submit", DIGITS, *SMALL)
    assert sent.exit_code == 0, sent.output
    job = sent.output.split()[2].rstrip(";")
    assert f"vae-study logs {job}" in sent.output
    assert "trials     2 finished" in sent.output
    again = invoke(head, "logs", "digits")
    assert again.exit_code == 0
    assert "trials     2 finished" in again.output
    rows = [line.split() for line in invoke(head, "jobs").output.splitlines()]
    assert [job, "succeeded"] in [row[:2] for row in rows]
    folder = head.home.parents[1]
    record = load_study("digits", tracking_uri=f"sqlite:///{folder}/mlflow.db")
    assert len(record.trials) == 2
    # The journal outlives the job's own folder.
    assert (folder / "studies" / "digits" / "journal.jsonl").exists()
    assert not leaks([*SECRETS.values(), head.token], sent.output + again.output, head.temp)


def test_a_job_that_is_cancelled_saves_its_trials_and_is_told_as_stopped(head, laptop):
    sent = invoke(head, "submit", DIGITS, "--name", "long", "--epochs", 4000, "--set", "confirm=null", "--detach")
    assert sent.exit_code == 0, sent.output
    log, ends = [], []
    following = threading.Thread(target=lambda: ends.append(followed(head, "long", log.append)))
    following.start()
    folder = head.home.parents[1] / "studies" / "long"
    until(lambda: list(folder.glob("checkpoints/*/epoch-*")), "a trial has been saved")
    ended = invoke(head, "cancel", "long")
    assert (ended.exit_code, ended.output.split(":")[1].split(";")[0]) == (0, " stopped")
    following.join()
    assert "running trials are being saved" in "".join(log)
    assert "was stopped" in ends[0]


def followed(head, word, say):
    """How the following of a job's log ends."""
    queue = JobQueue(head.address)
    with pytest.raises(StudyError) as ended:
        queue.follow(queue.find(word).id, say)
    return str(ended.value)


def test_without_the_token_or_with_another_one_nothing_is_sent_and_nothing_is_told(head, laptop, monkeypatch):
    before = invoke(head, "jobs").output
    (laptop / ".ray" / "auth_token").unlink()
    for words in (["submit", DIGITS], ["jobs"], ["logs", "digits"], ["cancel", "digits"]):
        refused = invoke(head, *words)
        assert refused.exit_code == 2
        assert refused.output.startswith(
            f"vae-study: --address {head.address}: requires a token, and none was sent; expected"
        )
        assert len(refused.output.splitlines()) == 1
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0123456789abcdef")
    refused = invoke(head, "submit", DIGITS)
    assert refused.exit_code == 2
    assert "rejects the token" in refused.output
    assert "0123456789abcdef" not in refused.output
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.token)
    assert invoke(head, "jobs").output == before


def test_a_node_without_the_token_does_not_join(head):
    environment = {**os.environ, "HOME": str(head.home), "RAY_AUTH_MODE": "disabled"}
    joined = subprocess.run(
        [BIN / "ray", "start", f"--address={head.gcs}", "--disable-usage-stats"],
        env=environment, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip
    assert joined.returncode != 0
    assert "authentica" in (joined.stdout + joined.stderr).lower()


def test_what_the_driver_refuses_is_told_with_the_exit_code_of_a_slip(head, laptop):
    path = "/nowhere/table.parquet"
    sent = invoke(head, "submit", SPACES / "transactions.yaml", "--set", f"data.path={path}")
    assert sent.exit_code == 2
    assert f"data.path: got '{path}'" in sent.output
    assert sent.output.splitlines()[-1].startswith("vae-study: the cluster refused transactions-")


class NoRay(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>hello</html>")

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(
    ("address", "message"),
    [
        (
            "http://127.0.0.1:1",
            "nothing answers there (Connection refused); expected a cluster's dashboard",
        ),
        ("http://no-such-host.invalid:8265", "nothing answers there"),
        ("ray://127.0.0.1:10001", "is no such address; expected one such as http://127.0.0.1:8265"),
        ("127.0.0.1:8265", "is no such address"),
        ("http://127.0.0.1:port", "is no such address"),
    ],
)
def test_an_address_where_no_cluster_is_gives_one_message(address, message):
    refused = CliRunner().invoke(main, ["submit", str(DIGITS), "--address", address])
    assert refused.exit_code == 2
    assert refused.output.startswith(f"vae-study: --address {address}: {message}")
    assert len(refused.output.splitlines()) == 1


def test_a_server_that_is_no_cluster_gives_one_message():
    with HTTPServer(("127.0.0.1", 0), NoRay) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        refused = CliRunner().invoke(main, ["jobs", "--address", address])
        server.shutdown()
    assert refused.exit_code == 2
    assert refused.output.startswith(f"vae-study: --address {address}: this is not the answer of a Ray cluster: ")
    assert len(refused.output.splitlines()) == 1


SLIPS = {
    "a config that is wrong": (DIGITS, ["trials=0"], {}, "trials: got 0"),
    "a label that does not occur": (DIGITS, ["data.anomaly_labels=[11]"], {}, "data.anomaly_labels: got 11"),
    "data on this machine": (SPACES / "transactions.yaml", [], {}, "data.path: got 'transactions.parquet', which"),
    "data at home": (SPACES / "transactions.yaml", ["data.path=~/x.parquet"], {}, "data.path: got '~/x.parquet'"),
    "studies on this machine": (DIGITS, [], {"home": "studies"}, "--home: got 'studies', which is on this"),
    "studies behind a password": (DIGITS, [], {"home": "s3://me:secret-word@bucket"}, "--home: got an address with"),
    "a name that is no name": (DIGITS, [], {"name": "a/b"}, "--name: got 'a/b'"),
}  # fmt: skip


@pytest.mark.parametrize(("config", "settings", "places", "message"), SLIPS.values(), ids=SLIPS)
def test_a_slip_is_refused_before_anything_is_sent(config, settings, places, message):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        nobody.listen()
        nobody.settimeout(0)
        with pytest.raises(UserError) as refused:
            submit_study(config, settings, address=f"http://127.0.0.1:{nobody.getsockname()[1]}", **places)
        with pytest.raises(BlockingIOError):
            nobody.accept()
    assert message in str(refused.value)
    assert "secret-word" not in str(refused.value)


@pytest.mark.parametrize("path", sorted(SPACES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_study_that_arrives_is_the_one_that_was_sent(path, tmp_path):
    config = load_config(path, ["search.latent_dim=null", "model.latent_dim=3", "trials=3"])
    pack(config, tmp_path)
    assert load_config(tmp_path / CONFIG_FILE) == config


def test_the_package_has_the_code_and_a_module_of_the_users_own_and_no_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "inner").mkdir(parents=True)
    for name in ("mine/__init__.py", "mine/inner/rows.py", "mine/rows.parquet", "other.py", "studies.db"):
        (tmp_path / name).write_text("")
    (tmp_path / "package").mkdir()
    pack(load_config(DIGITS, ["data={source: 'python:mine.inner.rows:read'}"]), tmp_path / "package")
    files = {path.relative_to(tmp_path / "package").as_posix() for path in (tmp_path / "package").rglob("*.*")}
    assert {name for name in files if not name.startswith("vae_study/")} == {
        CONFIG_FILE, "mine/__init__.py", "mine/inner/rows.py",
    }  # fmt: skip
    assert {"vae_study/cli.py", "vae_study/py.typed", "vae_study/cluster/nodes/environment.sh"} <= files
    assert not any(name.endswith(".pyc") for name in files)
    assert sum(path.stat().st_size for path in (tmp_path / "package").rglob("*") if path.is_file()) < 2**21

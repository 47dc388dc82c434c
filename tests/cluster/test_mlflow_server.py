"""The script that starts MLflow beside the head, with the real server and its artifacts in a bucket."""

import socket
import urllib.error
import urllib.request

import pytest
from mlflow import MlflowClient
from pyarrow.fs import FileSelector, FileSystem

from tests.cluster.nodes import NODES, Node, private_address
from tests.waiting import PATIENCE_SECONDS, command_line, until

pytestmark = pytest.mark.cluster


def asked(node, host):
    """The status of an answer of the API to a request for a host by some name."""
    url = f"{node.uri}/api/2.0/mlflow/experiments/search?max_results=1"
    try:
        return urllib.request.urlopen(
            urllib.request.Request(url, headers={"Host": host}), timeout=PATIENCE_SECONDS
        ).status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_second_start_does_nothing(node):
    before = {process.pid for process in node.processes()}
    again = node.server("start")
    assert (again.returncode, again.stdout) == (0, f"MLflow answers at {node.uri} already\n")
    assert {process.pid for process in node.processes()} == before
    assert len(before) < 8


def test_the_api_answers_through_the_private_address_and_refuses_a_foreign_host_name(node):
    port = node.uri.rpartition(":")[2]
    assert asked(node, f"{private_address()}:{port}") == asked(node, f"127.0.0.1:{port}") == 200
    assert asked(node, f"attacker.example:{port}") == asked(node, "203.0.113.7") == 403


def test_artifacts_reach_the_bucket_through_the_server_without_keys_of_the_sender(node, monkeypatch):
    system, _ = FileSystem.from_uri("s3://bucket")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name)
    client = MlflowClient(node.uri)
    run = client.create_run("0")
    client.log_text(run.info.run_id, "a note", "note.txt")
    files = [one.path for one in system.get_file_info(FileSelector("bucket/mlflow", recursive=True)) if one.is_file]
    assert [path for path in files if run.info.run_id in path and path.endswith("/note.txt")]


def test_a_server_that_dies_is_started_again_and_stop_leaves_nothing(node):
    def servers():
        return {one.pid: one for one in node.processes() if "uvicorn" in command_line(one)}

    before = servers()
    assert before
    for process in before.values():
        process.kill()
    until(lambda: servers().keys() - before.keys(), "the server is started again")
    assert node.server("stop").returncode == 0
    until(lambda: not node.processes(), "all of it has ended")


def test_where_the_port_is_taken_the_start_fails_and_leaves_nothing(tmp_path):
    with socket.socket() as taken:
        node = Node(tmp_path)
        taken.bind(("0.0.0.0", int(node.uri.rpartition(":")[2])))
        taken.listen()
        script = (NODES / "mlflow_server.sh").read_text().replace("SECONDS_TO_START=180", "SECONDS_TO_START=3")
        (tmp_path / "impatient.sh").write_text(script)
        failed = node.run(f"bash {tmp_path / 'impatient.sh'} start")
        assert failed.returncode == 1
        assert "does not answer" in failed.stderr
        until(lambda: not node.processes(), "all of it has ended")


def test_every_node_asks_for_the_token_and_the_environment_of_its_own_comes_last(tmp_path):
    node = Node(tmp_path)
    shown = node.run("env").stdout.splitlines()
    assert {"RAY_AUTH_MODE=token", "VAE_STUDY_HOME=s3://bucket/studies", f"MLFLOW_TRACKING_URI={node.uri}"} <= set(
        shown
    )
    worker = node.run("env", place="").stdout
    assert "RAY_AUTH_MODE=token\n" in worker
    assert "VAE_STUDY_HOME" not in worker

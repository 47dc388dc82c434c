"""The script that waits for a spot notice, with a real Ray and a stand-in for the clouds' metadata services."""

import os
import secrets
import subprocess
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from tests.cluster.heads import BIN, served_head
from tests.cluster.nodes import NODES
from tests.waiting import PATIENCE_SECONDS, command_line, until

pytestmark = pytest.mark.cluster

SCRIPT = NODES / "spot_notice.sh"
AWS, GCP = "/latest/meta-data/spot/instance-action", "/computeMetadata/v1/instance/preempted"


class Metadata(ThreadingHTTPServer):
    """What a machine is told of itself, to those who ask as they have to.

    Attributes:
        is_taken: Whether the machine is being taken away.
        looks: How often it was asked for that.
        heads: Those that scripts were started for.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.session, self.is_taken, self.looks, self.heads = secrets.token_hex(8), False, 0, set()
        self.place = f"127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    def do_PUT(self):
        has_ttl = self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self.answer(200, self.server.session) if self.path == "/latest/api/token" and has_ttl else self.answer(400)

    def do_GET(self):
        if self.path == AWS and self.headers["X-aws-ec2-metadata-token"] != self.server.session:
            return self.answer(401)
        if self.path == GCP and self.headers["Metadata-Flavor"] != "Google":
            return self.answer(403)
        self.server.looks += self.path in (AWS, GCP)
        if self.path == GCP:
            return self.answer(200, "TRUE" if self.server.is_taken else "FALSE")
        return self.answer(200, '{"action": "terminate"}') if self.server.is_taken else self.answer(404)

    def answer(self, status, text=""):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *args):
        pass


@pytest.fixture
def metadata():
    server = Metadata()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    for one in [one for gcs in server.heads for one in watchers(gcs)]:
        for each in [*one.children(recursive=True), one]:
            each.kill()


def start(cloud, home, metadata, gcs, **environment):
    metadata.heads.add(gcs)
    own = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": f"http://{metadata.place}", "GCE_METADATA_HOST": metadata.place}
    own |= {"HOME": str(home), "PATH": f"{BIN}:{os.environ['PATH']}", "http_proxy": "http://127.0.0.1:1"}
    subprocess.run(
        ["bash", SCRIPT, cloud, gcs], env={**os.environ, **own, **environment}, check=True, timeout=PATIENCE_SECONDS
    )


def watchers(gcs):
    """The scripts that wait."""
    found = [one for one in psutil.process_iter(["cmdline"]) if {"_watch", gcs} <= set(one.info["cmdline"] or ())]
    return [one for one in found if one.info["cmdline"][0] == "bash"]


def test_with_the_notice_of_aws_the_node_is_drained_and_leaves_and_not_before(metadata):
    with tempfile.TemporaryDirectory() as folder, served_head(Path(folder) / "h", {}) as head:
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": head.token}
        for _ in range(2):
            start("aws", head.home, metadata, head.gcs, **token)
        until(lambda: metadata.looks >= 2, "the service is asked again")
        [watcher] = watchers(head.gcs)
        raylets = [one for one in psutil.process_iter(["name", "cmdline"]) if one.info["name"] == "raylet"]
        raylets = [one for one in raylets if str(head.temp) in str(one.info["cmdline"])]
        assert raylets
        metadata.is_taken = True
        log = head.home / "vae-study" / "spot_notice.log"
        # One that nobody has waited for has no command line any more.
        until(lambda: not any(map(command_line, raylets)), "the node has left", log=log)
        until(lambda: not watcher.is_running(), "the watch is over")
        assert "being taken away" in log.read_text()


def test_on_google_cloud_it_asks_as_one_has_to_there(metadata, tmp_path):
    start("gcp", tmp_path, metadata, "127.0.0.1:1")
    until(lambda: metadata.looks, "the service is asked")
    assert not (tmp_path / "vae-study" / "spot_notice.log").read_text()
    metadata.is_taken = True
    until(lambda: "taken away" in (tmp_path / "vae-study" / "spot_notice.log").read_text(), "it is heard")

"""A study on a cluster without a worker: Ray's own autoscaler starts nodes for what waits, and ends them."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from tests.cluster.heads import served_head
from tests.faults.runs import CONFIG, SMALL, check_invariants
from tests.waiting import until

pytestmark = pytest.mark.cluster

MOST_NODES = 2
HEAD = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"
# Ray's provider of nodes that are processes of this machine, with version 2 of the autoscaler.
ENVIRONMENT = {
    "RAY_FAKE_CLUSTER": "1",
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": HEAD,
    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD,
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
}
TRIALS = 3
# What such nodes need not, and the form asks for.
COMMANDS = ("setup", "head_setup", "worker_setup")
NOTHING = ("cluster_synced_files", *(f"{kind}_commands" for kind in COMMANDS))


def growing(gcs, folder):
    """The words that make a head the first node of a cluster that grows when something waits."""
    worker = {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": MOST_NODES}
    head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
    config = {
        "cluster_name": "growing",
        "max_workers": MOST_NODES,
        "idle_timeout_minutes": 0.05,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": gcs,
            "head_node_id": HEAD,
            "launch_multiple": True,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {"ray.head.default": head, "worker": worker},
        "head_node_type": "ray.head.default",
        **{key: [] for key in NOTHING},
    }
    (folder / "cluster.json").write_text(json.dumps(config))
    return ["--num-cpus=0", f"--autoscaling-config={folder / 'cluster.json'}"]


def nodes(folder):
    """The nodes that are up, beside the head."""
    found = [one for one in psutil.process_iter(["name", "cmdline"]) if one.info["name"] == "raylet"]
    return len([one for one in found if str(folder) in str(one.info["cmdline"])]) - 1


@pytest.fixture
def folder():
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def test_with_concurrency_max_a_cluster_grows_to_its_own_maximum_for_what_waits_and_is_left_alone_at_the_end(
    folder, tmp_path
):
    with served_head(folder / "h", ENVIRONMENT, lambda gcs: growing(gcs, folder)) as head:
        until(lambda: nodes(folder) == 0, "the head is up")
        command = [sys.executable, "-m", "vae_study", "run", str(CONFIG), "--concurrency", "max", "--no-report"]
        command += ["--ray-address", head.gcs, "--home", str(tmp_path)]
        for setting in [*SMALL, f"trials={TRIALS}"]:
            command += ["--set", setting]
        environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": head.token}
        output, seen = folder / "study.txt", []
        with output.open("wb") as log:
            study = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        until(lambda: seen.append(nodes(folder)) or study.poll() is not None, "the study is over")
        assert study.returncode == 0, output.read_text()
        assert max(seen) == MOST_NODES
        until(lambda: nodes(folder) == 0, "the nodes have left")
    check_invariants(tmp_path, TRIALS)

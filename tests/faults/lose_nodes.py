"""Run a study on three nodes; one is drained while a trial is on it, as by a spot notice, then another is lost."""

import json
import sys
import threading
from pathlib import Path

import ray
from ray._private.state import available_resources_per_node
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason
from vae_study.api import run_study

from tests.faults.runs import CONFIG, SMALL, ended, under_way
from tests.waiting import PATIENCE_SECONDS, until

# Nobody else's clock makes a checkpoint here, and no trial ends before the node has left, which takes ten seconds.
SETTINGS = [
    *SMALL,
    "trials=2",
    "training.epochs=1500",
    "early_stopping=null",
    "checkpoints.every_seconds=3600",
    "resources.trials_per_device=1",
]


def saved(home: Path) -> list[tuple[str, int]]:
    """The trials that have a checkpoint, and its epoch."""
    found = (home / "digits" / "checkpoints").glob("trial-*/epoch-*.safetensors")
    return [(path.parent.name, int(path.name.split("-")[1])) for path in found]


def is_alive(node_id: str) -> bool:
    """Whether a node is there."""
    return any(node["NodeID"] == node_id and node["Alive"] for node in ray.nodes())


def has_room(node_id: str) -> bool:
    """Whether a node's one CPU is free."""
    return available_resources_per_node()[node_id].get("CPU", 0) == 1


def main(home: Path) -> None:
    """Run, drain a node, lose another one, and tell what was seen."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
    ray.init(address=cluster.address, log_to_driver=False)
    cluster.wait_for_nodes()
    seen = {}

    def disturb() -> None:
        until(lambda: len(under_way(home)) == 2, "both trials are under way")
        seen["saved_before"] = saved(home)
        taken, lost = [node for node in nodes if not has_room(node.node_id)]
        gcs = ray._raylet.GcsClient(address=cluster.address)
        gcs.drain_node(taken.node_id, DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION, "spot", 0)
        until(lambda: saved(home), "a trial is saved")
        seen["saved"] = saved(home)
        until(lambda: not is_alive(taken.node_id), "the node has left")
        cluster.remove_node(lost, allow_graceful=False)
        seen["ended_before_a_node_was_lost"] = ended(home)

    watch = threading.Thread(target=disturb, daemon=True)
    watch.start()
    run_study(CONFIG, SETTINGS, home=home)
    watch.join(PATIENCE_SECONDS)
    (home / "seen.json").write_text(json.dumps(seen))
    ray.shutdown()
    cluster.shutdown()


main(Path(sys.argv[1]))

"""Run a study on two nodes and have one of them drained while a trial is on it, as a spot notice does."""

import json
import sys
import threading
from pathlib import Path

import ray
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason
from vae_study.api import run_study

from tests.faults.runs import CONFIG, SMALL, ended, under_way
from tests.waiting import PATIENCE_SECONDS, until

# Nobody else's clock makes a checkpoint here, and no trial ends before the node has left, which takes ten seconds.
SETTINGS = [*SMALL, "trials=2", "training.epochs=2000", "early_stopping=null", "checkpoints.every_seconds=3600"]


def saved(home: Path) -> list[tuple[str, int]]:
    """The trials that have a checkpoint, and its epoch."""
    found = (home / "digits" / "checkpoints").glob("trial-*/epoch-*.safetensors")
    return [(path.parent.name, int(path.name.split("-")[1])) for path in found]


def is_alive(node_id: str) -> bool:
    """Whether a node is there."""
    return any(node["NodeID"] == node_id and node["Alive"] for node in ray.nodes())


def main(home: Path) -> None:
    """Run, drain the second node, and tell what was seen."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    cluster.wait_for_nodes()
    seen = {}

    def drain() -> None:
        until(lambda: len(under_way(home)) == 2, "both trials are under way")
        seen["saved_before"] = saved(home)
        gcs = ray._raylet.GcsClient(address=cluster.address)
        gcs.drain_node(nodes[1].node_id, DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION, "spot", 0)
        until(lambda: saved(home), "a trial is saved")
        seen["saved"] = saved(home)
        until(lambda: not is_alive(nodes[1].node_id), "the node has left")
        seen["ended_before_the_node_left"] = ended(home)

    watch = threading.Thread(target=drain, daemon=True)
    watch.start()
    run_study(CONFIG, SETTINGS, home=home)
    watch.join(PATIENCE_SECONDS)
    (home / "seen.json").write_text(json.dumps(seen))
    ray.shutdown()
    cluster.shutdown()


main(Path(sys.argv[1]))

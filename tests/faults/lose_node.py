"""Run a study on two nodes and take one of them away, without grace, while a trial is on it."""

import sys
import threading
import time
from pathlib import Path

import ray
from ray.cluster_utils import Cluster
from vae_study.api import run_study

from tests.faults.runs import CONFIG, SMALL, ended


def busy(node_id: str) -> bool:
    """Whether all CPUs of a node are taken."""
    free = ray._private.state.available_resources_per_node()
    return node_id in free and not free[node_id].get("CPU", 0)


def main(home: Path) -> None:
    """Run, and lose the second node."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    cluster.wait_for_nodes()

    def lose() -> None:
        while ended(home) < 2 or not busy(nodes[1].node_id):
            time.sleep(0.1)
        cluster.remove_node(nodes[1], allow_graceful=False)
        sys.stdout.write("lost a node with a trial on it\n")

    threading.Thread(target=lose, daemon=True).start()
    # One after another, so that some are left on each node once two have ended.
    run_study(CONFIG, [*SMALL, f"trials={sys.argv[2]}", "resources.trials_per_device=1"], home=home)
    ray.shutdown()
    cluster.shutdown()


main(Path(sys.argv[1]))

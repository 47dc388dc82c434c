"""Run a study on two nodes and take one of them away, without grace, while a trial is on it."""

import sys
import threading
from pathlib import Path

import ray
from ray.cluster_utils import Cluster
from vae_study.api import run_study

from tests.faults.runs import CONFIG, SMALL, under_way
from tests.waiting import until

# One at a time on each node, and none ends before the node is lost.
SETTINGS = [*SMALL, "training.epochs=600", "early_stopping=null", "resources.trials_per_device=1"]


def main(home: Path) -> None:
    """Run, and lose the second node."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)
    cluster.wait_for_nodes()

    def lose() -> None:
        until(lambda: len(under_way(home)) == 2, "a trial is under way on each node")
        cluster.remove_node(nodes[1], allow_graceful=False)
        sys.stdout.write("lost a node with a trial on it\n")

    threading.Thread(target=lose, daemon=True).start()
    run_study(CONFIG, [*SETTINGS, f"trials={sys.argv[2]}"], home=home)
    ray.shutdown()
    cluster.shutdown()


main(Path(sys.argv[1]))

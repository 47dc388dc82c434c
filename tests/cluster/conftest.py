import pytest

from tests.cluster.hosts import require_hosts
from tests.cluster.nodes import Node
from tests.object_store import served_bucket


@pytest.fixture(scope="package")
def node(tmp_path_factory):
    """A head on which MLflow has been started once, with its artifacts in a bucket."""
    folder = tmp_path_factory.mktemp("node")
    with served_bucket(folder.with_name("bucket.log")):
        node = Node(folder)
        started = node.server("start")
        assert started.returncode == 0, started.stdout + started.stderr
        assert started.stdout == f"MLflow answers at {node.uri}\n"
        yield node
        node.server("stop")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of an operator of machines that are made of this one; where none can be made, the test is skipped."""
    require_hosts()
    return tmp_path_factory.mktemp("operator")

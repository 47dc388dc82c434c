"""The whole way on AWS, with Ray's own provider for it, and without AWS: `make test-aws`.

Our own cluster.yaml, but for user and key, for the set-up commands, since the machines have no way to a package
registry, for what tells nodes that AWS is elsewhere, and for the patience with an idle worker. AWS is moto's, and a
machine made of namespaces is behind each instance that runs. There is no GPU, and a study that asks for one would end
there: the trials ask for the cores of an instance of that type instead.
"""

import shutil
from pathlib import Path

import pytest

from tests.cluster.aws import account
from tests.cluster.fleet import Fleet, following
from tests.cluster.hosts import in_a_trial, network
from tests.cluster.operators import SETUP, Operator
from tests.cluster.outcomes import check_invariants, copied_logs, database_of
from tests.cluster.yamls import AWS, FILLED, filled
from tests.waiting import until

pytestmark = pytest.mark.cluster

TRIALS, EPOCHS = 6, 60
# As many as one worker takes.
CONCURRENCY = 2
SETTINGS = [
    f"trials={TRIALS}",
    f"training.epochs={EPOCHS}",
    "training.batch_size=32",
    "resources={cpu: 2, gpu: 0}",
    "checkpoints.every_seconds=0.5",
    "diagnostics.iwae_draws=0",
    "early_stopping={kind: pareto, min_epochs: 20}",
    "confirm=null",
]
SECONDS_IDLE = 30


@pytest.fixture(scope="module")
def machines(folder):
    machines = folder / "machines"
    machines.mkdir()
    with network(machines):
        yield machines
    shutil.rmtree(machines, ignore_errors=True)


@pytest.fixture(scope="module")
def operator(folder, machines):
    """The person after the steps before the first `ray up`."""
    with account(folder) as ours:
        ours.furnish((machines / "key.pub").read_bytes())
        # Ray keeps what AWS told it in the folder for what is temporary, and would trust it in the next test.
        operator = Operator(folder, machines / "key", ours, {**ours.environment, "TMPDIR": str(folder)})
        operator.write_cluster(cluster_of(machines / "key"))
        yield operator


def cluster_of(key: Path) -> dict:
    """Our file, filled in, with what differs here."""
    config = filled(AWS)
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(key)}
    config["setup_commands"] = SETUP
    config["file_mounts"]["~/vae-study/environment"] = "~/.vae-study/environment"
    config["idle_timeout_minutes"] = SECONDS_IDLE / 60
    return config


@pytest.fixture(scope="module")
def fleet(machines, operator, folder):
    fleet = Fleet(machines, operator.account, operator.say)
    with following(fleet):
        yield fleet
        for head in fleet.hosts("head").values():
            operator.say(f"Ray's logs are in {copied_logs(head, folder)}")


def test_a_spot_worker_comes_for_a_study_is_replaced_when_reclaimed_and_leaves_and_ray_down_ends_all(
    operator, fleet, folder
):
    operator.run("ray", "up", "--yes", str(operator.cluster), seconds=300)
    [(head_id, head)] = fleet.hosts("head").items()
    assert not fleet.hosts("worker")
    with operator.dashboard() as address:
        workers = _study(operator, fleet, address)
    with operator.mlflow(head.address) as tracking:
        check_invariants(tracking, database_of(head, folder), TRIALS)
        operator.report(tracking)
    until(lambda: not fleet.hosts("worker"), "the idle worker has left")
    operator.run("ray", "down", "--yes", str(operator.cluster))
    until(lambda: not fleet.hosts("head"), "the head has no power")
    states = {key: one["State"]["Name"] for key, one in fleet.instances().items()}
    assert states == {head_id: "stopped", **dict.fromkeys(workers, "terminated")}
    operator.say("done")


def _study(operator: Operator, fleet: Fleet, address: str) -> list[str]:
    """Submit, wait for the worker and for trials on it, take it away, and wait for the end; the workers there were."""
    job = operator.submit(SETTINGS, CONCURRENCY, address)
    first = _worker_in_trials(operator, fleet)
    operator.say(f"EC2 takes {first} back, with {len(operator.trials_under_way())} trials on it")
    fleet.terminate(first)
    until(lambda: not fleet.hosts("worker"), "its machine has no power")
    second = _worker_in_trials(operator, fleet)
    operator.follow(job, address)
    return [first, second]


def _worker_in_trials(operator: Operator, fleet: Fleet) -> str:
    """The id of the one worker, once it trains and its trials could go on from their checkpoints."""

    def is_training() -> bool:
        workers = fleet.hosts("worker").values()
        return bool(workers) and all(in_a_trial(host) for host in workers)

    until(is_training, "a worker trains")
    until(lambda: len(operator.trials_under_way()) == CONCURRENCY, "both trials have checkpoints")
    [instance] = fleet.hosts("worker")
    told = fleet.instances()[instance]
    assert (told["InstanceType"], told["InstanceLifecycle"]) == ("g5.xlarge", "spot")
    assert told["IamInstanceProfile"]["Arn"].endswith(f"/{FILLED['WORKER-PROFILE']}")
    return instance

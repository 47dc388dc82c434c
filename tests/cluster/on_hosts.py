"""The whole way over ssh, on three machines of which one dies: `make test-cluster`.

Our own file for machines that one has already, but for its set-up commands: the machines have no way to a package
registry, and see the environment that the tests run in.
"""

import secrets
import shutil

import pytest

from tests.cluster.aws import account
from tests.cluster.hosts import Host, booted, in_a_trial
from tests.cluster.operators import SETUP, Operator
from tests.cluster.outcomes import check_invariants, database_of
from tests.cluster.yamls import LOCAL, filled
from tests.waiting import until

pytestmark = pytest.mark.cluster

TRIALS, EPOCHS = 8, 60
# Of each worker, so that more trials than that are on both.
CPUS = 2
SETTINGS = [
    f"trials={TRIALS}",
    f"training.epochs={EPOCHS}",
    "training.batch_size=32",
    "checkpoints.every_seconds=0.5",
    "diagnostics.iwae_draws=0",
    "early_stopping={kind: pareto, min_epochs: 20}",
    "confirm=null",
]


@pytest.fixture(scope="module")
def hosts(folder):
    machines = folder / "machines"
    machines.mkdir()
    with booted(machines, 3) as hosts:
        yield hosts
    shutil.rmtree(machines, ignore_errors=True)


@pytest.fixture(scope="module")
def operator(folder, hosts):
    with account(folder) as ours:
        operator = Operator(folder, hosts[0].folder / "key", ours, {"RAY_UP_enable_autoscaler_v2": "0"})
        operator.write_cluster(cluster_of(hosts))
        yield operator


def cluster_of(hosts: list[Host]) -> dict:
    """Our file, filled in."""
    head, worker, other = (host.address for host in hosts)
    config = filled(LOCAL, **{"HEAD": head, "WORKER": worker, "OTHER-WORKER": other, "USER": "root"})
    config["cluster_name"] = f"vae-study-{secrets.token_hex(4)}"
    config["auth"]["ssh_private_key"] = str(hosts[0].folder / "key")
    config["setup_commands"] = SETUP
    config["worker_start_ray_commands"][-1] += f" --num-cpus={CPUS}"
    return config


def test_a_study_survives_the_crash_of_a_worker_and_nothing_is_left_of_the_cluster(operator, hosts, folder):
    head, *workers = hosts
    operator.run("ray", "up", "--yes", "--no-config-cache", str(operator.cluster))
    with operator.dashboard() as address:
        _study(operator, workers, address)
    with operator.mlflow(head.address) as tracking:
        check_invariants(tracking, database_of(head, folder), TRIALS)
        operator.report(tracking)
    _shut_down(operator, [head, *[host for host in workers if host.is_on()]])
    operator.say("done")


def _study(operator: Operator, workers: list[Host], address: str) -> None:
    """Submit, wait for trials on both workers, take the power from one, and wait for the end."""
    job = operator.submit(SETTINGS, 2 * CPUS, address)
    until(lambda: len(operator.trials_under_way()) > CPUS, "trials are trained on both workers")
    assert all(in_a_trial(host) for host in workers)
    operator.say(f"the power of {workers[1].name} goes, with a trial on it")
    workers[1].crash()
    operator.follow(job, address)


def _shut_down(operator: Operator, left: list[Host]) -> None:
    """As the file's head says; then the machines run what they ran before."""
    nodes = "~/vae-study/project/pipeline/vae_study/cluster/nodes"
    stop = f". {nodes}/environment.sh s3://bucket && bash {nodes}/mlflow_server.sh stop"
    operator.run("ray", "exec", str(operator.cluster), stop)
    operator.run("ray", "down", "--yes", str(operator.cluster))
    for host in left:
        operator.say(f"ray stop on {host.name}")
        assert host.run("bash -lic 'ray stop'").returncode == 0
        until(lambda host=host: not host.processes(), f"nothing is left on {host.name}: {host.processes()}")

"""The pods of docs/cluster.kuberay.yaml on machines of this one, with a stand-in for KubeRay's operator: no Kubernetes.

The stand-in does what the operator and a kubelet do with our file: a pod's environment, its init containers, the
command by which KubeRay starts Ray, and, when a pod is deleted, its preStop hook before it is killed. There is no
autoscaler: both workers are there from the start. It takes root.
"""

import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from vae_study.cli import main
from vae_study.cluster.jobs import JobQueue

from tests.cluster.aws import account
from tests.cluster.heads import BIN
from tests.cluster.hosts import SSH, Host, booted, in_a_trial
from tests.cluster.outcomes import check_invariants, database_of
from tests.cluster.yamls import KUBERAY, ROOT, filled_text
from tests.waiting import until

pytestmark = pytest.mark.cluster

TRIALS, EPOCHS = 4, 60
SETTINGS = [
    f"trials={TRIALS}",
    f"training.epochs={EPOCHS}",
    "training.batch_size=32",
    "checkpoints.every_seconds=0.5",
    "diagnostics.iwae_draws=0",
    "early_stopping=null",
    "confirm=null",
]
PACKAGE, TLS = ROOT / "pipeline", "/run/ray-tls"


class Operator:
    """KubeRay and the kubelets."""

    def __init__(self, text: str, hosts: list[Host], secret: dict[str, str]):
        """Take a manifest, machines for the head and for workers, and what is in the secret of the environment."""
        found = [one for one in yaml.safe_load_all(text) if one]
        maps = {one["metadata"]["name"]: one["data"] for one in found if one["kind"] == "ConfigMap"}
        [self.job] = [one for one in found if one["kind"] == "RayJob"]
        [self.mlflow] = [one for one in found if one["kind"] == "Deployment"]
        self.name, self.head, self.token = self.job["metadata"]["name"], hosts[0], secrets.token_hex(16)
        self.common, self.study = {**maps["vae-study"], **secret}, maps[self.name]
        self.started: list[subprocess.Popen[bytes]] = []

    def environment(self, container: dict, host: Host) -> dict[str, str]:
        """What a container finds: of our file, of the image, and what KubeRay adds."""
        own = {one["name"]: one.get("value", host.address) for one in container.get("env", [])}
        path = os.pathsep.join(filter(None, [own.pop("PYTHONPATH", ""), str(PACKAGE)]))
        image = {
            "VAE_STUDY_NODES": str(PACKAGE / "vae_study" / "cluster" / "nodes"),
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }
        ray = {"FQ_RAY_IP": self.head.address, "RAY_ADDRESS": f"{self.head.address}:6379"}
        ray |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token, "RAY_worker_niceness": "0"}
        return {**self.common, **image, **ray, **own, "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0"}

    def run(self, words: list[str], container: dict, host: Host) -> str:
        """Run a command in a container, and wait for it."""
        done = host.run(self._command(words, container, host))
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _command(self, words: list[str], container: dict, host: Host) -> str:
        variables = [f"{name}={value}" for name, value in self.environment(container, host).items()]
        return f"mkdir -p {TLS} && cd && exec {shlex.join(['env', *variables, *words])}"

    def start(self, pod: dict, host: Host, command: list[str] | None = None) -> None:
        """Start a pod: its init containers, then its container, by the pod's command or by that of KubeRay."""
        for one in pod.get("initContainers", []):
            self.run(one["command"], one, host)
        [container] = pod["containers"]
        words = ["ssh", *SSH, "-i", str(host.folder / "key"), f"root@{host.address}"]
        words.append(self._command(command or container["command"], container, host))
        with (host.folder / f"{host.name}-{container['name']}.log").open("wb") as log:
            self.started.append(subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log))

    def start_ray(self, group: dict, host: Host) -> None:
        """Start the pod of a group with the command that KubeRay makes of its rayStartParams and limits."""
        pod, is_head = group["template"]["spec"], host is self.head
        limits = pod["containers"][0]["resources"]["limits"]
        given = {"num-cpus": limits.get("cpu"), "num-gpus": limits.get("nvidia.com/gpu"), **group["rayStartParams"]}
        given |= {"head": None, "dashboard-host": "0.0.0.0"} if is_head else {"address": f"{self.head.address}:6379"}
        options = [f"--{name}={value}" for name, value in given.items() if value is not None] + ["--block"]
        start = shlex.join(["ray", "start", *options, *(["--head"] if is_head else [])])
        self.start(pod, host, ["bash", "-c", f"ulimit -n 65536; {start}"])

    def submit(self) -> None:
        """What KubeRay's submitter runs."""
        spec = self.job["spec"]
        words = ["ray", "job", "submit", "--address", "http://127.0.0.1:8265", "--submission-id", f"{self.name}-abcde"]
        words += ["--runtime-env-json", json.dumps(yaml.safe_load(spec["runtimeEnvYAML"]))]
        words += ["--metadata-json", json.dumps(spec["metadata"]), "--no-wait", "--", *shlex.split(spec["entrypoint"])]
        [container] = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
        self.run(words, container, self.head)

    def delete(self, group: dict, host: Host) -> None:
        """Delete a worker's pod: its hook, and then its end."""
        [container] = group["template"]["spec"]["containers"]
        self.run(container["lifecycle"]["preStop"]["exec"]["command"], container, host)
        assert not in_a_trial(host)
        host.crash()


@pytest.fixture
def volumes():
    """Where the machines see the volumes of pods: a folder that they share."""
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    for name in ("study", "ca"):
        (folder / name).mkdir()
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=us"]
    keys = ["-keyout", folder / "ca" / "tls.key", "-out", folder / "ca" / "tls.crt"]
    subprocess.run([*made, *keys], check=True, capture_output=True)
    yield folder
    shutil.rmtree(folder)


def manifest(folder: Path, volumes: Path, head: Host) -> str:
    """Our file as a person fills it in and `submit` writes the study into it, with the paths of the machines."""
    text = filled_text(KUBERAY, IMAGE="image", PLACE="s3://bucket")
    places = {"vae-study-mlflow:5000": f"{head.address}:5000", "/etc/ray-ca": f"{volumes}/ca", "/etc/ray-tls": TLS}
    for place, ours in {**places, 'cpu: "4"': 'cpu: "1"'}.items():
        text = text.replace(place, ours)
    (folder / "kuberay.yaml").write_text(text.replace("/etc/vae-study", f"{volumes}/study"))
    words = ["submit", str(ROOT / "search_spaces" / "digits.yaml"), "--kubernetes", str(folder / "kuberay.yaml")]
    sent = CliRunner().invoke(main, [*words, *(word for one in SETTINGS for word in ("--set", one))])
    assert sent.exit_code == 0, sent.output
    return sent.stdout.replace("/etc/vae-study", f"{volumes}/study")


def test_a_study_ends_whole_although_a_worker_pod_is_deleted_in_mid_trial(folder, volumes, monkeypatch):
    machines = folder / "machines"
    machines.mkdir()
    with booted(machines, 3) as hosts, account(folder) as ours:
        stores = {name: f"sqlite:////root/vae-study/{name}.db" for name in ("studies", "mlflow")}
        secret = {"VAE_STUDY_STORAGE": stores["studies"], "MLFLOW_BACKEND_STORE_URI": stores["mlflow"]}
        operator = Operator(manifest(folder, volumes, hosts[0]), hosts, {**secret, **ours.environment})
        for name, content in operator.study.items():
            (volumes / "study" / name).write_text(content)
        cluster = operator.job["spec"]["rayClusterSpec"]
        [gpu] = cluster["workerGroupSpecs"]
        head, *workers = hosts
        head.run("mkdir -p /root/vae-study")
        operator.start(operator.mlflow["spec"]["template"]["spec"], head)
        operator.start_ray(cluster["headGroupSpec"], head)
        for host in workers:
            operator.start_ray(gpu, host)
        until(lambda: head.run("bash -c ': < /dev/tcp/127.0.0.1/8265 && : < /dev/tcp/127.0.0.1/5000'").returncode == 0,
              "Ray's head and MLflow answer")  # fmt: skip
        operator.submit()
        say("submitted")
        under_way = "studies/digits/checkpoints/"
        until(lambda: len({key.split("/")[3] for key in ours.under(under_way)}) >= 2, "a trial is saved on each worker")
        until(lambda: in_a_trial(workers[1]), "the second worker trains")
        operator.delete(gpu, workers[1])
        say("a pod is gone")
        monkeypatch.setenv("RAY_AUTH_TOKEN", operator.token)
        queue, log = JobQueue(f"http://{head.address}:8265"), []
        queue.follow(queue.find("digits").id, log.append)
        say("the study is over")
        assert f"trials     {TRIALS} finished" in "".join(log)
        check_invariants(f"http://{head.address}:5000", database_of(head, folder), TRIALS)


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")

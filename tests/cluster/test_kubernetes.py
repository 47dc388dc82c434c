"""The manifest for KubeRay: its form, the study that is written into it, slips, and the image that it names."""

import gzip
import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml
from click.testing import CliRunner
from vae_study.cli import main
from vae_study.cluster.jobs import CONFIG_FILE
from vae_study.config.loading import load_config

from tests.cluster.yamls import KUBERAY, ROOT, blanks, changed, filled_text

SPACES = ROOT / "search_spaces"
SCHEMA = json.loads(gzip.decompress((Path(__file__).parent / "kubernetes.schema.json.gz").read_bytes()))
IMAGE = "registry.example/vae-study:1"
VOLUME = re.compile("^#volume: ", re.MULTILINE)


@pytest.fixture
def manifest(tmp_path):
    """Our file, filled in."""
    path = tmp_path / "kuberay.yaml"
    path.write_text(filled_text(KUBERAY, IMAGE=IMAGE))
    return path


def documents(text):
    return [one for one in yaml.safe_load_all(text) if one]


def require_valid(one):
    """As a server does that is asked to be strict."""
    if error := next(
        jsonschema.Draft7Validator({**SCHEMA, "$ref": f"#/definitions/{one['kind']}"}).iter_errors(one), None
    ):
        raise error


def submit(*words):
    return CliRunner().invoke(main, ["submit", *map(str, words)])


def of_kind(text, kind):
    [found] = [one for one in documents(text) if one["kind"] == kind]
    return found


def test_a_person_fills_in_the_image_and_the_place_and_nothing_else():
    assert blanks(KUBERAY) == {"IMAGE", "PLACE"}


@pytest.mark.parametrize("place", ["a bucket", "a volume"])
def test_the_shipped_file_has_the_form_of_kubernetes_and_kuberay(manifest, place):
    text = manifest.read_text()
    if place == "a volume":
        text = VOLUME.sub("", text)
        assert len(VOLUME.findall(manifest.read_text())) > 10
    found = documents(text)
    for one in found:
        require_valid(one)
    kinds = [one["kind"] for one in found]
    assert ("PersistentVolumeClaim" in kinds) == (place == "a volume")
    for pod in pods(found):
        mounts = {mount["name"] for one in containers(pod) for mount in one.get("volumeMounts", [])}
        assert mounts <= {volume["name"] for volume in pod.get("volumes", [])}
        assert ("shared" in mounts) == (place == "a volume")
        assert {one["image"] for one in containers(pod)} == {IMAGE}
        named = re.findall(r"\$VAE_STUDY_NODES/(\S+)\"", json.dumps(pod).replace("\\", ""))
        assert all((ROOT / "pipeline" / "vae_study" / "cluster" / "nodes" / name).is_file() for name in named)


def pods(found):
    job = next(one for one in found if one["kind"] == "RayJob")["spec"]["rayClusterSpec"]
    mlflow = next(one for one in found if one["kind"] == "Deployment")["spec"]["template"]["spec"]
    return [mlflow, *(one["template"]["spec"] for one in [job["headGroupSpec"], *job["workerGroupSpecs"]])]


def containers(pod):
    return [*pod.get("initContainers", []), *pod["containers"]]


def test_workers_have_a_gpu_and_come_from_zero_and_leave_by_being_drained_and_the_head_takes_no_trial(manifest):
    cluster = of_kind(manifest.read_text(), "RayJob")["spec"]["rayClusterSpec"]
    [gpu] = cluster["workerGroupSpecs"]
    assert (gpu["minReplicas"], gpu["replicas"], gpu["maxReplicas"]) == (0, 0, 4)
    assert cluster["enableInTreeAutoscaling"]
    [worker] = gpu["template"]["spec"]["containers"]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "spot_notice.sh" in worker["lifecycle"]["preStop"]["exec"]["command"][-1]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert cluster["authOptions"]["mode"] == "token"
    pinned = re.search(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert cluster["rayVersion"] == pinned[1]


BROKEN = {
    "a word that KubeRay does not know": ("RayJob", ("spec", "shutdownAfterJobFinish", True)),
    "a number in words": ("RayJob", ("spec", "rayClusterSpec", "workerGroupSpecs", 0, "maxReplicas", "four")),
    "a head without a pod": ("RayJob", ("spec", "rayClusterSpec", "headGroupSpec", "template", None)),
    "a mode that there is not": ("RayJob", ("spec", "rayClusterSpec", "authOptions", "mode", "tokens")),
    "a server without a selector": ("Deployment", ("spec", "selector", None)),
    "a misspelled port": ("Service", ("spec", "ports", 0, "prot", 5000)),
}


@pytest.mark.parametrize(("kind", "steps"), BROKEN.values(), ids=BROKEN)
def test_a_slip_is_refused_by_the_form(manifest, kind, steps):
    one = of_kind(manifest.read_text(), kind)
    require_valid(one)
    with pytest.raises(jsonschema.ValidationError):
        require_valid(changed(one, *steps))


def test_submit_writes_the_study_and_its_code_into_the_file_and_changes_nothing_else(manifest, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for name in ("mine/__init__.py", "mine/rows.py"):
        (tmp_path / name).write_text("import numpy\ndef read():\n    return {'x': numpy.zeros((9, 2))}  # 'a\": b\n")
    source = ["--set", "data={source: 'python:mine.rows:read', path: 's3://bucket/rows'}", "--set", "champion=null"]
    sent = submit(SPACES / "digits.yaml", "--kubernetes", manifest, "--hours", 2, "--trials", 3, *source)
    assert sent.exit_code == 0, sent.output
    before, after = documents(manifest.read_text()), documents(sent.stdout)
    for one in after:
        require_valid(one)
    job = of_kind(sent.stdout, "RayJob")
    name = job["metadata"]["name"]
    assert re.fullmatch(r"digits-\d{8}-\d{6}", name)
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[:6] == ["exec", "python", "-m", "vae_study", "run", f"/etc/vae-study/{CONFIG_FILE}"]
    assert words[6:] == ["--name", "digits", "--concurrency", "max", "--hours", "2.0", "--no-report"]
    assert job["spec"]["metadata"] == {"vae_study.study": "digits"}
    # As a pod sees the volume.
    study = next(one for one in after if one["kind"] == "ConfigMap" and one["metadata"]["name"] == name)
    for pod in pods(after)[1:]:
        [items] = [one["configMap"]["items"] for one in pod["volumes"] if one["name"] == "study"]
        seen = {item["path"]: study["data"][item["key"]] for item in items}
        assert seen["mine/rows.py"] == (tmp_path / "mine" / "rows.py").read_text()
    (tmp_path / CONFIG_FILE).write_text(seen[CONFIG_FILE])
    assert load_config(tmp_path / CONFIG_FILE) == load_config(SPACES / "digits.yaml", [*source[1::2], "trials=3"])
    assert [one for one in after if one["kind"] not in ("RayJob", "ConfigMap")] == [
        one for one in before if one["kind"] not in ("RayJob", "ConfigMap")
    ]
    was = of_kind(manifest.read_text(), "RayJob")["spec"]
    assert {key for key in was if was[key] != job["spec"][key]} == {"entrypoint", "rayClusterSpec"}


def test_a_schedule_makes_it_a_cron_job_whose_studies_have_the_date_in_their_names(manifest, tmp_path):
    sent = submit(
        SPACES / "digits.yaml", "--kubernetes", manifest, "--schedule", "0 3 * * *", "--output", tmp_path / "x"
    )
    assert (sent.exit_code, sent.output) == (0, "")
    cron = of_kind((tmp_path / "x").read_text(), "RayCronJob")
    require_valid(cron)
    assert (cron["metadata"]["name"], cron["spec"]["schedule"]) == ("digits", "0 3 * * *")
    command = cron["spec"]["jobTemplate"]["entrypoint"].replace("python", "echo")
    said = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout
    assert re.search(r" --name digits-20\d{6} --concurrency max ", said)


def test_apply_gives_it_to_kubectl_and_says_so_where_there_is_none(manifest, tmp_path, monkeypatch):
    words = (SPACES / "digits.yaml", "--kubernetes", manifest, "--apply")
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    refused = submit(*words)
    assert (refused.exit_code, len(refused.output.splitlines())) == (2, 1)
    assert "there is no kubectl on the PATH" in refused.output
    kubectl = programs / "kubectl"
    kubectl.write_text(f'#!/bin/sh\necho "$*"\n/bin/cat > {tmp_path}/applied\n')
    kubectl.chmod(0o755)
    sent = submit(*words)
    assert (sent.exit_code, sent.stdout) == (0, "apply -f -\n")
    name = of_kind((tmp_path / "applied").read_text(), "RayJob")["metadata"]["name"]
    assert f"kubectl port-forward service/{name}-head-svc 8265" in sent.stderr
    kubectl.write_text("#!/bin/sh\necho no matches for kind RayJob >&2\nexit 3\n")
    failed = submit(*words)
    assert failed.exit_code == 1
    assert "code 3: no matches for kind RayJob" in failed.output


SLIPS = {
    "a name with a capital": (["--name", "Digits_2"], "", "letters, digits and '-', with a letter first, as"),
    "a name that is too long": (["--name", "a" * 40], "", f"such as {'a' * 31}"),
    "a schedule in words": (["--schedule", "every night"], "", "--schedule: got 'every night', expected five fields"),
    "a blank": ([], "s/registry.example.*/YOUR-IMAGE/", "YOUR-IMAGE is to be filled in"),
    "two jobs": ([], "s/kind: Service/kind: RayJob/", "has 2 documents of the kind RayJob; expected one"),
    "no place for the study": ([], "s/{name: study, c/{name: other, c/", "the head has 0 volumes named 'study'"),
    "no YAML": ([], "s/spec:/spec: {/", "is no YAML"),
    "data on this machine": (["--set", "data={source: csv, path: x.csv}"], "", "data.path: got 'x.csv', which is on"),
}


@pytest.mark.parametrize(("words", "change", "message"), SLIPS.values(), ids=SLIPS)
def test_a_slip_of_the_person_gives_one_message(manifest, words, change, message):
    subprocess.run(["sed", "-i", change or "s/a/a/", str(manifest)], check=True)
    refused = submit(SPACES / "digits.yaml", "--kubernetes", manifest, *words)
    assert refused.exit_code == 2, refused.output
    assert message in refused.output
    assert len(refused.output.splitlines()) == 1


def test_what_is_of_a_manifest_is_refused_without_one():
    refused = submit(SPACES / "digits.yaml", "--apply")
    assert refused.exit_code == 2
    assert refused.output == "vae-study: --apply: is of a manifest; expected --kubernetes, too\n"


def test_a_pod_gets_a_certificate_of_its_authority_with_its_address_and_the_name_of_the_head(tmp_path):
    ca, tls = tmp_path / "ca", tmp_path / "tls"
    ca.mkdir()
    tls.mkdir()
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=us"]
    subprocess.run([*made, "-keyout", ca / "tls.key", "-out", ca / "tls.crt"], check=True, capture_output=True)
    environment = {**os.environ, "POD_IP": "10.1.2.3", "FQ_RAY_IP": "digits-head-svc.default.svc.cluster.local"}
    script = ROOT / "pipeline" / "vae_study" / "cluster" / "nodes" / "certificate.sh"
    subprocess.run(["bash", script, ca, tls], env=environment, check=True, capture_output=True)
    assert {path.name: path.stat().st_mode & 0o77 for path in tls.iterdir()} == dict.fromkeys(
        ("tls.crt", "tls.key", "ca.crt"), 0
    )
    verify = ["openssl", "verify", "-CAfile", tls / "ca.crt"]
    for option, name in [("-verify_ip", "10.1.2.3"), ("-verify_hostname", environment["FQ_RAY_IP"])]:
        subprocess.run([*verify, option, name, tls / "tls.crt"], check=True, capture_output=True)
    other = subprocess.run([*verify, "-verify_ip", "10.1.2.4", tls / "tls.crt"], capture_output=True, check=False)
    assert other.returncode != 0


# The image.

DOCKERFILE = (ROOT / "docs" / "Dockerfile").read_text()
STEP = re.compile(r"^([A-Z]+) (.*)$", re.MULTILINE)


def steps(kind=None):
    """The instructions of the Dockerfile, those that are continued on one line."""
    found = STEP.findall(DOCKERFILE.replace("\\\n", " "))
    return [words for name, words in found if name == kind] if kind else found


def test_the_steps_of_the_image_install_what_the_makefile_installs_and_it_does_not_run_as_root(tmp_path):
    assert len(DOCKERFILE.splitlines()) < 60
    root, home = tmp_path / "root", tmp_path / "home"
    programs = tmp_path / "bin"
    programs.mkdir()
    # They write down their words and what the folder has then.
    for name in ("pip", "apt-get", "useradd", "rm"):
        (programs / name).write_text(f'#!/bin/sh\nprintf "%s\\n" "{name} $*" >> {tmp_path}/log\nls >> {tmp_path}/log\n')
        (programs / name).chmod(0o755)
    folder = root
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(home)}
    for kind, words in steps():
        if kind == "WORKDIR":
            folder = root / words.lstrip("/")
        elif kind == "ARG":
            name, _, value = words.partition("=")
            environment[name] = value
        elif kind == "COPY":
            *sources, target = words.split()
            for source in sources:
                assert (ROOT / source).exists()
            (folder).mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-r", *(ROOT / source for source in sources), folder / target], check=True)
        elif kind == "RUN":
            folder.mkdir(parents=True, exist_ok=True)
            subprocess.run(["bash", "-ec", words], cwd=folder, env=environment, check=True)
    installs = [line.split()[1:] for line in (tmp_path / "log").read_text().splitlines() if line.startswith("pip ")]
    options = ["install", "--no-cache-dir", "--constraint", "constraints.txt"]
    index = ["--extra-index-url", "https://pypi.org/simple"]
    assert installs == [[*options, *index, "torch"], [*options, ".", "boto3", "psycopg[binary]"]]
    made = (ROOT / "Makefile").read_text()
    assert "--constraint constraints.txt" in made
    assert made.index("$(INSTALL) torch") < made.index("$(INSTALL) --editable .")
    pinned = (ROOT / "constraints.txt").read_text()
    for name in ("torch", "boto3", "psycopg", "psycopg-binary"):
        assert re.search(rf"^{name}==", pinned, re.MULTILINE)
    [variables] = steps("ENV")
    scripts = re.search(r"VAE_STUDY_NODES=/(\S+)", variables)[1]
    assert (root / scripts / "spot_notice.sh").is_file()
    [user] = steps("USER")
    assert int(user) > 0

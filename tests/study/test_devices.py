"""A study that asks for GPUs trains on GPUs or ends, and every trial says what it was trained on."""

import os
import subprocess
from pathlib import Path

import psutil
import pytest
import ray
import torch
from click.testing import CliRunner
from vae_study.api import load_study, run_study
from vae_study.cli import main
from vae_study.config.loading import load_config
from vae_study.config.study import ResourcesConfig
from vae_study.errors import UserError
from vae_study.study import driver, session, worker
from vae_study.study.dispatcher import Dispatcher
from vae_study.study.local_ray import only_gpus
from vae_study.study.messages import Task, WorkerReport
from vae_study.study.worker import VaeWorker, missing_gpu, missing_precision
from vae_study.tracking.schema import DEVICE
from vae_study.vae.model_batch import ModelBatch

from tests.command import Command
from tests.study.conftest import CONFIG, SHORT
from tests.study.test_workers import Floor

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU")
SMALL = [*SHORT, "trials=2", "training.epochs=2", "diagnostics.iwae_draws=0", "early_stopping=null"]


@no_gpu
def test_a_worker_that_ray_gave_a_gpu_and_torch_none_says_both(monkeypatch):
    monkeypatch.setattr(worker, "gpus_given", lambda: "GPU 0")
    assert not missing_gpu(ResourcesConfig(gpu=0))
    said = missing_gpu(ResourcesConfig(gpu=0.25))
    assert "got GPU 0 from Ray, but sees no GPU" in said
    assert f"torch {torch.__version__}" in said
    assert "resources.gpu=0 to train on CPUs" in said


def test_a_worker_whose_gpu_has_no_units_for_a_precision_that_may_be_drawn_says_which(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_tf32_supported", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Tesla T4")

    def said(gpu, *choices):
        search = f"search.training.precision={{choices: [{', '.join(choices)}]}}"
        return missing_precision(load_config(CONFIG, [f"resources.gpu={gpu}", search]))

    assert "training.precision: got tf32 and bf16, for which Tesla T4" in said(1, "tf32", "bf16")
    assert "expected float32" in said(1, "float32", "bf16")
    assert not said(1, "float32")
    # A CPU computes in bfloat16 without units for it, too.
    assert not said(0, "float32", "bf16")


def test_a_worker_without_its_gpu_ends_the_study_before_it_has_a_trial():
    floor = Floor(tasks=3, slots=1, at_once=2, workers=2)
    floor.call_in()
    [name] = floor.tasks
    floor.searcher.take_report(name, WorkerReport(slots=0, problem="no GPU here"))
    assert str(floor.searcher.shutdown.reason) == "no GPU here"
    assert len(floor.dispatcher.fresh) == 3
    assert not floor.posted[floor.known[name].channel]


class Notes:
    """Tracking that keeps what each trial's run says of its device."""

    def __init__(self):
        self.devices = []

    def start(self, key, name, parameters, tags):
        self.devices.append(tags.get(DEVICE))

    def tag(self, key, tags):
        self.devices += [tags[DEVICE]] if DEVICE in tags else []


class Two(Dispatcher):
    """Hands out two trials."""

    def __init__(self, notes):
        super().__init__(notes, {})
        self.fresh = [Task(key=f"trial-000{number}", number=number, parameters={}) for number in (1, 0)]

    def _fresh(self):
        return self.fresh.pop() if self.fresh else None

    def _has_fresh(self):
        return bool(self.fresh)

    def _close(self, task, report, history):
        pass


def test_the_run_of_a_trial_says_what_it_is_trained_on_also_after_it_went_on_elsewhere():
    notes = Notes()
    dispatcher = Two(notes)
    first = dispatcher.propose("cuda, NVIDIA L4")
    dispatcher.placed(first.key, "cuda, NVIDIA L4")
    assert notes.devices == ["cuda, NVIDIA L4"]
    dispatcher.lost(first.key, "the worker died")
    again = dispatcher.propose("cuda, NVIDIA H100")
    dispatcher.placed(again.key, "cuda, NVIDIA H100")
    assert notes.devices == ["cuda, NVIDIA L4", "cuda, NVIDIA H100"]


@pytest.mark.parametrize("concurrency", [None, 1, 3, "max"])
def test_a_local_ray_without_a_gpu_is_refused_at_once(ray_session, concurrency):
    refused = r"1 CPU and 0.5 GPU; this machine has .* CPU and 0 GPU; resources.gpu=0 trains on CPUs"
    with pytest.raises(UserError, match=refused):
        session.at_once(ResourcesConfig(gpu=0.5), concurrency, 4, is_local=True)
    # To a cluster, one with a GPU may come.
    if concurrency is not None:
        assert session.at_once(ResourcesConfig(gpu=0.5), concurrency, 4)[0] > 0


def test_without_workers_that_fit_on_this_machine_a_local_ray_is_refused_too(ray_session):
    with pytest.raises(UserError, match=r"4,?096 CPU and 0 GPU; this machine has [0-9]+ CPU and 0 GPU; --ray-address"):
        session.at_once(ResourcesConfig(cpu=4096), "max", 4, is_local=True)


@no_gpu
@pytest.mark.processes
def test_the_command_refuses_a_gpu_that_is_not_there_also_with_as_many_workers_as_there_may_be(tmp_path):
    words = ["run", CONFIG, "--home", "home", "--concurrency", "max", "--set", "resources.gpu=1"]
    command = Command(words, tmp_path, tmp_path / "said")
    assert command.wait() == 2
    assert "this machine has" in (tmp_path / "said").read_text()
    assert not (tmp_path / "home" / "digits").exists()


def test_a_model_that_no_node_of_a_cluster_holds_is_refused_with_what_the_largest_has(ray_session, tmp_path):
    address = ray.get_runtime_context().gcs_address
    with pytest.raises(UserError, match=r"takes at least .* GiB .*; the largest node has [\d.]+ GiB"):
        run_study(CONFIG, [*SMALL, "model.network.hidden=[1000000000]"], home=tmp_path, ray_address=address)
    assert not (tmp_path / "digits").exists()


def ray_that_counts_a_gpu():
    """Ray believes what it is told."""
    ray.init(num_cpus=1, num_gpus=1, include_dashboard=False, log_to_driver=False)


@no_gpu
@pytest.mark.processes
def test_a_gpu_that_ray_counts_and_torch_does_not_see_ends_the_study_with_one_message(tmp_path):
    settings = [word for setting in (*SMALL, "resources.gpu=1") for word in ("--set", setting)]
    words = ["run", CONFIG, "--home", "home", "--no-report", *settings]
    command = Command(words, tmp_path, tmp_path / "said", change=ray_that_counts_a_gpu)
    assert command.wait() == 1
    said = (tmp_path / "said").read_text()
    assert said.count("got GPU 0 from Ray, but sees no GPU") == 1
    assert f"torch {torch.__version__}" in said
    assert "Traceback" not in said
    assert "finished" not in set(load_study("digits", home=tmp_path / "home").trials["state"])


class LosesItsGpu(VaeWorker):
    """Its GPU refuses all work in the third epoch, once in a study."""

    def setup(self, config):
        super().setup(config)
        mark, whole = Path(self.assignment.folder) / "lost", ModelBatch.train_epoch

        def train_epoch(model_batch):
            if mark.exists() and int(mark.read_text()) != psutil.Process().pid:
                return whole(model_batch)
            if max(model_batch.epochs_K) == 2:
                mark.write_text(str(psutil.Process().pid))
                raise torch.AcceleratorError("CUDA error: device-side assert triggered")
            return whole(model_batch)

        ModelBatch.train_epoch = train_epoch


def test_a_worker_whose_gpu_refuses_all_work_dies_and_its_trial_goes_on_elsewhere(ray_session, tmp_path, monkeypatch):
    monkeypatch.setattr(driver.run_stage, "__defaults__", (LosesItsGpu,))
    settings = [*SMALL, "trials=1", "training.epochs=4", "checkpoints.every_seconds=0"]
    record = run_study(CONFIG, settings, home=tmp_path)
    [trial] = record.trials.to_dict("records")
    assert (trial["state"], trial["preemptions"]) == ("finished", 1)
    assert record.history["epoch"].tolist() == [1, 2, 3, 4]
    assert not psutil.pid_exists(int((tmp_path / "digits" / "lost").read_text()))


GPUS = ["0, 100, 81559", "1, 80000, 81559", "2, [GPU is lost], [GPU is lost]", "3, 40000, 81559"]


@pytest.fixture
def four_gpus(tmp_path, monkeypatch):
    """A stand-in for nvidia-smi: one is full, one does not answer."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in GPUS))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")


def test_a_study_sees_the_gpus_that_it_is_given_without_those_that_are_full_or_lost(four_gpus):
    said = []
    with only_gpus([3, 1, 2, 0], said.append):
        visible = subprocess.check_output(["sh", "-c", "echo $CUDA_VISIBLE_DEVICES $CUDA_DEVICE_ORDER"], text=True)
        assert visible == "3,0 PCI_BUS_ID\n"
    assert said == [
        "GPU 1 is left out: 2% of its memory is free, expected at least 10%",
        "GPU 2 is left out: it does not answer nvidia-smi",
    ]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"
    assert "CUDA_DEVICE_ORDER" not in os.environ


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--gpus", "1,2"],
            "--gpus: none can be used: GPU 1: 2% of its memory is free, expected at least 10%; GPU 2: it",
        ),
        (["--gpus", "4"], "--gpus: got 4, expected GPUs that nvidia-smi lists on this machine: 0, 1, 2, 3"),
        (["--gpus", "two"], "Invalid value for '--gpus': got 'two', expected numbers of GPUs as nvidia-smi has them"),
        (["--gpus", "0", "--ray-address", "10.0.0.1:6379"], "it was to run on 10.0.0.1:6379"),
        (["--gpus", "0", "--set", "resources.gpu=0"], "resources.gpu is 0, so no worker uses a GPU"),
    ],
)
def test_gpus_that_a_study_cannot_use_are_refused_before_anything_starts(
    four_gpus, tmp_path, monkeypatch, words, message
):
    home = tmp_path / "home"
    # As in a fresh process: an earlier test may have left this one connected.
    monkeypatch.setattr(session.ray, "is_initialized", lambda: False)
    command = ["run", str(CONFIG), "--home", str(home), "--set", "resources.gpu=1", *words]
    refused = CliRunner().invoke(main, command)
    assert refused.exit_code == 2
    assert message in refused.output
    assert not (home / "digits").exists()

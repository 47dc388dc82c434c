import math
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from vae_study.study import worker
from vae_study.study.worker import SystemMetrics


def burn(seconds: float) -> None:
    """Work for so long on a core, however long it takes to get one."""
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def test_work_and_memory_of_the_process_show_in_its_metrics(monkeypatch):
    monkeypatch.setattr(worker, "SECONDS_BETWEEN", 0.0)
    metrics = SystemMetrics()
    time.sleep(0.3)
    idle = metrics.sample()
    held = np.ones(20_000_000)
    burn(0.5)
    busy = metrics.sample()
    assert busy["system/process_cpu_utilization_percentage"] > idle["system/process_cpu_utilization_percentage"]
    grown = busy["system/process_memory_usage_megabytes"] - idle["system/process_memory_usage_megabytes"]
    assert grown == pytest.approx(held.nbytes / 1e6, abs=30)
    assert 0 <= busy["system/cpu_utilization_percentage"] <= 100
    assert busy["system/system_memory_usage_megabytes"] > busy["system/process_memory_usage_megabytes"] / 2


def test_all_are_finite_numbers_under_the_prefix_that_mlflow_gives_a_page_of_its_own():
    sample = SystemMetrics().sample()
    assert all(name.startswith("system/") and isinstance(value, float) for name, value in sample.items())
    assert all(map(math.isfinite, sample.values()))


def test_within_a_second_the_numbers_stay_and_belong_to_nobody_else(monkeypatch):
    # A second that does not pass, however busy the machine is.
    monkeypatch.setattr(worker, "SECONDS_BETWEEN", math.inf)
    metrics = SystemMetrics()
    first = metrics.sample()
    expected = dict(first)
    first.clear()
    assert metrics.sample() == expected


def test_a_gpu_that_the_process_does_not_use_is_left_alone():
    before = torch.cuda.is_initialized()
    named = [name for name in SystemMetrics().sample() if "gpu" in name]
    assert torch.cuda.is_initialized() == before
    assert bool(named) == before


def test_the_library_that_torch_asks_how_busy_a_gpu_is_comes_with_the_project():
    """Without it nothing fails: the use of the GPU is only not there."""
    root = Path(__file__).parents[2]
    asked = tomllib.loads((root / "pyproject.toml").read_text())["project"]["dependencies"]
    assert any(one.startswith("nvidia-ml-py") for one in asked)
    assert "\nnvidia-ml-py==" in (root / "constraints.txt").read_text()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_memory_of_the_gpu_in_use_shows(monkeypatch):
    monkeypatch.setattr(worker, "SECONDS_BETWEEN", 0.0)
    held = torch.ones(1000, device="cuda")
    metrics = SystemMetrics()
    first = metrics.sample()["system/gpu_0_memory_usage_megabytes"]
    held = torch.ones(300_000_000, device="cuda")
    assert metrics.sample()["system/gpu_0_memory_usage_megabytes"] - first == pytest.approx(held.nbytes / 1e6, rel=0.2)

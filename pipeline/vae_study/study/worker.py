"""A worker: it trains the tasks that its commands name, side by side on one device, and reports about once a second."""

import math
import platform
import time
import traceback
from collections import deque
from dataclasses import replace
from typing import Any

import psutil
import torch
from pynvml import NVMLError  # type: ignore[import-untyped]  # It has no types.
from ray import tune

from vae_study.config.study import ResourcesConfig, StudyConfig
from vae_study.data import Dataset, prepare
from vae_study.errors import Diverged, guard_process, redacted
from vae_study.storage import Folder
from vae_study.study.messages import Assignment, Commands, Failure, Task, TrialReport, WorkerReport, collect
from vae_study.study.ray_compat import gpus_given, is_leaving
from vae_study.study.trial_files import CheckpointTimer, write_code, write_outcome
from vae_study.study.trial_run import RunGroup, TrialRun, device_of
from vae_study.tracking.schema import trial_name
from vae_study.vae.device import (
    compute_in_float32,
    device_name,
    is_gpu_lost,
    is_out_of_memory,
    missing_units,
    what_torch_sees,
)

# A report costs the driver some milliseconds, a small epoch less than that.
SECONDS_PER_REPORT = 1.0
# An idle worker asks for work once in this time.
SECONDS_BETWEEN_ASKS = 0.05
# CUDA itself takes this for each process, beside what PyTorch counts.
CONTEXT_BYTES = 512 * 2**20
# Over a shorter time a utilization is noise.
SECONDS_BETWEEN = 1.0
MEGABYTE = 1e6


class VaeWorker(tune.Trainable):
    """A worker as Ray Tune sees it. An error of a task becomes a report; only a dead process is an error for Tune."""

    def setup(self, config: dict[str, Any]) -> None:
        """Begin with one thread, so that equal seeds give equal bits, and with a share of a GPU's memory."""
        guard_process()
        torch.set_num_threads(1)
        self.assignment: Assignment = config["assignment"]
        self.loop = WorkerLoop(self.assignment)
        resources = self.loop.config.resources
        self.problem = missing_gpu(resources) or missing_precision(self.loop.config)
        cap_memory(resources, self.assignment.is_exclusive)
        compute_in_float32()
        self.device = "" if self.problem else device_name(device_of(resources))

    def step(self) -> dict[str, Any]:
        """Train some epochs of all tasks, and report the tasks' progress."""
        if self.problem:
            # Not done: Tune would not pass it on.
            return {"report": WorkerReport(slots=0, problem=self.problem), "done": False}
        commands = collect(self.assignment.channel)
        if commands.is_over:
            return {"report": WorkerReport(slots=0), "done": True}
        if is_leaving():
            # Tasks that were to start here have not begun: the driver gives them to another worker.
            self.loop.apply(Commands(stop=commands.stop))
            return {"report": WorkerReport(slots=0, tasks=self.loop.hand_over(), is_leaving=True), "done": True}
        self.loop.apply(commands)
        tasks = self.loop.advance()
        return {"report": WorkerReport(slots=self.loop.slots, tasks=tasks, device=self.device), "done": False}

    def cleanup(self) -> None:
        """Save every task when the study or this worker ends, so that training can continue from there."""
        self.loop.save()


class WorkerLoop:
    """Trains tasks, those of one shape as one tensor program. An error of one task ends that task and no other.

    An error after which the GPU refuses all work is raised: the process has to end, and its tasks continue in another
    one from their last checkpoints.

    Attributes:
        slots: How many tasks it takes at once.
        suspects: Tasks that were trained together when an error came up; each is tried by itself.
    """

    def __init__(self, assignment: Assignment):
        self.config = StudyConfig.model_validate(assignment.config)
        self.data_sha256, self.home = assignment.data_sha256, Folder.at(assignment.folder)
        asked = 1 if assignment.is_exclusive else self.config.resources.trials_per_device
        # With "auto", start with one slot; the first task measures the fastest number.
        self.is_to_tune, self.slots = asked == "auto", 1 if asked == "auto" else asked
        self.timer = CheckpointTimer(self.config.checkpoints.every_seconds)
        self.system = SystemMetrics() if self.config.diagnostics.system_metrics else None
        self.groups: list[RunGroup] = []
        self.suspects: deque[TrialRun] = deque()
        self.ended: dict[str, TrialReport] = {}
        self.pace_seconds = 0.0

    def apply(self, commands: Commands) -> None:
        """Let tasks go, and take others in."""
        if commands.pace_seconds is not None:
            self.pace_seconds = commands.pace_seconds
        for group in [*self.groups]:
            for run in [*group.runs]:
                if run.key in commands.stop:
                    self._release(group, run)
        for task in commands.start:
            try:
                self._start(task)
            except Exception as error:
                self.ended[task.key] = self._failed(error)

    def advance(self) -> dict[str, TrialReport]:
        """Train for about a second, or longer by the driver's command, or until a task ends or comes to a rung.

        Returns:
            A report on each task, by keys; the worker has released those that ended.
        """
        began = time.monotonic()
        if not self._has_work() and not self.ended:
            time.sleep(max(SECONDS_BETWEEN_ASKS, self.pace_seconds))
        seconds = max(SECONDS_PER_REPORT, self.pace_seconds)
        while self._has_work() and not self.ended and time.monotonic() - began < seconds:
            self._train_epoch()
            if any(run.is_at_rung for run in self._runs()):
                break
        return self._reports()

    def hand_over(self) -> dict[str, TrialReport]:
        """Save every task and release it, for another worker to continue.

        Returns:
            As `advance`.
        """
        self.save()
        reports = self._reports()
        self.groups.clear()
        self.suspects.clear()
        return reports

    def save(self) -> None:
        """Write a checkpoint of every task."""
        with self.timer.saving():
            for group in self.groups:
                for run in group.runs:
                    run.save(group.state(run))

    def _reports(self) -> dict[str, TrialReport]:
        running = {run.key: TrialReport(epochs=run.unreported()) for run in self._runs()}
        ended, self.ended = self.ended, {}
        return running | ended

    def _has_work(self) -> bool:
        return bool(self._runs() or self.suspects)

    def _runs(self) -> list[TrialRun]:
        return [run for group in self.groups for run in group.runs]

    def _start(self, task: Task) -> None:
        run = TrialRun(task, self.config, self.home)
        for group in self.groups:
            if group.admits(run):
                return group.join(run)
        group = RunGroup(self.config, self._data(), run, beside=next(iter(self.groups), None))
        self.groups.append(group)
        if self.is_to_tune:
            self.is_to_tune, self.slots = False, group.models_per_device(run)

    def _data(self) -> Dataset:
        # Prepared once on a node, and read from its cache.
        return prepare(self.config.data, self.data_sha256)

    def _train_epoch(self) -> None:
        if self.suspects and all(group.is_open for group in self.groups):
            suspect = self.suspects.popleft()
            try:
                beside = next(iter(self.groups), None)
                self.groups.append(RunGroup(self.config, self._data(), suspect, is_open=False, beside=beside))
            except Exception as error:
                self.ended[suspect.key] = self._failed(error)
        for group in [*self.groups]:
            # One that comes from its last checkpoint may have nothing left to train.
            self._measure(group, [run for run in group.runs if run.is_trained])
            self._train(group)
            self._measure(group, [run for run in group.runs if run.is_trained])
        if self.timer.is_due():
            self.save()

    def _train(self, group: RunGroup) -> None:
        if not group.runs:
            return
        try:
            metrics_K = group.model_batch.train_epoch()
        except Exception as error:
            return self._split_up(group, error)
        for run, metrics in zip([*group.runs], metrics_K, strict=True):
            try:
                run.record({**metrics, **(self.system.sample() if self.system else {})})
                if run.is_to_keep:
                    run.keep(group.state(run))
            except Diverged as reason:
                self._end(group, run, TrialReport(state="failed", failure="diverged", error=str(reason)))
            except OSError as error:
                self._end(group, run, self._failed(error))

    def _measure(self, group: RunGroup, trained: list[TrialRun]) -> None:
        if not trained:
            return
        try:
            outcomes = group.outcomes(trained)
        except Exception as error:
            self._require_gpu(error)
            if len(trained) == 1:
                return self._end(group, trained[0], self._failed(error))
            for run in trained:
                self._measure(group, [run])
            return
        for run, outcome in zip(trained, outcomes, strict=True):
            try:
                points = self._measure_kept(group, run)
                if run.files is not None:
                    write_outcome(run.files, outcome)
                if run.code is not None:
                    write_code(run.code, outcome)
                self._end(group, run, TrialReport(state="finished", metrics=outcome.metrics, points=points))
            except Exception as error:
                self._end(group, run, self._failed(error))

    def _measure_kept(self, group: RunGroup, run: TrialRun) -> list[dict[str, float]]:
        """Write the files of the models that a task has kept, as those of trials of their own; return their metrics."""
        metrics: list[dict[str, float]] = []
        for number, outcome in zip(run.points, group.outcomes_of_kept(run), strict=True):
            write_outcome(self.home / "trials" / trial_name(number), outcome)
            metrics.append(outcome.metrics)
        return metrics

    def _split_up(self, group: RunGroup, error: Exception) -> None:
        """After an error among several tasks: each continues alone from its last checkpoint, to find the cause."""
        self._require_gpu(error)
        group.is_open = False
        if len(group.runs) == 1:
            return self._end(group, group.runs[0], self._failed(error))
        if is_out_of_memory(error):
            self.slots = max(1, len(group.runs) // 2)
        self.suspects.extend(group.runs)
        # Free the device memory that the group and the traceback hold.
        group.runs.clear()
        self._remove(group)
        traceback.clear_frames(error.__traceback__)

    def _end(self, group: RunGroup, run: TrialRun, report: TrialReport) -> None:
        """Note a task's last report, with the epochs that no report had yet."""
        self.ended[run.key] = replace(report, epochs=run.unreported())
        self._release(group, run)

    def _release(self, group: RunGroup, run: TrialRun) -> None:
        group.leave(run)
        # The last group stays, and with it the data on the device.
        if not group.runs and (len(self.groups) > 1 or not group.is_open):
            self._remove(group)

    def _remove(self, group: RunGroup) -> None:
        self.groups.remove(group)
        del group.model_batch

    def _failed(self, error: Exception) -> TrialReport:
        self._require_gpu(error)
        kind: Failure = "out_of_memory" if is_out_of_memory(error) else "error"
        return TrialReport(state="failed", failure=kind, error=redacted("".join(traceback.format_exception(error))))

    def _require_gpu(self, error: Exception) -> None:
        """Raise an error after which this process cannot use its GPU; what it holds is not saved."""
        if is_gpu_lost(error):
            self.groups.clear()
            self.suspects.clear()
            raise error


def missing_gpu(resources: ResourcesConfig) -> str:
    """What is wrong where Ray gave this worker a GPU and torch sees none; empty if nothing is."""
    if not resources.gpu or torch.cuda.is_available():
        return ""
    return (
        f"resources.gpu: a worker on {platform.node()} got {gpus_given()} from Ray, but sees no GPU: it has "
        f"{what_torch_sees()}; expected torch for CUDA and NVIDIA's driver on each node that has GPUs, or "
        "resources.gpu=0 to train on CPUs"
    )


def missing_precision(config: StudyConfig) -> str:
    """What is wrong where the study asks for a precision that this worker's GPU has no units for; empty if nothing."""
    missing = missing_units(config.precisions()) if config.resources.gpu else ""
    return missing and (
        f"training.precision: got {missing}, for which {torch.cuda.get_device_name(0)}, the GPU of a worker on "
        f"{platform.node()}, has no units; expected float32, or only GPUs from NVIDIA's Ampere on (A100, L4, RTX 30)"
    )


def memory_share(gpu: float, device_bytes: int) -> float:
    """The share of a GPU's memory that tensors may take in a worker that occupies a part of the GPU.

    All workers that fit beside each other stay within the GPU together, CUDA's own memory included, where each has at
    least twice what CUDA takes.

    Args:
        gpu: What the worker occupies.
        device_bytes: The GPU's memory.
    """
    return 1.0 if gpu >= 1 else max(gpu - CONTEXT_BYTES / device_bytes, gpu / 2)


def cap_memory(resources: ResourcesConfig, is_exclusive: bool) -> None:
    """Have PyTorch refuse what goes beyond a worker's share of a GPU: only the task that asks runs out of memory."""
    if 0 < resources.gpu < 1 and not is_exclusive and torch.cuda.is_available():
        device_bytes = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(memory_share(resources.gpu, device_bytes), 0)


class SystemMetrics:
    """How busy the worker's process and its host are, under the names of MLflow's page of system metrics."""

    def __init__(self) -> None:
        """Begin; a utilization is that since the measurement before."""
        self.process = psutil.Process()
        self.process.cpu_percent()
        psutil.cpu_percent()
        self._known: dict[str, float] = {}
        self._measured = -math.inf
        self._has_counters = True

    def sample(self) -> dict[str, float]:
        """Percent and megabytes in use, measured once a second: of the host, of this process, of a GPU it uses.

        All begin with `system/`; `process_cpu_utilization_percentage` counts 100 for each core.
        """
        if time.monotonic() - self._measured >= SECONDS_BETWEEN:
            values = {
                "cpu_utilization_percentage": psutil.cpu_percent(),
                "system_memory_usage_megabytes": psutil.virtual_memory().used / MEGABYTE,
                "process_cpu_utilization_percentage": self.process.cpu_percent(),
                "process_memory_usage_megabytes": self.process.memory_info().rss / MEGABYTE,
                **self._gpu(),
            }
            self._known = {f"system/{name}": float(value) for name, value in values.items()}
            self._measured = time.monotonic()
        return dict(self._known)

    def _gpu(self) -> dict[str, float]:
        # To ask PyTorch for a GPU that it does not use yet would take some hundred megabytes of it.
        if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            return {}
        index = torch.cuda.current_device()
        free, total = torch.cuda.mem_get_info(index)
        values = {
            f"gpu_{index}_memory_usage_megabytes": (total - free) / MEGABYTE,
            f"gpu_{index}_memory_usage_percentage": 100 * (total - free) / total,
        }
        try:
            if self._has_counters:
                values[f"gpu_{index}_utilization_percentage"] = float(torch.cuda.utilization(index))
        except (ImportError, RuntimeError, ValueError, NVMLError):
            # NVIDIA's library is missing or gives no counters; it is not asked again.
            self._has_counters = False
        return values

"""How busy a trial's machine is, as numbers beside its metrics."""

import math
import time

import psutil
import torch

MEGABYTE = 1e6
# Over a shorter time a utilization is noise.
SECONDS_BETWEEN = 1.0


class SystemMetrics:
    """Measures the trial's process and its host, under the names that MLflow shows on its page of system metrics."""

    def __init__(self) -> None:
        """Begin; a utilization is that since the measurement before."""
        self.process = psutil.Process()
        self.process.cpu_percent()
        psutil.cpu_percent()
        self._known: dict[str, float] = {}
        self._measured = -math.inf
        self._has_counters = True

    def sample(self) -> dict[str, float]:
        """What is in use, in percent and megabytes, measured anew once a second; of a GPU where this process uses one.

        Returns:
            `system/cpu_utilization_percentage` and `system/system_memory_usage_megabytes` of the host,
            `system/process_cpu_utilization_percentage` (100 for each core) and
            `system/process_memory_usage_megabytes`, and `system/gpu_0_memory_usage_megabytes`,
            `system/gpu_0_memory_usage_percentage` and, where NVIDIA's counters can be read,
            `system/gpu_0_utilization_percentage` of this process's GPU.
        """
        if time.monotonic() - self._measured >= SECONDS_BETWEEN:
            self._known = {f"system/{name}": float(value) for name, value in {**self._host(), **self._gpu()}.items()}
            self._measured = time.monotonic()
        return dict(self._known)

    def _host(self) -> dict[str, float]:
        return {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": psutil.virtual_memory().used / MEGABYTE,
            "process_cpu_utilization_percentage": self.process.cpu_percent(),
            "process_memory_usage_megabytes": self.process.memory_info().rss / MEGABYTE,
        }

    def _gpu(self) -> dict[str, float]:
        # To ask PyTorch for a GPU that it does not use yet would take some hundred megabytes of it.
        if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            return {}
        index = torch.cuda.current_device()
        free, total = torch.cuda.mem_get_info(index)
        used = {
            f"gpu_{index}_memory_usage_megabytes": (total - free) / MEGABYTE,
            f"gpu_{index}_memory_usage_percentage": 100 * (total - free) / total,
        }
        return used | self._gpu_utilization(index)

    def _gpu_utilization(self, index: int) -> dict[str, float]:
        """Nothing where NVIDIA's library is missing, or gives no counters; it is not asked again then."""
        if not self._has_counters:
            return {}
        try:
            return {f"gpu_{index}_utilization_percentage": float(torch.cuda.utilization(index))}
        except Exception:
            self._has_counters = False
            return {}

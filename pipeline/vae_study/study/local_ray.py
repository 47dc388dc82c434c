"""A local Ray: the GPUs that it may use, and its processes.

One of these that dies takes the study's workers with it, and Ray itself says nothing of it: its calls then wait for a
minute or for ever, and its agents outlive it.
"""

import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from signal import Signals
from typing import Any

import psutil
import ray

from vae_study.errors import StudyError, UserError
from vae_study.study.ray_compat import start_no_other

# Without one of these nothing works; what they do, in words.
VITAL = {"raylet": "which starts the workers", "gcs_server": "which knows the workers"}
SECONDS_BETWEEN_LOOKS = 1.0
# A look at a process costs nothing, one for their children some milliseconds.
LOOKS_PER_SEARCH = 5
# Ray's own calls end the whole process a minute after the death of a GCS.
SECONDS_TO_RETURN = 8.0
SECONDS_TO_DISCONNECT = 5.0
MEMORY_QUERY = ("nvidia-smi", "--query-gpu=index,memory.used,memory.total", "--format=csv,noheader,nounits")
SECONDS_FOR_MEMORY = 20.0
# A GPU on which others leave less than this part is full.
LEAST_FREE = 0.1


class LocalRay:
    """Looks after the Ray that this process has started.

    Attributes:
        died: Set when Ray cannot be used any more.
        why: The error that says so.
    """

    def __init__(self) -> None:
        """Begin right after Ray has started; what it started are children of this process."""
        children = psutil.Process().children()
        self._vital = [child for child in children if _name(child) in VITAL]
        self._roots = [child for child in children if "ray" in _command(child)]
        self._known = {*self._roots}
        self.died, self.why = threading.Event(), StudyError("Ray died")
        self._is_over = threading.Event()
        threading.Thread(target=self._watch, name="local Ray", daemon=True).start()

    def run(self, work: Callable[[], Any]) -> None:
        """Do work that waits for Ray. If Ray dies, return once the work does, or without it after some seconds."""
        failed: list[BaseException] = []

        def do() -> None:
            try:
                work()
            except BaseException as error:
                failed.append(error)

        # Whoever waits inside Ray's own code hears no signal and cannot be stopped.
        thread = threading.Thread(target=do, name="work on Ray", daemon=True)
        thread.start()
        while thread.is_alive() and not self.died.is_set():
            thread.join(SECONDS_BETWEEN_LOOKS)
        thread.join(SECONDS_TO_RETURN if self.died.is_set() else None)
        if failed and not self.died.is_set():
            raise failed[0]

    def close(self) -> None:
        """End Ray; of one that has died, every process that is left."""
        self._is_over.set()
        if not self.died.is_set():
            ray.shutdown()
            return
        # Work that was given up may still go on in its thread.
        start_no_other()
        for process in self._known:
            with suppress(psutil.Error):
                process.kill()
        end = threading.Thread(target=ray.shutdown, name="end of Ray", daemon=True)
        end.start()
        end.join(SECONDS_TO_DISCONNECT)

    def _watch(self) -> None:
        looks = 0
        while not self._is_over.wait(SECONDS_BETWEEN_LOOKS):
            dead = next((process for process in self._vital if not _is_alive(process)), None)
            if looks % LOOKS_PER_SEARCH == 0 or dead is not None:
                self._search()
            looks += 1
            if dead is not None and not self._is_over.is_set():
                self.why = StudyError(_told(dead))
                self.died.set()
                return

    def _search(self) -> None:
        for root in self._roots:
            with suppress(psutil.Error):
                self._known.update(root.children(recursive=True))


def _told(process: psutil.Process) -> str:
    # psutil keeps the name that it was asked for while the process lived.
    name = process.name()
    return (
        f"the local Ray's {name}, {VITAL[name]} (pid {process.pid}), {_end(process.pid)}; running trials continue "
        "from their last checkpoints"
    )


def _end(pid: int) -> str:
    """How a child of this process has ended; Ray itself is left to collect it."""
    try:
        found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except (OSError, AttributeError):
        found = None
    if found is None:
        return "has died"
    killed = found.si_code in (os.CLD_KILLED, os.CLD_DUMPED)
    return f"was killed by {Signals(found.si_status).name}" if killed else f"ended with code {found.si_status}"


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return ""


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


@contextmanager
def only_gpus(gpus: Sequence[int], say: Callable[[str], None]) -> Iterator[None]:
    """Show some GPUs of this machine to what this process starts, and no others.

    Args:
        gpus: Their numbers, as nvidia-smi has them; those that are full or do not answer are left out.
        say: Called with a line for each that is left out.

    Raises:
        UserError: A number is none of this machine's, or all are left out.
    """
    free = free_parts()
    if unknown := [gpu for gpu in gpus if gpu not in free]:
        known = ", ".join(map(str, free)) or "none"
        raise UserError(f"--gpus: got {unknown[0]}, expected GPUs that nvidia-smi lists on this machine: {known}")
    left_out = {gpu: why for gpu in gpus if (why := _why_not(free[gpu]))}
    for gpu, why in left_out.items():
        say(f"GPU {gpu} is left out: {why}")
    if not (used := [gpu for gpu in gpus if gpu not in left_out]):
        raise UserError(f"--gpus: none can be used: {'; '.join(f'GPU {gpu}: {why}' for gpu, why in left_out.items())}")
    # CUDA by itself counts the fastest GPU first.
    ours = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, used)), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    try:
        yield
    finally:
        _restore(before)


def _restore(before: Mapping[str, str | None]) -> None:
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


def free_parts() -> dict[int, float | None]:
    """The free part of the memory of each GPU of this machine; None for one that does not answer."""
    try:
        told = subprocess.run(MEMORY_QUERY, capture_output=True, text=True, timeout=SECONDS_FOR_MEMORY).stdout
    except (OSError, subprocess.TimeoutExpired):
        return {}
    rows = [[word.strip() for word in line.split(",")] for line in told.splitlines()]
    return {int(row[0]): _free(*row[1:]) for row in rows if len(row) == 3 and row[0].isdecimal()}


def _free(used: str, total: str) -> float | None:
    try:
        return 1 - float(used) / float(total)
    except (ValueError, ZeroDivisionError):
        return None


def _why_not(free: float | None) -> str:
    if free is None:
        return "it does not answer nvidia-smi"
    return "" if free >= LEAST_FREE else f"{free:.0%} of its memory is free, expected at least {LEAST_FREE:.0%}"

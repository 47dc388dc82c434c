"""The processes of a local Ray: one that dies takes the study's workers with it, and Ray itself says nothing of it.

Its calls then wait for a minute or for ever, and its agents outlive it.
"""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from signal import Signals
from typing import Any

import psutil
import ray

from vae_study.errors import StudyError

# Without one of these nothing works; what they do, in words.
VITAL = {"raylet": "which starts the workers", "gcs_server": "which knows the workers"}
SECONDS_BETWEEN_LOOKS = 1.0
# A look at a process costs nothing, one for their children some milliseconds.
LOOKS_PER_SEARCH = 5
# Ray's own calls end the whole process a minute after the death of a GCS.
SECONDS_TO_RETURN = 8.0
SECONDS_TO_DISCONNECT = 5.0


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

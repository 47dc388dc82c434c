"""The lock of a study: two drivers would hand out the same trials and write over each other's records."""

import logging
import os
import socket
import threading
import time
import uuid
from types import TracebackType
from typing import Any, Self

import optuna
import psutil

from vae_study.errors import UserError

logger = logging.getLogger(__name__)

# The user attribute of a study that names its driver.
DRIVER = "driver"
BEAT_SECONDS = 10.0
# A driver of another host that has not renewed the lock for this long is dead.
DEAD_AFTER_SECONDS = 60.0
# If two drivers start at once, each writes its name; the one whose name is still there after this time wins.
SETTLE_SECONDS = 1.0
# Two readings of the start of one process may differ by so much, as the system's clock may be set in between.
START_TOLERANCE_SECONDS = 2.0


class DriverLock:
    """Held by a driver while it runs a study. A driver that was killed does not hold it any more.

    A driver on this host is alive as long as its process exists, even suspended. One on another host is alive while
    its last heartbeat is recent.

    Attributes:
        lost: Set when another driver has taken over, which is possible if the database was away for long.
    """

    def __init__(self, study: optuna.Study):
        """Prepare to lock a study; `acquire`, or a `with` block, locks it."""
        self.study = study
        self.lost = threading.Event()
        self._me = {
            "host": socket.gethostname(),
            "pid_space": _pid_space(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
            "token": uuid.uuid4().hex,
        }
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="driver's beat", daemon=True)

    def acquire(self) -> None:
        """Take the lock; possible once.

        Raises:
            UserError: Another driver runs the study.
        """
        try:
            while not self._is_mine(holder := self._holder()):
                if _is_alive(holder):
                    raise UserError(self._refusal(holder))
                self._write()
                time.sleep(SETTLE_SECONDS)
        except BaseException:
            self.release()
            raise
        self._thread.start()

    def release(self) -> None:
        """Give the lock up if it is still held. An error of the database is only logged: then the lock expires."""
        self._released.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            if self._is_mine(self._holder()):
                self.study.set_user_attr(DRIVER, None)
        except Exception as error:
            logger.warning("the study's lock could not be given up: %r", error)

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def _holder(self) -> dict[str, Any]:
        return self.study.user_attrs.get(DRIVER) or {}

    def _is_mine(self, holder: dict[str, Any]) -> bool:
        return holder.get("token") == self._me["token"]

    def _write(self) -> None:
        self.study.set_user_attr(DRIVER, {**self._me, "beat": time.time()})

    def _beat(self) -> None:
        while not self.lost.is_set() and not self._released.wait(BEAT_SECONDS):
            self._renew()

    def _renew(self) -> None:
        # A driver that takes over between the look and the write does not find its own name, and tries again.
        try:
            if self._is_mine(self._holder()):
                self._write()
            else:
                self.lost.set()
        except Exception as error:
            logger.warning("the study's lock could not be renewed: %r", error)

    def _refusal(self, holder: dict[str, Any]) -> str:
        age = max(0.0, time.time() - float(holder["beat"]))
        advice = "stop it first, or wait for its end"
        if not _is_near(holder):
            advice += f"; if it died, try again in {DEAD_AFTER_SECONDS - age:.0f} s"
        return (
            f"the study {self.study.study_name!r} is being run by pid {holder['pid']} on host {holder['host']} "
            f"(last heartbeat {age:.0f} s ago); {advice}"
        )


def _is_alive(holder: dict[str, Any]) -> bool:
    if not holder:
        return False
    if not _is_near(holder):
        return time.time() - float(holder["beat"]) < DEAD_AFTER_SECONDS
    started = _started(int(holder["pid"]))
    return started is not None and abs(started - float(holder["started"])) < START_TOLERANCE_SECONDS


def _is_near(holder: dict[str, Any]) -> bool:
    """Whether a holder's pid means the same here: on this host, and in this container."""
    return bool(holder["host"] == socket.gethostname() and holder.get("pid_space", _pid_space()) == _pid_space())


def _pid_space() -> str | None:
    """The namespace of this process's pid: containers may share a host's name, but not its pids."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def _started(pid: int) -> float | None:
    """When a process was started, in unix seconds; None if it has ended."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None

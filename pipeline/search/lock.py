"""At most one driver on a study: two would hand out the same trials and write over each other's records."""

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

from pipeline.errors import UserError
from pipeline.search.attributes import DRIVER

logger = logging.getLogger(__name__)

BEAT_SECONDS = 10.0
# Another host's driver that gave no sign of life for so long is dead.
DEAD_AFTER_SECONDS = 60.0
# Of two drivers that start at once, each writes its name; the one whose name is still there after this wins.
SETTLE_SECONDS = 1.0
# How far apart two readings of one process's start may be: it is reckoned from a clock that is set now and then.
START_TOLERANCE_SECONDS = 2.0


class DriverLock:
    """Held by a driver while it runs a study; a driver that was killed holds nothing.

    On one host, the process itself says whether it is alive, be it suspended. Another host's driver is known by the
    time of its last beat only.

    Attributes:
        lost: Set when another driver has taken over, as it may after a long loss of the database; then this one stops.
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
        """Take the lock, once.

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
        """Give the lock up, where it is still held; an error of the database is passed over, as the lock then ages."""
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
        while not self._released.wait(BEAT_SECONDS):
            try:
                if not self._is_mine(self._holder()):
                    self.lost.set()
                    return
                self._write()
            except Exception as error:
                logger.warning("the study's lock could not be renewed: %r", error)

    def _refusal(self, holder: dict[str, Any]) -> str:
        age = max(0.0, time.time() - float(holder["beat"]))
        advice = "stop it first, or wait for its end"
        if not _is_near(holder):
            advice += f"; if it died, try again in {DEAD_AFTER_SECONDS - age:.0f} s"
        return (
            f"the study {self.study.study_name!r} is being run by pid {holder['pid']} on host {holder['host']} "
            f"(last sign of life {age:.0f} s ago); {advice}"
        )


def _is_alive(holder: dict[str, Any]) -> bool:
    if not holder:
        return False
    if not _is_near(holder):
        return time.time() - float(holder["beat"]) < DEAD_AFTER_SECONDS
    started = _started(int(holder["pid"]))
    return started is not None and abs(started - float(holder["started"])) < START_TOLERANCE_SECONDS


def _is_near(holder: dict[str, Any]) -> bool:
    """Whether a holder's pid says anything here."""
    return bool(holder["host"] == socket.gethostname() and holder.get("pid_space", _pid_space()) == _pid_space())


def _pid_space() -> str | None:
    """What pids are counted in: containers may share a host's name, but not its pids."""
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def _started(pid: int) -> float | None:
    """When a process was started, in unix seconds; None where it is no more, or is not yet waited for."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None

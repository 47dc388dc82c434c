"""Wait for what threads and other processes do. A deadline here only ends a hang; no test measures time by it."""

import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

# A machine may be busy with much other work.
PATIENCE_SECONDS = 600.0


def until(
    condition: Callable[[], object],
    what: str,
    process: "subprocess.Popen[bytes] | subprocess.Popen[str] | None" = None,
    log: Path | None = None,
    pause_seconds: float = 0.05,
) -> None:
    """Wait until a condition holds.

    Args:
        condition: Asked again and again.
        what: The condition in words, for the error.
        process: What has to run meanwhile, such as a server that starts.
        log: What the process prints, for the error.
        pause_seconds: Between two looks.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        printed = log.read_text(errors="replace") if log else ""
        assert process is None or process.poll() is None, f"the process ended before {what}\n{printed}"
        assert time.monotonic() < deadline, f"waited in vain until {what}\n{printed}"
        time.sleep(pause_seconds)


def listens(port: int) -> bool:
    """Whether somebody listens at a port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def command_line(process: psutil.Process) -> str:
    """The command line of a process; empty where the process has ended."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""

"""Servers that a command starts, shows and ends again."""

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

# Ctrl-C, which who starts us in the background has Python ignore; a manager of services; a closed terminal.
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SECONDS_TO_END = 10.0


def run_server(command: Sequence[str], environment: Mapping[str, str]) -> int | None:
    """Run a server until it ends, or this process is to: by Ctrl-C, SIGTERM or SIGHUP. No part of it is left.

    Returns:
        Its exit code; None where this process was to end.
    """
    with _ends_as_interrupts():
        # MLflow's command ends without the server that it has started, so that all of its group is ended.
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        try:
            return process.wait()
        except KeyboardInterrupt:
            return None
        finally:
            _end(process)


@contextmanager
def _ends_as_interrupts() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = {kind: signal.signal(kind, interrupt) for kind in ENDS}
    try:
        yield
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and those that it has started, kindly first."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(SECONDS_TO_END)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()

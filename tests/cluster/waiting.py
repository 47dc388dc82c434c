"""Waiting for what other processes do."""

import socket
import time
from collections.abc import Callable

SECONDS_PATIENCE = 300.0


def wait_for(condition: Callable[[], bool], what: str, seconds: float = SECONDS_PATIENCE) -> None:
    """Until it holds, at most so long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.3)


def listens(port: int) -> bool:
    """Whether somebody does at a port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True

"""The MLflow UI, and what servers need that run until they are interrupted."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from vae_study.errors import UserError
from vae_study.tracking.schema import UI_VIEW, missing_store

# By itself MLflow 3 opens for users of language models; this shows experiments and their metrics.
VIEW = f"#/experiments?{UI_VIEW}"
# Sent by Ctrl-C, a service manager, and a closed terminal. A background process of a shell ignores SIGINT by default.
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SECONDS_TO_END = 10.0
LOOPBACK = "127.0.0.1"
#: What this machine calls itself: a page of another site, whose name leads here, asks for a foreign one.
OWN_NAMES = (LOOPBACK, "localhost", "[::1]")
FREE_PORT = 5099


def serve_ui(uri: str, port: int, say: Callable[[str], None]) -> None:
    """Serve the UI on localhost until it is interrupted; a store that is a server already has one of its own.

    Raises:
        UserError: There is no store yet.
    """
    if uri.startswith("http"):
        return say(f"the MLflow UI is at {uri}/{VIEW}")
    require_store(uri)
    # Otherwise the server would say in its own words that the port is taken.
    listening(port).close()
    say(f"the MLflow UI will be at http://{LOOPBACK}:{port}/{VIEW} in a few seconds; Ctrl-C stops it")
    # More than one worker slows every request down; the job runner takes memory for nothing.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    # Not as an argument of the command, which every user of the machine can see.
    environment["MLFLOW_BACKEND_STORE_URI"] = uri
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port)]
    if run_server([*command, "--host", LOOPBACK, "--workers", "1"], environment) is None:
        say("ended")


def require_store(uri: str) -> None:
    """Raise UserError if a tracking store is a file that is not there: whoever only reads creates none."""
    if path := missing_store(uri):
        raise UserError(f"no tracking store at {path}; run a study first, or give --home or --tracking-uri")


def listening(port: int) -> socket.socket:
    """A socket that is bound to a port of this machine; raise UserError if none can be."""
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((LOOPBACK, port))
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"--port {port}: {reason}; expected another one, such as --port {FREE_PORT}") from None
    return listener


def run_server(command: Sequence[str], environment: Mapping[str, str]) -> int | None:
    """Run a server until it ends, or until this process gets SIGINT, SIGTERM or SIGHUP; no part of it is left running.

    Returns:
        Its exit code; None if a signal ended it.
    """

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    with handling(ENDS, interrupt):
        # MLflow's command ends without the server that it has started, so that all of its group is ended.
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        try:
            return process.wait()
        except KeyboardInterrupt:
            return None
        finally:
            _end(process)


@contextmanager
def handling(kinds: Sequence[signal.Signals], handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Handle signals by a function of (number, frame); in another thread than the main one, nothing is changed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    # After `nohup`, a closed terminal ends nothing.
    asked = [kind for kind in kinds if kind != signal.SIGHUP or signal.getsignal(kind) != signal.SIG_IGN]
    before = {kind: signal.signal(kind, handler) for kind in asked}
    try:
        yield
    finally:
        for kind, earlier in before.items():
            signal.signal(kind, earlier)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a process group: SIGTERM first, then SIGKILL."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(SECONDS_TO_END)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()

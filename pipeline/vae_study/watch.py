"""A page on this machine that follows a study while it runs, by the figures of its report."""

import json
import logging
import subprocess
import sys
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from vae_study.errors import UserError, redacted
from vae_study.paths import HOME, Home, source_of
from vae_study.tracking.serving import ENDS, LOOPBACK, OWN_NAMES, handling

logger = logging.getLogger(__name__)

# The study is read again once this time has passed, and 5 times what the last reading took: a twentieth of a core.
SECONDS_BETWEEN_READS, READ_SHARE = 1.0, 5
# How long a run's own page waits at the end for the browser to fetch the last state.
SECONDS_FOR_THE_END = 10.0
TYPES = {"/": "text/html; charset=utf-8", "/state": "application/json"}


class LiveStudy:
    """A study's state as its page shows it, read again when somebody asks and it is old."""

    def __init__(self, read: Callable[[], dict[str, Any]]):
        """Wait to be asked; `read` gives the state."""
        self._read, self._lock = read, threading.Lock()
        self._state: dict[str, Any] = {}
        self._due = 0.0

    def state(self) -> dict[str, Any]:
        """The state, some seconds old unless the study cannot be read. Raise UserError if it never could."""
        with self._lock:
            began = time.monotonic()
            if not self._state or (began >= self._due and not self._state["is_over"]):
                try:
                    self._state = self._read()
                except Exception as error:
                    # A study that is just beginning lacks files, and a store may be away for a while.
                    if not self._state:
                        raise
                    logger.warning("the study could not be read: %s", redacted(str(error)))
                took = time.monotonic() - began
                self._due = began + took + max(SECONDS_BETWEEN_READS, READ_SHARE * took)
            return self._state


def watch_study(
    name: str,
    *,
    port: int = 0,
    opens: bool = False,
    until_over: bool = False,
    home: Home = HOME,
    tracking_uri: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> None:
    """Serve the page of a study on this machine until it is interrupted.

    Args:
        name: The study's name.
        port: To listen at; 0 for any that is free.
        opens: Whether to open the page in a browser.
        until_over: Whether the study may not have begun yet, and the server ends once the browser has its end.
        home, tracking_uri: As in `run_study`.
        say: Told where the page is.

    Raises:
        UserError: There is no such study, or the port is taken.
    """
    from vae_study.report.live import live_state
    from vae_study.tracking import schema
    from vae_study.tracking.reader import read_study
    from vae_study.tracking.sources import require_parent

    has_run = threading.Event()

    def read() -> dict[str, Any]:
        try:
            source = source_of(home, tracking_uri)
            # First whether it runs: what ends in between is read once more.
            if is_running := require_parent(source, name).tags[schema.STATE] == "running":
                has_run.set()
            # A study that is continued has ended before.
            is_over = not is_running and (has_run.is_set() or not until_over)
            return live_state(read_study(source, name), is_over)
        except UserError:
            if not until_over:
                raise
            return live_state(None, is_over=False)

    study = LiveStudy(read)
    study.state()
    with _listening(study, name, port) as server:
        address = f"http://{LOOPBACK}:{server.server_port}/"
        say(f"{name} is at {address}; Ctrl-C ends the page, not the study")
        if opens:
            webbrowser.open(address)
        is_ended = threading.Event()
        with handling(ENDS, lambda number, frame: is_ended.set()):
            while not is_ended.wait(0.2):
                if until_over and server.has_told_the_end.is_set():
                    break


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, study: LiveStudy, name: str, port: int):
        self.study, self.name = study, name
        self.has_told_the_end = threading.Event()
        super().__init__((LOOPBACK, port), _Handler)


@contextmanager
def _listening(study: LiveStudy, name: str, port: int) -> Iterator[_Server]:
    try:
        server = _Server(study, name, port)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"--port {port}: {reason}; expected another one, or 0 for any that is free") from None
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        """The page, or the state; for this machine's own names only, since a foreign name may lead here, too."""
        port = self.server.server_port
        if self.headers.get("Host") not in {f"{name}:{port}" for name in OWN_NAMES}:
            return self._answer(403, "text/plain", f"Host: expected {LOOPBACK}:{port}\n")
        if self.path not in TYPES:
            return self._answer(404, "text/plain", f"{self.path}: expected / or /state\n")
        state = self.server.study.state()
        if self.path == "/":
            from vae_study.report.live import live_page

            return self._answer(200, TYPES["/"], live_page(self.server.name, state))
        self._answer(200, TYPES["/state"], json.dumps(state))
        if state["is_over"]:
            self.server.has_told_the_end.set()
        return None

    def _answer(self, status: int, kind: str, text: str) -> None:
        content = text.encode()
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(content)), "Cache-Control": "no-store"}
        for key, value in (headers | {"X-Content-Type-Options": "nosniff"}).items():
            self.send_header(key, value)
        self.end_headers()
        with suppress(ConnectionError):
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a page that asks every two seconds would fill the terminal."""


@contextmanager
def page_beside(name: str, places: Sequence[str]) -> Iterator[None]:
    """A browser page that follows a study, by a process beside the one that runs it.

    Args:
        name: The study's name.
        places: Options of the command line that say where it is.
    """
    command = [sys.executable, "-m", "vae_study", "watch", name, "--open", "--until-over", *places]
    # Ctrl-C is for the study; the page follows its end.
    process = subprocess.Popen(command, stdout=sys.stderr, start_new_session=True)
    try:
        yield
        with suppress(subprocess.TimeoutExpired):
            process.wait(SECONDS_FOR_THE_END)
    finally:
        process.terminate()
        process.wait()

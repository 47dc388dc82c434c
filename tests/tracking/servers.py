"""A real tracking server, and a connection to it that goes wrong as a test wants it to."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SECONDS_TO_START = 120.0
# Passed on from one side to the other.
HEADERS = ("Content-Type", "Accept", "Authorization", "Content-Encoding")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Server:
    """`mlflow server` on a SQLite file; killed, it can be started again on the same file and port."""

    def __init__(self, folder: Path):
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--backend-store-uri",
            f"sqlite:///{self.folder}/mlflow.db",
        ]
        command += ["--artifacts-destination", str(self.folder / "artifacts"), "--host", "127.0.0.1"]
        command += ["--port", str(self.port), "--workers", "1"]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "log").open("ab") as log:
            # A group of its own, since the server is a child of the command.
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        deadline = time.monotonic() + SECONDS_TO_START
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < deadline, "the tracking server does not answer"
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=1) as answer:
                return answer.read() == b"OK"
        except OSError:
            return False

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Proxy:
    """A way to the server on which each request meets its fate.

    Attributes:
        fate: Of a request by method, path and body: None, and it passes; `drop`, and it is carried out but the
            connection breaks before the answer; or a status and a page to answer in the server's place.
        passed: The requests that the server has carried out, in their order.
    """

    def __init__(self, server: Server, fate: Callable[[str, str, bytes], object] = lambda *_: None):
        self.server, self.fate, self.passed, self.port = server, fate, list[tuple[str, str, bytes]](), free_port()
        self.uri, self._lock = f"http://127.0.0.1:{self.port}", threading.Lock()

    def __enter__(self) -> "Proxy":
        self._http = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler())
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def _pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fate = proxy.fate(self.command, self.path, body)
                if isinstance(fate, tuple):
                    return self._answer(fate[0], {"Content-Type": "text/html"}, fate[1])
                answer = proxy.carry_out(self.command, self.path, body, self.headers)
                if fate is None:
                    self._answer(*answer)

            def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on

        return Handler

    def carry_out(self, method: str, path: str, body: bytes, headers) -> tuple[int, dict[str, str], bytes]:
        # One by one, so that `passed` has the order.
        with self._lock:
            connection = HTTPConnection("127.0.0.1", self.server.port, timeout=30)
            try:
                connection.request(method, path, body, {name: headers[name] for name in HEADERS if headers[name]})
                answer = connection.getresponse()
                found = answer.status, {name: answer.headers[name] for name in HEADERS if answer.headers[name]}
                self.passed.append((method, path, body))
                return *found, answer.read()
            finally:
                connection.close()

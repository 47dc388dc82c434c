"""A real tracking server, and a connection to it that goes wrong as a test wants it to."""

import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.waiting import PATIENCE_SECONDS, until

# Passed on from one side to the other.
HEADERS = ("Content-Type", "Accept", "Authorization", "Content-Encoding")

USERS = """[mlflow]
default_permission = READ
database_uri = sqlite:///{folder}/users.db
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
# Without it, each request takes the server a tenth of a second to tell whose it is.
auth_cache_ttl_seconds = 60
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Server:
    """`mlflow server`; killed, it can be started again on the same store and port.

    Attributes:
        uri: Without a user's name or password.
        log: What the server prints.
    """

    def __init__(
        self, folder: Path, store: str | None = None, artifacts: str | None = None, password: str | None = None
    ):
        """A server that is yet to be started.

        Args:
            folder: For its log, and what has no other place.
            store: The database's URL; by default a SQLite file in the folder.
            artifacts: Where artifacts go that clients send to the server; by default into the folder.
            password: Of the user `admin`, and from then on of everybody's requests; by default nobody needs one.
        """
        self.folder, self.port, self.log = folder, free_port(), folder / "log"
        self.store = store or f"sqlite:///{folder}/mlflow.db"
        self.artifacts, self.password = artifacts or str(folder / "artifacts"), password
        self.uri = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "Server":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--artifacts-destination", self.artifacts]
        command += ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        command += ["--app-name", "basic-auth"] if self.password else []
        with self.log.open("ab") as log:
            # A group of its own, since the server is a child of the command.
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=self._environment(), start_new_session=True
            )
        until(self._answers, "the tracking server answers", self.process, self.log)

    def _environment(self) -> dict[str, str]:
        """What is secret goes this way, since everybody on a machine can see a command's words."""
        own = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_BACKEND_STORE_URI": self.store}
        if self.password:
            users = self.folder / "users.ini"
            users.write_text(USERS.format(folder=self.folder))
            own |= {"MLFLOW_AUTH_CONFIG_PATH": str(users), "MLFLOW_AUTH_ADMIN_PASSWORD": self.password}
            own["MLFLOW_FLASK_SERVER_SECRET_KEY"] = "of-the-forms-on-the-users-page"
        return {**os.environ, **own}

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=1) as answer:
                return answer.read() == b"OK"
        except OSError:
            return False

    def kill(self) -> None:
        with suppress(ProcessLookupError):
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
            connection = HTTPConnection("127.0.0.1", self.server.port, timeout=PATIENCE_SECONDS)
            try:
                connection.request(method, path, body, {name: headers[name] for name in HEADERS if headers[name]})
                answer = connection.getresponse()
                found = answer.status, {name: answer.headers[name] for name in HEADERS if answer.headers[name]}
                self.passed.append((method, path, body))
                return *found, answer.read()
            finally:
                connection.close()

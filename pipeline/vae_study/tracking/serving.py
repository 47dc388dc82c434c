"""Servers that run until they are interrupted: a study's model behind HTTP, and the MLflow UI."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae_study.errors import StudyError, UserError
from vae_study.tracking.schema import EXAMPLE_ROWS_FILE, UI_VIEW, missing_store

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Of the request that a user may try; a longer one would fill the screen.
CHARACTERS_SHOWN = 1000
# By itself MLflow 3 opens for users of language models; this shows experiments and their metrics.
VIEW = f"#/experiments?{UI_VIEW}"
# Sent by Ctrl-C, a service manager, and a closed terminal. A background process of a shell ignores SIGINT by default.
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SECONDS_TO_END = 10.0
FREE_PORT = 5099


def serve(client: "MlflowClient", study: str, model: str, port: int, say: Callable[[str], None]) -> None:
    """Serve a model on localhost until it is interrupted, in this environment, by one worker.

    Args:
        client: Of the tracking store.
        study: The study's name.
        model: "champion", "ensemble", one of the ensembles, or "trial-0007".
        port: To listen at.
        say: Told what to try.

    Raises:
        UserError: There is no such study, or it has kept no such model.
        StudyError: The server did not come up, or died.
    """
    # The UI starts without these, which take seconds.
    from mlflow.artifacts import download_artifacts

    from vae_study.tracking.models import model_place

    place = model_place(client, study, model)
    _require_free(port)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(download_artifacts(artifact_uri=place, dst_path=scratch, tracking_uri=client.tracking_uri))
        say(f"{model} of {study} will be at http://127.0.0.1:{port} in a few seconds; Ctrl-C stops it")
        # A champion that a user has made may have none.
        if (folder / EXAMPLE_ROWS_FILE).exists():
            say(f"then try:\n{_request(folder / EXAMPLE_ROWS_FILE, port)}")
        # MLflow starts uvicorn by name, which is on the path only where this environment is activated.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        # Our models have no pickle; a champion that a user has put there may have one.
        environment = {**os.environ, "PATH": path, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}
        options = ["--port", str(port), "--host", "127.0.0.1", "--env-manager", "local", "--workers", "1"]
        command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(folder), *options]
        code = run_server(command, environment)
        if code is None:
            return say("ended")
    raise StudyError(f"mlflow models serve ended with code {code}; its messages are above")


def _request(example: Path, port: int) -> str:
    """A shell command that asks for the scores of the example's first row, or of the file where that is long."""
    content = json.loads(example.read_text(encoding="utf-8"))
    content["dataframe_split"]["data"] = content["dataframe_split"]["data"][:1]
    row = json.dumps(content, ensure_ascii=False)
    body = shlex.quote(row if len(row) <= CHARACTERS_SHOWN else f"@{example}")
    return f"curl http://127.0.0.1:{port}/invocations -H 'Content-Type: application/json' -d {body}"


def serve_ui(uri: str, port: int, say: Callable[[str], None]) -> None:
    """Serve the UI on localhost until it is interrupted; a store that is a server already has one of its own.

    Raises:
        UserError: There is no store yet.
    """
    if uri.startswith("http"):
        return say(f"the MLflow UI is at {uri}/{VIEW}")
    require_store(uri)
    _require_free(port)
    say(f"the MLflow UI will be at http://127.0.0.1:{port}/{VIEW} in a few seconds; Ctrl-C stops it")
    # More than one worker slows every request down; the job runner takes memory for nothing.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    # Not as an argument of the command, which every user of the machine can see.
    environment["MLFLOW_BACKEND_STORE_URI"] = uri
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port)]
    if run_server([*command, "--host", "127.0.0.1", "--workers", "1"], environment) is None:
        say("ended")


def require_store(uri: str) -> None:
    """Raise UserError if a tracking store is a file that is not there: whoever only reads creates none."""
    if path := missing_store(uri):
        raise UserError(f"no tracking store at {path}; run a study first, or give --home or --tracking-uri")


def _require_free(port: int) -> None:
    """Raise UserError if nothing can listen at a port of this machine: the server would say so in its own words."""
    try:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"--port {port}: {reason}; expected another one, such as --port {FREE_PORT}") from None


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

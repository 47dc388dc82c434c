"""The MLflow UI on a tracking store."""

import os
import sys
from collections.abc import Callable

from pipeline.errors import UserError
from pipeline.tracking.children import run_server
from pipeline.tracking.places import sqlite_path

# MLflow 3 opens with another kind of user in mind; this shows experiments and their metrics.
VIEW = "#/experiments?workflowType=machine_learning"


def serve_ui(uri: str, port: int, say: Callable[[str], None]) -> None:
    """Serve the UI on localhost until it is interrupted; a store that is a server already has one of its own.

    Raises:
        UserError: There is no store yet.
    """
    if uri.startswith("http"):
        return say(f"the MLflow UI is at {uri}/{VIEW}")
    path = sqlite_path(uri)
    if path is not None and not path.exists():
        raise UserError(f"no tracking store at {path}; run a study first, or give --home or --tracking-uri")
    say(f"the MLflow UI comes up at http://127.0.0.1:{port}/{VIEW} in some seconds; Ctrl-C ends it")
    # More than one worker slows every request down; the job runner takes memory for nothing.
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    # Not as a word of the command, which everybody on the machine can see.
    environment["MLFLOW_BACKEND_STORE_URI"] = uri
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port)]
    if run_server([*command, "--host", "127.0.0.1", "--workers", "1"], environment) is None:
        say("ended")

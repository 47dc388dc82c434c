"""A study's model behind HTTP, by `mlflow models serve`."""

import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from pipeline.errors import StudyError
from pipeline.tracking.children import run_server
from pipeline.tracking.models import model_place
from pipeline.tracking.models.names import EXAMPLE

# A longer one would fill the screen.
CHARACTERS_SHOWN = 1000


def serve(client: MlflowClient, study: str, model: str, port: int, say: Callable[[str], None]) -> None:
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
    place = model_place(client, study, model)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(download_artifacts(artifact_uri=place, dst_path=scratch, tracking_uri=client.tracking_uri))
        say(f"{model} of {study} comes up at http://127.0.0.1:{port} in some seconds; Ctrl-C ends it")
        # A champion that a user has made may have none.
        if (folder / EXAMPLE).exists():
            say(f"then try:\n{_request(folder / EXAMPLE, port)}")
        code = run_server(_command(folder, port), _environment())
        if code is None:
            return say("ended")
    raise StudyError(f"mlflow models serve ended by itself with code {code}; what it said is above")


def _command(folder: Path, port: int) -> list[str]:
    options = ["--port", str(port), "--host", "127.0.0.1", "--env-manager", "local", "--workers", "1"]
    return [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(folder), *options]


def _environment() -> dict[str, str]:
    # MLflow starts uvicorn by name, which is on the path only where this environment is activated.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    # Our models have no pickle; a champion that a user has put there may have one.
    return {**os.environ, "PATH": path, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"}


def _request(example: Path, port: int) -> str:
    """A shell command that asks for the scores of the example's first row, or of the file where that is long."""
    content = json.loads(example.read_text(encoding="utf-8"))
    content["dataframe_split"]["data"] = content["dataframe_split"]["data"][:1]
    row = json.dumps(content, ensure_ascii=False)
    body = shlex.quote(row if len(row) <= CHARACTERS_SHOWN else f"@{example}")
    return f"curl http://127.0.0.1:{port}/invocations -H 'Content-Type: application/json' -d {body}"

"""Where a tracking store is. Told apart from opening it, since MLflow takes a second to import."""

import os
from collections.abc import Callable
from pathlib import Path

DATABASE = "mlflow.db"


def tracking_uri_of(home: Callable[[], Path], given: str | None = None) -> str:
    """The tracking store in use: what was given, else MLFLOW_TRACKING_URI, else a SQLite file in HOME."""
    return given or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home().resolve() / DATABASE}"


def sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite store; None for any other store."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None

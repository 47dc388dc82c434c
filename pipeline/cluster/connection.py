"""The way to a cluster's job API, with its token, and in words what may be wrong there."""

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from pipeline.errors import UserError

SECONDS_TO_CONNECT = 5.0
ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
QUIET = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
TOKEN = "expected the cluster's token in ~/.ray/auth_token or RAY_AUTH_TOKEN"


def connect(address: str) -> JobSubmissionClient:
    """A client of the job API at an address such as http://127.0.0.1:8265.

    Raises:
        UserError: Nothing answers there, it is no Ray cluster, or it refuses the token.
    """
    _require_reachable(address)
    token = _token()
    headers = {"Authorization": f"Bearer {token}"} if token else None
    with refusals(address), _addressed(address):
        client = JobSubmissionClient(address, headers=headers)
    # They tell of every upload.
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    return client


@contextmanager
def refusals(address: str) -> Iterator[None]:
    """In words of the user's what Ray's client throws."""
    try:
        yield
    except AuthenticationError:
        why = "refuses the token that it came with" if _token() else "wants a token, and came without"
        raise UserError(f"--address {address}: {why}; {TOKEN}") from None
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0][:300]
        raise UserError(f"--address {address}: does not answer as a Ray cluster does: {reason}") from None


def _require_reachable(address: str) -> None:
    """Find out in seconds what Ray's client would take minutes for."""
    try:
        parts = urlsplit(address)
        usual = {"http": 80, "https": 443}[parts.scheme]
        host, port = parts.hostname, parts.port or usual
    except (ValueError, KeyError):
        host, port = None, 0
    if not host:
        raise UserError(f"--address {address}: is no such address; expected one such as http://127.0.0.1:8265")
    try:
        socket.create_connection((host, port), SECONDS_TO_CONNECT).close()
    except OSError as error:
        raise UserError(
            f"--address {address}: nothing answers there ({error.strerror or error}); expected a cluster's dashboard, "
            "which `ray dashboard cluster.yaml` in another window brings to http://127.0.0.1:8265"
        ) from None


def _token() -> str | None:
    """The token, from where Ray itself looks for it; Ray's client takes it only where a variable more is set."""
    if given := os.environ.get("RAY_AUTH_TOKEN"):
        return given
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


@contextmanager
def _addressed(address: str) -> Iterator[None]:
    """Have the address be the one: Ray's client prefers what RAY_ADDRESS says."""
    before = os.environ.get(ADDRESS_VARIABLE)
    os.environ[ADDRESS_VARIABLE] = address
    try:
        yield
    finally:
        if before is None:
            del os.environ[ADDRESS_VARIABLE]
        else:
            os.environ[ADDRESS_VARIABLE] = before

"""A PostgreSQL server of the test's own, from Debian's package."""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from tests.needs import lacks
from tests.tracking.servers import free_port
from tests.waiting import PATIENCE_SECONDS, until

USER = "mlflow"


def _missing() -> str | None:
    """What a test that needs PostgreSQL would lack here; None where all is there."""
    if _programs() is None:
        return "PostgreSQL is not installed (Debian: apt-get install postgresql)"
    return None if find_spec("psycopg") else "psycopg is not installed (pip install psycopg[binary])"


@contextmanager
def served_database(password: str) -> Iterator[str]:
    """The URL of an empty database, in a cluster that is gone afterwards."""
    if lacking := _missing():
        lacks(lacking)
    # Not pytest's own folder, which the server's user may not enter.
    with tempfile.TemporaryDirectory(prefix="vae-study-postgres-", ignore_cleanup_errors=True) as name:
        folder, port = Path(name), free_port()
        _make_cluster(folder, password)
        with (folder / "log").open("wb") as log:
            server = _run(folder, "postgres", *_settings(folder, port), stdout=log, stderr=log)
        try:
            url = f"postgresql://{USER}:{quote(password, safe='')}@127.0.0.1:{port}/postgres"
            until(lambda: _answers(url), "the database answers", server, folder / "log")
            yield url
        finally:
            # Fast: it ends its connections itself.
            server.send_signal(signal.SIGINT)
            server.wait()


def make_database(url: str, name: str) -> str:
    """One more database beside that of a URL; its own URL."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as server:
        server.execute(f'CREATE DATABASE "{name}"')
    return f"{url.rpartition('/')[0]}/{name}"


def _programs() -> Path | None:
    found = shutil.which("initdb")
    # Debian keeps the server's programs out of PATH, by version.
    known = [Path(found).resolve()] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return known[-1].parent if known else None


def _run(folder: Path, program: str, *words: str, **streams: object) -> "subprocess.Popen[bytes]":
    # The server refuses to run as root; Debian's package makes a user for it.
    user = "postgres" if os.geteuid() == 0 else None
    return subprocess.Popen([str(_programs() / program), *words], cwd=folder, user=user, group=user, **streams)


def _make_cluster(folder: Path, password: str) -> None:
    (folder / "password").write_text(password)
    if os.geteuid() == 0:
        for path in (folder, folder / "password"):
            shutil.chown(path, "postgres", "postgres")
    words = ["-D", str(folder / "data"), "-U", USER, "--pwfile", str(folder / "password"), "-A", "scram-sha-256"]
    made = _run(folder, "initdb", *words, "--no-sync", "-E", "UTF8", stdout=subprocess.DEVNULL)
    assert made.wait(PATIENCE_SECONDS) == 0
    (folder / "password").unlink()


def _settings(folder: Path, port: int) -> list[str]:
    settings = ["listen_addresses=127.0.0.1", f"port={port}", "unix_socket_directories=", "fsync=off"]
    return ["-D", str(folder / "data"), *(word for setting in settings for word in ("-c", setting))]


def _answers(url: str) -> bool:
    import psycopg

    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True

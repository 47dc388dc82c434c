"""The stores of a study that trains nothing: SQLite files, or those of a team on this machine."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(frozen=True)
class Stores:
    """Where a study's records go.

    Attributes:
        study, tracking: The URL of the study store, and of MLflow's database or server.
        database: The URL of MLflow's database.
        servers: The ids of the processes that serve them, if any.
    """

    study: str
    tracking: str
    database: str
    servers: tuple[int, ...] = ()

    def cpu(self) -> float:
        """CPU seconds of the servers so far, those of their children included."""
        parents = [psutil.Process(server) for server in self.servers]
        every = {one for parent in parents for one in (parent, *parent.children(recursive=True))}
        return sum(sum(one.cpu_times()[:4]) for one in every)


@contextmanager
def opened(folder: Path, is_team: bool) -> Iterator[Stores]:
    """New stores: SQLite files in the study's folder, or what a team has."""
    if not is_team:
        database = f"sqlite:///{folder}/mlflow.db"
        yield Stores(f"sqlite:///{folder}/study.db", database, database)
        return
    from tests.object_store import served_bucket
    from tests.postgres import make_database, served_database
    from tests.tracking.servers import Server

    with ExitStack() as stack:
        database = stack.enter_context(served_database("pass"))
        bucket = stack.enter_context(served_bucket(folder / "s3.log"))
        server = stack.enter_context(Server(folder, database, f"{bucket}/mlflow"))
        processes = tuple(one.pid for one in psutil.Process().children())
        yield Stores(make_database(database, "optuna"), server.uri, database, processes)

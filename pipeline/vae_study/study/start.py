"""The start of a study: Ray, the libraries and MLflow take seconds each, and are loaded at the same time."""

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING

from rich.console import Console
from rich.status import Status

from vae_study.errors import StudyError, UserError
from vae_study.storage import STUDY_DATABASE, owner_of
from vae_study.study import session
from vae_study.study.budget import Budget, Limits
from vae_study.study.local_ray import only_gpus
from vae_study.study.plan import Locations, Plan, require_apart, require_database
from vae_study.study.session import Shutdown
from vae_study.tracking.journal import JOURNAL_FILE, Journal
from vae_study.tracking.schema import sqlite_uri

if TYPE_CHECKING:
    from vae_study.tracking.store import Client

# What the driver imports while Ray starts. Nothing here imports Ray: two threads that import one package at the same
# time may each get half of it.
BESIDE_RAY = (
    "vae_study.detector.detector",
    "vae_study.detector.export",
    "vae_study.search.study_store",
    "vae_study.tracking.study",
    "vae_study.report.sections.trade_off",
)
NO_LIMITS = Limits()
SECONDS_BETWEEN_WORDS = 5.0


def start(
    plan: Plan,
    places: Locations,
    concurrency: session.Concurrency,
    console: Console,
    limits: Limits = NO_LIMITS,
    gpus: Sequence[int] | None = None,
) -> None:
    """Run or continue a study until its budget of trials is met, or what it has is enough.

    Args:
        plan, places, concurrency: What, where, and how many trials at once.
        console: Where progress is shown.
        limits: What may be spent.
        gpus: The only ones of this machine that a local Ray may use; by default all.

    Raises:
        UserError: A location cannot be used, the study exists with another config, or another driver runs it. Nothing
            was started.
        StudyError: The study broke or was interrupted. What is done is kept.
    """
    require_database(places.storage_of(plan.name))
    require_apart(places.tracking_uri, places.storage_of(plan.name))
    shutdown = Shutdown(Budget(limits))
    try:
        with ThreadPoolExecutor(1) as beside, ExitStack() as for_the_study:
            if gpus:
                session.require_local(places.ray_address, plan.config.resources)
                for_the_study.enter_context(only_gpus(gpus, lambda text: console.print(text, highlight=False)))
            with waiting(console, "starting Ray"):
                opening = beside.submit(_open_tracking, plan, places)
                all_to_work = session.all_work(plan.config.resources, concurrency, plan.config.trials)
                shutdown.local = for_the_study.enter_context(
                    session.connected(places.ray_address, all_to_work=all_to_work)
                )
                # Ray takes the signals for itself when it starts.
                for_the_study.enter_context(shutdown.on_signals())
                client = opening.result()
                from vae_study.study.driver import drive
            drive(plan, places, client, concurrency, console, shutdown)
    except KeyboardInterrupt:
        raise StudyError(f"stopped at once; {plan.how_to_continue}") from None


@contextmanager
def waiting(console: Console, what: str, seconds: float = SECONDS_BETWEEN_WORDS) -> Iterator[None]:
    """Say what is waited for, and every few seconds for how long it has been."""
    is_over, began = threading.Event(), time.monotonic()

    def tell(line: Status) -> None:
        while not is_over.wait(seconds):
            text = f"{what}, {time.monotonic() - began:.0f} s so far"
            line.update(text)
            if not console.is_terminal:
                console.print(text, highlight=False)

    with console.status(what) as line:
        thread = threading.Thread(target=tell, args=(line,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()


def rebuild(plan: Plan, tracking_uri: str) -> int:
    """Log a study to MLflow again from its trials' folders, where its journal is lost; no Ray is started.

    Returns:
        The number of records that were logged.

    Raises:
        UserError: The study keeps its trials elsewhere, or another driver runs it.
        StudyError: A store cannot be written.
    """
    if plan.folder.local is None or not (plan.folder.local / STUDY_DATABASE).is_file():
        elsewhere = f"if they are elsewhere: vae-study resume {plan.words} --study-storage URL"
        raise UserError(f"{plan.folder}: has no {STUDY_DATABASE}; expected its trials there; {elsewhere}")
    storage = sqlite_uri(plan.folder.local / STUDY_DATABASE)
    places = Locations(tracking_uri=tracking_uri, storage_of=lambda study: storage)
    client = _open_tracking(plan, places)
    from vae_study.study.driver import drive

    drive(plan, places, client, 0, Console(quiet=True), Shutdown(Budget(NO_LIMITS)))
    return sum(1 for _ in Journal(plan.scratch / JOURNAL_FILE).read())


def _open_tracking(plan: Plan, places: Locations) -> "Client":
    for name in BESIDE_RAY:
        import_module(name)
    from vae_study.tracking.store import find_experiment, own_parent, reachable_client

    client = reachable_client(places.tracking_uri)
    find_experiment(client, plan.config.study)
    owner = owner_of(plan.folder)
    own_parent(client, plan.name, owner.study_id if owner else None)
    return client

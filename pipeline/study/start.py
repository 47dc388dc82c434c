"""The start of a study: Ray, the libraries and MLflow take seconds each, and come up side by side."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from importlib import import_module
from typing import TYPE_CHECKING

from rich.console import Console

from pipeline.errors import StudyError
from pipeline.study import local_ray
from pipeline.study.halt import Halt
from pipeline.study.plan import Places, Plan

if TYPE_CHECKING:
    from pipeline.tracking.store import Client

# What the driver needs beside Ray. Parts of Ray are left to the thread that starts it: two that import one package at
# the same time may each get half of it.
BESIDE_RAY = ("pipeline.detector", "pipeline.search.store", "pipeline.tracking.study", "pipeline.report.figures.alone")


def start(plan: Plan, places: Places, concurrency: local_ray.Concurrency, console: Console) -> None:
    """Run a study, or go on with it, until its budget of trials is met.

    Raises:
        UserError: A place cannot be used, the study exists with another spec, or it is being run by another driver;
            nothing was started.
        StudyError: The study broke, or was interrupted; what is done is kept.
    """
    halt = Halt()
    try:
        with ThreadPoolExecutor(1) as beside, ExitStack() as for_the_study:
            with console.status("starting Ray"):
                opening = beside.submit(_open_tracking, plan, places)
                all_to_work = local_ray.all_work(plan.spec.resources, concurrency, plan.spec.trials)
                for_the_study.enter_context(local_ray.connected(places.ray_address, all_to_work=all_to_work))
                # Ray takes the signals for itself when it starts.
                for_the_study.enter_context(halt.on_signals())
                client = opening.result()
                from pipeline.study.driver import drive
            drive(plan, places, client, concurrency, console, halt)
    except KeyboardInterrupt:
        raise StudyError(f"stopped at once; {plan.how_to_go_on}") from None


def _open_tracking(plan: Plan, places: Places) -> "Client":
    for name in BESIDE_RAY:
        import_module(name)
    from pipeline.tracking.store import reachable_client, require_apart

    require_apart(places.tracking_uri, places.storage_of(plan.name))
    return reachable_client(places.tracking_uri)

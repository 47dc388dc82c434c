"""Ray, quietly: a local one or a cluster's, and how many trials fit on it."""

import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import ray

from pipeline.errors import UserError
from pipeline.spec.schema import ResourcesSpec
from pipeline.study.draining import draining

Concurrency = int | Literal["max"] | None
WORKER_MODULES = ("pipeline.study.worker",)
# Nodes take longer to come.
SECONDS_BETWEEN_LOOKS = 2.0


@contextmanager
def connected(address: str | None, *, all_to_work: bool = False) -> Iterator[None]:
    """Ray for the length of a study: the one that is running already, the cluster at `address`, or a new local one.

    Args:
        address: A cluster's; by default RAY_ADDRESS, else there is a local one.
        all_to_work: Whether every process that a local one begins with, one a core, becomes a worker: then they import
            what a worker needs, seconds long, while the driver is still getting ready.
    """
    started = not ray.is_initialized()
    if started:
        _start(address or os.environ.get("RAY_ADDRESS"), WORKER_MODULES if all_to_work else ())
    try:
        yield
    finally:
        if started:
            ray.shutdown()


def all_work(resources: ResourcesSpec, concurrency: Concurrency, trials: int) -> bool:
    """Whether a local Ray will have a worker on every core."""
    at_once = min(trials, concurrency) if isinstance(concurrency, int) else trials
    return not resources.gpu and resources.cpu <= 1 and at_once >= (os.cpu_count() or 1)


def _start(address: str | None, modules: Sequence[str]) -> None:
    # Of failed trials the driver tells itself.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            # Without an address Ray would join whatever cluster it finds traces of, also of a dead one.
            preload = {"preload_python_modules": [*modules]}
            ray.init(address="local", include_dashboard=False, _system_config=preload, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = f"--ray-address {address}" if address else "local Ray"
        raise UserError(f"{where}: cannot be used: {str(error).splitlines()[0]}") from None


def whole_device(resources: ResourcesSpec) -> dict[str, float]:
    """What a trial occupies that may have nothing beside it: a GPU, or all CPUs of the largest node."""
    if resources.gpu:
        return {"CPU": resources.cpu, "GPU": max(1, resources.gpu)}
    return {"CPU": max([resources.cpu, *(node.get("CPU", 0) for node in _nodes())])}


def _nodes() -> list[dict[str, float]]:
    nodes, leaving = ray.nodes(), draining()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"] and node["NodeID"] not in leaving]


@dataclass(frozen=True, kw_only=True)
class AtOnce:
    """How many trials run side by side.

    Attributes:
        most: The most.
        likely: About as many as will.
    """

    most: int
    likely: int


def at_once(resources: ResourcesSpec, concurrency: Concurrency, trials: int) -> AtOnce:
    """How many of so many trials run side by side.

    Args:
        resources: What a worker occupies.
        concurrency: A number; "max" for as many as the cluster takes, now and whenever it has grown, for which all are
            asked for; None for as many as fit now.
        trials: The budget.

    Raises:
        UserError: None was given, and no node has what a single worker asks for.
    """
    if concurrency == "max":
        # One at least waits while another runs, unless there is only one.
        return AtOnce(most=trials, likely=min(trials, max(2, _fitting(resources) * resources.most_per_device)))
    most = concurrency or slots(resources)
    return AtOnce(most=most, likely=most)


def slots(resources: ResourcesSpec) -> int:
    """How many trials the nodes that are up can run at once, one at least.

    Raises:
        UserError: No node has what a single worker asks for.
    """
    fits = _fitting(resources)
    if fits == 0:
        largest = {kind: max((node.get(kind, 0) for node in _nodes()), default=0) for kind in ("CPU", "GPU")}
        raise UserError(
            f"resources: a worker asks for {resources.cpu:g} CPU and {resources.gpu:g} GPU; "
            f"the largest node has {largest['CPU']:g} CPU and {largest['GPU']:g} GPU; where workers come when they are "
            "needed, give --concurrency max"
        )
    return fits * resources.most_per_device


class Workers:
    """How many workers there may be, while nodes come and go."""

    def __init__(self, resources: ResourcesSpec, at_once: int):
        """For at most `at_once` trials side by side."""
        self.resources, self.at_once = resources, at_once
        self._fit, self._looked = 0, -math.inf

    def most(self, left: int) -> int:
        """The most that share so many trials: all that fit now, and those that a larger cluster is to come for."""
        trials = max(1, min(left, self.at_once))
        return max(min(self._fitting(), trials), math.ceil(trials / self.resources.most_per_device))

    def _fitting(self) -> int:
        if time.monotonic() - self._looked > SECONDS_BETWEEN_LOOKS:
            self._fit, self._looked = _fitting(self.resources), time.monotonic()
        return self._fit


def _fitting(resources: ResourcesSpec) -> int:
    """How many workers fit on the nodes that are up."""
    wanted = {"CPU": resources.cpu, "GPU": resources.gpu}
    return sum(min(_times(node.get(kind, 0), ask) for kind, ask in wanted.items() if ask) for node in _nodes())


def _times(whole: float, part: float) -> int:
    """How often a part is in a whole, counted as Ray does in ten-thousandths: 1 // 0.1 is 9."""
    return round(whole * 1e4) // round(part * 1e4)

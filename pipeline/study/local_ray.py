"""Ray, quietly: a local one or a cluster's, and how many trials fit on it."""

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from pipeline.errors import UserError
from pipeline.spec.schema import ResourcesSpec


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Ray for the length of a study: the one that is running already, the cluster at `address`, or a new local one."""
    started = not ray.is_initialized()
    if started:
        _start(address or os.environ.get("RAY_ADDRESS"))
    try:
        yield
    finally:
        if started:
            ray.shutdown()


def _start(address: str | None) -> None:
    # Of failed trials the driver tells itself.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    try:
        if address:
            ray.init(address=address, **quiet)
        else:
            # Without an address Ray would join whatever cluster it finds traces of, also of a dead one.
            ray.init(address="local", include_dashboard=False, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        where = f"--ray-address {address}" if address else "local Ray"
        raise UserError(f"{where}: cannot be used: {str(error).splitlines()[0]}") from None


def whole_device(resources: ResourcesSpec) -> dict[str, float]:
    """What a trial occupies that may have nothing beside it: a GPU, or all CPUs of the largest node."""
    if resources.gpu:
        return {"CPU": resources.cpu, "GPU": max(1, resources.gpu)}
    return {"CPU": max([resources.cpu, *(node.get("CPU", 0) for node in _nodes())])}


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


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
            "needed, give --concurrency"
        )
    return fits * resources.most_per_device


def workers(resources: ResourcesSpec, at_once: int) -> int:
    """How many workers share so many trials: all that fit now, and more where a larger cluster is counted on."""
    return max(min(_fitting(resources), at_once), math.ceil(at_once / resources.most_per_device))


def _fitting(resources: ResourcesSpec) -> int:
    """How many workers fit on the nodes that are up."""
    wanted = {"CPU": resources.cpu, "GPU": resources.gpu}
    return sum(min(int(node.get(kind, 0) // ask) for kind, ask in wanted.items() if ask) for node in _nodes())

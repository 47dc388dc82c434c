"""The Ray that a study runs on: connecting to it, how many trials fit on it, and how a signal shuts the study down."""

import logging
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Literal

import ray

from vae_study.config.study import ResourcesConfig
from vae_study.errors import StudyError, UserError, opening
from vae_study.study.budget import Budget, Limits
from vae_study.study.local_ray import LocalRay
from vae_study.study.ray_compat import draining, init_local, is_known_cluster_alive, start_no_other, waits_for_room
from vae_study.tracking.serving import ENDS, handling

Concurrency = int | Literal["max"] | None
WORKER_MODULES = ("vae_study.study.worker",)
# New nodes take longer than this to start.
SECONDS_BETWEEN_LOOKS = 2.0
# A worker that has room starts within this, unless the machine is very busy.
SECONDS_FOR_A_PLACE = 10.0
STOPPING = "stopping: running trials are being saved; Ctrl-C again ends at once"


@contextmanager
def connected(address: str | None, *, all_to_work: bool = False) -> Iterator[LocalRay | None]:
    """Ray during a study: the one of this process, the cluster at `address`, or a new local one.

    Args:
        address: A cluster's; by default RAY_ADDRESS, else a local Ray is started.
        all_to_work: Whether every process that a local Ray begins with, one per core, becomes a worker. Then they
            import what a worker needs while the driver is still being prepared.

    Yields:
        Who looks after a new local Ray; None for any other.

    Raises:
        UserError: It cannot be used.
    """
    if ray.is_initialized():
        yield None
        return
    address = address or os.environ.get("RAY_ADDRESS")
    _start(address, WORKER_MODULES if all_to_work else ())
    local = None if address else LocalRay()
    try:
        yield local
    finally:
        (local.close if local else ray.shutdown)()


def require_local(address: str | None, resources: ResourcesConfig) -> None:
    """Refuse a choice of GPUs for a study whose Ray this process does not start, or that uses no GPU."""
    where = address or os.environ.get("RAY_ADDRESS") or ("one that runs already" if ray.is_initialized() else None)
    if where:
        raise UserError(f"--gpus: is for the Ray that a study starts on its own machine; it was to run on {where}")
    if not resources.gpu:
        raise UserError("--gpus: resources.gpu is 0, so no worker uses a GPU; expected --set resources.gpu=1, too")


def all_work(resources: ResourcesConfig, concurrency: Concurrency, trials: int) -> bool:
    """Whether a local Ray will have a worker on every core."""
    at_once = min(trials, concurrency) if isinstance(concurrency, int) else trials
    return not resources.gpu and resources.cpu <= 1 and at_once >= (os.cpu_count() or 1)


def _start(address: str | None, modules: Sequence[str]) -> None:
    # The driver itself reports failed trials.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if address == "auto" and not is_known_cluster_alive():
        raise UserError(
            "--ray-address auto: the cluster that Ray last knew of on this machine does not answer; expected a running "
            "one, or no address for a local Ray"
        )
    try:
        with opening(f"--ray-address {address}" if address else "local Ray"):
            if address:
                ray.init(address=address, **quiet)
            else:
                init_local(modules, **quiet)
    except UserError as error:
        # The sockets of Ray lie in its temporary folder, and a path to a socket has at most 107 bytes.
        hint = "; set RAY_TMPDIR to a folder with a short path, such as /tmp" if "AF_UNIX" in str(error) else ""
        raise UserError(f"{error}{hint}") from error.__cause__


def whole_device(resources: ResourcesConfig) -> dict[str, float]:
    """What an exclusive task occupies: a GPU, or all CPUs of the largest node."""
    if resources.gpu:
        return {"CPU": resources.cpu, "GPU": max(1, resources.gpu)}
    return {"CPU": max([resources.cpu, *(node.get("CPU", 0) for node in _nodes())])}


def _nodes() -> list[dict[str, float]]:
    nodes, leaving = ray.nodes(), draining()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"] and node["NodeID"] not in leaving]


def most_memory() -> float:
    """The bytes that the largest node has for workers and shared objects; 0 where Ray does not know."""
    return max((node.get("memory", 0) + node.get("object_store_memory", 0) for node in _nodes()), default=0)


def at_once(
    resources: ResourcesConfig, concurrency: Concurrency, trials: int, *, is_local: bool = False
) -> tuple[int, int]:
    """How many of this many trials can run at once, and about how many will.

    Args:
        resources: What a worker occupies.
        concurrency: A number; "max" for as many as the cluster takes, now and when it has grown, so all are
            requested; None for as many as fit now.
        trials: The budget.
        is_local: Whether this is a local Ray, which no node joins.

    Raises:
        UserError: No node has what a single worker asks for, and none is going to come for it, or to be waited for.
    """
    fits = _fitting(resources)
    if not fits and (is_local or concurrency is None):
        largest = {kind: max((node.get(kind, 0) for node in _nodes()), default=0) for kind in ("CPU", "GPU")}
        where, instead = "the largest node", "where workers come when they are needed, give --concurrency max"
        if is_local:
            gpu = "resources.gpu=0 trains on CPUs, and " if resources.gpu > largest["GPU"] else ""
            where, instead = "this machine", f"{gpu}--ray-address leads to a cluster"
        raise UserError(
            f"resources: a worker asks for {resources.cpu:g} CPU and {resources.gpu:g} GPU; "
            f"{where} has {largest['CPU']:g} CPU and {largest['GPU']:g} GPU; {instead}"
        )
    if concurrency == "max":
        # At least one is requested while another runs, unless there is only one.
        return trials, min(trials, max(2, fits * resources.most_per_device))
    if concurrency:
        return concurrency, concurrency
    return fits * resources.most_per_device, fits * resources.most_per_device


class Workers:
    """How many workers there may be, while nodes come and go."""

    def __init__(self, resources: ResourcesConfig, at_once: int):
        """For at most `at_once` trials at once."""
        self.resources, self.at_once = resources, at_once
        self._fit, self._looked = 0, -math.inf

    def most(self, left: int) -> int:
        """The most for this many trials: all workers that fit now, and those that the cluster may still grow for."""
        if time.monotonic() - self._looked > SECONDS_BETWEEN_LOOKS:
            self._fit, self._looked = _fitting(self.resources), time.monotonic()
        trials = max(1, min(left, self.at_once))
        return max(min(self._fit, trials), math.ceil(trials / self.resources.most_per_device))


class RoomWatch:
    """Says so, once, if a full Ray keeps a study waiting: another study or job has what its first worker needs."""

    def __init__(self, resources: ResourcesConfig, tell: Callable[[str], None], seconds: float = SECONDS_FOR_A_PLACE):
        """Begin as the first worker is asked for; `tell` is called if none has a place after some seconds."""
        self.resources, self._tell, self._next = resources, tell, time.monotonic() + seconds

    def look(self, has_begun: bool) -> None:
        """Look now and then, until a worker has begun."""
        if has_begun:
            self._next = math.inf
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + SECONDS_BETWEEN_LOOKS
        if waits_for_room():
            self._next = math.inf
            free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
            every: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
            parts = " and ".join(f"{free.get(kind, 0):g} of {every.get(kind, 0):g} {kind}" for kind in ("CPU", "GPU"))
            self._tell(
                f"waiting for room: a worker asks for {self.resources.cpu:g} CPU and {self.resources.gpu:g} GPU, and "
                f"{parts} are free; it starts when another study or job has ended, or a node has joined"
            )


def _fitting(resources: ResourcesConfig) -> int:
    """How many workers fit on the nodes that are up."""
    wanted = {"CPU": resources.cpu, "GPU": resources.gpu}
    return sum(min(_times(node.get(kind, 0), ask) for kind, ask in wanted.items() if ask) for node in _nodes())


def _times(whole: float, part: float) -> int:
    """How often a part fits into a whole, counted in ten-thousandths as Ray does: in floats, 1 // 0.1 is 9."""
    return round(whole * 1e4) // round(part * 1e4)


class Interrupted(StudyError):
    """The study got SIGINT (Ctrl-C), SIGTERM or SIGHUP (a closed terminal)."""


class Enough(StudyError):
    """What the study has is enough: its budget is spent, or more trials would add little."""


class Shutdown:
    """The request to end a study early: running trials are saved, and another driver can continue.

    Attributes:
        local: The Ray whose death is such a request.
        budget: The end of which is such a request.
        is_at_once: Whether the study ends without waiting for what runs, so that errors of it mean nothing.
    """

    def __init__(self, budget: Budget | None = None) -> None:
        self.local: LocalRay | None = None
        self.budget = budget or Budget(Limits())
        self._reason: Exception | None = None
        self._is_interrupted = self.is_at_once = False
        self._watched: list[tuple[threading.Event, Exception]] = []

    @property
    def reason(self) -> Exception | None:
        """The first reason that was given; None while there is none."""
        if self.is_ray_dead and self.local:
            self.request(self.local.why)
        for event, why in self._watched:
            if event.is_set():
                self.request(why)
        return self._reason

    @property
    def is_ray_dead(self) -> bool:
        """Whether a call of Ray's may never return."""
        return self.local is not None and self.local.died.is_set()

    def while_ray_lives(self, work: Callable[[], Any]) -> None:
        """Do work that waits for Ray; return without its result if Ray dies meanwhile."""
        if self.local is not None:
            self.local.run(work)
        else:
            work()

    def request(self, why: Exception) -> None:
        """Request the end; only the first reason counts, and any other reason more than `Enough`."""
        if self._reason is None or (isinstance(self._reason, Enough) and not isinstance(why, Enough)):
            self._reason = why

    def spend(self, workers: int) -> None:
        """Count the time of so many workers, and request the end once the budget is spent."""
        if why := self.budget.spend(workers):
            self.request(Enough(why))

    def take_enough(self) -> str:
        """Why the training ended with what it has, which is then no reason any more; empty if it did not."""
        if not isinstance(self.reason, Enough):
            return ""
        why, self._reason = str(self._reason), None
        return why

    def watch(self, event: threading.Event, why: Exception) -> None:
        """Request the end as soon as an event is set."""
        self._watched.append((event, why))

    def on_signals(self) -> AbstractContextManager[None]:
        """Request the end at the first signal, and raise KeyboardInterrupt at the second SIGINT or SIGTERM.

        A terminal that closes may send SIGHUP twice, so a second one changes nothing.
        """

        def handle(number: int, frame: Any) -> None:
            if self._is_interrupted and number == signal.SIGHUP:
                return
            if self._is_interrupted:
                self.is_at_once = True
                start_no_other()
                raise KeyboardInterrupt
            self._is_interrupted = True
            self.request(Interrupted("interrupted"))
            # Directly: the signal may have interrupted a print or an import. Standard error may be closed.
            with suppress(OSError):
                os.write(2, f"\n{STOPPING}\n".encode())

        return handling(ENDS, handle)

"""Where workers sign in, so that the first trial ends only when all workers are up; kept by Ray itself."""

import time
import uuid

from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_list, _internal_kv_put

SECONDS_FOR_WORKERS = 60.0


def new_roster() -> str:
    """An empty list of workers, by name."""
    return f"vae-study/{uuid.uuid4().hex}/"


def sign_in(roster: str) -> None:
    """Put this worker on the list."""
    _internal_kv_put(f"{roster}{uuid.uuid4().hex}", b"1")


def wait_for_others(roster: str, workers: int) -> None:
    """Wait until so many workers are up.

    Tune gives a free worker to a trial whose own is still starting, and ends that one: with trials shorter than a
    worker's start, a single worker would do all the work.
    """
    deadline = time.monotonic() + SECONDS_FOR_WORKERS
    while len(_internal_kv_list(roster)) < workers and time.monotonic() < deadline:
        time.sleep(0.05)


def forget(roster: str) -> None:
    """Remove the list."""
    _internal_kv_del(roster, del_by_prefix=True)

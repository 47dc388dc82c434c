"""Where workers sign in, so that the first trial ends only when all workers are up; kept by Ray itself."""

import time
import uuid

from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_list, _internal_kv_put

# A worker's start takes less than this, and a trial that took longer gives the others time enough.
SECONDS_FOR_WORKERS = 30.0


def new_roster() -> str:
    """An empty list of workers, by name."""
    return f"vae-study/{uuid.uuid4().hex}/"


def sign_in(roster: str, key: str, before: str | None = None) -> None:
    """Put the worker that has come to a task on the list, in place of the task that it had before."""
    if before is not None:
        strike(roster, before)
    _internal_kv_put(f"{roster}{key}", b"1")


def strike(roster: str, key: str) -> None:
    """Take a task's worker off the list: it has died."""
    _internal_kv_del(f"{roster}{key}")


def wait_for_others(roster: str, workers: int, began: float) -> None:
    """Wait until so many workers are on the list.

    Tune gives a free worker to a trial whose own is still starting, and ends that one: with trials shorter than a
    worker's start, a single worker would do all the work.

    Args:
        roster: The list.
        workers: How many are to be up.
        began: When the trial did, by time.monotonic().
    """
    while len(_internal_kv_list(roster)) < workers and time.monotonic() < began + SECONDS_FOR_WORKERS:
        time.sleep(0.05)


def forget(roster: str) -> None:
    """Remove the list."""
    _internal_kv_del(roster, del_by_prefix=True)

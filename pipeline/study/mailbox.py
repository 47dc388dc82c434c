"""Orders from the driver to its workers, kept by Ray itself: Tune carries reports one way only."""

import json
import uuid
from dataclasses import asdict

from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put

from pipeline.study.messages import Orders, Task


def new_mailboxes() -> str:
    """A place for the mailboxes of one run's workers."""
    return f"vae-study/{uuid.uuid4().hex}/"


def post(mailbox: str, orders: Orders) -> None:
    """Leave a worker its next orders, which it has to collect before it is left others."""
    _internal_kv_put(mailbox, json.dumps(asdict(orders)).encode())


def collect(mailbox: str) -> Orders:
    """A worker's orders; none where nothing was left since it last came."""
    content = _internal_kv_get(mailbox)
    if content is None:
        return Orders()
    _internal_kv_del(mailbox)
    plain = json.loads(content)
    return Orders(**{**plain, "start": [Task(**task) for task in plain["start"]]})


def forget(mailboxes: str) -> None:
    """Remove them all."""
    _internal_kv_del(mailboxes, del_by_prefix=True)

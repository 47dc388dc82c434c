"""All private parts of Ray that this project uses, each with a fallback on the public API.

A private part may be renamed in any release of Ray. Then nothing breaks, but something is lost:

- `get_draining_nodes`: without it, the draining nodes are unknown. A trial on such a node runs until the node is
  gone, and continues elsewhere from its last checkpoint.
- `_internal_kv_put`, `_internal_kv_get`, `_internal_kv_del`: the driver's commands to its workers are kept by an
  actor, which is one more process.
- `_system_config` with `preload_python_modules`: the workers of a local Ray import their modules seconds later, and a
  failed start with it takes half a minute.
- `DEFAULT_ENV_VARS`: workers cannot be the processes that a local Ray begins with, and start seconds later.
- `ray.scripts.scripts`, the module of the command `ray`: without it, the address "auto" is refused.
- `ENABLE_RAY_CLUSTER`: a local Ray listens at all addresses of the machine, not at the loopback only.
- `Node.start_monitor`, `.start_api_server` and `.start_log_monitor`: a local Ray starts three processes that nobody
  asks for anything, which takes some seconds.
- `generate_and_save_token`: everybody on the machine may read a token that Ray has just made, until the next study.
- `print_to_stdstream`: without it, a raylet that dies puts the end of its log on the terminal, twice.
- `TrialProgressCallback`: Tune prints a line for each worker that ends, as if it were a trial.
- The end of a placement group's id, which is the id of the job that made it: a study that waits for room on a full Ray
  does not say so.
- `ENV_VARS_TO_PROPAGATE`: Ray writes the driver's AWS keys into its logs; there is a warning if it has any.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial, reduce
from importlib import import_module
from pathlib import Path
from typing import Any

import ray
from ray.util import placement_group_table

from vae_study.storage import make_private, private_folder

logger = logging.getLogger(__name__)

KV, CLASS_CACHE = "ray.experimental.internal_kv", "ray.tune.execution.class_cache"
CONSTANTS = "ray._private.ray_constants"
NODE, NOT_NEEDED = "ray._private.node", ("start_monitor", "start_api_server", "start_log_monitor")
TOKENS = "ray._private.authentication.authentication_token_setup"
AUTO_INIT = "ray._private.auto_init_hook"
WORKER, RAYLET_DIED = "ray._private.worker", "Raylet is terminated"
NAMESPACE = "vae-study"
SECONDS_FOR_AN_ANSWER = 30


def private(module: str, name: str) -> Any:
    """A private part of Ray, such as "state.get_draining_nodes"; None if this release does not have it."""
    try:
        return reduce(getattr, name.split("."), import_module(module))
    except (ImportError, AttributeError):
        return None


def start_no_other() -> None:
    """Keep a thread that calls Ray after its end from starting another one."""
    if private(AUTO_INIT, "enable_auto_connect") is not None:
        vars(import_module(AUTO_INIT))["enable_auto_connect"] = False


def silent_callbacks() -> list[Any]:
    """A callback in the place of the one that prints what Tune's trials do, which are workers here."""
    base = private("ray.tune.progress_reporter", "TrialProgressCallback")
    if base is None:
        return []
    silenced = dict.fromkeys(("on_trial_result", "on_trial_error", "on_trial_complete"), lambda *_, **__: None)
    return [type("Silent", (base,), silenced)()]


def waits_for_room() -> bool:
    """Whether everything that this process has asked a place for, such as its workers, is still without one."""
    job = ray.get_runtime_context().get_job_id()
    states = [group["state"] for key, group in placement_group_table().items() if key.endswith(job)]
    asked = [state for state in states if state != "REMOVED"]
    return bool(asked) and all(state == "PENDING" for state in asked)


def draining() -> set[str]:
    """The ids of the draining nodes; this request takes a fifth of a millisecond.

    A node drains after a spot notice, by the autoscaler, or when its Ray stops. Nothing new starts there; what runs may
    continue until it is done or the machine is gone.
    """
    ask = private("ray._private.state", "state.get_draining_nodes")
    return set(ask()) if ask is not None else set()


def is_leaving() -> bool:
    """Whether this process's node is draining."""
    return ray.get_runtime_context().get_node_id() in draining()


def gpus_given() -> str:
    """The GPUs that Ray gave this process, such as "GPU 0"."""
    given = ray.get_runtime_context().get_accelerator_ids().get("GPU") or ["of no number"]
    return f"GPU {', '.join(given)}"


def is_known_cluster_alive() -> bool:
    """Whether the cluster that "auto" leads to answers: `ray.init` would wait for a dead one without an end."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check"]
    try:
        return subprocess.run(command, capture_output=True, timeout=SECONDS_FOR_AN_ANSWER).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def init_local(preload: Sequence[str], **settings: Any) -> None:
    """Start a local Ray.

    Args:
        preload: Modules that each of its first processes, one per core, imports at once.
        settings: Of `ray.init`.
    """
    show = private(WORKER, "print_to_stdstream")
    if show is not None:
        vars(import_module(WORKER))["print_to_stdstream"] = partial(_shown, show)
    # Without an address Ray would join whatever cluster it finds traces of, also of a dead one.
    # Ray lets everybody write into the folders of its session: they are in one that nobody else can enter.
    own = private_folder(os.environ.get("RAY_TMPDIR"))
    make_private(own)
    settings = {"address": "local", "include_dashboard": False, "_temp_dir": str(own / "ray"), **settings}
    with _restricted(), _without_dashboard():
        _start(preload, settings)


def _start(preload: Sequence[str], settings: Mapping[str, Any]) -> None:
    if preload:
        try:
            ray.init(**settings, _system_config={"preload_python_modules": [*preload]})
            return
        except RuntimeError as error:
            logger.warning("local Ray failed to start with preloaded modules; starting it without them: %s", error)
            ray.shutdown()
    ray.init(**settings)


@contextmanager
def _restricted() -> Iterator[None]:
    """Let a Ray that starts be its user's only: its servers listen at 127.0.0.1, and nobody else can read its token."""
    # A user may have no home.
    with suppress(OSError, RuntimeError):
        # Where Ray itself has made it, all can read it.
        (Path.home() / ".ray" / "auth_token").chmod(0o600)
    instead: dict[tuple[str, str], Callable[[Any], Any]] = {
        # Ray's own switch for machines where nobody may join.
        (CONSTANTS, "ENABLE_RAY_CLUSTER"): lambda before: False,
        (TOKENS, "generate_and_save_token"): lambda before: partial(_unreadable, before),
    }
    before = {place: value for place in instead if (value := private(*place)) is not None}
    for (module, name), value in before.items():
        vars(import_module(module))[name] = instead[module, name](value)
    try:
        yield
    finally:
        for (module, name), value in before.items():
            vars(import_module(module))[name] = value


def _unreadable(write: Callable[[], None]) -> None:
    """Write a file that only its user can read."""
    before = os.umask(0o077)
    try:
        write()
    finally:
        os.umask(before)


@contextmanager
def _without_dashboard() -> Iterator[None]:
    """Start no process of a dashboard, of an autoscaler, and for logs of workers that are not shown."""
    node = private(NODE, "Node")
    before = {name: getattr(node, name) for name in NOT_NEEDED if hasattr(node, name)}
    for name in before:
        setattr(node, name, lambda *_, **__: None)
    try:
        yield
    finally:
        for name, start in before.items():
            setattr(node, name, start)


def _shown(show: Callable[..., None], data: dict[str, Any], **settings: Any) -> None:
    if RAYLET_DIED not in "".join(data.get("lines", ())):
        show(data, **settings)


def leave_environment_alone() -> None:
    """Make Tune start workers with the environment of their node, without variables of the driver."""
    if private(CLASS_CACHE, "DEFAULT_ENV_VARS") is not None:
        # With variables of their own (for a library that is not used here), workers could not be the processes that
        # are there already.
        vars(import_module(CLASS_CACHE))["DEFAULT_ENV_VARS"] = {}
    names = private(CLASS_CACHE, "ENV_VARS_TO_PROPAGATE")
    if names is not None:
        # Ray writes what it hands to workers into its logs: keys to object stores are each node's own.
        vars(import_module(CLASS_CACHE))["ENV_VARS_TO_PROPAGATE"] = {name for name in names if "AWS_" not in name}
    elif "AWS_SECRET_ACCESS_KEY" in os.environ:
        logger.warning("Ray may write the AWS keys of this process into its logs; keep them in ~/.aws instead")


def put(key: str, content: bytes) -> None:
    """Store something in Ray for another process of the same job.

    Args:
        key: Of the form PREFIX/NAME.
        content: Replaces an earlier content.
    """
    if _has_kv():
        private(KV, "_internal_kv_put")(key, content)
    else:
        ray.get(_actor(key).put.remote(key, content))


def take(key: str) -> bytes | None:
    """Take what is stored under a key; None if there is nothing."""
    if not _has_kv():
        content: bytes | None = ray.get(_actor(key).take.remote(key))
        return content
    content = private(KV, "_internal_kv_get")(key)
    if content is not None:
        private(KV, "_internal_kv_del")(key)
    return content


def clear(prefix: str) -> None:
    """Remove all that is stored under keys that begin with "PREFIX/"."""
    if _has_kv():
        private(KV, "_internal_kv_del")(f"{prefix}/", del_by_prefix=True)
    else:
        ray.kill(_actor(f"{prefix}/"))


def _has_kv() -> bool:
    return all(private(KV, f"_internal_kv_{name}") is not None for name in ("put", "get", "del"))


class _KeyValueStore:
    """Stores contents for other processes."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}

    def put(self, key: str, content: bytes) -> None:
        self.contents[key] = content

    def take(self, key: str) -> bytes | None:
        return self.contents.pop(key, None)


def _actor(key: str) -> Any:
    """The actor of a key's prefix; the first process that needs it starts it, and it outlives that process."""
    prefix = key.rpartition("/")[0]
    actor = ray.remote(num_cpus=0)(_KeyValueStore)
    return actor.options(name=prefix, namespace=NAMESPACE, get_if_exists=True, lifetime="detached").remote()

"""Without any one of the private parts of Ray that are used, a study still runs; each test says what it loses."""

import os
import stat
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import psutil
import pytest
import ray
from ray.tune.execution import class_cache
from vae_study.storage import private_folder
from vae_study.study import messages, ray_compat
from vae_study.study.local_ray import LocalRay
from vae_study.study.messages import Commands, Task
from vae_study.study.ray_compat import AUTO_INIT, CLASS_CACHE, CONSTANTS, KV, NODE, NOT_NEEDED, TOKENS, WORKER, private

from tests.waiting import PATIENCE_SECONDS, until

TEMPORARY = str(private_folder(os.environ.get("RAY_TMPDIR")) / "ray")
LOCAL = {"address": "local", "include_dashboard": False, "_temp_dir": TEMPORARY}
COMMANDS = Commands(start=[Task(key="trial-0007", number=7, parameters={"beta": 0.5})], stop=["trial-0001"])

# Files of Ray's whose processes are left out.
NOBODY_ASKS = ("monitor.py", "dashboard.py", "log_monitor.py")


@pytest.fixture
def hide(monkeypatch):
    """Makes a private name one that this release of Ray does not have."""

    def hide_it(module, name):
        def seen(wanted_module, wanted):
            return None if (module, name) == (wanted_module, wanted) else private(wanted_module, wanted)

        monkeypatch.setattr(ray_compat, "private", seen)

    return hide_it


def test_a_module_or_a_name_that_is_not_there_is_none():
    assert private(KV, "_internal_kv_get") is not None
    assert private(KV, "_internal_kv_got") is None
    assert private("ray.experimental.internal", "_internal_kv_get") is None


def test_with_all_of_them_this_release_needs_no_fallback():
    assert private("ray._private.state", "state.get_draining_nodes") is not None
    assert ray_compat._has_kv()
    assert "PL_DISABLE_FORK" in private(CLASS_CACHE, "DEFAULT_ENV_VARS") or not private(CLASS_CACHE, "DEFAULT_ENV_VARS")
    assert private(CLASS_CACHE, "ENV_VARS_TO_PROPAGATE") is not None
    assert private(CONSTANTS, "ENABLE_RAY_CLUSTER") is not None
    assert private(WORKER, "print_to_stdstream") is not None
    assert private(AUTO_INIT, "enable_auto_connect") is not None
    assert all(private(NODE, f"Node.{name}") is not None for name in NOT_NEEDED)
    assert private(TOKENS, "generate_and_save_token") is not None


def close_a_dead_ray():
    local = LocalRay()
    local.died.set()
    local.close()


@pytest.mark.parametrize("end", [ray_compat.start_no_other, close_a_dead_ray])
def test_after_a_stop_at_once_or_the_death_of_ray_no_thread_starts_another(end, monkeypatch, hide):
    asked = []
    # Of these processes none is killed, and no Ray ended.
    monkeypatch.setattr(psutil.Process, "children", lambda self: [])
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(import_module(AUTO_INIT), "enable_auto_connect", True)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda: asked.append("init"))
    private(AUTO_INIT, "auto_init_ray")()
    end()
    private(AUTO_INIT, "auto_init_ray")()
    assert asked == ["init"]
    hide(AUTO_INIT, "enable_auto_connect")
    ray_compat.start_no_other()


def test_a_worker_that_ends_is_not_told_as_a_trial_and_without_the_callback_tune_tells_it(hide, capsys):
    (silent,) = ray_compat.silent_callbacks()
    silent.on_trial_complete(iteration=1, trials=[], trial="worker-1")
    assert capsys.readouterr().out == ""
    # What Tune looks for, so as not to add its own.
    assert isinstance(silent, private("ray.tune.progress_reporter", "TrialProgressCallback"))
    hide("ray.tune.progress_reporter", "TrialProgressCallback")
    assert ray_compat.silent_callbacks() == []


def test_without_get_draining_nodes_no_node_is_known_to_be_taken_away(ray_session, hide):
    assert ray_compat.draining() == set()
    hide("ray._private.state", "state.get_draining_nodes")
    assert ray_compat.draining() == set()
    assert not ray_compat.is_leaving()


@pytest.mark.parametrize("name", [None, "_internal_kv_put", "_internal_kv_get", "_internal_kv_del"])
def test_without_a_part_of_the_key_value_store_commands_go_through_an_actor(ray_session, hide, name):
    hide(KV, name)
    channels = messages.new_channels()
    first, second = f"{channels}/0", f"{channels}/1"
    assert messages.collect(first) == Commands()
    messages.post(first, Commands(is_over=True))
    messages.post(first, COMMANDS)
    assert messages.collect(second) == Commands()
    assert messages.collect(first) == COMMANDS
    assert messages.collect(first) == Commands()
    messages.post(second, COMMANDS)
    actors = [one for one in ray.util.list_named_actors(all_namespaces=True) if one["name"] == channels]
    assert len(actors) == (name is not None)
    ray_compat.clear(channels)
    assert messages.collect(second) == Commands()
    ray_compat.clear(channels)


def test_without_preloaded_modules_a_local_ray_starts_all_the_same_and_says_so(monkeypatch, caplog):
    asked = []

    def init(**settings):
        asked.append(settings)
        if "_system_config" in settings:
            raise RuntimeError("Unknown keyword argument(s): _system_config")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: asked.append("shutdown"))
    ray_compat.init_local(["math"], log_to_driver=False)
    with_it, between, without = asked
    assert between == "shutdown"
    assert with_it.pop("_system_config") == {"preload_python_modules": ["math"]}
    assert with_it == without == {**LOCAL, "log_to_driver": False}
    assert "starting it without them" in caplog.text


def test_a_local_ray_preloads_nothing_unless_it_is_asked_to(monkeypatch):
    asked = []
    monkeypatch.setattr(ray, "init", lambda **settings: asked.append(settings))
    ray_compat.init_local([])
    assert asked == [LOCAL]


@pytest.fixture
def environment(monkeypatch):
    monkeypatch.setattr(class_cache, "DEFAULT_ENV_VARS", {"PL_DISABLE_FORK": "1"})
    monkeypatch.setattr(class_cache, "ENV_VARS_TO_PROPAGATE", {"AWS_SECRET_ACCESS_KEY", "RAY_CHDIR_TO_TRIAL_DIR"})


def test_workers_get_neither_variables_of_their_own_nor_the_drivers_keys(environment):
    ray_compat.leave_environment_alone()
    assert class_cache.DEFAULT_ENV_VARS == {}
    assert {"RAY_CHDIR_TO_TRIAL_DIR"} == class_cache.ENV_VARS_TO_PROPAGATE


def test_without_the_default_variables_workers_are_new_processes_and_the_keys_stay_out(environment, hide):
    hide(CLASS_CACHE, "DEFAULT_ENV_VARS")
    ray_compat.leave_environment_alone()
    assert class_cache.DEFAULT_ENV_VARS == {"PL_DISABLE_FORK": "1"}
    assert {"RAY_CHDIR_TO_TRIAL_DIR"} == class_cache.ENV_VARS_TO_PROPAGATE


@pytest.mark.parametrize("has_keys", [True, False])
def test_without_the_names_of_what_is_handed_on_a_driver_with_keys_is_warned(
    environment, hide, monkeypatch, caplog, has_keys
):
    if has_keys:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    else:
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY", raising=False)
    hide(CLASS_CACHE, "ENV_VARS_TO_PROPAGATE")
    ray_compat.leave_environment_alone()
    assert class_cache.DEFAULT_ENV_VARS == {}
    assert ("AWS keys" in caplog.text) is has_keys
    assert {"AWS_SECRET_ACCESS_KEY", "RAY_CHDIR_TO_TRIAL_DIR"} == class_cache.ENV_VARS_TO_PROPAGATE


def test_a_local_ray_listens_to_nobody_outside_this_machine(ray_session):
    (raylet,) = (child for child in psutil.Process().children() if child.name() == "raylet")
    family = [*psutil.Process().children(), *raylet.children()]
    heard = set()
    for child in family:
        # Workers come and go.
        with suppress(psutil.NoSuchProcess):
            heard |= {one.laddr.ip for one in child.net_connections("inet") if one.status == "LISTEN"}
    assert heard
    assert heard <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}


def test_a_local_ray_has_no_process_that_nobody_asks(ray_session):
    commands = [" ".join(child.cmdline()) for child in psutil.Process().children()]
    assert any("gcs_server" in command for command in commands)
    assert not [command for command in commands if any(name in command for name in NOBODY_ASKS)]


def test_without_the_names_of_those_a_local_ray_starts_them(hide, monkeypatch):
    hide(NODE, "Node")
    monkeypatch.setattr(ray, "init", lambda **settings: None)
    before = {name: getattr(private(NODE, "Node"), name) for name in NOT_NEEDED}
    ray_compat.init_local([])
    assert {name: getattr(private(NODE, "Node"), name) for name in NOT_NEEDED} == before


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_nobody_else_can_enter_the_session_of_a_local_ray(ray_session):
    session = Path(private(WORKER, "global_worker").node.get_session_dir_path())
    (own,) = (folder for folder in session.parents if folder.name == f"vae-study-{os.getuid()}")
    assert mode(own) == 0o700
    assert own.stat().st_uid == os.getuid()


@pytest.mark.parametrize("is_there", [True, False])
def test_the_token_of_a_local_ray_is_its_users_only(monkeypatch, tmp_path, is_there):
    monkeypatch.setenv("HOME", str(tmp_path))
    token = tmp_path / ".ray" / "auth_token"
    if is_there:
        token.parent.mkdir()
        token.touch(0o644)
    found = []

    def init(**settings):
        if not is_there:
            private(TOKENS, "generate_and_save_token")()
        found.append(mode(token))

    monkeypatch.setattr(ray, "init", init)
    before = os.umask(0o022)
    try:
        ray_compat.init_local([])
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    assert found == [0o600]


def test_without_the_part_that_writes_a_token_a_local_ray_starts(monkeypatch, hide):
    hide(TOKENS, "generate_and_save_token")
    asked = []
    monkeypatch.setattr(ray, "init", lambda **settings: asked.append(settings))
    ray_compat.init_local([])
    assert len(asked) == 1


def test_what_a_process_waits_for_is_told_from_what_it_has(ray_session):
    """A placement group's id ends with that of the job that asked for it."""
    asked = []

    def ask(cpus):
        asked.append(ray.util.placement_group([{"CPU": cpus}]))
        return asked[-1]

    try:
        assert not ray_compat.waits_for_room()
        ask(ray.cluster_resources()["CPU"] + 1)
        until(ray_compat.waits_for_room, "it is known that nothing has a place")
        assert ask(1).wait(PATIENCE_SECONDS)
        assert not ray_compat.waits_for_room()
    finally:
        for group in asked:
            ray.util.remove_placement_group(group)
    until(lambda: not ray_compat.waits_for_room(), "what was given back is not waited for")

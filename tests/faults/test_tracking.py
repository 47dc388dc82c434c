"""The tracking server dies, or fails at every other request, in the middle of a study."""

import random
import time

import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from vae_study.api import pending_records
from vae_study.cli import main
from vae_study.tracking import schema, writer
from vae_study.tracking.store import find_children, find_parent, open_client, require_parent

from tests.faults.runs import Driver, ended
from tests.tracking.servers import Proxy, Server
from tests.waiting import until

pytestmark = pytest.mark.processes

SECONDS_AWAY = 20.0
PAGE = b"<html>Internal server error</html>"
# The one metric that is measured by a clock.
CLOCK = "time/epoch_seconds"


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def server(started):
    """A server that is up and holds no study, whatever the test before has done to it."""
    if started.process.poll() is not None:
        started.start()
    client = open_client(started.uri)
    earlier = find_parent(client, "digits")
    if earlier is not None:
        client.delete_run(earlier.info.run_id)
    for model in client.search_registered_models():
        client.delete_registered_model(model.name)
    return started


def told(client):
    """Every point of every metric of every run beneath the study, and what became of the run."""
    parent = require_parent(client, "digits")
    assert parent.info.status == "FINISHED"
    runs = find_children(client, parent)
    return {key_of(run): (run.info.status, run.data.params, state_of(run), points(client, run)) for run in runs}


def key_of(run):
    return run.data.tags[schema.UID].partition("/")[2]


def state_of(run):
    return {name: run.data.tags.get(name) for name in (schema.STATE, schema.FAILURE, schema.FEASIBLE, schema.TRIAL)}


def points(client, run):
    names = sorted(set(run.data.metrics) - {CLOCK})
    found = {name: client.get_metric_history(run.info.run_id, name) for name in names}
    return {name: [(point.step, point.value) for point in history] for name, history in found.items()}


def check_told(client, undisturbed, trials):
    """The beginning of the undisturbed study is there, as long as this one was to be."""
    expected, there = told(MlflowClient(f"sqlite:///{undisturbed}/mlflow.db")), told(client)
    assert there.keys() == {schema.trial_name(number) for number in range(trials)}
    for key, run in there.items():
        assert run == expected[key], key
    assert sum(len(history) for *_, metrics in there.values() for history in metrics.values()) > 1000


def be_impatient():
    """Have a driver wait for a server that stays away for a short time only."""
    writer.PATIENCE_SECONDS = 4


def begun(home, uri, ray_address, *settings, change=None):
    """A study that has got as far as its second trial's end."""
    more = ("--concurrency", "1", "--tracking-uri", uri)
    driver = Driver(home, more=more, ray=ray_address, settings=settings, change=change)
    until(lambda: ended(home) >= 2 or driver.poll() is not None, "two trials have ended")
    assert driver.poll() is None, driver.text()
    return driver


def test_a_server_that_was_away_for_twenty_seconds_has_everything_once(undisturbed, ray_address, server, tmp_path):
    home = tmp_path / "home"
    driver = begun(home, server.uri, ray_address, "trials=5")
    server.kill()
    until(lambda: pending_records("digits", home) > 0, "pending records")
    time.sleep(SECONDS_AWAY)
    server.start()
    assert driver.wait() == 0, driver.text()
    assert pending_records("digits", home) == 0
    check_told(open_client(server.uri), undisturbed, 5)


def test_what_a_server_that_never_comes_back_missed_is_brought_to_another_one_by_sync(
    undisturbed, ray_address, server, tmp_path
):
    home = tmp_path / "home"
    driver = begun(home, server.uri, ray_address, "trials=4", change=be_impatient)
    server.kill()
    assert driver.wait() == 1
    assert "the study is done, but MLflow" in driver.text()
    assert "vae-study sync digits" in driver.text()
    assert pending_records("digits", home) > 0
    assert ended(home) == 4
    other = f"sqlite:///{tmp_path}/other.db"
    done = CliRunner().invoke(main, ["sync", "digits", "--home", str(home), "--tracking-uri", other])
    assert done.exit_code == 0, done.output
    assert pending_records("digits", home) == 0
    check_told(open_client(other), undisturbed, 4)


def test_a_server_that_fails_at_every_other_request_has_everything_once(
    undisturbed, ray_address, server, monkeypatch, tmp_path
):
    """The first requests, and the reading after the end, are a user's, who is told of the trouble."""
    home, chance, failures = tmp_path / "home", random.Random(0), []
    # At two, of the many requests of one record some would fail each time.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "4")
    for wait in ("BACKOFF_FACTOR", "BACKOFF_JITTER"):
        monkeypatch.setenv(f"MLFLOW_HTTP_REQUEST_{wait}", "0")

    def fate(*_):
        is_over = ended(home) == 4 and pending_records("digits", home) == 0
        if not ended(home) or is_over or chance.random() < 0.5:
            return None
        failures.append(1)
        return (500, PAGE)

    with Proxy(server, fate) as proxy:
        driver = begun(home, proxy.uri, ray_address, "trials=4")
        assert driver.wait() == 0, driver.text()
    assert len(failures) > 30
    check_told(open_client(server.uri), undisturbed, 4)

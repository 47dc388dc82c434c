"""Against a real tracking server that dies, and behind a connection that fails."""

import json
import random
import threading

import pytest
from vae_study.tracking import schema, uploader, writer
from vae_study.tracking.store import open_client, runs_by_key
from vae_study.tracking.writer import TrackingWriter

from tests.tracking.processes import opened
from tests.tracking.servers import Proxy
from tests.tracking.story import STORY, check, log, new_parent, records_of, start, whole_trial
from tests.waiting import PATIENCE_SECONDS, until

pytestmark = pytest.mark.usefixtures("impatient")
CREATE = "/mlflow/runs/create"
PAGE = b"<html>Bad gateway</html>"


@pytest.fixture(scope="module")
def client(server):
    return open_client(server.uri)


def behind(proxy, client, name, folder):
    """A new driver that reaches the server through the proxy, and the study's parent run."""
    parent = new_parent(client, name)
    return TrackingWriter(open_client(proxy.uri), parent, runs_by_key(client, parent), folder), parent


def created(proxy):
    """The keys of the runs that the server has created, in that order."""
    tags = [json.loads(body)["tags"] for _, path, body in proxy.passed if path.endswith(CREATE)]
    uids = [{tag["key"]: tag["value"] for tag in some}[schema.UID] for some in tags]
    return [uid.partition("/")[2] for uid in uids]


def test_a_server_killed_in_the_middle_and_started_again_has_everything_once(
    server, client, monkeypatch, tmp_path, name
):
    monkeypatch.setattr(uploader, "EVENTS_PER_BATCH", 5)
    parent = new_parent(client, name)
    driver = opened(client, name, tmp_path)
    steps = [step for number in range(6) for step in whole_trial(10 + number, 5)]
    batches, is_killed, apply = [], threading.Event(), driver.uploader._replay.apply

    def apply_or_wait(records):
        # The second batch meets the kill; the third would, on a busy machine, not have to.
        assert len(batches) < 2 or is_killed.wait(PATIENCE_SECONDS)
        batches.append(records)
        apply(records)

    monkeypatch.setattr(driver.uploader._replay, "apply", apply_or_wait)
    for step in [*STORY[0], *STORY[1], *steps[:20]]:
        step(driver)
    until(lambda: len(batches) >= 2, "the second batch is on its way", pause_seconds=0.001)
    server.kill()
    is_killed.set()
    assert driver.uploader.pending_bytes
    restart = threading.Thread(target=server.start)
    restart.start()
    for step in [*steps[20:], *STORY[2], *STORY[4]]:
        step(driver)
    restart.join()
    driver.drain()
    driver.close()
    assert not driver.uploader.errors
    check(client, parent, records_of(driver))


def test_where_half_of_the_requests_fail_everything_arrives_once_and_in_order(server, client, tmp_path, name, capfd):
    chance, failures = random.Random(0), []

    def fate(method, path, body):
        failures.append(chance.random() < 0.5)
        return (500, PAGE) if failures[-1] else None

    with Proxy(server, fate) as proxy:
        driver, parent = behind(proxy, client, name, tmp_path)
        for number in (0, 1, 2, 4):
            for step in STORY[number]:
                step(driver)
        driver.drain()
        driver.close()
        assert sum(failures) > 30
        assert list(dict.fromkeys(created(proxy))) == ["trial-0000", "trial-0001", "trial-0002"]
        bodies = [json.loads(body) for _, path, body in proxy.passed if path.endswith("/log-batch")]
        run_id = runs_by_key(client, parent)["trial-0000"].info.run_id
        own = [body.get("metrics", []) for body in bodies if body["run_id"] == run_id]
        assert list(dict.fromkeys(point["step"] for points in own for point in points)) == [1, 2, 3, 4, 5, 0]
    assert not driver.uploader.errors
    check(client, parent, records_of(driver))
    assert not capfd.readouterr().out


def test_the_pages_of_a_proxy_in_trouble_are_no_refusals(server, client, tmp_path, name):
    """They come with any status, also with those by which MLflow refuses a request for good."""
    chance = random.Random(0)

    def fate(method, path, body):
        return None if chance.random() < 0.6 else (chance.choice([400, 401, 403, 404, 405, 429, 502, 503, 504]), PAGE)

    with Proxy(server, fate) as proxy:
        driver, parent = behind(proxy, client, name, tmp_path)
        for step in [*STORY[0], *STORY[1], *STORY[4]]:
            step(driver)
        driver.drain()
        driver.close()
    assert not driver.uploader.errors
    check(client, parent, records_of(driver))


@pytest.mark.parametrize("lost", [1, 2, 3, 7])
def test_a_run_whose_creation_is_carried_out_but_never_confirmed_is_there_once(server, client, tmp_path, name, lost):
    """Before MLflow 3.18, the client's own further attempts, of which it says nothing, create it again."""
    answers = dict.fromkeys(("trial-0000", "trial-0002"), lost)

    def fate(method, path, body):
        for key in answers:
            if path.endswith(CREATE) and key in body.decode() and answers[key]:
                answers[key] -= 1
                return "drop"
        return None

    with Proxy(server, fate) as proxy:
        driver, parent = behind(proxy, client, name, tmp_path)
        for number in range(3):
            for step in whole_trial(number, 2):
                step(driver)
        driver.drain()
        driver.close()
        counts = {key: created(proxy).count(key) for key in dict.fromkeys(created(proxy))}
    # How many attempts the server sees is the client's affair, and the machine's.
    assert max(answers.values()) < lost
    assert counts["trial-0001"] == 1 <= min(counts.values())
    check(client, parent, records_of(driver))


def test_any_answer_may_get_lost_after_the_request_was_carried_out(server, client, tmp_path, name):
    chance = random.Random(0)
    with Proxy(server, lambda *_: "drop" if chance.random() < 0.4 else None) as proxy:
        driver, parent = behind(proxy, client, name, tmp_path)
        for step in [*STORY[0], *STORY[2], *STORY[1]]:
            step(driver)
        driver.drain()
        driver.close()
    check(client, parent, records_of(driver))


def test_a_server_that_is_away_for_a_while_gets_the_rest_from_the_next_driver(
    server, client, monkeypatch, tmp_path, name
):
    monkeypatch.setattr(writer, "PATIENCE_SECONDS", 0.3)
    with Proxy(server) as proxy:
        driver, parent = behind(proxy, client, name, tmp_path)
        for step in [start(0), log(0, 1, 2)]:
            step(driver)
        driver.drain()
    for step in [log(0, 3, 3), *whole_trial(1)]:
        step(driver)
    with pytest.raises(Exception, match="records are kept in"):
        driver.drain()
    driver.close()
    with proxy:
        again = TrackingWriter(open_client(proxy.uri), parent, runs_by_key(client, parent), tmp_path)
        log(0, 4, 4)(again)
        again.drain()
        again.close()
    check(client, parent, records_of(again))

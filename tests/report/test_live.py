"""The page of a running study: by a real server on this machine, in a real browser."""

import http.client
import json
from dataclasses import replace

import pytest
from vae_study import watch
from vae_study.report.live import live_page, live_state

from tests.needs import lacks
from tests.report.browser import CHROMIUM, Browser
from tests.report.studies import study
from tests.waiting import until

WHOLE = study(trials=12, epochs=5)


def so_far(ended: int, running: int = 2):
    """The study after some of its trials have ended, while others are trained."""
    trials = WHOLE.trials.sort_values("trial").head(ended + running).reset_index(drop=True)
    trials["state"] = trials["state"].where(trials.index < ended, "running")
    history = WHOLE.history[WHOLE.history["trial"].isin(trials["trial"].head(ended))]
    return replace(WHOLE, trials=trials, history=history, champion=None)


class Reader:
    """What a test says that the study is."""

    def __init__(self):
        self.record, self.is_over, self.fails = None, False, False

    def __call__(self):
        if self.fails:
            raise OSError("the store is away")
        return live_state(self.record, self.is_over)


@pytest.fixture
def served(monkeypatch):
    monkeypatch.setattr(watch, "SECONDS_BETWEEN_READS", 0.0)
    monkeypatch.setattr(watch, "READ_SHARE", 0)
    reader = Reader()
    with watch._listening(watch.LiveStudy(reader), "digits", 0) as server:
        yield server, reader


def ask(server, path="/", host=None):
    connection = http.client.HTTPConnection(watch.LOOPBACK, server.server_port)
    try:
        connection.request("GET", path, headers={} if host is None else {"Host": host})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_a_foreign_host_gets_nothing_of_the_study(served):
    server, reader = served
    reader.record = so_far(5)
    for host in ("evil.example", f"evil.example:{server.server_port}", "127.0.0.1:1", "127.0.0.1"):
        for path in ("/", "/state"):
            status, text = ask(server, path, host)
            assert status == 403
            assert "digits" not in text
    assert ask(server, "/state", f"localhost:{server.server_port}")[0] == 200
    assert ask(server, "/other")[0] == 404


def test_the_state_changes_with_what_it_shows_and_stays_while_the_store_is_away(served):
    server, reader = served
    reader.record = so_far(5)
    first = json.loads(ask(server, "/state")[1])
    assert first["names"] == "plane hypervolume"
    assert "5 of" in first["now"]
    assert json.loads(ask(server, "/state")[1]) == first
    reader.fails = True
    assert json.loads(ask(server, "/state")[1]) == first
    reader.fails, reader.record = False, so_far(6)
    assert json.loads(ask(server, "/state")[1])["version"] != first["version"]
    assert not server.has_told_the_end.is_set()
    reader.is_over = True
    assert json.loads(ask(server, "/state")[1])["is_over"]
    until(server.has_told_the_end.is_set, "the end was noted")


def test_a_name_in_the_data_is_no_markup():
    trials = so_far(5).trials.rename(columns={"beta": "<script>alert(1)</script>"})
    record = replace(so_far(5), trials=trials)
    assert "<script>alert" not in live_page("<script>alert(1)</script>", live_state(record, is_over=False))


@pytest.mark.browser
def test_the_page_begins_empty_follows_the_trials_in_place_and_says_the_end(served, tmp_path):
    if CHROMIUM is None:
        lacks("Chromium")
    server, reader = served
    with Browser(tmp_path) as tab:
        tab.look(1000, 1400)
        tab.visit(f"http://{watch.LOOPBACK}:{server.server_port}/")
        assert "not begun" in tab.evaluate("document.body.innerText")
        reader.record = so_far(5)
        dots = "document.querySelectorAll('figure.is-interactive .scatterlayer .points path').length"
        tab.wait(f"{dots} > 0")
        drawn = tab.evaluate(dots)
        assert tab.evaluate("document.querySelectorAll('#now tbody tr').length") == 2
        tab.evaluate("window.isTheSamePage = true")
        reader.record = so_far(10)
        tab.wait("document.getElementById('now').innerText.includes('10 of')")
        tab.wait(f"{dots} > {drawn}")
        assert tab.evaluate("window.isTheSamePage")
        reader.is_over = True
        tab.wait("document.getElementById('state').textContent === 'The study has ended.'")
        assert tab.complaints == []
        assert all(request.startswith(("http://127.0.0.1", "blob:", "data:")) for request in tab.requests)

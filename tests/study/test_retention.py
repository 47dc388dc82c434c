import math
import subprocess
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vae_study.config.loading import load_config
from vae_study.metrics import SCORES
from vae_study.storage import Folder
from vae_study.study import finalists as module
from vae_study.study.finalists import Retention, finalists
from vae_study.study.messages import Task, TrialReport
from vae_study.study.plan import Plan
from vae_study.study.trial_files import EXAMPLES, SCORER, WEIGHTS
from vae_study.study.trial_files import SCORES as SCORES_FILE
from vae_study.tracking.schema import trial_name

from tests.small_disk import small_disk
from tests.study.conftest import CONFIG

VALIDATION = SimpleNamespace(is_anomaly_N=np.arange(100) < 10)
DATA = SimpleNamespace(splits={"validation": VALIDATION})
BOUND = "constraints=[{metric: val/active_units, at_least: 1}]"
LARGE = (EXAMPLES, WEIGHTS, SCORER)


def plan_in(folder, *settings):
    config = load_config(CONFIG, ["ensemble.members=2", *settings])
    return Plan(config=config, name="a", folder=Folder.at(folder), data=DATA)


def leave_files(plan, number):
    """What a trial has left when it ends."""
    for place, names in ((plan.trials, (SCORES_FILE, *LARGE)), (plan.checkpoints, ("epoch-1", "epoch-2"))):
        folder = Path((place / trial_name(number)).path)
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / name).write_bytes(b"1")


def left(plan, name):
    """The trials that still have a file."""
    return {int(path.parent.name.split("-")[1]) for path in Path(plan.trials.path).glob(f"*/{name}")}


def end(retention, number, state="finished", **metrics):
    retention.ended(Task(key=trial_name(number), number=number, parameters={}), TrialReport(state=state), metrics)


def wait_for(retention):
    retention._thread.submit(int).result()


VALUES = st.integers(0, 3).map(float) | st.sampled_from([math.nan, math.inf, -math.inf])
METRICS = ["val/reconstruction", "val/kl", "val/elbo", "val/active_units", "pseudo_auroc/residual_mahalanobis"]
METRICS += ["val_auroc/elbo", f"val_auroc/{list(SCORES)[-1]}"]
TRIALS = st.lists(
    st.tuples(
        st.sampled_from(["finished"] * 5 + ["pruned", "failed"]),
        st.fixed_dictionaries({}, optional=dict.fromkeys(METRICS, VALUES)),
    ),
    max_size=10,
)


def wanted(config, trials):
    """The trials that may still be used, by the plainest reading of what chooses, of {number: metrics}."""
    objectives = [objective.metric for objective in config.objectives]
    good = {number: metrics for number, metrics in trials.items() if config.is_feasible(metrics)}
    points = {number: [metrics.get(name, math.nan) for name in objectives] for number, metrics in good.items()}
    points = {number: point for number, point in points.items() if all(map(math.isfinite, point))}
    kept = {
        number
        for number, point in points.items()
        if not any(other != point and all(map(float.__le__, other, point)) for other in points.values())
    }
    rules = {
        "val/auroc": lambda metrics: [metrics.get(f"val_auroc/{score}", math.nan) for score in SCORES],
        "val/elbo": lambda metrics: [metrics.get("val/elbo", math.nan)],
        "val/reconstruction": lambda metrics: [-metrics.get("val/reconstruction", math.nan)],
        "pseudo": lambda metrics: [metrics.get("pseudo_auroc/residual_mahalanobis", math.nan)],
    }
    for rule, values_of in rules.items():
        order = []
        for number, metrics in (good or trials).items():
            values, elbo = values_of(metrics), metrics.get("val/elbo", -math.inf)
            elbo = -math.inf if math.isnan(elbo) else elbo
            order += [(-value, -elbo, place, number) for place, value in enumerate(values) if math.isfinite(value)]
        first = {}
        for key in sorted(order):
            first.setdefault(key[-1], key)
        order = sorted(first.values())
        count = config.ensemble.members if rule in ("val/auroc", "val/elbo") else 1
        kept |= {number for *_, number in order[:count]}
    return kept


@settings(max_examples=60)
@given(data=st.data(), trials=TRIALS, earlier=st.integers(0, 10), is_bound=st.booleans())
def test_what_can_be_chosen_never_goes_and_after_a_sweep_nothing_else_is_left(
    tmp_path_factory, data, trials, earlier, is_bound
):
    """`earlier`: how many of the trials an earlier driver has seen the end of."""
    plan = plan_in(tmp_path_factory.mktemp("study"), *([BOUND] if is_bound else []))
    order = data.draw(st.permutations(range(len(trials))))
    for number in order:
        leave_files(plan, number)
    rows = [
        {"trial": number, "state": state, "feasible": plan.config.is_feasible(metrics), **metrics}
        for number, (state, metrics) in ((number, trials[number]) for number in order[:earlier])
    ]
    retention = Retention(plan, pd.DataFrame(rows, columns=["trial", "state", "feasible", *METRICS]))
    told = {number: trials[number][1] for number in order[:earlier] if trials[number][0] == "finished"}
    for number in order[earlier:]:
        state, metrics = trials[number]
        is_swept = data.draw(st.booleans())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "SECONDS_BETWEEN_SWEEPS", -1 if is_swept else 1000)
            end(retention, number, state, **metrics)
        told |= {number: metrics} if state == "finished" else {}
        wait_for(retention)
        for name in LARGE:
            gone = told.keys() - left(plan, name)
            assert not gone & wanted(plan.config, told)
            assert not is_swept or gone == told.keys() - wanted(plan.config, told)
    retention.close()
    for name in LARGE:
        assert left(plan, name) & told.keys() == wanted(plan.config, told)
    assert left(plan, SCORES_FILE) == set(range(len(trials)))


def test_a_trial_that_breaks_the_constraints_stays_out_whatever_little_the_one_that_keeps_them_shows(tmp_path):
    plan = plan_in(tmp_path, BOUND)
    retention = Retention(plan, pd.DataFrame(columns=["trial", "state", "feasible"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SECONDS_BETWEEN_SWEEPS", -1)
        for number, metrics in enumerate([{"val/active_units": 1.0}, {"val/reconstruction": 0.0}]):
            leave_files(plan, number)
            end(retention, number, **metrics)
            wait_for(retention)
            assert left(plan, WEIGHTS) == set()
    retention.close()


@settings(max_examples=30)
@given(trials=TRIALS, is_bound=st.booleans())
def test_finalists_are_those_that_the_plainest_reading_gives(trials, is_bound):
    plan = plan_in("anywhere", *([BOUND] if is_bound else []))
    finished = {number: metrics for number, (state, metrics) in enumerate(trials) if state == "finished"}
    rows = [
        {"trial": number, "state": "finished", "feasible": plan.config.is_feasible(metrics), **metrics}
        for number, metrics in finished.items()
    ]
    frame = pd.DataFrame(rows, columns=["trial", "state", "feasible", *METRICS])
    assert finalists(plan, frame) == wanted(plan.config, finished)


def test_a_trial_that_ends_while_a_sweep_is_waiting_keeps_its_weights(tmp_path, monkeypatch):
    """The store is slow, and the sweep was ordered when nobody knew that trial."""
    monkeypatch.setattr(module, "SECONDS_BETWEEN_SWEEPS", -1)
    plan, go_on, clear = plan_in(tmp_path), threading.Event(), Folder.clear
    monkeypatch.setattr(Folder, "clear", lambda folder: go_on.wait(10) and clear(folder))
    for number in range(3):
        leave_files(plan, number)
    retention = Retention(plan, pd.DataFrame({"trial": [], "state": []}))
    end(retention, 0, **{"val/reconstruction": 2.0, "val/kl": 2.0})
    monkeypatch.setattr(module, "SECONDS_BETWEEN_SWEEPS", 1000)
    end(retention, 1, **{"val/reconstruction": 1.0, "val/kl": 1.0})
    go_on.set()
    wait_for(retention)
    assert left(plan, WEIGHTS) == {0, 1, 2}
    retention.close()
    assert left(plan, WEIGHTS) == {1, 2}


def test_a_driver_that_goes_on_asks_the_store_to_delete_what_is_there_and_nothing_else(tmp_path, monkeypatch):
    """An earlier one has deleted the weights of nearly all trials: an object store takes a request for each file."""
    plan, removed, remove = plan_in(tmp_path), [], Folder.remove
    rows = [{"trial": number, "state": "finished", "val/reconstruction": 9.0 - number} for number in range(9)]
    for number in (3, 5, 8):
        leave_files(plan, number)
    monkeypatch.setattr(
        Folder, "remove", lambda folder, name: removed.append(f"{folder.place[-4:]}/{name}") or remove(folder, name)
    )
    trials = pd.DataFrame(rows).assign(**{"val/kl": 1.0, "feasible": True})
    Retention(plan, trials).close()
    assert sorted(removed) == sorted(f"000{number}/{name}" for number in (3, 5) for name in LARGE)
    assert left(plan, WEIGHTS) == {8}


def test_the_checkpoints_of_a_trial_go_when_it_ends_and_those_of_others_stay(tmp_path):
    plan = plan_in(tmp_path)
    for number in range(4):
        leave_files(plan, number)
    retention = Retention(plan, pd.DataFrame({"trial": [], "state": []}))
    for number, state in enumerate(("finished", "pruned", "failed")):
        end(retention, number, state)
    retention.drop_checkpoints("trial-0042")
    retention.close()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["trial-0003"]


def test_checkpoints_that_an_earlier_driver_did_not_come_to_clear_go_and_those_of_open_tasks_stay(tmp_path):
    plan = plan_in(tmp_path)
    for number in range(4):
        leave_files(plan, number)
    retention = Retention(plan, pd.DataFrame({"trial": [], "state": []}))
    retention.drop_leftovers({"trial-0000", "trial-0002", "trial-0042"})
    retention.close()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["trial-0001", "trial-0003"]


def test_a_study_without_a_finished_trial_ends_quietly(tmp_path, caplog):
    plan = plan_in(tmp_path)
    leave_files(plan, 0)
    retention = Retention(plan, pd.DataFrame({"trial": [], "state": []}))
    end(retention, 0, "failed")
    retention.close()
    assert left(plan, WEIGHTS) == {0}
    assert not caplog.records


@contextmanager
def read_only_disk(place):
    with small_disk(place) as disk:
        yield disk, lambda: subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)


class Refuse(BaseHTTPRequestHandler):
    """An object store in which nothing may be deleted, nor anything else be done."""

    def refuse(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        page = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        self.send_response(403)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = refuse

    def log_message(self, *_):
        pass


@contextmanager
def refusing_store(place):
    with ThreadingHTTPServer(("127.0.0.1", 0), Refuse) as server, pytest.MonkeyPatch.context() as patch:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        yield "s3://bucket/study", lambda: None
        server.shutdown()


@pytest.mark.parametrize("store", [read_only_disk, refusing_store])
def test_a_store_that_refuses_deletions_is_told_of_and_breaks_nothing(tmp_path, monkeypatch, caplog, store):
    monkeypatch.setattr(module, "SECONDS_BETWEEN_SWEEPS", -1)
    with store(tmp_path) as (place, refuse):
        plan = plan_in(place)
        for number in range(3) if plan.folder.local else ():
            leave_files(plan, number)
        refuse()
        retention = Retention(plan, pd.DataFrame({"trial": [], "state": []}))
        retention.drop_leftovers({"trial-0002"})
        for number in range(3):
            end(retention, number, **{"val/reconstruction": 9.0 - number, "val/kl": 1.0, "val/elbo": float(number)})
        retention.close()
    assert f"heckpoints of {'trial-0002' if plan.folder.local else 'tasks that have ended may'} stay" in caplog.text
    assert "the checkpoints of trial-0000 stay" in caplog.text
    assert "weights of trials that will not be chosen stay" in caplog.text

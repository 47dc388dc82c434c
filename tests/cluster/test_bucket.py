"""A study whose HOME and artifacts are in a bucket, with its databases elsewhere."""

import shutil
import signal
import sqlite3
import threading
from collections import Counter
from contextlib import closing
from types import SimpleNamespace
from urllib.parse import urlsplit

import optuna
import pytest
from mlflow import MlflowClient
from vae_study.api import build_report, load_study
from vae_study.errors import UserError
from vae_study.search.study_store import STATE_NAMES
from vae_study.storage import Folder
from vae_study.study.trial_files import Checkpoints, subfolders
from vae_study.tracking import schema
from vae_study.tracking.store import find_children, require_parent

from tests.command import Command
from tests.faults.runs import CONFIG, SMALL
from tests.tracking.servers import Proxy
from tests.waiting import until

pytestmark = pytest.mark.cluster

TRIALS = 5
HOME = "s3://bucket/studies"
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL")
# Measured both after each epoch and once at the end.
TWICE = "val/auroc"


class Head:
    """A head's disk, and on it a driver whose way to MLflow may break.

    Attributes:
        proxy: The way.
        is_away: Whether it is broken.
    """

    def __init__(self, node, place):
        self.is_away, self.place, self.storage = threading.Event(), place, place.parent / "studies.db"
        server = SimpleNamespace(port=urlsplit(node.uri).port)
        self.proxy = Proxy(server, lambda *_: (503, b"away") if self.is_away.is_set() else None)

    def driver(self, *words):
        """Start a driver; on a disk that is lost, it finds nothing."""
        self.place.mkdir(exist_ok=True)
        places = ["--home", HOME, "--tracking-uri", self.proxy.uri, "--study-storage", f"sqlite:///{self.storage}"]
        words = [*words, *places, "--no-report", "--concurrency", "1"]
        return Command(words, self.place, self.place.with_name("driver.txt"))

    def ended(self):
        try:
            with closing(sqlite3.connect(f"file:{self.storage}?mode=ro", uri=True)) as database:
                query = "SELECT COUNT(*) FROM trials WHERE state IN ('COMPLETE', 'PRUNED', 'FAIL')"
                return database.execute(query).fetchone()[0]
        except sqlite3.OperationalError:
            return 0

    def kill_after(self, driver, count):
        until(lambda: self.ended() >= count or driver.poll() is not None, f"{count} trials have ended")
        driver.send_signal(signal.SIGKILL)
        assert driver.wait() == -signal.SIGKILL


def states(client):
    return {
        int(run.data.tags[schema.TRIAL]): run.data.tags[schema.STATE]
        for run in find_children(client, require_parent(client, "digits"))
    }


def check_each_once(client, storage):
    """MLflow has what Optuna's store has, and each point of each metric once."""
    stored = optuna.load_study(study_name="digits", storage=f"sqlite:///{storage}").get_trials()
    assert [trial.number for trial in stored] == list(range(TRIALS))
    parent = require_parent(client, "digits")
    children = find_children(client, parent)
    assert [int(run.data.tags[schema.TRIAL]) for run in children] == list(range(TRIALS))
    for trial, run in zip(stored, children, strict=True):
        assert run.data.tags[schema.STATE] == STATE_NAMES[trial.state]
        assert run.info.status == "FINISHED"
        assert run.data.params.keys() == trial.params.keys()
        steps = {name: steps_of(client, run, name) for name in run.data.metrics if name != TWICE}
        assert {count for counted in steps.values() for count in counted.values()} == {1}
        assert set(steps["val/reconstruction"]) == set(range(1, len(steps["val/reconstruction"]) + 1))
        if trial.values:
            assert [run.data.metrics[name] for name in ("val/reconstruction", "val/kl")] == trial.values
            assert len(steps["val/reconstruction"]) == 36
            assert set(steps["test/auroc"]) == {0}
    assert steps_of(client, parent, "study/hypervolume") == dict.fromkeys(range(1, TRIALS + 1), 1)


def steps_of(client, run, name):
    return Counter(point.step for point in client.get_metric_history(run.info.run_id, name))


def test_a_study_goes_on_after_a_kill_and_after_the_loss_of_its_head_and_is_reported_from_what_is_elsewhere(
    node, tmp_path, monkeypatch
):
    """What had ended just before the head was lost has waited on its disk, since MLflow was away."""
    client, head, folder = MlflowClient(node.uri), Head(node, tmp_path / "head"), Folder.at(HOME) / "digits"
    settings = [word for setting in [*SMALL, f"trials={TRIALS}"] for word in ("--set", setting)]
    with head.proxy:
        head.kill_after(head.driver("run", str(CONFIG), *settings), 1)
        driver, before = head.driver("resume", "digits"), head.ended()
        until(lambda: head.ended() > before or driver.poll() is not None, "another trial has ended")
        head.is_away.set()
        told = head.ended()
        head.kill_after(driver, told + 1)
        lost = [number for number in range(head.ended()) if states(client).get(number) != "finished"]
        assert lost, "MLflow was to miss the end of a trial"
        shutil.rmtree(head.place)
        head.is_away.clear()
        for number in range(head.ended()):
            # As of a driver that died before it cleared them.
            (folder / "checkpoints" / schema.trial_name(number)).write("epoch-000001-00000000.safetensors", b"left")
        assert head.driver("resume", "digits").wait() == 0
    check_each_once(client, head.storage)
    assert subfolders(folder / "checkpoints") == []
    assert all(Checkpoints(folder / "checkpoints" / schema.trial_name(n)).latest() is None for n in range(TRIALS))
    assert "config.json" in folder.names()
    with pytest.raises(UserError, match=rf"--tracking-uri: is missing; --home {HOME} is an object store"):
        load_study("digits", home=HOME)
    # The head is gone with its disk, and who reads has no keys to the bucket.
    champion = load_study("digits", tracking_uri=node.uri).champion.trial
    assert "scores.parquet" in (folder / "trials" / schema.trial_name(champion)).names()
    shutil.rmtree(head.place)
    for name in KEYS:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    record = load_study("digits", tracking_uri=node.uri)
    assert sorted(record.trials["trial"]) == list(range(TRIALS))
    assert record.trials["state"].isin(["finished", "pruned"]).all()
    epochs = record.history.groupby("trial")["epoch"].apply(list).to_dict()
    assert epochs == {number: list(range(1, len(some) + 1)) for number, some in epochs.items()}
    assert epochs.keys() == set(range(TRIALS))
    page = build_report("digits", tracking_uri=node.uri, output=tmp_path / "report")
    assert "data:image/png" in page.read_text()

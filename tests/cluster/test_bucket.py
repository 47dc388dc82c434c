"""A study whose HOME and artifacts are in a bucket, with its databases elsewhere."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing

from pipeline.api import build_report, load_study
from pipeline.folders import Folder
from pipeline.study.checkpoints import Checkpoints
from tests.faults.runs import SMALL, SPEC, until

TRIALS = 3
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL")


def ended(database):
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            return connection.execute("SELECT COUNT(*) FROM trials WHERE state = 'COMPLETE'").fetchone()[0]
    except sqlite3.OperationalError:
        return 0


def test_a_study_goes_on_after_a_kill_and_is_reported_from_the_bucket_and_the_databases_alone(
    node, tmp_path, monkeypatch
):
    places = ["--home", "s3://bucket/studies", "--tracking-uri", node.uri, "--no-report", "--concurrency", "1"]
    places += ["--study-storage", f"sqlite:///{tmp_path}/studies.db"]
    settings = [word for setting in [*SMALL, f"trials={TRIALS}"] for word in ("--set", setting)]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    command = [sys.executable, "-m", "pipeline"]
    head = tmp_path / "head"
    head.mkdir()
    driver = subprocess.Popen([*command, "run", str(SPEC), *settings, *places], cwd=head, env=environment)
    until(lambda: ended(tmp_path / "studies.db") >= 1 or driver.poll() is not None, "a trial has ended")
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    done = ended(tmp_path / "studies.db")
    subprocess.run([*command, "resume", "digits", *places], cwd=head, env=environment, check=True, timeout=400)
    folder = Folder.at("s3://bucket/studies") / "digits"
    keys = [f"trial-{number:04d}" for number in range(TRIALS)]
    # The first driver may have died before it cleared what it had finished last.
    assert all(Checkpoints(folder / "checkpoints" / key).latest() is None for key in keys[done:])
    # The head is gone with its disk, and who reads has no keys to the bucket.
    shutil.rmtree(head)
    for name in KEYS:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    record = load_study("digits", tracking_uri=node.uri)
    assert sorted(record.trials["trial"]) == list(range(TRIALS))
    assert record.trials["state"].isin(["finished", "stopped"]).all()
    epochs = record.history.groupby("trial")["epoch"].apply(list).to_dict()
    assert epochs == {number: list(range(1, len(some) + 1)) for number, some in epochs.items()}
    assert {"spec.json"} <= set(folder.names())
    assert "scores.parquet" in (folder / "trials" / keys[record.champion.trial]).names()
    page = build_report("digits", tracking_uri=node.uri, output=tmp_path / "report")
    assert "data:image/png" in page.read_text()

"""A study whose HOME is a bucket, with its databases elsewhere."""

import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest

from pipeline.api import load_study
from pipeline.errors import UserError
from pipeline.folders import Folder
from pipeline.study.checkpoints import Checkpoints
from tests.faults.runs import PATIENCE_SECONDS, SMALL, SPEC, until
from tests.object_store import served_bucket


def ended(database) -> int:
    try:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            return connection.execute("SELECT COUNT(*) FROM trials WHERE state = 'COMPLETE'").fetchone()[0]
    except sqlite3.OperationalError:
        return 0


def test_a_study_in_a_bucket_goes_on_after_its_driver_was_killed_and_its_databases_lie_elsewhere(tmp_path):
    with served_bucket(tmp_path / "log") as bucket:
        home, tracking = f"{bucket}/studies", f"sqlite:///{tmp_path}/mlflow.db"
        places = ["--home", home, "--tracking-uri", tracking, "--study-storage", f"sqlite:///{tmp_path}/study.db"]
        places += ["--no-report", "--concurrency", "1"]
        settings = [word for setting in [*SMALL, "trials=4"] for word in ("--set", setting)]
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        command = [sys.executable, "-m", "pipeline"]
        driver = subprocess.Popen([*command, "run", str(SPEC), *settings, *places], cwd=tmp_path, env=environment)
        until(lambda: ended(tmp_path / "study.db") >= 1 or driver.poll() is not None, "a trial has ended")
        time.sleep(0.5)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        resume = [*command, "resume", "digits", *places]
        subprocess.run(resume, cwd=tmp_path, env=environment, check=True, timeout=PATIENCE_SECONDS)
        record = load_study("digits", home=home, tracking_uri=tracking)
        assert record.trials["state"].isin(["finished", "stopped"]).all()
        assert len(record.trials) == 4
        assert record.champion is not None
        folder = Folder.at(home) / "digits"
        assert "spec.json" in folder.names()
        assert "scores.parquet" in (folder / "trials" / f"trial-{record.champion.trial:04d}").names()
        assert all(Checkpoints(folder / "checkpoints" / f"trial-{number:04d}").latest() is None for number in range(4))
        with pytest.raises(
            UserError, match=r"--tracking-uri: is missing; --home s3://bucket/studies is an object store"
        ):
            load_study("digits", home=home)

"""Trials that fail with a secret in their errors: neither the screen nor anything that is written says it."""

import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from vae_study.api import build_report, load_study
from vae_study.errors import HIDDEN

from tests.leaks import leaks
from tests.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.processes

PASSWORD, TOKEN = "sword-fish-harbour", "a-token-of-the-source"
# A source that the driver can read and its workers, who do not find what the driver has prepared, cannot.
SOURCE = """
import logging, os, shutil, threading, time
from pathlib import Path
import numpy as np

CACHE = Path(os.environ["VAE_STUDY_CACHE"])
ONCE = CACHE.with_name("read-once")

def forget():
    while not list(CACHE.glob("*/info.json")):
        time.sleep(0.05)
    time.sleep(1)
    shutil.rmtree(CACHE)

def rows():
    address = os.environ["SOURCE_ADDRESS"]
    logging.getLogger("source").error("reading %s with token=%s", address, os.environ["SOURCE_TOKEN"])
    if ONCE.exists():
        raise ConnectionError(f"cannot reach {address} with " + os.environ["SOURCE_TOKEN"])
    ONCE.touch()
    threading.Thread(target=forget, daemon=True).start()
    rows = np.random.default_rng(0).random((300, 4))
    return rows, (np.arange(300) % 10 == 0).astype(int)
"""
CONFIG = """
study: broken
data: {source: "python:source:rows"}
model: {network: {hidden: [8]}}
training: {epochs: 2}
search: {beta: {low: 0.5, high: 2}}
trials: 4
"""


def test_a_study_whose_trials_fail_over_a_secret_says_why_and_not_the_secret(tmp_path):
    (tmp_path / "source.py").write_text(SOURCE)
    (tmp_path / "config.yaml").write_text(CONFIG)
    # A path of Ray's may not be long.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as notes:
        done = run(tmp_path, notes)
        assert leaks([PASSWORD, TOKEN], done.stdout, done.stderr, tmp_path, Path(notes)) == []
    assert done.returncode == 1
    hidden = f"cannot reach mysql://me:{HIDDEN}@host/db with {HIDDEN}"
    assert "the first 3 trials failed in the same way" in done.stderr
    assert hidden in " ".join(done.stderr.split())
    assert f"reading mysql://me:{HIDDEN}@host/db" in done.stderr
    assert re.search(rf"^failed     error, \d trials: .*{re.escape(hidden)}", done.stdout, re.MULTILINE)
    assert hidden in (tmp_path / "reports" / "broken" / "report.html").read_text()
    record = load_study("broken", home=tmp_path / "studies")
    assert record.trials["reason"].dropna().str.contains(hidden, regex=False).all()
    with closing(sqlite3.connect(tmp_path / "studies" / "broken" / "study.db")) as database:
        noted = [value for (value,) in database.execute("SELECT value_json FROM trial_user_attributes")]
    assert any(hidden in value for value in noted)
    errors = [path.read_text() for path in (tmp_path / "studies" / "artifacts").rglob("error.txt")]
    assert len(errors) >= 3
    assert all(hidden in error and "Traceback" in error for error in errors)
    report = build_report("broken", home=tmp_path / "studies", output=tmp_path / "report")
    assert HIDDEN in report.read_text()
    assert leaks([PASSWORD, TOKEN], tmp_path) == []


def run(folder, notes):
    command = [sys.executable, "-m", "vae_study", "run", "config.yaml", "--concurrency", "1"]
    own = {
        "SOURCE_ADDRESS": f"mysql://me:{PASSWORD}@host/db",
        "SOURCE_TOKEN": TOKEN,
        "VAE_STUDY_CACHE": str(folder / "cache"),
        "RAY_TMPDIR": notes,
        "PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]),
    }
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **own},
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )

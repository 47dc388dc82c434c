"""What must hold of a study that lost a node."""

import sqlite3
import subprocess
from collections import Counter
from pathlib import Path

from mlflow import MlflowClient
from vae_study.api import load_study
from vae_study.search.study_store import STATE_NAMES
from vae_study.tracking import schema
from vae_study.tracking.store import find_children, require_parent

from tests.cluster.hosts import SSH, Host


def database_of(head: Host, folder: Path) -> Path:
    """A copy of the study store, which lies on the head."""
    return _copied(head, "vae-study/studies.db", folder / "studies.db")


def copied_logs(head: Host, folder: Path) -> Path:
    """A copy of what Ray and the studies wrote on the head."""
    return _copied(head, "/tmp/ray/session_latest/logs", folder)


def _copied(head: Host, source: str, target: Path) -> Path:
    shell = " ".join(["ssh", *SSH, "-i", str(head.folder / "key")])
    words = ["rsync", "--recursive", "--rsh", shell, f"root@{head.address}:{source}", str(target)]
    subprocess.run(words, check=True)
    return target


def check_invariants(tracking: str, database: Path, trials: int) -> None:
    """Each trial once, in both stores, in one state, with a whole history; and one went on from its checkpoint."""
    with sqlite3.connect(database) as store:
        rows = store.execute("SELECT number, state FROM trials ORDER BY number").fetchall()
    assert [number for number, _ in rows] == list(range(trials))
    client = MlflowClient(tracking)
    parent = require_parent(client, "digits")
    assert parent.info.status == "FINISHED"
    children = find_children(client, parent)
    assert [int(run.data.tags[schema.TRIAL]) for run in children] == list(range(trials))
    names = {state.name: name for state, name in STATE_NAMES.items()}
    record = load_study("digits", tracking_uri=tracking)
    epochs = record.history.groupby("trial")["epoch"].apply(list)
    for (number, state), run in zip(rows, children, strict=True):
        assert run.data.tags[schema.STATE] == names[state]
        assert run.info.status == ("FAILED" if state == "FAIL" else "FINISHED")
        assert epochs[number] == list(range(1, len(epochs[number]) + 1))
        points = Counter(point.step for point in client.get_metric_history(run.info.run_id, "val/reconstruction"))
        assert points == Counter(epochs[number])
    assert record.trials["state"].isin(["finished", "pruned"]).all()
    assert record.trials["preemptions"].sum() >= 1
    assert record.champion is not None

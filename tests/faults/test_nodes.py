"""A node is taken away with notice: its trial is saved at once. Another is lost: its trial begins again."""

import json
import subprocess
import sys

import pytest
from vae_study.api import load_study
from vae_study.tracking import schema

from tests.faults.runs import check_invariants
from tests.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.processes


def epochs_before_preemption(home, trial):
    """The epochs of a trial that the driver had taken when it noted that the trial's worker was taken away."""
    records = [json.loads(line) for line in (home / "digits" / "journal.jsonl").read_text().splitlines()]
    records = [one for one in records if one["run"] == trial]
    [noted] = [place for place, one in enumerate(records) if schema.PREEMPTIONS in one.get("tags", {})]
    return [epoch for one in records[:noted] if one["op"] == "epochs" for epoch, *_ in one["epochs"]]


def test_a_drained_node_has_its_trial_saved_and_loses_no_epoch_and_a_lost_node_takes_no_trial_with_it(tmp_path):
    command = [sys.executable, "-m", "tests.faults.lose_nodes", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert not seen["saved_before"]
    assert seen["ended_before_a_node_was_lost"] == 0
    check_invariants(tmp_path, 2)
    [(trial, epoch)] = seen["saved"]
    assert load_study("digits", home=tmp_path).trials["preemptions"].tolist() == [1, 1]
    assert epochs_before_preemption(tmp_path, trial) == list(range(1, epoch + 1))

"""A node is taken away with notice: what runs there is saved at once, and goes on elsewhere."""

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


def test_a_node_with_notice_has_its_trial_saved_at_once_and_is_free_and_no_epoch_is_lost(tmp_path):
    command = [sys.executable, "-m", "tests.faults.drain_node", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert not seen["saved_before"]
    assert seen["ended_before_the_node_left"] == 0
    check_invariants(tmp_path, 2)
    [(trial, epoch)] = seen["saved"]
    preemptions = load_study("digits", home=tmp_path).trials["preemptions"]
    assert preemptions.sum() == preemptions[int(trial.removeprefix("trial-"))] == 1
    assert epochs_before_preemption(tmp_path, trial) == list(range(1, epoch + 1))

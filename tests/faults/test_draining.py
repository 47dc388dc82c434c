"""A node is taken away with notice: what runs there is saved at once, and goes on elsewhere."""

import json
import subprocess
import sys
from itertools import pairwise

from pipeline.api import load_study
from tests.faults.runs import PATIENCE_SECONDS, check_invariants


def told(home, trial):
    """Of each epoch of a trial, its number and its time in milliseconds, in the order in which the driver took them."""
    records = [json.loads(line) for line in (home / "digits" / "spool.jsonl").read_text().splitlines()]
    found = [one["epochs"] for one in records if one["op"] == "epochs" and one["run"] == trial]
    return [(epoch, stamp) for epochs in found for epoch, stamp, _ in epochs]


def test_a_node_with_notice_has_its_trial_saved_at_once_and_is_free_and_no_epoch_is_lost(tmp_path):
    command = [sys.executable, "-m", "tests.faults.drain_node", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert not seen["saved_before"]
    assert seen["seconds_to_save"] <= seen["seconds_to_leave"] < 60
    check_invariants(tmp_path, 2)
    [(trial, epoch)] = seen["saved"]
    preemptions = load_study("digits", home=tmp_path).trials["preemptions"]
    assert preemptions.sum() == preemptions[int(trial.removeprefix("trial-"))] == 1
    # What it was taken away after, the longest pause tells.
    epochs = told(tmp_path, trial)
    pauses = [(later[1] - earlier[1], earlier[0]) for earlier, later in pairwise(epochs)]
    assert max(pauses)[1] == epoch

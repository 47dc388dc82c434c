"""docs/cluster.slurm.sh through a time limit and a requeue, with stand-ins for Slurm's commands on one machine."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.cluster.heads import BIN
from tests.cluster.yamls import ROOT
from tests.faults.runs import CONFIG, SMALL, check_invariants, ended, under_way
from tests.waiting import command_line, until

pytestmark = pytest.mark.cluster

SCRIPT = ROOT / "docs" / "cluster.slurm.sh"
NODES, TRIALS = 2, 3
SRUN = f"""#!/bin/bash
# One task on each node, whatever the options are; told to end, it ends them.
while [[ "$1" == --* ]]; do shift; done
for node in $(seq 0 {NODES - 1}); do
  SLURM_NODEID=$node SLURM_CPUS_ON_NODE=1 "$@" &
  tasks="$tasks $!"
done
trap 'kill $tasks' TERM
wait; wait
"""
SCONTROL = '#!/bin/sh\necho "$*" >> "$SLURM_STANDIN/scontrol"\n'


class Slurm:
    """The controller: it starts a batch script, and tells it of its time limit."""

    def __init__(self, folder: Path):
        self.folder, self.number, self.log = folder, os.getpid(), folder / "job.log"
        programs = folder / "bin"
        programs.mkdir()
        for name, text in {"srun": SRUN, "scontrol": SCONTROL}.items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        (programs / "vae-study").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m vae_study "$@"\n')
        (programs / "vae-study").chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{programs}:{BIN}:{os.environ['PATH']}",
            "SLURM_JOB_ID": str(self.number),
            "SLURM_STANDIN": str(folder),
        }

    def sbatch(self, *words: str) -> "subprocess.Popen[bytes]":
        command = ["bash", SCRIPT, *words]
        with self.log.open("ab") as log:
            return subprocess.Popen(command, env=self.environment, cwd=self.folder, stdout=log, stderr=log)

    def near_the_limit(self, job: "subprocess.Popen[bytes]") -> None:
        """As `#SBATCH --signal` asks for: to the shell alone."""
        [name] = re.findall(r"^#SBATCH --signal=B:(\w+)@\d+$", SCRIPT.read_text(), re.MULTILINE)
        job.send_signal(signal.Signals[f"SIG{name}"])

    def requeued(self) -> list[str]:
        path = self.folder / "scontrol"
        return path.read_text().splitlines() if path.exists() else []

    def left(self) -> list[str]:
        """What still runs of the job."""
        return [command_line(one) for one in psutil.process_iter() if self.is_mine(one)]

    def is_mine(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get("SLURM_STANDIN") == str(self.folder) and process.status() != "zombie"
        except psutil.Error:
            return False


@pytest.fixture
def slurm(tmp_path):
    slurm = Slurm(tmp_path)
    yield slurm
    for process in filter(slurm.is_mine, psutil.process_iter()):
        process.kill()


def test_a_study_is_saved_before_the_time_limit_requeued_and_ends_with_every_trial_once(slurm, tmp_path):
    home = tmp_path / "home"
    words = [str(CONFIG), "--home", str(home), "--no-report"]
    for setting in [*SMALL, f"trials={TRIALS}", "training.epochs=200", "early_stopping.kind=none"]:
        words += ["--set", setting]
    job = slurm.sbatch(*words)
    until(lambda: len(under_way(home)) >= NODES, "a trial is trained on each node", job, slurm.log)
    slurm.near_the_limit(job)
    assert job.wait() == 0, slurm.log.read_text()
    assert slurm.requeued() == [f"requeue {slurm.number}"]
    assert "running trials are being saved" in slurm.log.read_text()
    assert ended(home) < TRIALS
    until(lambda: not slurm.left(), "nothing is left on the nodes")
    saved = {path.parent.name for path in home.glob("digits/checkpoints/*/epoch-*")}
    # On a fast machine, one may have ended meanwhile.
    assert saved
    assert len(saved) + ended(home) >= NODES
    again = slurm.sbatch(*words)
    assert again.wait() == 0, slurm.log.read_text()
    # At its end it does not requeue itself.
    assert len(slurm.requeued()) == 1
    check_invariants(home, TRIALS)
    until(lambda: not slurm.left(), "nothing is left on the nodes")

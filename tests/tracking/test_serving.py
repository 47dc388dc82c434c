import json
import os
import shlex
import signal
import subprocess
import sys
import urllib.request
from contextlib import suppress

import numpy as np
import pandas as pd
import psutil
import pytest
from vae_study.tracking.serving import run_server

from tests.tracking.packed import COLUMNS, Packed, log_all, new_study
from tests.tracking.servers import free_port
from tests.waiting import PATIENCE_SECONDS, until

pytestmark = pytest.mark.processes

SERVE = """
import sys
from vae_study.tracking.serving import serve
from vae_study.tracking.store import open_client
serve(open_client(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), lambda text: print(text, flush=True))
"""


@pytest.fixture
def served(store, name, tmp_path):
    """A model that is being served: its detectors, and the command that the user is told to try."""
    packed = Packed(tmp_path)
    parent, children = new_study(store, name)
    log_all(store, packed, parent, children)
    command = [sys.executable, "-c", SERVE, store.tracking_uri, name, "trial-0007", str(free_port())]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield packed, lambda: (tmp_path / "log").read_text(), process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def asked(read, process):
    """The answer to the printed command, once the server is up."""
    answers = []

    def has_answered():
        line = next((line for line in read().splitlines() if line.startswith("curl ")), None)
        with suppress(OSError):
            answers.extend([posted(*shlex.split(line)[1::2][:1], shlex.split(line)[-1])] if line else [])
        return answers

    until(has_answered, "the printed command is answered", process)
    return answers[0]


def posted(url, body):
    request = urllib.request.Request(url, body.encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:
        return pd.DataFrame(json.load(answer)["predictions"])


def test_the_printed_command_gets_the_scores_of_the_first_example_until_the_command_is_ended(served):
    packed, read, process = served
    answer = asked(read, process)
    expected = packed.scores("trial-0007", packed.frame[COLUMNS].head(1))
    np.testing.assert_allclose(answer["score"], expected["score"], rtol=1e-6)
    assert list(answer["above_p90"]) == list(expected["above_p90"])
    process.send_signal(signal.SIGINT)
    assert process.wait(PATIENCE_SECONDS) == 0
    assert read().strip().endswith("ended")


# A server that has started one of its own, as MLflow's command does.
SERVER = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""
COMMAND = """
import os, sys
from vae_study.tracking.serving import run_server
print(run_server([sys.executable, "-c", sys.argv[1]], os.environ))
"""


def is_alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_who_ends_the_command_ends_the_server_and_what_that_has_started(kind):
    process = subprocess.Popen([sys.executable, "-c", COMMAND, SERVER], stdout=subprocess.PIPE, text=True)
    pid = int(process.stdout.readline())
    assert is_alive(pid)
    process.send_signal(kind)
    assert process.communicate(timeout=PATIENCE_SECONDS)[0] == "None\n"
    assert process.returncode == 0
    until(lambda: not is_alive(pid), "the server's own process has ended")


def test_of_a_server_that_ends_by_itself_the_exit_code_is_told():
    assert run_server([sys.executable, "-c", "raise SystemExit(5)"], os.environ) == 5

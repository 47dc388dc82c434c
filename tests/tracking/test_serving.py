import os
import signal
import subprocess
import sys

import psutil
import pytest
from vae_study.tracking.serving import run_server

from tests.waiting import PATIENCE_SECONDS, until

pytestmark = pytest.mark.processes

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

"""A server that has started one of its own, as MLflow's command does, and what is left of them."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from pipeline.tracking.children import run_server

SERVER = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""
COMMAND = """
import os, sys
from pipeline.tracking.children import run_server
print(run_server([sys.executable, "-c", sys.argv[1]], os.environ))
"""
SECONDS = 60.0


def is_alive(pid):
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_who_ends_the_command_ends_the_server_and_what_that_has_started(kind):
    process = subprocess.Popen([sys.executable, "-c", COMMAND, SERVER], stdout=subprocess.PIPE, text=True)
    pid = int(process.stdout.readline())
    assert is_alive(pid)
    process.send_signal(kind)
    assert process.communicate(timeout=SECONDS)[0] == "None\n"
    assert process.returncode == 0
    deadline = time.monotonic() + SECONDS
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_alive(pid)


def test_of_a_server_that_ends_by_itself_the_exit_code_is_told():
    assert run_server([sys.executable, "-c", "raise SystemExit(5)"], os.environ) == 5

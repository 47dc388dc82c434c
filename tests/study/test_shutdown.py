"""What Ctrl-C does to a process that works, with its output in a pipe and buffered as it is by default."""

import os
import signal
import subprocess
import sys

import pytest
from vae_study.study.session import STOPPING

from tests.waiting import PATIENCE_SECONDS

pytestmark = pytest.mark.processes
# Says when it is ready, works until there is a reason for the shutdown, and tells how it ended.
PROGRAM = """
import os
import sys
import time

from vae_study.study.session import Shutdown

shutdown = Shutdown()
try:
    with shutdown.on_signals():
        # Not through Python's buffer, in the midst of which the signal could come.
        os.write(1, b"at work\\n")
        while {condition}:
            time.sleep(0.01)
    print("ended because", shutdown.reason)
except KeyboardInterrupt:
    print("ended at once")
    sys.exit(3)
"""
UNTIL_ASKED, FOR_EVER = "shutdown.reason is None", "True"


@pytest.fixture
def working():
    started, environment = [], {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}

    def start(condition, *before):
        command = [*before, sys.executable, "-c", PROGRAM.format(condition=condition)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        started.append(process)
        assert process.stdout.readline() == "at work\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def rest(process):
    return process.communicate(timeout=PATIENCE_SECONDS)[0].splitlines()


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_first_signal_asks_for_the_end_and_lets_the_work_come_to_it(working, kind):
    process = working(UNTIL_ASKED)
    process.send_signal(kind)
    assert rest(process) == ["", STOPPING, "ended because interrupted"]
    assert process.returncode == 0


@pytest.mark.parametrize("second", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_at_once_work_that_does_not_end(working, second):
    process = working(FOR_EVER)
    process.send_signal(signal.SIGINT)
    # Two signals that are there at the same time may be one.
    assert [process.stdout.readline() for _ in range(2)] == ["\n", f"{STOPPING}\n"]
    process.send_signal(second)
    assert rest(process) == ["ended at once"]
    assert process.returncode == 3


def test_a_terminal_that_closes_twice_ends_nothing_at_once(working):
    process = working(FOR_EVER)
    process.send_signal(signal.SIGTERM)
    assert [process.stdout.readline() for _ in range(2)] == ["\n", f"{STOPPING}\n"]
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGINT)
    assert rest(process) == ["ended at once"]


def test_under_nohup_a_closed_terminal_ends_nothing(working):
    process = working(UNTIL_ASKED, "nohup")
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGTERM)
    assert rest(process) == ["", STOPPING, "ended because interrupted"]


def test_a_signal_asks_for_the_end_though_nobody_reads_what_is_said_any_more(working):
    process = working(UNTIL_ASKED)
    process.stdout.close()
    process.send_signal(signal.SIGINT)
    # What Python itself says where its last words find no reader; a signal that killed it would be negative.
    assert process.wait(PATIENCE_SECONDS) == 120


def test_a_signal_in_the_midst_of_writing_is_told_all_the_same(working):
    process = working("shutdown.reason is None and print('x' * 100_000) is None")
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    told = [first.strip(), *rest(process)]
    assert STOPPING in told
    assert set("".join(told).replace(STOPPING, "").replace("ended because interrupted", "")) == {"x"}
    assert process.returncode == 0

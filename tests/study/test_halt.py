import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress

import pytest

from pipeline.errors import StudyError
from pipeline.study.halt import Halt, Interrupted

SECONDS = 10.0
BEGIN = """
import sys, time
from pipeline.errors import StudyError
from pipeline.study.halt import Halt
halt = Halt()
def say(text):
    print(text, flush=True)
"""
# Runs until it is asked to end, then saves until it is told to be done, and waits to be ended for good.
DRIVE = f"""{BEGIN}
if sys.argv[1:]:
    halt.ask(StudyError(sys.argv[1]))
try:
    with halt.on_signals(say):
        say("ready")
        while not halt.why:
            time.sleep(0.01)
        say(f"saving, {{type(halt.why).__name__}}: {{halt.why}}")
        sys.stdin.readline()
except KeyboardInterrupt:
    say("at once")
say("after")
sys.stdin.readline()
"""
PRINT_WITHOUT_END = f"""{BEGIN}
with halt.on_signals(say):
    while not halt.why:
        print("x" * 1000)
print("saved")
"""


@contextmanager
def process(code, *words):
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command, pipe = [sys.executable, "-c", code, *words], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1, env=buffered) as started:
        # Who waits for it in vain reads its end.
        watchdog = threading.Timer(SECONDS, started.kill)
        watchdog.start()
        try:
            yield started
        finally:
            watchdog.cancel()
            started.kill()


def lines(started, count):
    return [started.stdout.readline().strip() for _ in range(count)]


def tell(started):
    started.stdin.write("\n")
    started.stdin.flush()


SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("kind", SIGNALS)
def test_the_first_signal_asks_for_the_end_and_afterwards_the_old_handlers_are_back(kind):
    with process(DRIVE) as started:
        assert lines(started, 1) == ["ready"]
        started.send_signal(kind)
        assert lines(started, 2) == [
            "stopping: running trials are being saved; Ctrl-C again ends at once",
            "saving, Interrupted: interrupted",
        ]
        tell(started)
        assert lines(started, 1) == ["after"]
        started.send_signal(signal.SIGTERM)
        assert started.wait(SECONDS) == -signal.SIGTERM


@pytest.mark.parametrize("kinds", [(first, second) for first in SIGNALS for second in SIGNALS])
def test_the_second_signal_ends_at_once(kinds):
    with process(DRIVE) as started:
        lines(started, 1)
        started.send_signal(kinds[0])
        lines(started, 2)
        started.send_signal(kinds[1])
        assert lines(started, 2) == ["at once", "after"]


def test_a_study_that_is_ending_for_a_trouble_of_its_own_can_be_ended_at_once_too():
    with process(DRIVE, "all trials failed") as started:
        assert lines(started, 2) == ["ready", "saving, StudyError: all trials failed"]
        started.send_signal(signal.SIGINT)
        assert lines(started, 1)[0].startswith("stopping")
        started.send_signal(signal.SIGINT)
        assert lines(started, 2) == ["at once", "after"]


def test_a_signal_in_the_midst_of_a_print_that_nobody_reads_ends_the_study_all_the_same():
    with process(PRINT_WITHOUT_END) as started:
        assert started.stdout.read(1) == "x"
        time.sleep(0.3)
        started.send_signal(signal.SIGINT)
        time.sleep(0.1)
        assert started.stdout.read().endswith("saved\n")
        assert started.wait(SECONDS) == 0


def test_a_signal_whose_message_goes_to_a_closed_pipe_asks_for_the_end():
    halt = Halt()

    def say(text):
        raise BrokenPipeError

    with halt.on_signals(say):
        os.kill(os.getpid(), signal.SIGINT)
        assert isinstance(halt.why, Interrupted)


def test_handlers_are_restored_also_after_an_error():
    before = [signal.getsignal(kind) for kind in SIGNALS]
    with suppress(ZeroDivisionError), Halt().on_signals(print):
        assert [signal.getsignal(kind) for kind in SIGNALS] != before
        raise ZeroDivisionError
    assert [signal.getsignal(kind) for kind in SIGNALS] == before


def test_in_another_thread_than_the_main_one_no_handler_is_touched():
    before, seen = [signal.getsignal(kind) for kind in SIGNALS], []

    def drive():
        with Halt().on_signals(print):
            seen.extend(signal.getsignal(kind) for kind in SIGNALS)

    thread = threading.Thread(target=drive)
    thread.start()
    thread.join()
    assert seen == before


def test_the_first_reason_stays_the_reason():
    halt, lost = Halt(), threading.Event()
    halt.watch(lost, StudyError("taken over"))
    assert halt.why is None
    lost.set()
    assert str(halt.why) == "taken over"
    halt.ask(StudyError("too late"))
    assert str(halt.why) == "taken over"

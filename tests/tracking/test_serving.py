import json
import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pandas as pd
import pytest

from tests.tracking.packed import COLUMNS, Packed, log_all, new_study
from tests.tracking.servers import free_port

SECONDS_TO_START = 90.0
SERVE = """
import sys
from pipeline.tracking.serving import serve
from pipeline.tracking.store import open_client
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
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline and process.poll() is None:
        line = next((line for line in read().splitlines() if line.startswith("curl ")), None)
        try:
            if line:
                return posted(*shlex.split(line)[1::2][:1], shlex.split(line)[-1])
        except OSError:
            pass
        time.sleep(0.2)
    raise AssertionError(read())


def posted(url, body):
    request = urllib.request.Request(url, body.encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return pd.DataFrame(json.load(answer)["predictions"])


def test_the_printed_command_gets_the_scores_of_the_first_example_until_the_command_is_ended(served):
    packed, read, process = served
    answer = asked(read, process)
    expected = packed.scores("trial-0007", packed.frame[COLUMNS].head(1))
    np.testing.assert_allclose(answer["score"], expected["score"], rtol=1e-6)
    assert list(answer["above_p90"]) == list(expected["above_p90"])
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 0
    assert read().strip().endswith("ended")

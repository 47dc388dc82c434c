"""A model over HTTP: a request gets the same answer, whatever else waits; whatever is sent, the server answers."""

import http.client
import json
import shlex
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.utils.file_utils import local_file_uri_to_path
from vae_study.api import serve_model
from vae_study.detector.detector import Detector
from vae_study.errors import UserError
from vae_study.server import BODY_BYTES, Scorer
from vae_study.tracking.models import find_model
from vae_study.tracking.store import open_client

from tests.tracking.packed import CHOICES, COLUMNS, Packed, log_all, new_study
from tests.tracking.servers import free_port
from tests.waiting import PATIENCE_SECONDS, listens, until

JSON, CSV = "application/json", "text/csv"
ROW = {"age": 41, "income": 3000.5, "member": True, "city": "Ulm"}


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return Packed(tmp_path_factory.mktemp("packed"))


@pytest.fixture(scope="module", params=CHOICES)
def scorer(packed, request):
    return Scorer(Detector.load(packed.folder / request.param))


@pytest.fixture(scope="module")
def one(packed):
    return Scorer(Detector.load(packed.folder / "trial-0007"))


def asked(scorer, content, kind=JSON):
    content = content if isinstance(content, bytes) else json.dumps(content).encode()
    (answer,) = scorer.answers([(kind, content)])
    return answer.status, json.loads(answer.content)


def scores(answer):
    status, content = answer
    assert status == 200, content
    return pd.DataFrame(content["predictions"])


def plain(frame):
    """Rows of plain values, None where one is missing."""
    return [list(row) for row in frame.astype(object).where(frame.notna(), None).to_numpy()]


FORMS = {
    "split": lambda frame: {"dataframe_split": {"columns": list(frame), "data": plain(frame)}},
    "split in another order": lambda frame: {
        "dataframe_split": {"columns": list(frame)[::-1], "data": plain(frame[list(frame)[::-1]])}
    },
    "records": lambda frame: {"dataframe_records": json.loads(frame.to_json(orient="records"))},
    "records without what is missing": lambda frame: {
        "dataframe_records": [row.dropna().to_dict() for _, row in frame.astype(object).iterrows()]
    },
    "instances": lambda frame: {"instances": json.loads(frame.to_json(orient="records")), "params": {}},
    "rows": lambda frame: {"instances": plain(frame)},
    "columns": lambda frame: {"inputs": {name: [row[0] for row in plain(frame[[name]])] for name in frame}},
    "more columns": lambda frame: {"dataframe_records": [{**row, "note": [1]} for row in records(frame)]},
}


def records(frame):
    return json.loads(frame.to_json(orient="records"))


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_mlflows_json_has_the_scores_of_the_rows(packed, one, form):
    rows = packed.frame[COLUMNS].head(40)
    expected = packed.scores("trial-0007", rows)
    pd.testing.assert_frame_equal(scores(asked(one, FORMS[form](rows))), expected, check_exact=True)


@pytest.mark.parametrize("separator", [",", ";"])
def test_csv_is_read_as_a_file_is(packed, one, separator):
    rows = packed.frame.head(40)
    content = rows.to_csv(index=False, sep=separator).encode()
    expected = packed.scores("trial-0007", rows)
    pd.testing.assert_frame_equal(scores(asked(one, content, CSV)), expected, check_exact=True)


def values(*kinds):
    return st.one_of(st.none(), *kinds)


any_number = [st.integers(-99, 99), st.floats(-9e3, 9e3), st.just(2**60), st.sampled_from(["12", "1e3", "x", True])]
rows = st.fixed_dictionaries(
    {
        "age": values(*any_number),
        "income": values(*any_number),
        "member": values(st.booleans(), st.sampled_from([0, 1.0, "True", "no"])),
        "city": values(st.sampled_from(["Ulm", "Bonn", "Rome", "", "NA", 7])),
    }
)
bodies = st.one_of(
    st.lists(rows, min_size=1, max_size=3).map(lambda found: (JSON, json.dumps({"instances": found}).encode())),
    st.lists(rows, min_size=1, max_size=3).map(lambda found: (CSV, pd.DataFrame(found).to_csv(index=False).encode())),
    st.sampled_from([(JSON, b"{"), (CSV, b"age\n1\n"), (JSON, b'{"instances": [{"age": [1]}]}')]),
)


@settings(max_examples=15, deadline=None)
@given(st.lists(bodies, min_size=2, max_size=12))
def test_requests_that_wait_together_have_the_answers_that_each_has_alone_to_the_bit(scorer, requests):
    assert scorer.answers(requests) == [scorer.answers([request])[0] for request in requests]


def test_many_rows_at_once_have_the_scores_that_each_has_alone_to_the_bit(packed, scorer):
    requests = [(JSON, json.dumps({"instances": [row]}).encode()) for row in records(packed.frame[COLUMNS])]
    together = scorer.answers(requests)
    assert together[::20] == [scorer.answers([request])[0] for request in requests[::20]]


BAD = {
    "no JSON": (b"{", "not valid JSON"),
    "no UTF-8": (b"\xff", "not valid JSON"),
    "nothing": (b"", "not valid JSON"),
    "nested deeply": (b'{"instances":' + b"[" * 100_000, "nested too deeply"),
    "a number of 5,000 digits": (b'{"instances": [{"age": ' + b"9" * 5000 + b"}]}", "not valid JSON"),
    "a list": ([ROW], "got none of the forms"),
    "two forms": ({"instances": [ROW], "inputs": [ROW]}, "got instances and inputs of the forms"),
    "no rows": ({"instances": []}, "expected a list with at least one"),
    "rows that are none": ({"instances": [ROW, 7]}, "row 2: got a value, expected an object"),
    "a short row": ({"instances": [[1, 2, True, "Ulm"], [1]]}, "row 2: got 1 values, expected a list of 4"),
    "columns of several lengths": ({"inputs": {**ROW, "income": [1, 2]}}, "column 'income': got 2 values, expected 1"),
    "a missing column": ({"instances": [{"age": 1}]}, "no column 'income', no column 'member', no column 'city'"),
    "a column twice": ({"dataframe_split": {"columns": ["age", "age"], "data": [[1, 2]]}}, "column 'age': occurs 2"),
    "a list in a cell": ({"instances": [ROW, {**ROW, "age": [1]}]}, "column 'age': got a list in row 2"),
    "text for a number": ({"instances": [ROW, {**ROW, "age": "old"}]}, "column 'age': got 'old' in row 2"),
    "a number for text": ({"instances": [{**ROW, "city": 7}]}, "column 'city' holds numbers, expected categories"),
    "an infinite number": (b'{"inputs": {"age": 1e999, "income": 1, "member": true, "city": ""}}', "infinite in row 1"),
    "half a character": (b'{"inputs": {"age": 1, "income": 1, "member": true, "city": "\\ud800"}}', "column 'city'"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_with_a_request_is_said_in_one_sentence_with_column_and_row(one, case):
    content, said = BAD[case]
    status, answer = asked(one, content)
    assert (status, answer["error_code"]) == (400, "BAD_REQUEST")
    assert said in answer["message"]
    assert "\n" not in answer["message"]
    assert len(answer["message"]) < 500


BAD_CSV = {
    "nothing": (b"", "holds no line"),
    "no rows": (b"age,income,member,city\n", "holds no rows"),
    "a missing column": (b"age,income\n1,2\n", "no column 'member', no column 'city'"),
    "a short row": (b"age,income,member,city\n1,2,True,Ulm\n1,2\n", ":3: got 2 values"),
    "text for a number": (b"age,income,member,city\n1,,True,Ulm\nold,2,,Ulm\n", "column 'age': got 'old' in row 2"),
    "a column twice": (b"age,age,income,member,city\n1,1,2,True,Ulm\n", "column 'age': occurs 2 times"),
}


@pytest.mark.parametrize("case", BAD_CSV)
def test_what_is_wrong_with_csv_is_said_in_one_sentence_with_column_and_row(one, case):
    content, said = BAD_CSV[case]
    status, answer = asked(one, content, CSV)
    assert (status, said in answer["message"]) == (400, True), answer


SERVE = """
import sys
from vae_study.api import serve_model
serve_model(*sys.argv[2:4], int(sys.argv[4]), lambda text: print(text, flush=True), tracking_uri=sys.argv[1])
"""


class Served:
    """A model that a process of its own serves."""

    def __init__(self, uri, study, log):
        self.port, self.log = free_port(), log
        command = [sys.executable, "-c", SERVE, uri, study, "trial-0007", str(self.port)]
        with log.open("wb") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        until(lambda: listens(self.port), "the server listens", self.process, log)

    def ask(self, method, path, body=None, kind=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        headers |= {"Content-Type": kind} if kind else {}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        try:
            return answer.status, answer.read()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def served(packed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    client = open_client(f"sqlite:///{folder}/mlflow.db")
    parent, children = new_study(client, "customers")
    log_all(client, packed, parent, children)
    found = Served(f"sqlite:///{folder}/mlflow.db", "customers", folder / "log")
    try:
        yield found
    finally:
        found.process.kill()
        found.process.wait()


@pytest.mark.processes
def test_the_printed_commands_get_the_scores_of_the_first_example(packed, served):
    until(lambda: served.log.read_text().count("curl ") == 2, "the commands are printed", served.process)
    expected = packed.scores("trial-0007", packed.example.head(1))
    for text in served.log.read_text().split("try\n")[1:]:
        _, _, _, header, _, body = shlex.split(text)
        status, answer = served.ask("POST", "/invocations", body.encode(), header.removeprefix("Content-Type: "))
        found = pd.DataFrame(json.loads(answer)["predictions"])
        assert status == 200
        np.testing.assert_allclose(found["score"], expected["score"], rtol=1e-5)


@pytest.mark.processes
def test_the_server_has_the_paths_of_mlflows(served):
    assert served.ask("GET", "/ping") == served.ask("GET", "/health") == (200, b"\n")
    assert served.ask("GET", "/version") == (200, version("mlflow").encode())
    assert served.ask("GET", "/")[0] == 404
    assert served.ask("GET", "/invocations")[0] == 405
    assert served.ask("POST", "/invocations", b"{}", "application/x-pickle")[0] == 415
    assert served.ask("POST", "/invocations", b"{}")[0] == 415


@pytest.mark.processes
@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", ""])
def test_a_request_for_a_foreign_host_is_refused(served, host):
    status, answer = served.ask("GET", "/health", Host=host.format(port=served.port))
    assert (status, b"Host: got" in answer) == (400, True)


@pytest.mark.processes
@pytest.mark.parametrize("host", ["localhost", "localhost:{port}", "127.0.0.1", "[::1]:{port}"])
def test_the_names_of_this_machine_are_no_foreign_hosts(served, host):
    assert served.ask("GET", "/health", Host=host.format(port=served.port))[0] == 200


@pytest.mark.processes
def test_a_body_without_an_end_is_refused_and_the_server_goes_on(served):
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=PATIENCE_SECONDS)
    connection.putrequest("POST", "/invocations")
    connection.putheader("Content-Type", JSON)
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    chunk = b"[" * 2**20
    try:
        for _ in range(2 * BODY_BYTES // len(chunk)):
            connection.send(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        assert connection.getresponse().status == 413
    except (BrokenPipeError, ConnectionResetError):
        # The server closed the connection before this end had sent all.
        pass
    finally:
        connection.close()
    assert served.ask("GET", "/health")[0] == 200


@pytest.mark.processes
def test_a_hundred_clients_at_once_have_the_answers_that_each_has_alone(packed, served):
    bodies = [json.dumps({"instances": [row]}) for row in records(packed.frame[COLUMNS])]
    bodies[7] = bodies[77] = "{"
    with ThreadPoolExecutor(100) as clients:
        found = [*clients.map(lambda body: served.ask("POST", "/invocations", body, JSON), bodies)]
    assert [index for index, (status, _) in enumerate(found) if status != 200] == [7, 77]
    for index in range(0, len(bodies), 25):
        assert found[index] == served.ask("POST", "/invocations", bodies[index], JSON)


@pytest.mark.processes
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_server(packed, tmp_path, kind):
    client = open_client(f"sqlite:///{tmp_path}/mlflow.db")
    parent, children = new_study(client, "customers")
    log_all(client, packed, parent, children)
    found = Served(f"sqlite:///{tmp_path}/mlflow.db", "customers", tmp_path / "log")
    until(lambda: found.ask("GET", "/health")[0] == 200, "it answers", found.process, tmp_path / "log")
    found.process.send_signal(kind)
    assert found.process.wait(PATIENCE_SECONDS) == 0
    assert found.log.read_text().strip().endswith("ended")


def test_a_model_that_was_tampered_with_is_not_served(packed, tmp_path):
    client = open_client(f"sqlite:///{tmp_path}/mlflow.db")
    parent, children = new_study(client, "customers")
    log_all(client, packed, parent, children)
    place = local_file_uri_to_path(find_model(client, parent, "trial-0003").artifact_location)
    with open(f"{place}/data/detector/detector.json", "a") as file:
        file.write(" ")
    with pytest.raises(UserError, match="are not those that the study logged"):
        serve_model("customers", "trial-0003", free_port(), print, tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")

import json
import logging
import string
import subprocess
import sys
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from vae_study.errors import HIDDEN, StudyError, UserError, holds_secret, redacted, redacted_values

from tests.waiting import PATIENCE_SECONDS

# All that a database's driver takes for a part of a password, in an address that nothing has encoded.
PASSWORDS = st.text(string.ascii_letters + string.digits + "!$%&*+-./:;<=>?^_|~#'\"(){}[]\\,", min_size=8, max_size=40)
WORDS = st.text(string.ascii_letters + " .", max_size=30)
VARIABLES = [
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "RAY_AUTH_TOKEN",
    "PGPASSWORD",
    "MY_SERVICE_API_KEY",
]


@given(PASSWORDS, WORDS, WORDS, st.sampled_from(["postgresql+psycopg2", "http", "s3", "mysql", "redis"]))
def test_a_password_in_an_address_is_hidden_and_the_rest_stays(password, before, after, scheme):
    shown = redacted(f"{before}{scheme}://me:{password}@host:5432/db {after}")
    assert shown == f"{before}{scheme}://me:{HIDDEN}@host:5432/db {after}"


@pytest.mark.parametrize("password", ["a@b", "a/b", "p:w", "x" * 3, "a%40b", "a@b/c?d#e", ""])
def test_a_password_of_any_kind_ends_at_the_last_at(password):
    assert redacted(f"('http://me:{password}@host/x')") == f"('http://me:{HIDDEN}@host/x')"


@given(
    st.text(string.ascii_letters + string.digits + "/+=", min_size=1, max_size=40),
    st.sampled_from(
        ["password=", "s3://b/x?secret_key=", "?region=a&token=", "X-Amz-Signature=", "--db-password=", "?sig=", "PWD="]
    ),
)
def test_what_follows_a_name_such_as_password_is_hidden(secret, name):
    assert redacted(f"at {name}{secret}&region=us-east-1") == f"at {name}{HIDDEN}&region=us-east-1"


@given(st.text(min_size=1, max_size=40), st.sampled_from(["password", "db_password", "aws.secret_key", "apiKey"]))
def test_what_follows_such_a_name_in_a_dictionary_or_in_json_is_hidden(secret, name):
    for text in (repr({name: secret, "beta": 1}), json.dumps({name: secret, "beta": 1})):
        assert redacted(text).replace('"', "'") == f"{{'{name}': {HIDDEN}, 'beta': 1}}"


@pytest.mark.parametrize("kind", ["Basic", "bearer"])
def test_credentials_in_a_header_are_hidden(kind):
    assert redacted(f"{{'Authorization': '{kind} c2VjcmV0'}}") == f"{{'Authorization': '{kind} {HIDDEN}'}}"


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=8, max_size=40), WORDS)
@example('say "secret"\\now', "")
def test_the_environments_own_secrets_are_hidden_wherever_they_are(secret, around):
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLES:
            patch.setenv(name, secret)
            assert secret not in redacted(f"{around}{secret}{around}")
            assert quote(secret, safe="") not in redacted(f"{around}{quote(secret, safe='')}")
            assert json.dumps(secret)[1:-1] not in redacted(json.dumps({"reason": f"{around} {secret}"}))
            patch.delenv(name)


@pytest.mark.parametrize("name", ["AWS_ACCESS_KEY_ID", "TOKENIZERS", "AWS_WEB_IDENTITY_TOKEN_FILE", "PWD", "OLDPWD"])
def test_variables_that_hold_no_secret_are_shown(monkeypatch, name):
    monkeypatch.setenv(name, "somewhere")
    assert redacted("it is somewhere") == "it is somewhere"


def test_short_values_of_the_environment_do_not_cross_out_words(monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    assert redacted("test/auroc") == "test/auroc"


@pytest.mark.parametrize("place", ["environment", "arguments"])
@pytest.mark.parametrize("password", ["swordfish-1", "sword@swordfish-2", "sword%40swordfish-3", "sw/rd fish-4"])
def test_the_password_of_an_address_that_the_process_was_given_is_hidden_alone_too(monkeypatch, place, password):
    address = f"postgresql://me:{password}@host/db"
    if place == "environment":
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    else:
        monkeypatch.setattr(sys, "argv", ["vae-study", "run", f"--tracking-uri={address}"])
    wrongly_parsed = f'could not translate host name "{password.split("@")[-1]}@host", {password}'
    for part in (password, password.replace("%40", "@"), "swordfish"):
        assert part not in redacted(wrongly_parsed)
    assert "fish-4" not in redacted(wrongly_parsed)


@given(st.text(string.ascii_letters + string.digits + " .,:;/()'\"\n-_#%&?", max_size=200))
def test_texts_without_secrets_stay_as_they_are(text):
    assert redacted(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "http://127.0.0.1:5000/?workflowType=machine_learning",
        "s3://bucket/prefix?region=us-east-1",
        "sqlite:////home/me/studies/mlflow.db",
        "data.anomaly_labels: got 11, expected one of 0, 1; password: is no key",
        "test/auroc=0.9, tokens=3",
        "me@example.com",
    ],
)
def test_what_is_no_secret_is_shown(text):
    assert redacted(text) == text


@given(PASSWORDS, WORDS)
def test_twice_hidden_is_hidden_once(password, around):
    once = redacted(f"{around} s3://k:{password}@b/x?token={password} {around}")
    assert redacted(once) == once


def test_values_in_depth_are_redacted_and_names_and_numbers_stay():
    content = {"op": "end", "time_ms": 1, "epochs": [[1, 2, {"val/kl": 0.5}]], "tags": {"reason": "s3://k:secret@b"}}
    found = redacted_values(content)
    assert found == {**content, "tags": {"reason": f"s3://k:{HIDDEN}@b"}}
    assert redacted_values((None, True, "password=a")) == [None, True, f"password={HIDDEN}"]


@pytest.mark.parametrize(
    "address", ["s3://k:s@b", "s3://k:s s@b", "s3://:s@b", "s3://b/x?secret_key=s", "s3://k:a/s@b"]
)
def test_an_address_with_a_secret_is_told_from_one_without(address):
    assert holds_secret(address)
    assert not holds_secret(address.replace("k:", "").replace(":s", "").replace("secret_key=s", "") or "x")


@pytest.mark.parametrize("kind", [UserError, StudyError])
def test_no_error_of_ours_says_a_secret(kind):
    assert str(kind("--tracking-uri http://me:secret@host: no")) == f"--tracking-uri http://me:{HIDDEN}@host: no"


GUARDED = """
import logging, threading, warnings
from vae_study.errors import guard_process
guard_process()
logging.basicConfig()
library = logging.getLogger("a.library")
library.warning("at %s, %d times", "http://me:planted@host", 3)
library.warning("wrong %d %s", "http://me:planted@host")
try:
    raise OSError("http://me:planted@host is away")
except OSError:
    library.exception("no connection")
thread = threading.Thread(target=lambda: 1 / len("http://me:planted@host".split()[1:]))
thread.start()
thread.join()
raise ValueError("http://me:planted@host") from OSError("password=planted")
"""


def test_a_guarded_process_shows_no_secret_in_logs_tracebacks_and_threads_and_all_the_rest():
    done = subprocess.run([sys.executable, "-c", GUARDED], capture_output=True, text=True, timeout=PATIENCE_SECONDS)
    assert done.returncode == 1
    assert "planted" not in done.stdout + done.stderr
    assert f"a.library:at http://me:{HIDDEN}@host, 3 times" in done.stderr
    assert f"OSError: http://me:{HIDDEN}@host is away" in done.stderr
    assert "ZeroDivisionError" in done.stderr
    assert f"ValueError: http://me:{HIDDEN}@host" in done.stderr
    assert f"OSError: password={HIDDEN}" in done.stderr
    assert done.stderr.count("Traceback") == 3


def test_a_logged_message_without_a_secret_is_left_to_its_handlers_as_it_is():
    from vae_study.errors import _guarded_record

    record = _guarded_record("x", logging.INFO, "f", 1, "%s of %d", ("a", 3), None)
    assert (record.msg, record.args) == ("%s of %d", ("a", 3))

"""What the commands print: the network as it is, and hints that name HOME."""

from dataclasses import replace

import pytest
from vae_study.api import check_study
from vae_study.storage import DEFAULT_HOME, words_of
from vae_study.terminal import plan_text, status_text

from tests.report.studies import study

DIGITS = {"study": "digits", "data": {"source": "digits"}, "model": {"likelihood": "bernoulli"}}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ([], "mlp [256, 128]"),
        (["model.network.kind=conv"], "conv of [32, 64] channels, then [256, 128]"),
        (["model.network={kind: conv, channels: [8], hidden: []}"], "conv of [8] channels, without hidden layers"),
    ],
)
def test_the_plan_says_what_network_there_is(settings, expected, tmp_path):
    text = plan_text(check_study(DIGITS, settings, home=tmp_path))
    assert f"model      vae, {expected}, likelihood bernoulli" in text.splitlines()


def test_a_hint_names_home_unless_it_is_the_default_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert words_of("digits") == words_of("digits", tmp_path / DEFAULT_HOME) == "digits"
    assert words_of("digits", tmp_path / "my home") == f"digits --home '{tmp_path}/my home'"
    assert words_of("digits", "s3://bucket/studies") == "digits --home s3://bucket/studies"


def test_status_says_how_to_continue_what_waits_and_to_send_what_is_pending(tmp_path):
    record = study(trials=4, epochs=2)
    waiting = replace(record, trials=record.trials.assign(state="waiting"))
    text = status_text(waiting, pending=7, home=str(tmp_path))
    assert f"continue with: vae-study resume {record.name} --home {tmp_path}" in text
    assert f"or by: vae-study sync {record.name} --home {tmp_path}" in text
    assert "continue with" not in status_text(record, pending=0)

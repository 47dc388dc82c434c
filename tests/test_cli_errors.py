import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from vae_study import storage
from vae_study.cli import main

from tests.small_disk import small_disk

DIGITS = Path(__file__).parents[1] / "search_spaces" / "digits.yaml"
TEXT = DIGITS.read_text(encoding="utf-8")
HEAVY = {"torch", "ray", "mlflow", "optuna", "pandas", "numpy", "sklearn", "matplotlib"}

# How the config is changed, what else is asked for, and what the message says.
WRONG = {
    "unknown key": (("trials: 64", "trails: 64"), [], "trails: unknown key"),
    "range upside down": (("low: 0.05", "low: 30"), [], "search.beta.low: got 30"),
    "condition on a missing parameter": (
        ("when: {free_bits.kind:", "when: {free_bit.kind:"), [], "free_bit.kind: is not a searched parameter"
    ),
    "label that does not occur": (("[8]", "[11]"), [], "data.anomaly_labels: got 11, which does not occur in digits"),
    "no trials": (("trials: 64", "trials: 0"), [], "trials: got 0"),
    "no trials as an option": (None, ["--trials", "0"], "trials: got 0"),
    "warm-up that cannot end": (("high: 0.5,", "high: 1,"), [], "inside the budget"),
    "slash in the config's name": (("study: digits", "study: a/b"), [], "study: got 'a/b'"),
    "slash in the name": (None, ["--name", "a/b"], "--name: got 'a/b'"),
    "name that climbs": (None, ["--name", ".."], "--name: got '..'"),
    "batch larger than train": (("batch_size: 128", "batch_size: 1000"), [], "training.batch_size: got 1000"),
    "trials without an end": (None, ["--trials", str(10**20)], "expected at most 1,000,000, since"),
    "layers without an end": (None, ["--set", f"model.network.hidden={[8] * 5000}"], "at most 256 items"),
    "model beyond all memory": (None, ["--set", "model.network.hidden=[1000000000]"], "GiB for its weights and their"),
    "code beyond all memory": (
        None, ["--set", "model.latent_dim=1000000000", "--set", "search.latent_dim=null"], "; this machine has "
    ),
    "network of sequences without sequences": (
        None, ["--set", "model.network.kind=recurrent"], "has no sequences"
    ),
    "code of each step of what has none": (
        None, ["--set", "model.latent=step"], "model.latent: got 'step', expected 'window' for network.kind"
    ),
    "code of each place of what has no maps": (
        None, ["--set", "model.latent=map"], "model.latent: got 'map', expected 'window' for network.kind mlp"
    ),
    "setting without a value": (None, ["--set", "trials"], "--set trials: expected key=value"),
}  # fmt: skip


def invoke(command, config, folder, *options):
    return CliRunner().invoke(main, [command, str(config), "--home", str(folder / "home"), *options])


def refused(result, folder):
    """The one message of a refusal that left no trace."""
    assert (result.exit_code, result.stdout) == (2, "")
    assert isinstance(result.exception, SystemExit)
    (message,) = result.stderr.splitlines()
    assert message.startswith("vae-study: ")
    assert len(message) < 2000
    assert not (folder / "home").exists()
    return message


@pytest.mark.parametrize("command", ["check", "run"])
@pytest.mark.parametrize("what", WRONG)
def test_wrong_input_ends_with_one_message_and_nothing_made(tmp_path, monkeypatch, command, what):
    change, options, says = WRONG[what]
    if change:
        assert TEXT.count(change[0]) == 1
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "study.yaml"
    config.write_text(TEXT.replace(*change) if change else TEXT, encoding="utf-8")
    assert says in refused(invoke(command, config, tmp_path, *options), tmp_path)
    assert list(tmp_path.iterdir()) == [config]


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_missing_file_is_named(tmp_path, command):
    config = tmp_path / "none.yaml"
    assert f"{config}: cannot read" in refused(invoke(command, config, tmp_path), tmp_path)


def test_a_right_config_is_checked_without_making_anything(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke("check", DIGITS, tmp_path, "--name", "wide", "--trials", "5", "--set", "search.beta.low=0.5")
    assert (result.exit_code, result.stderr) == (0, "")
    assert all(word in result.stdout for word in ["wide", "5 trials", "beta: 0.5 to 20", "digits, 64 features"])
    assert list(tmp_path.iterdir()) == []


def test_help_shows_examples_without_loading_anything_heavy():
    command = [sys.executable, "-X", "importtime", "-m", "vae_study", "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=DIGITS.parents[1])
    assert "Examples:\n    vae-study check search_spaces/digits.yaml" in result.stdout
    loaded = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in result.stderr.splitlines()}
    assert "click" in loaded
    assert not loaded & HEAVY


@pytest.mark.parametrize("is_made", [True, False])
def test_a_home_that_cannot_be_written_to_ends_with_one_message(tmp_path, is_made):
    with small_disk(tmp_path, "ro") as disk:
        home = disk if is_made else disk / "studies"
        result = CliRunner().invoke(main, ["run", str(DIGITS), "--home", str(home)])
        assert (result.exit_code, list(disk.iterdir())) == (2, [])
    *words, message = result.stderr.splitlines()
    # Ray starts meanwhile, which may take long.
    assert all(word.startswith("starting Ray") for word in words)
    assert message.startswith(f"vae-study: {home}: ")
    assert "Read-only file system; expected a place that can be written to" in message


def test_the_ui_at_a_port_that_is_taken_ends_with_one_message(tmp_path):
    (tmp_path / "mlflow.db").touch()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = CliRunner().invoke(main, ["ui", "--home", str(tmp_path), "--port", str(port)])
    assert (result.exit_code, result.stdout) == (2, "")
    (message,) = result.stderr.splitlines()
    assert message.startswith(f"vae-study: --port {port}: Address already in use; expected another one")
    assert "port 70000" in CliRunner().invoke(main, ["ui", "--home", str(tmp_path), "--port", "70000"]).stderr


def test_a_database_server_that_is_not_there_is_told_of_at_once(tmp_path):
    uri = "postgresql+psycopg://nobody@127.0.0.1:1/runs"
    result = CliRunner().invoke(main, ["status", "--tracking-uri", uri])
    assert "cannot be opened: (psycopg.OperationalError)" in refused(result, tmp_path)


def test_a_study_file_that_never_ends_is_refused(tmp_path):
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    for file, says in ((pipe, "it is a pipe"), ("/dev/zero", "it has more than 10,000,000 bytes")):
        assert f"{file}: cannot read this study file: {says}" in refused(invoke("check", file, tmp_path), tmp_path)


def test_aliases_that_stand_for_billions_of_values_are_refused(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 10)]
    (tmp_path / "bomb.yaml").write_text("\n".join([*lines, TEXT]))
    result = invoke("check", tmp_path / "bomb.yaml", tmp_path)
    assert "stand for more than 1,000,000 values" in refused(result, tmp_path)


def test_a_bucket_behind_a_network_that_is_away_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "SECONDS_FOR_GOOGLE", 1)
    uri = "gs://anonymous@bucket/x.parquet?scheme=http&endpoint_override=127.0.0.1%3A1"
    result = invoke("check", DIGITS, tmp_path, "--set", f"data={{source: parquet, path: '{uri}'}}")
    assert "which cannot be reached" in refused(result, tmp_path)

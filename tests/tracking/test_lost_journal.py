import json
import shutil
from contextlib import suppress
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vae_study.storage import Folder
from vae_study.tracking import schema
from vae_study.tracking.events import RunEnded
from vae_study.tracking.journal import TRIAL_LOG_FILE
from vae_study.tracking.store import runs_by_key
from vae_study.tracking.uploader import Replay
from vae_study.tracking.writer import TrackingWriter

from tests.tracking.story import METRICS, STORY, end, epochs, expected, found, log, new_parent, records_of, start
from tests.tracking.unlucky import MANY, UnluckyModels

EPOCHS = 6
TRIALS = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def unlucky(store):
    return UnluckyModels(store.tracking_uri)


def parameters(number):
    return {"beta": number / 3, "network.hidden": (32, number)}


def silent(client, parent, folder, trials):
    """A driver whose records stay in the journal."""
    writer = TrackingWriter(client, parent, runs_by_key(client, parent), folder, Folder.at(trials))
    writer.close()
    return writer


def upload(client, parent, writer):
    ids = {key: run.info.run_id for key, run in runs_by_key(client, parent).items()}
    Replay(client, parent, ids).apply(records_of(writer))


def go_on(writer, number):
    """The rest of a trial, trained from where tracking knows of it, at other times than before."""
    key, known = schema.trial_name(number), writer.recall().get(schema.trial_name(number))
    if known is not None and known.end is not None:
        return
    done = known.epochs[-1].epoch if known and known.epochs else 0
    start(number)(writer)
    later = [replace(epoch, timestamp_ms=epoch.timestamp_ms + 10**8) for epoch in epochs(number, 1, EPOCHS)]
    writer.log_epochs(key, later[done:])
    end(number)(writer)


@st.composite
def tellings(draw):
    """The first steps of some trials, mixed in any way."""
    turns = draw(st.permutations([number for number in TRIALS for _ in STORY[number]]))
    steps = [iter(steps) for steps in STORY]
    return [next(steps[number]) for number in turns][: draw(st.integers(1, len(turns)))]


@settings(max_examples=15)
@given(telling=tellings(), requests=st.integers(0, 40))
def test_wherever_mlflow_was_when_the_journal_got_lost_each_epoch_of_each_trial_is_there_once_in_the_end(
    unlucky, tmp_path_factory, telling, requests
):
    """`requests`: how many MLflow has carried out of what the first driver said."""
    folder = tmp_path_factory.mktemp("study")
    unlucky.left = MANY
    parent = new_parent(unlucky, folder.name)
    first = silent(unlucky, parent, folder / "first", folder / "trials")
    for step in telling:
        step(first)
    said = records_of(first)
    unlucky.left = requests
    with suppress(ConnectionError):
        upload(unlucky, parent, first)
    unlucky.left = MANY
    shutil.rmtree(folder / "first")
    second = silent(unlucky, parent, folder / "second", folder / "trials")
    for number in TRIALS:
        second.restore(schema.trial_name(number), parameters(number))
        go_on(second, number)
    upload(unlucky, parent, second)
    there = found(unlucky, parent)
    assert there.keys() == {"", *map(schema.trial_name, TRIALS)}
    ends = {event.run: place for place, event in enumerate(said) if isinstance(event, RunEnded)}
    # What is said of a trial after its end is for the study to say again.
    for key, run in expected(one for place, one in enumerate(said) if place <= ends.get(one.run, -1)).items():
        for part in ("points", "files", "ended", "status"):
            assert there[key][part] == run[part]
        assert run["tags"].items() <= there[key]["tags"].items()
    for number in TRIALS:
        key = schema.trial_name(number)
        assert there[key]["status"] in ("FINISHED", "FAILED")
        assert there[key]["params"] == {name: schema.text_value(value) for name, value in parameters(number).items()}
        if key not in ends:
            # `found` has seen to it that no point is there twice.
            steps = {(name, epoch) for name in METRICS for epoch in range(1, EPOCHS + 1)}
            assert there[key]["points"].keys() == {*steps, ("test/auroc", 0)}
            rows = there[key]["files"]["history.parquet"]
            assert [float(row["epoch"]) for row in rows] == list(range(1, EPOCHS + 1))


def test_a_driver_that_finds_its_journal_asks_mlflow_and_the_trials_logs_nothing(unlucky, tmp_path, name):
    parent = new_parent(unlucky, name)
    first = silent(unlucky, parent, tmp_path, tmp_path / "trials")
    for step in (start(0), log(0, 1, 3), end(0), start(1), log(1, 1, 2)):
        step(first)
    upload(unlucky, parent, first)
    shutil.rmtree(tmp_path / "trials")
    again = silent(unlucky, parent, tmp_path, tmp_path / "trials")
    unlucky.requests, before = 0, records_of(again)
    assert again.has_ended("trial-0000")
    assert again.knows("trial-0001")
    assert not again.has_ended("trial-0001")
    assert again.open_remotely() == {}
    assert again.restored == set()
    assert unlucky.requests == 0
    assert records_of(again) == before


def test_what_another_study_of_the_same_name_has_left_is_not_taken_for_this_ones(store, tmp_path, name):
    parent = new_parent(store, name)
    first = silent(store, parent, tmp_path / "first", tmp_path / "trials")
    for step in (start(0), log(0, 1, 3), end(0)):
        step(first)
    second = silent(store, parent, tmp_path / "second", tmp_path / "trials")
    assert not second.restore("trial-0000", parameters(1))
    file = tmp_path / "trials" / "trial-0000" / TRIAL_LOG_FILE
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, schema.CONFIG_SHA: "another"}))
    assert not second.restore("trial-0000", parameters(0))
    file.write_text(json.dumps(content))
    assert second.restore("trial-0000", parameters(0))
    assert second.restored == {"trial-0000"}


def test_a_run_that_was_trained_again_after_its_end_comes_back_as_the_last_time(store, tmp_path, name):
    parent = new_parent(store, name)
    first = silent(store, parent, tmp_path / "first", tmp_path / "trials")
    for step in (start(0), log(0, 1, 5), end(0, "failed", "no"), start(0), log(0, 1, 2), end(0)):
        step(first)
    second = silent(store, parent, tmp_path / "second", tmp_path / "trials")
    assert second.restore("trial-0000", parameters(0))
    assert records_of(second) == records_of(first)[3:]


def test_a_trials_log_in_a_bucket_gives_back_what_it_was_given_and_one_that_refuses_is_told_of(
    store, bucket, tmp_path, name, caplog
):
    parent = new_parent(store, name)
    first = silent(store, parent, tmp_path / "first", f"{bucket}/trials")
    for step in (start(0), log(0, 1, 3), end(0, "failed", "half a pair \udcff")):
        step(first)
    second = silent(store, parent, tmp_path / "second", f"{bucket}/trials")
    assert second.restore("trial-0000", parameters(0))
    assert records_of(second) == records_of(first)
    (tmp_path / "trials").write_text("no folder")
    third = silent(store, parent, tmp_path / "third", tmp_path / "trials")
    for step in (start(1), end(1)):
        step(third)
    assert "the log of trial-0001 is on this machine's disk only" in caplog.text
    assert third.has_ended("trial-0001")

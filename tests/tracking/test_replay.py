from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from vae_study.tracking import schema
from vae_study.tracking.record import history_frame
from vae_study.tracking.store import runs_by_key
from vae_study.tracking.uploader import Replay

from tests.tracking.story import (
    STORY,
    check,
    end,
    expected,
    found,
    log,
    new_parent,
    records_of,
    silent,
    start,
    whole_trial,
)


def ids(client, parent):
    return {key: run.info.run_id for key, run in runs_by_key(client, parent).items()}


REQUESTS = ("create_run", "log_batch", "set_terminated", "update_run", "log_text", "log_artifact", "search_runs")
MANY = 10**6


class Unlucky(MlflowClient):
    """A client that loses its connection at one request, before that is carried out or after.

    Attributes:
        left: How many requests come before that one.
    """

    left, is_carried_out = MANY, False

    def __getattribute__(self, name):
        request = super().__getattribute__(name)
        if name not in REQUESTS:
            return request

        def perform(*words, **named):
            self.left -= 1
            if self.left == -1 and not self.is_carried_out:
                raise ConnectionError("lost before")
            answer = request(*words, **named)
            if self.left == -1:
                raise ConnectionError("lost after")
            return answer

        return perform


@pytest.fixture(scope="module")
def unlucky(store):
    return Unlucky(store.tracking_uri)


@st.composite
def tellings(draw):
    """The story's steps, each trial's in their order, and the trials mixed in any way."""
    turns = draw(st.permutations([number for number, steps in enumerate(STORY) for _ in steps]))
    steps = [iter(steps) for steps in STORY]
    return [next(steps[number]) for number in turns]


ATTEMPTS = st.lists(
    st.tuples(
        st.integers(1, 25),
        st.none() | st.tuples(st.integers(0, 30), st.booleans()),
        st.none() | st.integers(0, 25),
    ),
    max_size=4,
)


@pytest.mark.thorough
@settings(max_examples=25)
@given(telling=tellings(), attempts=ATTEMPTS)
def test_records_applied_in_parts_broken_off_anywhere_and_again_from_any_earlier_one_end_the_same(
    unlucky, tmp_path_factory, telling, attempts
):
    """An attempt: how many records, where the connection breaks, and how far a new driver goes back, if one comes."""
    folder = tmp_path_factory.mktemp("study")
    unlucky.left = MANY
    parent = new_parent(unlucky, folder.name)
    writer = silent(unlucky, parent, folder)
    for step in telling:
        step(writer)
    records = records_of(writer)
    replay, offset = Replay(unlucky, parent, {}), 0
    for count, breaks, goes_back in [*attempts, (len(records), None, None), (0, None, len(records))]:
        unlucky.left, unlucky.is_carried_out = breaks or (MANY, False)
        try:
            replay.apply(records[offset : offset + count])
        except ConnectionError:
            pass
        else:
            replay.forget()
            offset = min(offset + count, len(records))
        unlucky.left = MANY
        if goes_back is not None:
            offset = max(0, offset - goes_back)
            replay = Replay(unlucky, parent, ids(unlucky, parent))
            replay.recall(records[:offset])
    replay.apply(records[offset:])
    check(unlucky, parent, records)


def test_a_second_time_changes_nothing_at_all(store, tmp_path, name):
    parent = new_parent(store, name)
    writer = silent(store, parent, tmp_path)
    for steps in STORY:
        for step in steps:
            step(writer)
    once = []
    for _ in range(3):
        Replay(store, parent, ids(store, parent)).apply(records_of(writer))
        once.append(found(store, parent))
    assert once[0] == once[1] == once[2]


def test_a_run_that_is_trained_again_after_its_end_has_the_history_of_the_last_time(store, tmp_path, name):
    parent = new_parent(store, name)
    writer = silent(store, parent, tmp_path)
    for step in (start(4), log(4, 1, 5), end(4, "failed", "no"), start(4), log(4, 1, 2), end(4)):
        step(writer)
    records = records_of(writer)
    for parts in ([records], [records[:3], records[3:]], [records[:5], records[5:]]):
        replay = Replay(store, parent, ids(store, parent))
        for part in parts:
            replay.apply(part)
            replay.forget()
        run = found(store, parent)["trial-0004"]
        assert [row["epoch"] for row in run["files"]["history.parquet"]] == ["1.0", "2.0"]
        assert run["status"] == "FINISHED"


def test_the_parameters_come_even_where_the_connection_broke_just_before_them(unlucky, tmp_path, name):
    unlucky.left = MANY
    parent = new_parent(unlucky, name)
    writer = silent(unlucky, parent, tmp_path)
    for step in whole_trial(0):
        step(writer)
    replay = Replay(unlucky, parent, {})
    for requests in range(4):
        unlucky.left, unlucky.is_carried_out = requests, False
        with pytest.raises(ConnectionError):
            replay.apply(records_of(writer))
    unlucky.left = MANY
    replay.apply(records_of(writer))
    check(unlucky, parent, records_of(writer))


def test_a_file_that_is_gone_is_told_of_by_name_and_the_others_are_attached(store, tmp_path, name, caplog):
    parent = new_parent(store, name)
    writer = silent(store, parent, tmp_path)
    start(0)(writer)
    there = tmp_path / "there.txt"
    there.write_text("here I am")
    writer.log_files("trial-0000", [tmp_path / "gone.txt", there])
    Replay(store, parent, {}).apply(records_of(writer))
    assert found(store, parent)["trial-0000"]["files"] == {"there.txt": "here I am"}
    assert f"{tmp_path / 'gone.txt'} is gone" in caplog.text


def test_thousands_of_points_come_at_once(store, tmp_path, name):
    parent = new_parent(store, name)
    writer = silent(store, parent, tmp_path)
    for step in (start(0), start(4), log(0, 1, 900), log(4, 1, 3), log(4, 4, 400), end(0), end(4)):
        step(writer)
    Replay(store, parent, {}).apply(records_of(writer))
    assert len(expected(records_of(writer))["trial-0000"]["points"]) == 2701
    check(store, parent, records_of(writer))


def test_an_epoch_is_in_mlflow_with_all_of_its_metrics_or_not_at_all(unlucky, tmp_path, name):
    unlucky.left = MANY
    parent = new_parent(unlucky, name)
    writer = silent(unlucky, parent, tmp_path)
    for step in (start(0), log(0, 1, 700)):
        step(writer)
    replay = Replay(unlucky, parent, {})
    replay.apply(records_of(writer)[:1])
    unlucky.left, unlucky.is_carried_out = 1, False
    with pytest.raises(ConnectionError):
        replay.apply(records_of(writer)[1:])
    unlucky.left = MANY
    counts = Counter(epoch for _, epoch in found(unlucky, parent)["trial-0000"]["points"])
    assert counts == dict.fromkeys(range(1, 334), 3)


def test_a_refused_parameter_leaves_the_rest_of_its_run(store, tmp_path, name):
    parent = new_parent(store, name)
    writer = silent(store, parent, tmp_path)
    for step in whole_trial(0):
        step(writer)
    first, *others = records_of(writer)
    replay = Replay(store, parent, {})
    with pytest.raises(MlflowException, match="Invalid value"):
        replay.apply([replace(first, parameters={"a*b": "1"})])
    replay.apply(others)
    check(store, parent, [replace(first, parameters={}), *others])


def test_a_trial_without_epochs_has_a_history_without_rows(tmp_path):
    path = Path(tmp_path) / "history.parquet"
    history_frame(3, {}).to_parquet(path)
    assert list(history_frame(3, {}).columns) == ["trial", "epoch"]


def test_a_metric_that_is_measured_once_is_at_step_0_and_one_that_epochs_have_stays_behind_their_last():
    history = {1: {"val/elbo": -3.0}, 2: {"val/elbo": -2.0, "val/kl": 1.0}}
    assert schema.final_step("test/auroc", history) == 0
    assert schema.final_step("test/auroc", {}) == 0
    assert schema.final_step("val/elbo", history) == schema.final_step("val/kl", history) == 2

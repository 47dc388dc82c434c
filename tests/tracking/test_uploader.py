import random
import signal
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
from vae_study.errors import StudyError
from vae_study.tracking import schema, uploader, writer
from vae_study.tracking.events import parsed
from vae_study.tracking.journal import JOURNAL_FILE, Journal, Marker
from vae_study.tracking.record import EpochRecord
from vae_study.tracking.store import find_children, open_client
from vae_study.tracking.writer import TrackingWriter

from tests.tracking.processes import EPOCHS, TRIALS, opened, write_a_study
from tests.tracking.servers import free_port
from tests.tracking.story import (
    STORY,
    check,
    end,
    epochs,
    expected,
    found,
    log,
    new_parent,
    pause,
    records_of,
    start,
    whole_trial,
)


def tell(writer, *trials):
    for steps in trials:
        for step in steps:
            step(writer)


def test_what_a_driver_says_is_in_mlflow_once_it_has_drained(impatient, store, tmp_path, name):
    parent = new_parent(store, name)
    writer = opened(store, name, tmp_path)
    for steps in STORY:
        tell(writer, steps)
        writer.drain()
    writer.close()
    assert writer.uploader.pending() == writer.uploader.pending_bytes == 0
    assert not writer.uploader.errors
    check(store, parent, records_of(writer))


@pytest.fixture
def drive(processes, store, tmp_path, name):
    """Go on with the study in a process of its own, to its end; gives the exit code."""

    def run(**dies_at):
        place = str(tmp_path), store.tracking_uri, name
        driver = processes.Process(target=write_a_study, args=place, kwargs=dies_at)
        driver.start()
        driver.join()
        return driver.exitcode

    return run


def test_a_driver_that_dies_between_upload_and_mark_uploads_again_and_nothing_is_there_twice(
    drive, store, tmp_path, name
):
    parent = new_parent(store, name)
    for upload in (2, 4):
        assert drive(dies_at_marker=upload) == -signal.SIGKILL
    assert drive() == 0
    _check_whole(store, parent, tmp_path)


def test_a_driver_killed_at_any_record_leaves_all_to_the_next_one(drive, store, tmp_path, name):
    """Wherever the upload is at that moment."""
    parent, chance = new_parent(store, name), random.Random(0)
    for _ in range(6):
        assert drive(dies_at_record=chance.randrange(12)) == -signal.SIGKILL
    assert drive() == 0
    _check_whole(store, parent, tmp_path)


def _check_whole(store, parent, folder):
    records = [parsed(plain) for _, plain in Journal(folder / JOURNAL_FILE).read()]
    check(store, parent, records)
    runs = find_children(store, parent)
    assert [run.info.run_name for run in runs] == [f"t{number:03d}" for number in range(TRIALS)]
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in found(store, parent).values():
        assert len(run["points"]) in (0, 2 * EPOCHS + 1)


def test_what_mlflow_refuses_is_counted_and_holds_up_nothing_else(impatient, store, tmp_path, name):
    parent = new_parent(store, name)
    driver = opened(store, name, tmp_path)
    tell(driver, [start(0), start(1), log(1, 1, 1)])
    driver.drain()
    store.delete_run(driver.uploader._replay.run_ids["trial-0001"])
    told = records_of(driver)[:1]
    for bad in (
        lambda: driver.start("trial-0002", "t002", {"a*b": 1}, {}),
        lambda: driver.tag("trial-0000", {"x" * 300: "too long a name"}),
        lambda: tell(driver, [log(1, 2, 2)]),
        lambda: driver.log_epochs("trial-0000", [EpochRecord(epoch=9, timestamp_ms=1, metrics={"a*b": 1.0})]),
        lambda: tell(driver, [end(1)]),
        lambda: tell(driver, [log(77, 1, 1)]),
    ):
        before = len(records_of(driver))
        bad()
        assert len(records_of(driver)) == before + 1
        tell(driver, whole_trial(10 + before), [log(0, before, before)])
        told += records_of(driver)[before + 1 :]
    driver.drain()
    driver.close()
    assert len(driver.uploader.errors) == 6
    told.insert(1, replace(told[0], run="trial-0002", name="t002", parameters={}, tags={}))
    check(store, parent, told)


def test_another_store_gets_everything_from_the_start_and_the_first_one_stays_right(
    impatient, store, server, tmp_path, name
):
    other = open_client(server.uri)
    parents = {client: new_parent(client, name) for client in (store, other)}
    told = iter(STORY)
    for client in (store, other, store):
        writer = opened(client, name, tmp_path)
        tell(writer, next(told))
        writer.drain()
        writer.close()
        check(client, parents[client], records_of(writer))
    assert len(found(other, parents[other])) == 3


def test_a_server_that_stays_away_holds_nobody_up_and_loses_nothing(impatient, monkeypatch, store, tmp_path, name):
    parent, uri = new_parent(store, name), f"http://127.0.0.1:{free_port()}"
    monkeypatch.setattr(writer, "PATIENCE_SECONDS", 0.5)
    driver = TrackingWriter(open_client(uri), parent, {}, tmp_path)
    tell(driver, [start(0)])
    for epoch in range(1, 301):
        driver.log_epochs("trial-0000", epochs(0, epoch, epoch))
    tell(driver, [end(0)])
    with pytest.raises(StudyError, match=rf"{uri} does not answer; 302 records are kept in {tmp_path / JOURNAL_FILE}"):
        driver.drain()
    assert driver.uploader.is_away
    driver.close()
    again = opened(store, name, tmp_path)
    again.drain()
    again.close()
    check(store, parent, records_of(again))


def test_to_count_what_is_pending_reads_no_record_twice(monkeypatch, store, tmp_path, name):
    """The progress line asks once a second, and MLflow may be a million records behind."""
    parent, read = new_parent(store, name), []
    count = uploader.count_lines
    monkeypatch.setattr(
        uploader, "count_lines", lambda path, first, last: read.append(last - first) or count(path, first, last)
    )
    driver = TrackingWriter(open_client(f"http://127.0.0.1:{free_port()}"), parent, {}, tmp_path)
    for number in range(5):
        tell(driver, [start(number), log(number, 1, 3)])
        assert driver.uploader.pending() == 2 * (number + 1)
    assert sum(read) == driver.journal.end
    ends = [offset for offset, _ in driver.journal.read()]
    for done in (1, 4, 10):
        driver.uploader._offset = ends[done - 1]
        assert driver.uploader.pending() == 10 - done
    assert sum(read) == 2 * driver.journal.end
    driver.close()


def test_while_the_server_is_away_it_is_asked_ever_more_seldom_also_by_who_waits_for_it(
    monkeypatch, store, tmp_path, name
):
    """A port on which nobody listens refuses at once: without pauses there would be hundreds of attempts a second."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(uploader, "SECONDS_BETWEEN_BATCHES", 0.1)
    parent = new_parent(store, name)
    driver = TrackingWriter(open_client(f"http://127.0.0.1:{free_port()}"), parent, {}, tmp_path)
    pauses, woken, drains, wake = [], [], 0, driver.uploader._wake

    def wait(seconds):
        pauses.append(seconds)
        woken.append(wake.wait(seconds))

    monkeypatch.setattr(driver.uploader, "_wake", SimpleNamespace(set=wake.set, clear=wake.clear, wait=wait))
    tell(driver, [start(0)])
    while len(pauses) < 4:
        assert not driver.uploader.drain(0.3)
        drains += 1
    assert sum(woken) <= drains
    driver.close()
    assert all(later == 2 * earlier for earlier, later in pairwise(pauses[1:4]))


def test_a_journal_that_somebody_removed_begins_anew(impatient, store, tmp_path, name):
    parent = new_parent(store, name)
    first = opened(store, name, tmp_path)
    tell(first, *STORY[:3])
    first.drain()
    first.close()
    before, end_before = records_of(first), first.journal.end
    first.journal.path.unlink()
    second = opened(store, name, tmp_path)
    second.close()
    tell(second, whole_trial(6))
    assert 0 < second.journal.end < end_before
    third = opened(store, name, tmp_path)
    third.drain()
    third.close()
    check(store, parent, [*before, *records_of(third)])


def test_a_mark_of_another_run_or_none_or_a_torn_one_means_the_beginning(tmp_path):
    path = tmp_path / "journal.offset"
    assert Marker(path, "a").read() == 0
    Marker(path, "a").write(17)
    assert Marker(path, "a").read() == 17
    assert Marker(path, "b").read() == 0
    content = path.read_text()
    for cut in range(len(content)):
        path.write_text(content[:cut])
        assert Marker(path, "a").read() == 0


def test_the_journal_is_safe_on_the_disk_before_anything_of_it_is_in_mlflow(
    impatient, monkeypatch, store, tmp_path, name
):
    new_parent(store, name)
    driver, order = opened(store, name, tmp_path), []
    sync, apply = Journal.sync, driver.uploader._replay.apply
    monkeypatch.setattr(Journal, "sync", lambda journal: order.append("sync") or sync(journal))
    monkeypatch.setattr(driver.uploader._replay, "apply", lambda records: order.append("apply") or apply(records))
    tell(driver, whole_trial(0))
    driver.drain()
    driver.close()
    assert order[:2] == ["sync", "apply"]
    assert order.count("sync") == order.count("apply")


def test_a_new_driver_is_told_what_every_run_had(impatient, store, tmp_path, name):
    new_parent(store, name)
    driver = opened(store, name, tmp_path)
    tell(driver, *STORY)
    driver.close()
    known = opened(store, name, tmp_path).recall()
    assert known["trial-0003"].epochs == epochs(3, 1, 3)
    assert known["trial-0003"].end is None
    assert repr(known["trial-0001"].epochs) == repr(epochs(1, 1, 1))
    assert known["trial-0001"].end.tags == {schema.STATE: "failed"}
    assert known["trial-0000"].epochs == epochs(0, 5, 5)
    assert known["trial-0000"].end.metrics == {"test/auroc": 0.0}


def test_a_run_that_was_begun_again_after_its_end_is_recalled_as_it_is_now(impatient, store, tmp_path, name):
    new_parent(store, name)
    driver = opened(store, name, tmp_path)
    tell(driver, [start(4), log(4, 1, 5), end(4, "failed", "no"), start(4), log(4, 1, 2)])
    assert (known := driver.recall()["trial-0004"]).end is None
    assert known.epochs == epochs(4, 1, 2)
    tell(driver, [pause(4), start(4)])
    assert driver.recall()["trial-0004"] == known
    driver.close()
    assert expected(records_of(driver))["trial-0004"]["status"] == "RUNNING"

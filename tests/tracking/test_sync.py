import shutil
import signal
import subprocess
import sys

import pandas as pd
import pytest
from vae_study.errors import StudyError, UserError
from vae_study.tracking import schema, writer
from vae_study.tracking.events import StudyBegun
from vae_study.tracking.journal import pending_records
from vae_study.tracking.reader import downloaded_histories
from vae_study.tracking.record import trials_frame
from vae_study.tracking.store import create_parent, find_children, find_parent, open_client, run_record, runs_by_key
from vae_study.tracking.study import sync
from vae_study.tracking.writer import TrackingWriter

from tests.tracking.processes import open_together
from tests.tracking.servers import free_port
from tests.tracking.story import STORY, check, end, log, records_of, start, whole_trial


def begun(name):
    tags = {schema.KIND: "study", schema.STUDY: name, schema.STATE: "running"}
    return {"experiment": name, "name": name, "tags": tags}


def opened(client, name, folder):
    parent = create_parent(client, **begun(name))
    driver = TrackingWriter(client, parent, {}, folder)
    driver.log(StudyBegun(**begun(name)))
    return driver, parent


def tell(driver, *numbers):
    for number in numbers:
        for step in STORY[number]:
            step(driver)


@pytest.fixture
def other(tmp_path):
    return open_client(f"sqlite:///{tmp_path}/other.db")


def nothing(waiting):
    pass


def test_what_the_study_knows_of_its_runs_is_what_mlflow_has_of_them_in_the_end(store, tmp_path, name):
    driver, parent = opened(store, name, tmp_path)
    tell(driver, 0, 1)
    for step in [*whole_trial(5), start(6), log(6, 1, 2)]:
        step(driver)
    known = driver.trials()
    driver.drain()
    driver.close()
    there = trials_frame(map(run_record, find_children(store, parent)))
    assert known["run_id"].isna().all()
    assert there["state"].tolist() == ["finished", "failed", "finished", "running"]
    pd.testing.assert_frame_equal(known.drop(columns="run_id"), there.drop(columns="run_id"), check_like=True)


def test_a_driver_on_another_machine_knows_the_trials_that_it_has_not_seen(store, tmp_path, name):
    first, parent = opened(store, name, tmp_path / "first")
    tell(first, 0, 2)
    first.drain()
    first.close()
    second = TrackingWriter(store, parent, runs_by_key(store, parent), tmp_path / "second")
    for step in [start(5), log(5, 1, 2), end(5)]:
        step(second)
    second.log_trials()
    second.drain()
    second.close()
    trials = pd.read_parquet(store.download_artifacts(parent.info.run_id, schema.TRIALS_FILE))
    history = pd.read_parquet(store.download_artifacts(parent.info.run_id, schema.HISTORY_FILE))
    assert dict(zip(trials["trial"], trials["run_id"], strict=True)) == {
        int(run.data.tags[schema.TRIAL]): run.info.run_id for run in find_children(store, parent)
    }
    frames = downloaded_histories(store, runs_by_key(store, parent))
    pd.testing.assert_frame_equal(
        history, pd.concat([frames[key] for key in sorted(frames)], ignore_index=True), check_like=True
    )


def test_a_trial_of_which_a_new_journal_has_only_a_later_tag_keeps_its_history(store, tmp_path, name):
    first, parent = opened(store, name, tmp_path / "first")
    tell(first, 0)
    first.drain()
    first.close()
    for _ in range(2):
        later = TrackingWriter(store, parent, runs_by_key(store, parent), tmp_path / "second")
        later.tag("trial-0000", {schema.NOTE: "a later word"})
        assert later.recall()["trial-0000"].end is not None
        later.log_trials()
        later.drain()
        later.close()
    history = pd.read_parquet(store.download_artifacts(parent.info.run_id, schema.HISTORY_FILE))
    assert history["epoch"].tolist() == [1, 2, 3, 4, 5]


def test_what_waits_is_counted_from_outside_and_sync_brings_it(store, tmp_path, name, monkeypatch):
    driver, parent = opened(store, name, tmp_path)
    driver.drain()
    driver.close()
    tell(driver, 0, 1)
    driver.close_parent({schema.STATE: "finished"}, "FINISHED")
    waiting, seen = pending_records(tmp_path), []
    assert waiting == len(STORY[0]) + len(STORY[1]) + 2
    assert sync(store, name, tmp_path, seen.append) == waiting
    assert (seen[0], seen[-1]) == (waiting, 0)
    assert pending_records(tmp_path) == 0
    assert store.get_run(parent.info.run_id).info.status == "FINISHED"
    assert sync(store, name, tmp_path, seen.append) == 0


def test_another_store_gets_all_that_the_study_ever_said(store, other, tmp_path, name):
    driver, parent = opened(store, name, tmp_path)
    tell(driver, 0, 1, 2)
    driver.close_parent({schema.STATE: "finished"}, "FINISHED")
    driver.drain()
    driver.close()
    sync(other, name, tmp_path, nothing)
    copy = find_parent(other, name)
    assert copy.info.status == "FINISHED"
    assert copy.data.tags[schema.STATE] == "finished"
    mine, its = (trials_frame(map(run_record, find_children(*pair))) for pair in ((store, parent), (other, copy)))
    pd.testing.assert_frame_equal(mine.drop(columns="run_id"), its.drop(columns="run_id"))


def test_what_a_dead_driver_left_running_waits_after_a_sync(store, tmp_path, name):
    driver, parent = opened(store, name, tmp_path)
    for step in [*STORY[0], start(1), log(1, 1, 2)]:
        step(driver)
    driver.close()
    sync(store, name, tmp_path, nothing)
    states = {run.data.tags[schema.TRIAL]: run.data.tags[schema.STATE] for run in find_children(store, parent)}
    assert states == {"0": "finished", "1": "waiting"}
    assert not [run for run in runs_by_key(store, parent).values() if run.info.status == "RUNNING"]
    after = store.get_run(parent.info.run_id)
    assert (after.info.status, after.data.tags[schema.STATE]) == ("KILLED", "interrupted")


def test_a_study_that_is_being_written_is_not_synced_by_another_process(store, tmp_path, name):
    driver, _ = opened(store, name, tmp_path)
    with pytest.raises(UserError, match="is in use: another process"):
        sync(store, name, tmp_path, nothing)
    driver.close()


def test_a_store_that_stays_away_is_told_with_what_waits(store, tmp_path, name, monkeypatch):
    monkeypatch.setattr(writer, "PATIENCE_SECONDS", 0.2)
    _, parent = opened(store, name, tmp_path)
    away = TrackingWriter(open_client(f"http://127.0.0.1:{free_port()}"), parent, {}, tmp_path / "b")
    tell(away, 1)
    with pytest.raises(StudyError, match=f"{len(STORY[1])} records are kept in"):
        away.drain()
    away.close()


def test_without_a_journal_there_is_nothing_to_sync(store, tmp_path, name):
    with pytest.raises(UserError, match="no records of the study 'gone' are here"):
        sync(store, "gone", tmp_path, nothing)


def test_a_run_that_was_deleted_in_mlflow_is_made_anew_by_the_next_sync(store, tmp_path, name):
    driver, parent = opened(store, name, tmp_path)
    tell(driver, 0, 1, 2, 4)
    driver.drain()
    driver.close()
    before = runs_by_key(store, parent)
    for key in ("trial-0000", "trial-0002"):
        store.delete_run(before[key].info.run_id)
    sync(store, name, tmp_path, nothing)
    check(store, parent, records_of(driver)[1:])
    assert runs_by_key(store, parent)["trial-0001"].info.run_id == before["trial-0001"].info.run_id


def test_a_rebuild_gives_an_emptied_mlflow_the_whole_study_again(store, tmp_path, name):
    driver, parent = opened(store, name, tmp_path)
    tell(driver, 0, 1, 2, 4)
    driver.drain()
    driver.close()
    store.delete_tag(parent.info.run_id, schema.STATE)
    one = runs_by_key(store, parent)["trial-0001"].info.run_id
    store.set_terminated(one, "KILLED")
    assert sync(store, name, tmp_path, nothing) == 0
    assert sync(store, name, tmp_path, nothing, rebuild=True) == len(records_of(driver))
    check(store, parent, records_of(driver)[1:])
    for run in [parent, *runs_by_key(store, parent).values()]:
        store.delete_run(run.info.run_id)
    sync(store, name, tmp_path, nothing, rebuild=True)
    check(store, find_parent(store, name), records_of(driver)[1:])


def test_processes_that_create_one_store_at_the_same_moment_do_not_disturb_each_other(processes, tmp_path):
    barrier = processes.Barrier(3)
    opening = [
        processes.Process(target=open_together, args=(f"sqlite:///{tmp_path}/mlflow.db", barrier)) for _ in range(3)
    ]
    for process in opening:
        process.start()
    for process in opening:
        process.join()
    assert [process.exitcode for process in opening] == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]


# Writes more than SQLite keeps in memory, and dies before it commits.
DIES_WRITING = """
import os, signal, sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("PRAGMA cache_size = 1")
database.execute("BEGIN")
for place in range(2000):
    database.execute("INSERT INTO experiment_tags VALUES (?, ?, 0)", (str(place), "x" * 200))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_store_whose_writer_was_killed_while_it_wrote_opens_as_it_was_before(store, tmp_path):
    path = tmp_path / "mlflow.db"
    shutil.copyfile(schema.sqlite_path(store.tracking_uri), path)
    killed = subprocess.run([sys.executable, "-c", DIES_WRITING, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert (tmp_path / "mlflow.db-journal").stat().st_size > 0
    client = open_client(f"sqlite:///{path}")
    assert [one.tags for one in client.search_experiments() if one.experiment_id == "0"] == [{}]

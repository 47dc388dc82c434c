import json
import logging
import multiprocessing
import os
import random
import signal
import time
import uuid
import zlib
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from vae_study.storage import Folder
from vae_study.study.trial_files import Checkpoints, CheckpointTimer, Snapshot
from vae_study.tracking.record import EpochRecord

from tests.object_store import KINDS
from tests.small_disk import small_disk
from tests.study.processes import EPOCHS, numbered, save_without_end, train_a_trial
from tests.waiting import PATIENCE_SECONDS, until

FEW = 100


@pytest.fixture(params=KINDS)
def folder(request, tmp_path) -> Folder:
    place = tmp_path if request.param == "local" else request.getfixturevalue("bucket")
    return Folder.at(place) / uuid.uuid4().hex / "trial-0007"


@pytest.fixture(scope="module")
def processes(bucket):
    """Processes that begin where torch is imported already, and in whose environment the store is."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.study.processes"])
    return context


def equal(first: Snapshot, second: Snapshot) -> bool:
    return (
        first.epoch == second.epoch
        and repr(first.history) == repr(second.history)
        and first.state.keys() == second.state.keys()
        and all(
            (one.dtype, one.shape, one.numpy().tobytes()) == (two.dtype, two.shape, two.numpy().tobytes())
            for one, two in zip(first.state.values(), (second.state[name] for name in first.state), strict=True)
        )
    )


def test_there_is_none_before_the_first_and_none_after_they_are_cleared(folder):
    checkpoints = Checkpoints(folder)
    assert checkpoints.latest() is None
    checkpoints.clear()
    checkpoints.save(numbered(3, FEW))
    assert equal(Checkpoints(folder).latest(), numbered(3, FEW))
    checkpoints.clear()
    assert checkpoints.latest() is None
    checkpoints.save(numbered(1, FEW))
    assert checkpoints.latest().epoch == 1


FLOATS = st.floats(width=32) | st.sampled_from([0.0, -0.0, float("nan"), float("inf")])
RECORDS = st.builds(
    EpochRecord,
    epoch=st.integers(1, 10**7),
    timestamp_ms=st.integers(0, 2**60),
    metrics=st.dictionaries(st.text(max_size=8), st.floats(), max_size=3),
)
OTHERS = [
    torch.tensor(5),
    torch.zeros(3, dtype=torch.uint8),
    torch.ones(2, 3, dtype=torch.float64),
    torch.tensor([True]),
]
TENSORS = st.lists(FLOATS, max_size=4).map(torch.tensor) | st.sampled_from(OTHERS).map(torch.clone)


@given(
    epoch=st.integers(0, 10**8),
    state=st.dictionaries(st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"), TENSORS),
    history=st.lists(RECORDS, max_size=3),
)
def test_a_snapshot_comes_back_bit_for_bit(tmp_path_factory, epoch, state, history):
    checkpoints = Checkpoints(Folder.at(tmp_path_factory.mktemp("trial")))
    snapshot = Snapshot(epoch=epoch, state=state, history=history)
    checkpoints.save(snapshot)
    assert equal(checkpoints.latest(), snapshot)


def test_a_checkpoint_is_one_safetensors_file_named_by_epoch_and_crc(tmp_path):
    Checkpoints(Folder.at(tmp_path)).save(numbered(12, FEW))
    (path,) = tmp_path.iterdir()
    assert path.name == f"epoch-000012-{zlib.crc32(path.read_bytes()):08x}.safetensors"
    with safe_open(path, "pt") as file:
        about = json.loads(file.metadata()["vae_study"])
        assert set(file.keys()) == {"numbers", "epoch"}
    assert (about["epoch"], about["version"], len(about["history"])) == (12, 1, 12)


@given(epochs=st.lists(st.integers(1, 2_000_000), min_size=1, max_size=6, unique=True))
def test_the_newest_two_stay(tmp_path_factory, epochs):
    folder = Folder.at(tmp_path_factory.mktemp("trial"))
    for epoch in sorted(epochs):
        Checkpoints(folder).save(Snapshot(epoch=epoch, state={}, history=[]))
        assert Checkpoints(folder).latest().epoch == epoch
    kept = [int(name.split("-")[1]) for name in folder.names()]
    assert sorted(kept) == sorted(epochs)[-2:]


@settings(max_examples=60)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.none() | st.integers(0, 7))
def test_a_torn_or_corrupt_file_gives_way_to_the_one_before(tmp_path_factory, where, bit):
    folder = Folder.at(tmp_path_factory.mktemp("trial"))
    for epoch in (1, 2):
        Checkpoints(folder).save(numbered(epoch, FEW))
    newest = folder.names()[-1]
    content = bytearray(folder.read(newest))
    place = int(where * len(content))
    if bit is None:
        del content[place:]
    else:
        content[place] ^= 1 << bit
    folder.write(newest, bytes(content))
    assert equal(Checkpoints(folder).latest(), numbered(1, FEW))


def spoil(folder: Folder, name: str) -> None:
    folder.write(name, folder.read(name)[:-1])


def test_a_bad_one_is_warned_of_by_name_and_where_all_are_bad_there_is_none(folder, caplog):
    for epoch in (1, 2):
        Checkpoints(folder).save(numbered(epoch, FEW))
    for name, left in zip(reversed(folder.names()), (1, None), strict=True):
        spoil(folder, name)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            latest = Checkpoints(folder).latest()
        assert (latest and latest.epoch) == left
        assert name in caplog.text
        assert "truncated or corrupt" in caplog.text


def test_training_again_past_a_bad_one_keeps_two_good_ones(folder):
    for epoch in (10, 12):
        Checkpoints(folder).save(numbered(epoch, FEW))
    spoil(folder, folder.names()[-1])
    again = Checkpoints(folder)
    assert again.latest().epoch == 10
    again.save(numbered(13, FEW))
    spoil(folder, folder.names()[-1])
    once_more = Checkpoints(folder)
    assert once_more.latest().epoch == 10
    once_more.save(numbered(11, FEW))
    assert [int(name.split("-")[1]) for name in folder.names()] == [10, 11]


def test_training_again_from_an_earlier_epoch_drops_what_lay_ahead(folder):
    for epoch in (10, 12):
        Checkpoints(folder).save(numbered(epoch, FEW))
    Checkpoints(folder).save(numbered(11, FEW))
    assert [int(name.split("-")[1]) for name in folder.names()] == [10, 11]
    Checkpoints(folder).save(numbered(1, FEW))
    assert Checkpoints(folder).latest().epoch == 1


def test_files_that_are_no_checkpoints_of_ours_are_passed_over(folder):
    checkpoints = Checkpoints(folder)
    checkpoints.save(numbered(1, FEW))
    folder.write("notes.txt", b"mine")
    folder.write("epoch-000099-00000000.safetensors", b"")
    content = folder.read(checkpoints._names()[-1]).replace(b'\\"version\\": 1', b'\\"version\\": 9')
    folder.write(f"epoch-000098-{zlib.crc32(content):08x}.safetensors", content)
    assert checkpoints.latest().epoch == 1
    checkpoints.save(numbered(2, FEW))
    assert "notes.txt" in folder.names()
    assert checkpoints.latest().epoch == 2
    assert len(folder.names()) == 3


def test_on_a_full_disk_saving_fails_and_the_earlier_ones_stay(tmp_path):
    with small_disk(tmp_path) as disk:
        folder = Folder.at(disk) / "trial-0007"
        checkpoints = Checkpoints(folder)
        for epoch in (1, 2):
            checkpoints.save(numbered(epoch, 75_000))
        before = {name: folder.read(name) for name in folder.names()}
        for epoch in (3, 4):
            Folder.at(disk).write("another", bytes(200_000))
            with pytest.raises(OSError, match="No space left on device"):
                checkpoints.save(numbered(epoch, 75_000))
            assert {name: folder.read(name) for name in folder.names()} == before
            assert len(os.listdir(disk / "trial-0007")) == 2
        assert equal(checkpoints.latest(), numbered(2, 75_000))
        Folder.at(disk).remove("another")
        checkpoints.save(numbered(5, 75_000))
        assert [int(name.split("-")[1]) for name in folder.names()] == [2, 5]


@pytest.mark.parametrize(("kind", "kills"), [("local", 10), ("object store", 3)])
def test_a_kill_at_any_moment_leaves_a_good_checkpoint_and_no_half_one(processes, bucket, tmp_path, kind, kills):
    """`numbers` makes a file of 2 MB, so that most of the time goes into writing it."""
    chance, numbers = random.Random(0), 500_000
    folder = Folder.at(tmp_path if kind == "local" else bucket) / uuid.uuid4().hex
    reached = half_written = count = 0
    # On a busy machine the kills may all come between two files: it goes on until one met a file half written.
    while count < kills or (folder.local and not half_written):
        count += 1
        assert count < 30 * kills, "no kill got while a file was being written"
        writer = processes.Process(target=save_without_end, args=(str(folder), numbers))
        writer.start()
        until(lambda above=reached: _epochs(folder, above), "another checkpoint is there", pause_seconds=0.001)
        time.sleep(chance.uniform(0, 0.05))
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        _wait_until_settled(folder)
        half_written += len(os.listdir(folder.local)) - len(folder.names()) if folder.local else 0
        latest = Checkpoints(folder).latest()
        assert latest.epoch == max(_epochs(folder)) > reached
        assert equal(latest, numbered(latest.epoch, numbers))
        reached = latest.epoch
    Checkpoints(folder).save(numbered(reached + 1, numbers))
    assert len(folder.names()) == 2
    if folder.local:
        assert sorted(os.listdir(folder.local)) == folder.names()


def _wait_until_settled(folder: Folder) -> None:
    """A store may still carry out what it was sent before the kill."""
    before = None
    while folder.local is None and before != (before := folder.names()):
        time.sleep(0.5)


def _epochs(folder: Folder, above: int = 0) -> list[int]:
    found = [int(name.split("-")[1]) for name in folder.names()]
    return [epoch for epoch in found if epoch > above]


def test_a_trial_killed_twice_ends_with_the_history_and_weights_of_an_undisturbed_one(processes, folder):
    for place, deaths in (("undisturbed", [None]), ("killed", [2, 3, None])):
        for dies_after in deaths:
            worker = processes.Process(target=train_a_trial, args=(str(folder / place), dies_after))
            worker.start()
            worker.join(PATIENCE_SECONDS)
            assert worker.exitcode == (0 if dies_after is None else -signal.SIGKILL)
    undisturbed, killed = (Checkpoints(folder / place).latest() for place in ("undisturbed", "killed"))
    assert undisturbed.epoch == EPOCHS == len(undisturbed.history)
    assert equal(undisturbed, killed)


class Clock:
    """Time that passes only where a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@given(
    every=st.floats(0.01, 100),
    epochs=st.lists(st.tuples(st.floats(0.001, 50), st.floats(0, 30), st.booleans()), min_size=1, max_size=40),
)
def test_a_checkpoint_is_due_once_training_took_every_seconds_and_twenty_times_the_last_ones_cost(every, epochs):
    """`epochs`: how long each takes, what a checkpoint after it would cost, and whether that one fails."""
    clock = Clock()
    pace, trained, cost = CheckpointTimer(every, clock), 0.0, 0.0
    for seconds, price, fails in epochs:
        clock.now += seconds
        trained += seconds
        wanted = max(every, 20 * cost)
        assert pace.is_due() == (trained >= wanted) or trained == pytest.approx(wanted)
        if pace.is_due():
            with pytest.raises(OSError, match="full") if fails else nullcontext(), pace.saving():
                clock.now += price
                if fails:
                    raise OSError("full")
            trained, cost = 0.0, price


def test_with_no_seconds_between_them_a_checkpoint_is_due_at_every_epoch():
    clock = Clock()
    pace = CheckpointTimer(0, clock)
    for _ in range(3):
        assert pace.is_due()
        with pace.saving():
            clock.now += 1000
        assert pace.is_due()

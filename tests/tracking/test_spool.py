import json
import os
import random
import signal
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tracking import spool as module
from pipeline.tracking.spool import Spool
from tests.small_disk import small_disk
from tests.tracking.processes import append_without_end

TEXTS = st.text(max_size=12) | st.sampled_from(["\n", "\r\n", "\u2028", "\u2029", "\x85", "\x00", "\x1c", "🙂"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
RECORDS = st.dictionaries(TEXTS, VALUES, max_size=4)


def told(spool, offset=0):
    return [record for _, record in spool.read(offset)]


@given(records=st.lists(RECORDS, max_size=5), durable=st.booleans())
def test_any_record_comes_back_as_it_was_in_its_order_and_from_every_offset(tmp_path_factory, records, durable):
    path = tmp_path_factory.mktemp("spool") / "spool.jsonl"
    spool = Spool(path)
    for record in records:
        spool.append(record, durable)
    for again in (spool, Spool(path)):
        assert repr(told(again)) == repr(records)
        offsets = [0, *(offset for offset, _ in again.read())]
        assert offsets[-1] == again.end == path.stat().st_size
        for passed, offset in enumerate(offsets):
            assert repr(told(again, offset)) == repr(records[passed:])
            assert len(list(again.read(offset, 2))) == min(2, len(records) - passed)
    assert path.read_bytes().count(b"\n") == len(records)


def test_half_a_character_is_replaced_as_nothing_beyond_the_spool_could_encode_it(tmp_path):
    spool = Spool(tmp_path / "spool.jsonl")
    spool.append({"error": "no such file: a\udcff.csv", "more": "🙂"})
    (record,) = told(spool)
    assert record == {"error": "no such file: a?.csv", "more": "🙂"}


def test_a_file_cut_at_any_byte_loses_its_last_record_only_and_goes_on(tmp_path):
    records = [{"number": number, "text": "ü\n\u2028" * number} for number in range(3)]
    whole = Spool(tmp_path / "whole.jsonl")
    for record in records:
        whole.append(record)
    content, ends = whole.path.read_bytes(), [offset for offset, _ in whole.read()]
    path = tmp_path / "cut.jsonl"
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        spool = Spool(path)
        kept = records[: sum(end <= cut for end in ends)]
        assert told(spool) == kept
        spool.append({"number": "next"})
        assert told(spool) == told(Spool(path)) == [*kept, {"number": "next"}]


@pytest.mark.parametrize("hole", [(0, 40), (25, 60), (40, 100)])
def test_what_a_crash_of_the_machine_left_as_zeros_is_cut_off_with_all_behind_it(tmp_path, hole):
    path = tmp_path / "spool.jsonl"
    spool = Spool(path)
    for number in range(10):
        spool.append({"number": number})
    content = bytearray(path.read_bytes())
    content[slice(*hole)] = bytes(hole[1] - hole[0])
    path.write_bytes(content)
    again = Spool(path)
    before = content[: hole[0]].count(b"\n")
    assert told(again) == [{"number": number} for number in range(before)]
    again.append({"number": "next"})
    assert told(Spool(path))[before:] == [{"number": "next"}]


def test_a_writer_killed_at_any_moment_loses_no_record_but_the_one_it_was_at(processes, tmp_path):
    chance, path = random.Random(0), tmp_path / "spool.jsonl"
    path.touch()
    reached = torn = 0
    for _ in range(12):
        writer = processes.Process(target=append_without_end, args=(str(path), 500_000))
        writer.start()
        size, deadline = path.stat().st_size, time.monotonic() + 60
        while path.stat().st_size <= size and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.03))
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        content = path.read_bytes()
        torn += not content.endswith(b"\n")
        numbers = [json.loads(line)["number"] for line in content.split(b"\n")[:-1]]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) >= reached
        assert [record["number"] for record in told(Spool(path))] == numbers
        reached = len(numbers)
    assert reached > 12
    assert torn, "no kill came while a record was being written"


def test_on_a_full_disk_the_spool_stays_as_it_was_until_there_is_room(tmp_path):
    with small_disk(tmp_path) as disk:
        spool = Spool(disk / "spool.jsonl")
        spool.append({"number": 0}, is_durable=True)
        (disk / "another").write_bytes(bytes(900_000))
        for is_durable in (False, True):
            with pytest.raises(OSError, match="No space left on device"):
                spool.append({"text": "x" * 200_000}, is_durable)
            assert spool.path.read_bytes() == b'{"number": 0}\n'
            assert told(spool) == [{"number": 0}]
        (disk / "another").unlink()
        spool.append({"text": "x" * 200_000})
        assert len(told(spool)) == len(told(Spool(spool.path))) == 2


def test_a_record_that_cannot_be_made_durable_is_read_by_nobody(tmp_path, monkeypatch):
    spool, seen = Spool(tmp_path / "spool.jsonl"), []

    def fail(descriptor):
        seen.extend(told(spool))
        raise OSError(28, "No space left on device")

    spool.append({"number": 0})
    monkeypatch.setattr(module.os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        spool.append({"number": 1}, is_durable=True)
    assert seen == told(spool) == [{"number": 0}]
    spool.append({"number": 2})
    assert told(spool) == told(Spool(spool.path)) == [{"number": 0}, {"number": 2}]


def test_threads_that_append_at_once_tear_no_line_and_keep_their_order_while_another_reads(tmp_path):
    spool, seen = Spool(tmp_path / "spool.jsonl"), []
    threads = [threading.Thread(target=_append_some, args=(spool, writer)) for writer in range(4)]
    for thread in threads:
        thread.start()
    offset = 0
    while any(thread.is_alive() for thread in threads) or offset < spool.end:
        for offset, record in spool.read(offset):  # noqa: B007, B020
            seen.append(record)
    assert seen == told(Spool(spool.path))
    for writer in range(4):
        assert [record["number"] for record in seen if record["writer"] == writer] == list(range(200))


def _append_some(spool, writer):
    for number in range(200):
        spool.append({"writer": writer, "number": number, "text": "x" * (37 * number % 5000)}, number % 50 == 0)


def test_a_record_takes_no_time_to_speak_of(tmp_path):
    spool, seconds = Spool(tmp_path / "spool.jsonl"), []
    record = {"op": "epochs", "epochs": [[1, 10**12, {f"val/metric_{number}": number / 7 for number in range(40)}]]}
    for _ in range(300):
        started = time.perf_counter()
        spool.append(record)
        seconds.append(time.perf_counter() - started)
    assert sorted(seconds)[150] < 0.005

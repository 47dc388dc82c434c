import random
import signal
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vae_study.tracking import journal as module
from vae_study.tracking.journal import Journal

from tests.small_disk import small_disk
from tests.tracking.processes import append_and_die

TEXTS = st.text(max_size=12) | st.sampled_from(["\n", "\r\n", "\u2028", "\u2029", "\x85", "\x00", "\x1c", "🙂"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
RECORDS = st.dictionaries(TEXTS, VALUES, max_size=4)


def told(journal, offset=0):
    return [record for _, record in journal.read(offset)]


@given(records=st.lists(RECORDS, max_size=5), durable=st.booleans())
def test_any_record_comes_back_as_it_was_in_its_order_and_from_every_offset(tmp_path_factory, records, durable):
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    journal = Journal(path)
    for record in records:
        journal.append(record, durable)
    for again in (journal, Journal(path)):
        assert repr(told(again)) == repr(records)
        offsets = [0, *(offset for offset, _ in again.read())]
        assert offsets[-1] == again.end == path.stat().st_size
        for passed, offset in enumerate(offsets):
            assert repr(told(again, offset)) == repr(records[passed:])
            assert len(list(again.read(offset, 2))) == min(2, len(records) - passed)
    assert path.read_bytes().count(b"\n") == len(records)


def test_half_a_character_is_replaced_as_nothing_beyond_the_journal_could_encode_it(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append({"error": "no such file: a\udcff.csv", "more": "🙂"})
    (record,) = told(journal)
    assert record == {"error": "no such file: a?.csv", "more": "🙂"}


def test_a_file_cut_at_any_byte_loses_its_last_record_only_and_goes_on(tmp_path):
    records = [{"number": number, "text": "ü\n\u2028" * number} for number in range(3)]
    whole = Journal(tmp_path / "whole.jsonl")
    for record in records:
        whole.append(record)
    content, ends = whole.path.read_bytes(), [offset for offset, _ in whole.read()]
    path = tmp_path / "cut.jsonl"
    for cut in range(len(content) + 1):
        path.write_bytes(content[:cut])
        journal = Journal(path)
        kept = records[: sum(end <= cut for end in ends)]
        assert told(journal) == kept
        journal.append({"number": "next"})
        assert told(journal) == told(Journal(path)) == [*kept, {"number": "next"}]


@pytest.mark.parametrize("hole", [(0, 40), (25, 60), (40, 100)])
def test_what_a_crash_of_the_machine_left_as_zeros_is_cut_off_with_all_behind_it(tmp_path, hole):
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    for number in range(10):
        journal.append({"number": number})
    content = bytearray(path.read_bytes())
    content[slice(*hole)] = bytes(hole[1] - hole[0])
    path.write_bytes(content)
    again = Journal(path)
    before = content[: hole[0]].count(b"\n")
    assert told(again) == [{"number": number} for number in range(before)]
    again.append({"number": "next"})
    assert told(Journal(path))[before:] == [{"number": "next"}]


def test_a_writer_killed_at_any_moment_loses_no_record_but_the_one_it_was_at(processes, tmp_path):
    chance, path, reached = random.Random(0), tmp_path / "journal.jsonl", 0
    path.touch()
    for share in (0.0, *(chance.random() for _ in range(10)), 1.0):
        whole = chance.randrange(4)
        writer = processes.Process(target=append_and_die, args=(str(path), whole, share))
        writer.start()
        writer.join()
        assert writer.exitcode == -signal.SIGKILL
        assert path.read_bytes().endswith(b"\n") == (share in (0.0, 1.0) and reached + whole > 0)
        reached += whole + (share == 1.0)
        assert [record["number"] for record in told(Journal(path))] == list(range(reached))
    assert reached > 12


def test_on_a_full_disk_the_journal_stays_as_it_was_until_there_is_room(tmp_path):
    with small_disk(tmp_path) as disk:
        journal = Journal(disk / "journal.jsonl")
        journal.append({"number": 0}, is_durable=True)
        (disk / "another").write_bytes(bytes(900_000))
        for is_durable in (False, True):
            with pytest.raises(OSError, match="No space left on device"):
                journal.append({"text": "x" * 200_000}, is_durable)
            assert journal.path.read_bytes() == b'{"number": 0}\n'
            assert told(journal) == [{"number": 0}]
        (disk / "another").unlink()
        journal.append({"text": "x" * 200_000})
        assert len(told(journal)) == len(told(Journal(journal.path))) == 2


def test_a_record_that_cannot_be_made_durable_is_read_by_nobody(tmp_path, monkeypatch):
    journal, seen = Journal(tmp_path / "journal.jsonl"), []

    def fail(descriptor):
        seen.extend(told(journal))
        raise OSError(28, "No space left on device")

    journal.append({"number": 0})
    monkeypatch.setattr(module.os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        journal.append({"number": 1}, is_durable=True)
    assert seen == told(journal) == [{"number": 0}]
    journal.append({"number": 2})
    assert told(journal) == told(Journal(journal.path)) == [{"number": 0}, {"number": 2}]


def test_threads_that_append_at_once_tear_no_line_and_keep_their_order_while_another_reads(tmp_path):
    journal, seen = Journal(tmp_path / "journal.jsonl"), []
    threads = [threading.Thread(target=_append_some, args=(journal, writer)) for writer in range(4)]
    for thread in threads:
        thread.start()
    offset = 0
    while any(thread.is_alive() for thread in threads) or offset < journal.end:
        for offset, record in journal.read(offset):  # noqa: B007, B020
            seen.append(record)
    assert seen == told(Journal(journal.path))
    for writer in range(4):
        assert [record["number"] for record in seen if record["writer"] == writer] == list(range(200))


def _append_some(journal, writer):
    for number in range(200):
        journal.append({"writer": writer, "number": number, "text": "x" * (37 * number % 5000)}, number % 50 == 0)

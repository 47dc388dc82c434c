"""Where scores are written, and what is left when that fails; what is read and held meanwhile."""

import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from vae_study.data import open_stream
from vae_study.detector import score_file as module
from vae_study.detector.score_file import score_file
from vae_study.errors import UserError

from tests.detector.score_files import RANDOM, ROWS, frame_of, left_in, parts_in
from tests.small_disk import small_disk
from tests.waiting import PATIENCE_SECONDS

# The process is interrupted while it scores, by the parent, which has read that it does.
INTERRUPTED = """
import signal, sys, time
from pathlib import Path
from vae_study.data import open_stream
from vae_study.detector.detector import Detector
from vae_study.detector.score_file import score_file

def progress(done, count):
    print(done, flush=True)
    time.sleep(0.1)

# Whoever runs the tests in the background of a shell has it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
detector = Detector.load(sys.argv[1])
score_file(detector, open_stream(sys.argv[2], detector.preprocessing), Path(sys.argv[3]), progress=progress)
"""


def test_a_link_is_written_through_and_what_is_no_regular_file_is_refused(detector, tmp_path):
    place = parts_in(tmp_path / "data", frame_of())
    stream = open_stream(place, detector.preprocessing)
    (tmp_path / "far").mkdir()
    (tmp_path / "out.parquet").symlink_to(tmp_path / "far" / "scores.parquet")
    score_file(detector, stream, tmp_path / "out.parquet")
    assert (tmp_path / "out.parquet").is_symlink()
    assert pq.read_metadata(tmp_path / "far" / "scores.parquet").num_rows == ROWS
    os.mkfifo(tmp_path / "pipe.csv")
    for odd in (tmp_path / "pipe.csv", Path("/dev/null")):
        with pytest.raises(UserError, match=f"^{odd}: is a device or a pipe"):
            score_file(detector, stream, odd)
    with pytest.raises(UserError, match=r"scores\.xlsx: got the suffix '\.xlsx', expected \.parquet or \.csv"):
        score_file(detector, stream, tmp_path / "scores.xlsx")


def test_a_link_to_a_file_of_another_kind_or_to_itself_is_refused(detector, tmp_path):
    stream = open_stream(parts_in(tmp_path / "data", frame_of()), detector.preprocessing)
    (tmp_path / "out.csv").symlink_to(tmp_path / "scores.parquet")
    with pytest.raises(UserError, match=r"out\.csv: is a link to .*; expected one to a file with the suffix \.csv"):
        score_file(detector, stream, tmp_path / "out.csv")
    (tmp_path / "self.csv").symlink_to(tmp_path / "self.csv")
    with pytest.raises(UserError, match=r"self\.csv: is a link that leads to itself"):
        score_file(detector, stream, tmp_path / "self.csv")
    assert not (tmp_path / "scores.parquet").exists()


def test_no_password_of_the_source_s_address_is_written(detector, tmp_path):
    stream = open_stream(parts_in(tmp_path / "data", frame_of()), detector.preprocessing)
    score_file(detector, replace(stream, where="s3://key:hunter2@bucket/t"), tmp_path / "out.parquet")
    assert pq.read_schema(tmp_path / "out.parquet").metadata[b"vae_study.source"] == b"s3://key:***@bucket/t"


def test_what_was_there_stays_until_the_new_file_is_whole(detector, tmp_path):
    frame = frame_of()
    frame.loc[ROWS - 1, "a"] = np.inf
    stream = open_stream(parts_in(tmp_path / "data", frame), detector.preprocessing)
    output = tmp_path / "out.parquet"
    for before in (None, b"of last week"):
        if before is not None:
            output.write_bytes(before)
        with pytest.raises(UserError, match="column 'a': infinite in row 300"):
            score_file(detector, stream, output)
        assert left_in(tmp_path) == ([] if before is None else ["out.parquet"])
        assert before is None or output.read_bytes() == before
    frame[:-1].to_parquet(tmp_path / "whole.parquet")
    score_file(detector, open_stream(str(tmp_path / "whole.parquet"), detector.preprocessing), output)
    assert pq.read_metadata(output).num_rows == ROWS - 1


@pytest.mark.processes
def test_ctrl_c_leaves_nothing_half_written(folder, tmp_path):
    parts = parts_in(tmp_path / "data", frame_of(), size=1)
    (tmp_path / "out.parquet").write_bytes(b"of last week")
    command = [sys.executable, "-c", INTERRUPTED, str(folder), parts, str(tmp_path / "out.parquet")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().strip() == "1"
        # The unfinished file is there, so that what follows shows that it goes.
        assert len(left_in(tmp_path)) == 2
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == -signal.SIGINT
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert left_in(tmp_path) == ["out.parquet"]
    assert (tmp_path / "out.parquet").read_bytes() == b"of last week"


def test_one_batch_is_read_ahead_and_no_more_are_held(detector, tmp_path):
    source = open_stream(parts_in(tmp_path / "data", frame_of(), size=20), detector.preprocessing)
    made, is_ahead = [], threading.Event()

    def batches(differences):
        for batch in source.batches(differences):
            made.append(batch.first)
            if len(made) > 1:
                is_ahead.set()
            yield batch

    ahead = []

    def progress(done, count):
        assert is_ahead.wait(PATIENCE_SECONDS)
        ahead.append(len(made) - done // 20)

    stream = replace(source, batches=batches, count=ROWS)
    score_file(detector, stream, tmp_path / "out.parquet", progress=progress)
    assert len(ahead) == ROWS // 20
    assert max(ahead) <= 1


def test_an_error_in_the_middle_ends_the_reading_too(detector, tmp_path):
    stream = open_stream(parts_in(tmp_path / "data", frame_of(), size=1), detector.preprocessing)
    threads = threading.active_count()

    def progress(done, count):
        raise RuntimeError("the bar broke")

    with pytest.raises(RuntimeError, match="the bar broke"):
        score_file(detector, stream, tmp_path / "out.parquet", progress=progress)
    assert threading.active_count() == threads
    assert left_in(tmp_path) == []


def test_torch_has_its_threads_back_afterwards(detector, tmp_path):
    frame_of().to_parquet(tmp_path / "t.parquet")
    stream = open_stream(str(tmp_path / "t.parquet"), detector.preprocessing)
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(3)
    try:
        score_file(detector, stream, tmp_path / "out.parquet", progress=lambda *_: seen.append(torch.get_num_threads()))
        assert (seen, torch.get_num_threads()) == ([2], 3)
    finally:
        torch.set_num_threads(before)


def test_the_output_must_be_a_file_that_can_be_written_and_no_part_of_the_data(detector, tmp_path):
    place = parts_in(tmp_path / "data", frame_of())
    stream = open_stream(place, detector.preprocessing)
    for output, said in {
        tmp_path: "is a folder; expected a file to write the scores to",
        tmp_path / "no" / "out.parquet": "cannot be written",
        tmp_path / "data" / "out.parquet": "lies in what is scored",
        tmp_path / "data" / "000000.parquet": "lies in what is scored",
    }.items():
        with pytest.raises(UserError, match=said) as caught:
            score_file(detector, stream, output)
        assert str(caught.value).startswith(f"{output}: ")
    assert len(os.listdir(place)) == 6


def test_a_full_disk_is_said_and_nothing_is_left_on_it(detector, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BYTES_PER_GROUP", 1)
    frame = pd.concat([frame_of()] * 100)
    frame["card"] = [RANDOM.bytes(64).hex() for _ in range(len(frame))]
    stream = open_stream(parts_in(tmp_path / "data", frame, 5_000), detector.preprocessing, keys=["card"])
    (tmp_path / "disk").mkdir()
    with small_disk(tmp_path / "disk") as disk:
        with pytest.raises(UserError, match=r"out\.parquet: cannot be written \(.*No space left"):
            score_file(detector, stream, disk / "out.parquet")
        assert not any("parquet" in name for name in os.listdir(disk))

"""Scoring a source of any size into one Parquet file."""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.streams import Batch, Stream
from pipeline.errors import UserError
from pipeline.secrets import redacted

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.detector import Detector

# What is gathered for a row group; a million rows where nothing is explained.
_BYTES_PER_GROUP = 16 << 20
_FLAG, _NATS = "above_p", "nats/"


@dataclass(frozen=True, kw_only=True)
class ScoredSummary:
    """What became of a source.

    Attributes:
        rows: How many it had.
        flagged: How many of them are above each threshold, by its percentile, such as "99".
        seconds: How long it took.
    """

    rows: int
    flagged: Mapping[str, int]
    seconds: float


def score_file(
    detector: Detector,
    stream: Stream,
    output: Path,
    explain: bool = False,
    progress: Callable[[int, int | None], None] = lambda done, count: None,
    study: str | None = None,
) -> ScoredSummary:
    """Score all rows of a source, in its order, into one Parquet file.

    The file has the columns `row` (the place in the source, from 0), the keys, `score`, and `above_p90`, `above_p95`
    and `above_p99`, whether the score is above these percentiles of normal validation rows. Its schema's metadata says
    what scored which source. It is written beside its place and moved there when it is whole, whatever ends this
    before; memory holds some batches only. The next batch is read while one is scored.

    Args:
        detector: What scores.
        stream: What is scored, by the detector's preprocessing.
        output: The file; one that is there is replaced.
        explain: Whether to add `nats/COLUMN` for each of the user's columns, float32: what it costs in the
            reconstruction term above its mean in training rows.
        progress: Called with the number of rows done, and of all rows where that is known.
        study: Whose detector it is, for the metadata.

    Raises:
        UserError: The source is not as the detector takes it, or the output cannot be written.
    """
    started = time.monotonic()
    _require_elsewhere(output, stream)
    flagged: Counter[str] = Counter({percentile: 0 for percentile in detector.description.thresholds})
    rows = 0
    with (
        _a_core_for_reading(),
        _Output(output, _metadata(detector, stream, study)) as whole,
        closing(_read_ahead(stream)) as batches,
    ):
        for batch in batches:
            scores = detector.score(batch.x_ND, explain=explain)
            whole.add(_table(stream, batch, scores))
            flagged.update({name: int(scores[f"{_FLAG}{name}"].sum()) for name in flagged})
            rows += len(batch.x_ND)
            progress(rows, stream.count)
    return ScoredSummary(rows=rows, flagged=dict(flagged), seconds=time.monotonic() - started)


@contextmanager
def _a_core_for_reading() -> Iterator[None]:
    """Torch's threads spin while they wait: with one a core, those that read would hardly ever run."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(before - 1, 1))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _read_ahead(stream: Stream) -> Generator[Batch, None, None]:
    """The batches of a stream, of which the next one is made while one is used."""
    with ThreadPoolExecutor(1) as pool:
        batches = iter(stream)
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch


def _table(stream: Stream, batch: Batch, scores: pd.DataFrame) -> Any:
    """What the file says of a batch."""
    rows_N = np.arange(batch.first, batch.first + len(batch.x_ND), dtype=np.int64)
    said: dict[str, Any] = {"score": scores["score"].to_numpy(np.float64)}
    for prefix, kind in ((_FLAG, np.bool_), (_NATS, np.float32)):
        said |= {name: scores[name].to_numpy(kind) for name in map(str, scores) if name.startswith(prefix)}
    keys = dict(zip(batch.keys.column_names, batch.keys.columns, strict=True))
    taken = [name for name in keys if name in ("row", *said)]
    if taken:
        raise UserError(f"{stream.where}: the key {taken[0]!r} is called like a column of the output; rename it")
    return pa.table({"row": rows_N, **keys, **said})


def _metadata(detector: Detector, stream: Stream, study: str | None) -> dict[str, str]:
    description = detector.description
    about = {
        "vae_study.source": redacted(stream.where),
        "vae_study.model": description.name,
        "vae_study.thresholds": json.dumps(dict(description.thresholds)),
    }
    return about if study is None else {"vae_study.study": study, **about}


class _Output:
    """A Parquet file in the making, beside its place: batches are gathered for row groups of a sensible size."""

    def __init__(self, output: Path, metadata: Mapping[str, str]) -> None:
        self._output, self._metadata = output, metadata
        self._unfinished = output.with_name(f".{output.name}.unfinished-{uuid.uuid4().hex[:8]}")
        self._waiting: list[Any] = []
        self._writer: Any = None

    def __enter__(self) -> _Output:
        """Make the file, so that who may not write there learns it at once."""
        with _writing(self._output):
            self._unfinished.touch()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Move the file to its place where all went well, and remove it where not."""
        try:
            with _writing(self._output):
                if kind is None and self._waiting:
                    self._write()
                if self._writer is not None:
                    self._writer.close()
                if kind is None:
                    self._unfinished.replace(self._output)
        finally:
            self._unfinished.unlink(missing_ok=True)

    def add(self, table: Any) -> None:
        """Put rows behind those that are there."""
        self._waiting.append(table)
        if sum(each.nbytes for each in self._waiting) >= _BYTES_PER_GROUP:
            with _writing(self._output):
                self._write()

    def _write(self) -> None:
        table = pa.concat_tables(self._waiting).replace_schema_metadata(self._metadata)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._unfinished, table.schema, compression="zstd")
        self._writer.write_table(table, row_group_size=table.num_rows)
        self._waiting.clear()


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{output}: cannot be written ({error}); expected a place for a Parquet file") from error


def _require_elsewhere(output: Path, stream: Stream) -> None:
    """Nothing, where the output is no part of the source."""
    source = Path(stream.where).expanduser().resolve()
    if output.is_dir():
        raise UserError(f"{output}: is a folder; expected a file to write the scores to")
    if source.exists() and output.resolve().is_relative_to(source):
        raise UserError(f"{output}: lies in what is scored, {stream.where}; expected another place for the scores")

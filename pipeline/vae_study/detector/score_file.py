"""Score a source of any size into one Parquet or CSV file, with bounded memory."""

import json
import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from pyarrow import csv

from vae_study.anomaly.conformal import flag_limit, p_value_counts
from vae_study.data import Batch, Stream
from vae_study.data.windows import Windows
from vae_study.detector.detector import FLAG, LABEL, PART, POINT, Detector
from vae_study.detector.maps import MapFolder, require_columns
from vae_study.errors import UserError, redacted

#: The size of a row group: half a million rows without explanations.
BYTES_PER_GROUP = 16 << 20
#: How many of the highest scores are told.
TOP_ROWS = 5
PARQUET, CSV = ".parquet", ".csv"
P_VALUE, DISCOVERY = "p_value", "flag"
# Integers that are spelled as Python spells them and fit 64 bits: 0123 is not one.
_INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"


@dataclass(frozen=True, kw_only=True)
class ScoredSummary:
    """The result of scoring a source.

    Attributes:
        model: What scored them, such as "trial-0007".
        rows: How many were scored.
        above: How many of them are above each threshold, by its percentile, such as "99".
        flagged: How many of them are flagged at the false discovery rate `fdr`.
        highest: How many of them have the smallest p-value: they score above all held-out normal rows.
        calibration_rows: How many held-out normal rows p-values are computed from.
        explanation: What the columns that explain the scores are; empty without them.
        seconds: How long it took.
        notes: What a user should know about the rows, such as categories that the model does not know.
        top: The rows with the highest scores, the highest first: `row`, the keys, `score` and `p_value` of each.
        series: If whole series are scored, how many: `above`, `flagged` and `highest` count these, and `top` has the
            first row of each; else 0.
    """

    model: str
    rows: int
    above: Mapping[str, int]
    fdr: float
    flagged: int
    highest: int
    calibration_rows: int
    explanation: str
    seconds: float
    notes: tuple[str, ...] = ()
    top: tuple[Mapping[str, Any], ...] = ()
    series: int = 0


def score_file(
    detector: Detector,
    stream: Stream,
    output: Path,
    explain: bool = False,
    fdr: float | None = None,
    progress: Callable[[int, int | None], None] = lambda done, count: None,
    study: str | None = None,
    after: Path | None = None,
    maps: Path | None = None,
) -> ScoredSummary:
    """Score all rows of a source, in their order, into one file.

    The file has the columns `row` (the index in the source, from 0), the keys, `score`, `p_value`, `flag`: whether the
    row is among those that the Benjamini-Hochberg procedure over all rows of the file selects, and `above_p90`,
    `above_p95` and `above_p99`: whether the score is above that percentile of normal validation rows. Of images, the
    key is `file`. Of whole series, each row has the values of its series, which counts once, and `point`; of a model
    that learns labels, there is `predicted_label`. The metadata of a Parquet file's schema names model and source. The
    file is written under a temporary name in the same folder and moved when it is complete: a second pass, over what
    was scored, adds the flags. Only a few batches are in memory; the next one is read while one is scored.

    Raise UserError if the model cannot take the source, if the output cannot be written, or if `fdr` is no rate.

    Args:
        detector: What scores the rows.
        stream: The rows, by the detector's preprocessing.
        output: The file, .parquet or .csv; an existing one is replaced.
        explain: Whether to add `part/COLUMN` for each of the user's columns, float32, and what else the score is the
            sum of, if it is a sum: `Detector.summands`.
        fdr: The false discovery rate of the flags, between 0 and 1; by default the detector's.
        progress: Called with the number of scored rows, and the number of all rows if it is known.
        study: The name of the detector's study, for the metadata.
        after: A file of scores of the same source, which has grown since: only the rows behind its last one are scored
            and told, with the scores that one file of all rows would have. Raise UserError if there are none, or if the
            source no longer has that row.
    """
    started = time.monotonic()
    output = _checked(output, stream)
    sequence = detector.preprocessing.sequence
    is_whole = sequence is not None and sequence.is_whole
    if after is not None and is_whole:
        why = "later rows change the score of a whole series"
        raise UserError(f"--after: got {after}, expected none for a model of whole series: {why}")
    earlier = None if after is None else EarlierScores.read(after)
    first = 0 if earlier is None else earlier.rows
    fdr = detector.description.fdr if fdr is None else fdr
    if not 0 < fdr < 1:
        raise UserError(f"fdr: got {fdr:g}, expected a false discovery rate between 0 and 1, such as 0.1")
    above: Counter[str] = Counter({percentile: 0 for percentile in detector.description.thresholds})
    if explain:
        require_columns(detector)
    folder = MapFolder(maps, detector)
    calibration_rows = len(detector.calibration_M)
    count_R = np.zeros(calibration_rows + 1, np.int64)
    rows, series, top, seen = 0, 0, None, set[int]()
    with (
        _one_core_for_reading(),
        _Output(output, stream.untyped_keys) as file,
        closing(_read_ahead(stream)) as batches,
    ):
        for batch in batches:
            if earlier is not None:
                earlier.require_same(stream, batch)
                batch = batch.since(first)
            if not len(batch.x_ND):
                continue
            scores = detector.score(batch.x_ND, explain=explain)
            table = _table(stream, batch, scores, (detector.summands or ()) if explain else ())
            file.add(table)
            folder.add(batch, scores)
            if is_whole:
                first_U = _first_rows(batch.x_ND, seen)
                scores, table = scores.iloc[first_U], table.take(first_U)
                series += len(scores)
            top = _highest(table.select(["row", *batch.keys.column_names, "score", P_VALUE]), top)
            above.update({name: int(scores[f"{FLAG}{name}"].sum()) for name in above})
            count_R += p_value_counts(scores[P_VALUE].to_numpy(), calibration_rows)
            rows += len(batch.x_ND)
            progress(rows, None if stream.count is None else stream.count - first)
        if earlier is not None and not rows:
            raise UserError(f"{stream.where}: holds no row behind the {first:,} that --after {earlier.path} has")
        p_limit = flag_limit(count_R, fdr)
        explanation = detector.explanation if explain else ""
        file.finish(p_limit, _metadata(detector, stream, study, fdr, explanation))
    return ScoredSummary(
        model=detector.description.name,
        rows=rows,
        above=dict(above),
        fdr=fdr,
        flagged=int(count_R[: round(p_limit * len(count_R))].sum()),
        highest=int(count_R[0]),
        calibration_rows=calibration_rows,
        explanation=explanation,
        seconds=time.monotonic() - started,
        notes=(*stream.differences.notes(), *folder.notes()),
        top=tuple(top.to_pylist()) if top is not None else (),
        series=series,
    )


@dataclass(frozen=True, kw_only=True)
class EarlierScores:
    """An earlier file of scores of a source that has grown since.

    Attributes:
        path: The file.
        rows: How many rows of the source it reaches.
        last: The last of its rows by the file's columns; of a CSV file as text.
    """

    path: Path
    rows: int
    last: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read its last row. Raise UserError if it is no file of scores."""
        last: Mapping[str, Any] = {}
        try:
            if path.suffix.lower() == PARQUET:
                file = pq.ParquetFile(path)
                groups = [n for n in range(file.num_row_groups) if file.metadata.row_group(n).num_rows]
                rows = file.read_row_group(groups[-1])
                last = rows.slice(len(rows) - 1).to_pylist()[0]
            else:
                for part in pd.read_csv(path, dtype=str, keep_default_na=False, chunksize=100_000):
                    last = {str(name): value for name, value in part.iloc[-1].items()}
            return cls(path=path, rows=int(last["row"]) + 1, last=last)
        except (OSError, ValueError, LookupError, pa.ArrowException):
            raise UserError(f"--after: {path} is no file of scores; expected one that score has written") from None

    def require_same(self, stream: Stream, batch: Batch) -> None:
        """Raise UserError if the batch has the file's last row with other keys: the source is another one by now."""
        place = self.rows - 1 - batch.first
        if not 0 <= place < len(batch.x_ND):
            return
        for name in [name for name in batch.keys.column_names if name in self.last]:
            found = batch.keys[name][place]
            if not _is_same(self.last[name], found):
                raise UserError(
                    f"{stream.where}: row {self.rows - 1:,} has {name} {found.as_py()}, expected {self.last[name]}, as "
                    f"--after {self.path} has it; expected the same source with more rows behind the earlier ones"
                )


def _is_same(earlier: Any, found: Any) -> bool:
    try:
        return bool(pa.scalar(earlier).cast(found.type).equals(found))
    except pa.ArrowException:
        return False


def _first_rows(series: Windows, seen: set[int]) -> NDArray[np.int64]:
    """The places of the rows that stand for their series: the first of each that is not among those seen; adds them."""
    place_F = np.flatnonzero(series.step_N == 0)
    start_U, first_U = np.unique(series.start_N[place_F], return_index=True)
    is_new_U = np.array([start not in seen for start in start_U.tolist()], bool)
    seen.update(start_U.tolist())
    return np.sort(place_F[first_U[is_new_U]])


def _highest(table: Any, others: Any) -> Any:
    """The TOP_ROWS rows of two tables with the highest scores; of equal ones the first."""
    both = table if others is None else pa.concat_tables([others, table])
    order = pc.sort_indices(both["score"], sort_keys=[("", "descending")])
    return both.take(order[:TOP_ROWS])


@contextmanager
def _one_core_for_reading() -> Iterator[None]:
    """Torch's threads spin while they wait: with one thread per core, the reading threads would hardly ever run."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(before - 1, 1))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _read_ahead(stream: Stream) -> Generator[Batch, None, None]:
    """The batches of a stream; the next one is read while one is used."""
    with ThreadPoolExecutor(1) as pool:
        batches = iter(stream)
        future = pool.submit(next, batches, None)
        while (batch := future.result()) is not None:
            future = pool.submit(next, batches, None)
            yield batch


def _table(stream: Stream, batch: Batch, scores: pd.DataFrame, summands: Sequence[str]) -> Any:
    """The columns of the file for a batch; `summands` is taken as it is."""
    rows_N = np.arange(batch.first, batch.first + len(batch.x_ND), dtype=np.int64)
    columns: dict[str, Any] = {name: scores[name].to_numpy(np.float64) for name in ("score", P_VALUE)}
    columns |= {name: scores[name].to_numpy(np.bool_) for name in map(str, scores) if name.startswith(FLAG)}
    columns |= {name: scores[name].to_numpy(np.float64) for name in (*summands, POINT) if name in scores}
    columns |= {LABEL: pa.array(scores[LABEL], pa.string())} if LABEL in scores else {}
    columns |= {name: scores[name].to_numpy(np.float32) for name in map(str, scores) if name.startswith(PART)}
    keys = dict(zip(batch.keys.column_names, batch.keys.columns, strict=True))
    taken = [name for name in keys if name in ("row", DISCOVERY, *columns)]
    if taken:
        raise UserError(f"{stream.where}: the key {taken[0]!r} has the name of an output column; rename it")
    return pa.table({"row": rows_N, **keys, **columns})


def _metadata(detector: Detector, stream: Stream, study: str | None, fdr: float, explanation: str) -> dict[str, str]:
    description = detector.description
    found = {
        "vae_study.source": redacted(stream.where),
        "vae_study.model": description.name,
        "vae_study.thresholds": json.dumps(dict(description.thresholds)),
        "vae_study.fdr": f"{fdr:g}",
        "vae_study.calibration_rows": str(len(detector.calibration_M)),
    }
    found |= {"vae_study.explanation": explanation} if explanation else {}
    return found if study is None else {"vae_study.study": study, **found}


class _Output:
    """A file that is written in two passes under temporary names: what was scored, in row groups, then the result."""

    def __init__(self, output: Path, untyped_keys: Sequence[str]) -> None:
        """Begin nothing yet.

        Args:
            output: The file.
            untyped_keys: Columns of text that become integers in a Parquet file if all of their values are.
        """
        self._output = output
        self._integers = {*untyped_keys} if output.suffix.lower() == PARQUET else set()
        self._scored = output.with_name(f".{output.name}.unfinished-{uuid.uuid4().hex[:8]}")
        self._result = self._scored.with_name(f"{self._scored.name}-flagged")
        self._waiting: list[Any] = []
        self._writer: Any = None

    def __enter__(self) -> Self:
        """Create a file, so that missing permissions are reported before any row is scored."""
        with _writing(self._output):
            self._scored.touch()
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the temporary files."""
        try:
            if self._writer is not None:
                self._writer.close()
        except (OSError, pa.ArrowException):
            # The disk is full, which was said before, or what is to be removed cannot be completed.
            pass
        finally:
            for path in (self._scored, self._result):
                path.unlink(missing_ok=True)

    def add(self, table: Any) -> None:
        """Append rows."""
        self._waiting.append(table)
        self._integers = {name for name in self._integers if _are_integers(table[name])}
        if sum(each.nbytes for each in self._waiting) >= BYTES_PER_GROUP:
            with _writing(self._output):
                self._write()

    def _write(self) -> None:
        table = pa.concat_tables(self._waiting).combine_chunks()
        if self._writer is None:
            options = pa.ipc.IpcWriteOptions(compression="lz4")
            self._writer = pa.ipc.new_file(str(self._scored), table.schema, options=options)
        self._writer.write_table(table)
        self._waiting.clear()

    def finish(self, p_limit: float, metadata: Mapping[str, str]) -> None:
        """Write the result, and move it to its place: only the last row told what is flagged, and what is an integer.

        Args:
            p_limit: The largest p-value that is flagged.
            metadata: Of a Parquet file's schema.
        """
        with _writing(self._output):
            if self._waiting:
                self._write()
            self._writer.close()
            with pa.memory_map(str(self._scored)) as file:
                self._write_result(pa.ipc.open_file(file), p_limit, metadata)
            self._result.replace(self._output)

    def _write_result(self, scored: Any, p_limit: float, metadata: Mapping[str, str]) -> None:
        fields = [f.with_type(pa.int64()) if f.name in self._integers else f for f in scored.schema]
        place = scored.schema.get_field_index(P_VALUE) + 1
        fields.insert(place, pa.field(DISCOVERY, pa.bool_()))
        schema = pa.schema(fields, metadata)
        is_csv = self._output.suffix.lower() == CSV
        make = csv.CSVWriter if is_csv else partial(pq.ParquetWriter, compression="zstd")
        with make(self._result, schema) as writer:
            for group in range(scored.num_record_batches):
                table = pa.Table.from_batches([scored.get_batch(group)])
                table = table.add_column(place, DISCOVERY, pc.less_equal(table[P_VALUE], p_limit)).cast(schema)
                writer.write_table(table, table.num_rows)


def _are_integers(values: Any) -> bool:
    return bool(pc.all(pc.match_substring_regex(values, _INTEGER), min_count=0).as_py())


@contextmanager
def _writing(output: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{output}: cannot be written ({error}); expected a place for the scores") from error


def _checked(output: Path, stream: Stream) -> Path:
    """The file to write, behind links; raise UserError if it is none, or part of the source."""
    if output.is_dir():
        raise UserError(f"{output}: is a folder; expected a file to write the scores to")
    if output.exists() and not output.is_file():
        raise UserError(f"{output}: is a device or a pipe; expected a regular file to write the scores to")
    if output.suffix.lower() not in (PARQUET, CSV):
        raise UserError(f"{output}: got the suffix {output.suffix!r}, expected {PARQUET} or {CSV}")
    # Unlike Path.resolve, it takes a link that leads to itself.
    source, found = Path(stream.where).expanduser().resolve(), Path(os.path.realpath(output))
    if found.is_symlink():
        raise UserError(f"{output}: is a link that leads to itself; expected a file to write the scores to")
    if found.suffix.lower() != output.suffix.lower():
        raise UserError(f"{output}: is a link to {found}; expected one to a file with the suffix {output.suffix}")
    if source.exists() and found.is_relative_to(source):
        raise UserError(f"{output}: lies in what is scored, {stream.where}; expected another place for the scores")
    return found if output.is_symlink() else output

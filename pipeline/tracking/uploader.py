"""From the spool to MLflow, by a thread of its own: at least once, and what arrives twice changes nothing."""

import json
import logging
import os
import threading
import time
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from pipeline.secrets import redacted
from pipeline.tracking.backlog import MARKER_SUFFIX, lines
from pipeline.tracking.replay import Replay
from pipeline.tracking.spool import Spool

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_BATCHES = 1.0
RECORDS_PER_BATCH = 2000
LONGEST_PAUSE_SECONDS, LONGEST_PAUSE_WHILE_AWAITED_SECONDS = 30.0, 2.0
SECONDS_TO_BE_SLOW = 10.0
# What trying again cannot mend. BAD_REQUEST can be: a proxy in trouble, or the server's database.
REFUSALS = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE")


class Uploader:
    """Brings a spool's records to MLflow in their order, and remembers how far it came.

    Attributes:
        errors: What MLflow refused for good.
        is_away: Whether the last attempt found no server, so that records wait.
    """

    def __init__(self, client: MlflowClient, parent: Run, run_ids: dict[str, str], spool: Spool):
        """Go on where an earlier uploader of this spool and parent run was."""
        self.spool, self.errors, self.is_away = spool, list[Exception](), False
        self._replay = Replay(client, parent, run_ids)
        self._marker = Marker(spool.path.with_suffix(MARKER_SUFFIX), parent.info.run_id)
        self._offset = min(self._marker.read(), spool.end)
        # A spool that got lost begins anew, and so does the way through it.
        self._marker.write(self._offset)
        self._size = RECORDS_PER_BATCH
        self._replay.recall(record for offset, record in spool.read() if offset <= self._offset)
        self._advanced = time.monotonic()
        self._wake, self._is_closing, self._is_awaited = threading.Event(), False, False
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    @property
    def waiting_bytes(self) -> int:
        """What is in the spool and not yet in MLflow."""
        return self.spool.end - self._offset

    def waiting(self) -> int:
        """How many records are in the spool and not yet in MLflow."""
        return lines(self.spool.path, self._offset, self.spool.end)

    def stalled(self) -> int:
        """How many records wait where MLflow is away, or slower than the study; 0 where all goes well."""
        is_slow = time.monotonic() - self._advanced > SECONDS_TO_BE_SLOW
        return self.waiting() if self.is_away or (self.waiting_bytes and is_slow) else 0

    def drain(self, patience_seconds: float) -> bool:
        """Wait until all is in MLflow, as long as it makes headway; False where it does not for so long."""
        self._is_awaited = True
        try:
            return self._drained(patience_seconds)
        finally:
            self._is_awaited = False

    def _drained(self, patience_seconds: float) -> bool:
        offset, since = self._offset, time.monotonic()
        self._wake.set()
        while self.waiting_bytes:
            if not self.is_away:
                self._wake.set()
            time.sleep(0.02)
            if self._offset != offset:
                offset, since = self._offset, time.monotonic()
            elif self.is_away and time.monotonic() - since > patience_seconds:
                return False
        return True

    def close(self) -> None:
        """End the thread, after what it is doing now."""
        self._is_closing = True
        self._wake.set()
        self._thread.join(timeout=2 * LONGEST_PAUSE_SECONDS)

    def _work(self) -> None:
        pause = SECONDS_BETWEEN_BATCHES
        while not self._is_closing:
            try:
                has_more = self._upload()
                pause, self.is_away = SECONDS_BETWEEN_BATCHES, False
            except Exception as error:
                if not self.is_away:
                    logger.warning(
                        "MLflow is away, records wait in %s: %s", self.spool.path, redacted(str(error))[:500]
                    )
                has_more, self.is_away, pause = False, True, min(2 * pause, self._longest_pause)
            if not has_more:
                self._wake.wait(pause)
                self._wake.clear()

    @property
    def _longest_pause(self) -> float:
        return LONGEST_PAUSE_WHILE_AWAITED_SECONDS if self._is_awaited else LONGEST_PAUSE_SECONDS

    def _upload(self) -> bool:
        """One batch; whether another one is to follow at once.

        After an error its records are read again, as nothing of it counts as done, but fewer of them: a server that
        fails at every tenth request would never take a long batch, and a record that it refuses is to go alone.
        """
        batch = list(self.spool.read(self._offset, self._size))
        if not batch:
            self._advanced = time.monotonic()
            return False
        # What MLflow has and the spool had lost would be logged again, at another time.
        self.spool.sync()
        try:
            self._replay.apply([record for _, record in batch])
        except Exception as error:
            self._size = max(1, len(batch) // 2)
            if _may_pass(error):
                raise
            if len(batch) > 1:
                return True
            logger.warning("MLflow refused a record: %s", error)
            self.errors.append(error)
        self._advance(batch[-1][0])
        is_full, self._size = len(batch) == self._size, min(2 * self._size, RECORDS_PER_BATCH)
        return is_full

    def _advance(self, offset: int) -> None:
        self._offset, self._advanced = offset, time.monotonic()
        self._marker.write(offset)
        self._replay.forget()


def _may_pass(error: Exception) -> bool:
    """Whether the same request may succeed later: the server is away, slow or in trouble."""
    if isinstance(error, MlflowException):
        return error.error_code not in REFUSALS
    return isinstance(error, OSError)


class Marker:
    """How far a spool has been uploaded to one parent run; to another run, nothing has."""

    def __init__(self, path: Path, run_id: str):
        self.path, self.run_id = path, run_id

    def read(self) -> int:
        """The offset in bytes."""
        try:
            known = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return 0
        return int(known["offset"]) if known.get("run_id") == self.run_id else 0

    def write(self, offset: int) -> None:
        """Replace the offset, whole or not at all."""
        unfinished = self.path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps({"run_id": self.run_id, "offset": offset}), encoding="utf-8")
        os.replace(unfinished, self.path)

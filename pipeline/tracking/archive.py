"""What was said of a run, beside its files once it has ended: the spool's disk goes with the driver's host."""

import json
import logging
from collections.abc import Mapping

from pipeline.folders import Folder
from pipeline.tracking import layout
from pipeline.tracking.replay import PARENT
from pipeline.tracking.spool import Record, encoded

logger = logging.getLogger(__name__)

RUN_FILE = "run.json"


class Archive:
    """The records of each run from its start to its end, in HOME/STUDY/trials/trial-0007/run.json.

    It is written before MLflow or the study store hear of the end, so that what either of them has heard is all here.
    That takes a request of some tens of milliseconds, once a run; epochs would be too many.
    """

    def __init__(self, folder: Folder | None, about: Mapping[str, str]):
        """Begin with no run under way.

        Args:
            folder: Where runs have folders of their own; None keeps nothing, for where the spool lasts as long.
            about: Which study's they are: the parent run's tags, of which the fingerprints count.
        """
        self._folder = folder
        self._about = {tag: about.get(tag) for tag in (layout.SPEC_SHA, layout.DATA_SHA)}
        self._open: dict[str, list[Record]] = {}

    def note(self, record: Record) -> None:
        """Remember what is said of a run that has not ended."""
        if self._folder is None or record["run"] == PARENT:
            return
        if record["op"] == "end":
            self._open.pop(record["run"], None)
        else:
            self._open.setdefault(record["run"], []).append(record)

    def keep(self, end: Record) -> None:
        """Write all that was said of a run, with its end; where that fails, the study goes on with the spool alone."""
        if self._folder is None:
            return
        key = end["run"]
        try:
            content = {**self._about, "records": [*self._open.get(key, []), end]}
            (self._folder / key).write(RUN_FILE, encoded(content))
        except OSError as error:
            logger.warning("what became of %s is on this machine's disk only: %s", key, error)

    def find(self, key: str, parameters: Mapping[str, str]) -> list[Record]:
        """The records of a run that has ended; none where it has left none, or they are of another one of that name.

        Args:
            key: The run.
            parameters: Its own, as a record has them: another study of the same name may have left its files.

        Raises:
            OSError: They cannot be read.
        """
        if self._folder is None:
            return []
        try:
            found = json.loads((self._folder / key).read(RUN_FILE))
        except FileNotFoundError:
            return []
        records: list[Record] = found.pop("records")
        is_ours = found == self._about and records[0].get("parameters") == parameters
        return records if is_ours else []

"""Ray Tune's Searcher interface on the study's ledger: the only way in which Tune asks and tells."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ray.tune.search import Searcher

from pipeline.search.store import Proposal
from pipeline.study.messages import Assignment, TrialReport
from pipeline.tracking.record import EpochRecord

logger = logging.getLogger(__name__)


class Ledger(Protocol):
    """Where trials come from and where what happens to them is written down."""

    def propose(self) -> Proposal | None:
        """The next configuration; None when there is no more."""

    def progress(self, number: int, epochs: Sequence[EpochRecord]) -> None:
        """Some epochs of a running trial."""

    def end(self, number: int, report: TrialReport) -> None:
        """A trial's end, however it came."""


class LedgerSearcher(Searcher):
    """Hands out assignments until the budget is met. No hook raises: Tune would end the whole study."""

    def __init__(self, ledger: Ledger, assign: Callable[[int, dict[str, Any]], Assignment], concurrency: int):
        """Make the adapter.

        Args:
            ledger: Where every trial is asked for and told of.
            assign: Makes the message to the worker.
            concurrency: The most trials that may be under way at once.
        """
        super().__init__()
        self.ledger, self.assign, self.concurrency = ledger, assign, concurrency
        self.numbers: dict[str, int] = {}
        self.error: Exception | None = None

    def suggest(self, trial_id: str) -> Any:
        """The next trial's configuration, None to wait, or FINISHED."""
        if len(self.numbers) >= self.concurrency:
            return None
        try:
            proposal = None if self.error else self.ledger.propose()
        except Exception as error:
            self._remember(error)
            proposal = None
        if proposal is None:
            return Searcher.FINISHED
        self.numbers[trial_id] = proposal.number
        return {"assignment": self.assign(proposal.number, dict(proposal.parameters))}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Some epochs of a trial that goes on."""
        try:
            self.ledger.progress(self.numbers[trial_id], result["report"].epochs)
        except Exception as error:
            self._remember(error)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial's last report, or the news that its worker died without one."""
        number = self.numbers.pop(trial_id, None)
        if number is None:
            return
        report = (result or {}).get("report")
        try:
            if error or report is None:
                report = TrialReport(epochs=[], state="failed", failure="error", error="the trial's worker died")
            self.ledger.end(number, report)
        except Exception as problem:
            self._remember(problem)

    def _remember(self, error: Exception) -> None:
        """Keep the first error of our own for the driver, which ends the study with it once Tune has let go."""
        logger.error("a hook of the study failed", exc_info=error)
        self.error = self.error or error

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher for a restore of its own, which is never used."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study store is the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore: the study store is the truth."""

"""The one place where what happens to a trial is written down: study store, tracking and progress line."""

from collections import defaultdict
from collections.abc import Sequence

from pipeline.search.store import Proposal, StudyStore
from pipeline.study.messages import TrialReport
from pipeline.study.progress import Progress
from pipeline.tracking import layout
from pipeline.tracking.layout import trial_name
from pipeline.tracking.record import EpochRecord
from pipeline.tracking.writer import TrackingWriter


class StudyLedger:
    """Every proposal, epoch and end passes through here, in the driver's process."""

    def __init__(self, store: StudyStore, tracking: TrackingWriter, progress: Progress):
        self.store, self.tracking, self.display = store, tracking, progress
        self.histories: defaultdict[int, list[EpochRecord]] = defaultdict(list)

    def propose(self) -> Proposal | None:
        """The next configuration; None when the budget of trials is handed out."""
        if self.store.remaining() <= 0:
            return None
        proposal = self.store.ask()
        name = layout.trial_run_name(proposal.number, proposal.parameters)
        tags = {layout.KIND: "trial", layout.TRIAL: str(proposal.number)}
        self.tracking.start(trial_name(proposal.number), name, proposal.parameters, tags)
        self.show()
        return proposal

    def progress(self, number: int, epochs: Sequence[EpochRecord]) -> None:
        """Some epochs of a running trial."""
        self.histories[number] += epochs
        self.tracking.log_epochs(trial_name(number), epochs)

    def end(self, number: int, report: TrialReport) -> None:
        """A trial's end, however it came."""
        self.progress(number, report.epochs)
        history = self.histories.pop(number)
        state, failure = report.state, report.failure
        if state == "finished":
            last = history[-1].metrics if history else {}
            if not self.store.finish(number, {**last, **report.metrics}):
                state, failure = "failed", "diverged"
        else:
            self.store.fail(number, failure or "error")
        key = trial_name(number)
        self.tracking.end(key, number, state, failure, report.metrics, history, report.error)
        self.show()

    def show(self) -> None:
        """Bring the progress line up to date."""
        self.display.update(self.store.counts(), self.store.finished_values())

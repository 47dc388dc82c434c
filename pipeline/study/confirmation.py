"""After the search: the best trials once more with further seeds, to see how much of their rank was luck."""

from collections import deque
from collections.abc import Mapping, Sequence

from pipeline.choosing import ranked
from pipeline.search.store import StudyStore
from pipeline.study.keeper import Keeper
from pipeline.study.ledger import Ledger, end_tags
from pipeline.study.messages import Task, TrialReport
from pipeline.study.plan import Plan
from pipeline.study.progress import Progress
from pipeline.tracking import layout
from pipeline.tracking.record import EpochRecord
from pipeline.tracking.writer import Recalled, TrackingWriter


class Confirmation(Ledger):
    """Hands out repeats and writes down what became of them; the study store takes no part in it."""

    def __init__(
        self,
        tasks: Sequence[Task],
        tracking: TrackingWriter,
        recalled: Mapping[str, Recalled],
        progress: Progress,
        keeper: Keeper,
    ):
        """Prepare to hand out the tasks in their order."""
        super().__init__(tracking, recalled)
        self.display, self.keeper = progress, keeper
        self.waiting, self.total, self.done = deque(tasks), len(tasks), 0
        self.display.confirm(self.done, self.total)

    def _fresh(self) -> Task | None:
        return self.waiting.popleft() if self.waiting else None

    def _has_fresh(self) -> bool:
        return bool(self.waiting)

    def _describe(self, task: Task) -> tuple[str, dict[str, str]]:
        tags = {layout.KIND: "confirmation", layout.TRIAL: str(task.number), layout.SEED: str(task.repeat)}
        return f"t{task.number:03d} seed {task.repeat}", tags

    def _close(self, task: Task, report: TrialReport, history: Sequence[EpochRecord]) -> None:
        self.tracking.end(task.key, task.number, report.metrics, end_tags(report), report.error)
        self.keeper.drop_checkpoints(task.key)
        self.done += 1
        self.display.confirm(self.done, self.total)


def repeats_of(plan: Plan, store: StudyStore, writer: TrackingWriter) -> list[Task]:
    """What the spec asks to be trained again and is not yet, the best trial first."""
    confirm = plan.spec.confirm
    if not confirm.top:
        return []
    picks = ranked(writer.trials(), plan.rule, plan.spec.anomaly.score)
    best = [pick.trial for pick in picks[: confirm.top]]
    done = set(writer.confirmations()[["trial", "seed"]].itertuples(index=False, name=None))
    wanted = [(number, seed) for number in best for seed in range(1, confirm.seeds + 1)]
    return [
        Task(key=layout.repeat_name(number, seed), number=number, repeat=seed, parameters=store.parameters(number))
        for number, seed in wanted
        if (number, seed) not in done
    ]

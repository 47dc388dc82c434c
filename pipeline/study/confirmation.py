"""After the search: the best trials once more with further seeds, to see how much of their rank was luck."""

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.choosing import ranked
from pipeline.search.store import Proposal, StudyStore
from pipeline.study.messages import TrialReport
from pipeline.study.plan import Plan
from pipeline.study.progress import Progress
from pipeline.tracking import layout
from pipeline.tracking.record import EpochRecord
from pipeline.tracking.study import confirmed_so_far, trials_so_far
from pipeline.tracking.writer import TrackingWriter


@dataclass(frozen=True)
class Repeat:
    """One finished trial's configuration with another seed, the `seed`-th further one."""

    trial: int
    seed: int
    parameters: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Its name in folders and in the tracking store's identities."""
        return layout.repeat_name(self.trial, self.seed)


class Confirmation:
    """Hands out repeats and writes down what became of them; the study store takes no part in it."""

    def __init__(self, repeats: Sequence[Repeat], tracking: TrackingWriter, progress: Progress):
        """Prepare to hand out the repeats in their order."""
        self.repeats, self.tracking, self.display = list(repeats), tracking, progress
        self.waiting = deque(range(len(self.repeats)))
        self.histories: defaultdict[int, list[EpochRecord]] = defaultdict(list)
        self.done = 0

    def propose(self) -> Proposal | None:
        """The next repeat by its place in the list; None after the last."""
        if not self.waiting:
            return None
        index = self.waiting.popleft()
        repeat = self.repeats[index]
        tags = {layout.KIND: "confirmation", layout.TRIAL: str(repeat.trial), layout.SEED: str(repeat.seed)}
        name = f"t{repeat.trial:03d} seed {repeat.seed}"
        self.tracking.start(repeat.key, name, repeat.parameters, tags)
        self.display.confirm(self.done, len(self.repeats))
        return Proposal(index, repeat.parameters)

    def progress(self, number: int, epochs: Sequence[EpochRecord]) -> None:
        """Some epochs of a repeat."""
        self.histories[number] += epochs
        self.tracking.log_epochs(self.repeats[number].key, epochs)

    def end(self, number: int, report: TrialReport) -> None:
        """A repeat's end."""
        self.progress(number, report.epochs)
        repeat, history = self.repeats[number], self.histories.pop(number)
        self.tracking.end(repeat.key, repeat.trial, report.state, report.failure, report.metrics, history, report.error)
        self.done += 1
        self.display.confirm(self.done, len(self.repeats))


def repeats_of(plan: Plan, store: StudyStore, writer: TrackingWriter) -> list[Repeat]:
    """What the spec asks to be trained again and is not yet, the best trial first."""
    confirm = plan.spec.confirm
    if not confirm.top:
        return []
    picks = ranked(trials_so_far(writer), plan.rule, plan.spec.anomaly.score)
    best = [pick.trial for pick in picks[: confirm.top]]
    done = set(confirmed_so_far(writer)[["trial", "seed"]].itertuples(index=False, name=None))
    wanted = [(number, seed) for number in best for seed in range(1, confirm.seeds + 1)]
    return [Repeat(number, seed, store.parameters(number)) for number, seed in wanted if (number, seed) not in done]

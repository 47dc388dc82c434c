"""A number of tasks through Ray Tune: the search, or the confirmation after it."""

from ray.tune import Trainable

from pipeline.study import local_ray, mailbox
from pipeline.study.halt import Halt
from pipeline.study.ledger import Ledger
from pipeline.study.messages import Assignment
from pipeline.study.plan import Plan
from pipeline.study.searcher import LedgerSearcher
from pipeline.study.tune import run_workers
from pipeline.study.worker import VaeWorker


def run_stage(
    plan: Plan, ledger: Ledger, at_once: int, count: int, halt: Halt, trainable: type[Trainable] = VaeWorker
) -> None:
    """Run `count` tasks of a ledger, `at_once` at the most; what is left open is marked as waiting."""
    if count <= 0:
        return
    at_once, mailboxes = min(at_once, count), mailbox.new_mailboxes()
    workers = local_ray.Workers(plan.spec.resources, at_once).most

    def hire(number: int, is_alone: bool) -> Assignment:
        return Assignment(
            spec=plan.spec.plain(),
            data_sha256=plan.data.sha256,
            folder=str(plan.folder),
            mailbox=f"{mailboxes}{number}",
            is_alone=is_alone,
        )

    try:
        searcher = LedgerSearcher(ledger, hire, mailbox.post, tasks=count, at_once=at_once, workers=workers, halt=halt)
        run_workers(searcher, workers(count), plan.spec.resources, halt, trainable)
    finally:
        mailbox.forget(mailboxes)
    ledger.pause()

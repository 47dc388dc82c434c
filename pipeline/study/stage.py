"""A number of tasks through Ray Tune: the search, or the confirmation after it."""

from ray.tune import Trainable

from pipeline.study import local_ray, roster
from pipeline.study.halt import Halt
from pipeline.study.ledger import Ledger
from pipeline.study.messages import Assignment, Task
from pipeline.study.plan import Plan
from pipeline.study.trial import VaeTrial
from pipeline.study.tune import run_tasks


def run_stage(
    plan: Plan, ledger: Ledger, at_once: int, count: int, halt: Halt, trainable: type[Trainable] = VaeTrial
) -> None:
    """Run `count` tasks of a ledger, `at_once` at the most; what is left open is marked as waiting."""
    if count <= 0:
        return
    workers, names = min(at_once, count), roster.new_roster()

    def assign(task: Task) -> Assignment:
        # Whoever had it before is dead.
        roster.strike(names, task.key)
        return Assignment(
            task=task,
            spec=plan.spec.plain(),
            data_sha256=plan.data.sha256,
            folder=str(plan.folder),
            roster=names,
            workers=min(workers, local_ray.fitting(plan.spec.resources)),
        )

    try:
        run_tasks(ledger, assign, workers, plan.spec.resources, halt, trainable)
    finally:
        roster.forget(names)
    ledger.pause()

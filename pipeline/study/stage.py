"""A number of trials through Ray Tune: the search, or the confirmation after it."""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.study.messages import Assignment
from pipeline.study.plan import Plan
from pipeline.study.searcher import Ledger
from pipeline.study.tune import run_trials

TRIALS_FOLDER = "trials"


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a worker is to train, and the name of the folder that it leaves files in."""

    number: int
    parameters: dict[str, Any]
    name: str
    repeat: int = 0


def run_stage(
    plan: Plan, ledger: Ledger, task_of: Callable[[int, dict[str, Any]], Task], at_once: int, count: int
) -> Exception | None:
    """Run `count` trials of a ledger, `at_once` at the most.

    Args:
        plan: The study.
        ledger: Gives the trials and takes what becomes of them.
        task_of: What a proposal's number and parameters mean.
        at_once: The most trials side by side.
        count: How many there are.

    Returns:
        The first error in a hook of our own; else None.
    """
    if count <= 0:
        return None
    workers = min(at_once, count)
    workers_folder = tempfile.mkdtemp(prefix=".workers-", dir=plan.folder)

    def assign(number: int, parameters: dict[str, Any]) -> Assignment:
        task = task_of(number, parameters)
        return Assignment(
            number=task.number,
            parameters=task.parameters,
            repeat=task.repeat,
            spec=plan.spec.plain(),
            data_sha256=plan.data.sha256,
            folder=str(plan.folder / TRIALS_FOLDER / task.name),
            workers_folder=workers_folder,
            workers=workers,
        )

    try:
        return run_trials(ledger, assign, workers, plan.spec.resources, plan.folder / "tune")
    finally:
        shutil.rmtree(workers_folder, ignore_errors=True)

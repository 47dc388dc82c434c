"""When a task is judged: both the worker, who then reports, and the driver, who judges, have to know."""

from collections.abc import Iterator, Sequence

from pipeline.search.early_stopping import rungs
from pipeline.spec import StudySpec
from pipeline.study.messages import Task
from pipeline.tracking.record import EpochRecord


def rungs_of(spec: StudySpec, task: Task) -> tuple[int, ...]:
    """The epochs at which a task is judged; a repeat never is."""
    return () if task.repeat else rungs(spec.early_stopping, spec.trial(task.parameters).training.epochs)


def kl_weights_of(history: Sequence[EpochRecord]) -> Iterator[tuple[int, float]]:
    """Each epoch with its mean KL weight, the last one first; 1 for a family that has none."""
    return ((record.epoch, record.metrics.get("train/kl_weight", 1.0)) for record in reversed(history))

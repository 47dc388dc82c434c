"""After the loss of the driver's disk: what tracking has missed, told again from what lasts longer than a disk."""

import logging
from typing import Any, cast

from pipeline.search import attributes
from pipeline.search.store import STATE_NAMES, StudyStore
from pipeline.search.warm_start import is_own
from pipeline.study.messages import Failure, Task, TrialReport
from pipeline.study.trials import described, last_tags
from pipeline.tracking import layout
from pipeline.tracking.curves import ENDED
from pipeline.tracking.layout import trial_name
from pipeline.tracking.writer import TrackingWriter

logger = logging.getLogger(__name__)


def mend(store: StudyStore, writer: TrackingWriter) -> None:
    """Have tracking know all that the study store and the trials' folders know.

    A trial's end is in the spool before it is in the study store. So only where a spool is lost does the store know of
    ends that tracking does not. Elsewhere this compares what has been read, and asks MLflow nothing, and the folders
    only for a trial that was drawn and never begun.

    Raises:
        OSError: The trials' folders cannot be read.
    """
    own = [trial for trial in store.study.get_trials(deepcopy=False) if is_own(trial)]
    missed = [trial for trial in own if _is_missed(trial, writer)]
    for trial in missed:
        _mend(store, writer, trial)
    # What is left of them are trials of a confirmation, which the store takes no part in.
    numbers = {trial.number for trial in own}
    for key, number in writer.open_elsewhere().items():
        if number in numbers:
            writer.restore(key, store.parameters(number))
    ended = [trial for trial in missed if STATE_NAMES[trial.state] in ENDED]
    if ended:
        logger.warning("%d trials had ended without MLflow's knowing, and are told to it again", len(ended))


def _is_missed(trial: Any, writer: TrackingWriter) -> bool:
    key, state = trial_name(trial.number), STATE_NAMES[trial.state]
    return (state == "running" and not writer.knows(key)) or (state in ENDED and not writer.has_ended(key))


def _mend(store: StudyStore, writer: TrackingWriter, trial: Any) -> None:
    task = _task(store, trial)
    if writer.restore(task.key, task.parameters):
        return
    has_ended, preemptions = STATE_NAMES[trial.state] in ENDED, trial.user_attrs.get(attributes.PREEMPTIONS)
    if has_ended or preemptions:
        name, tags = described(task)
        writer.start(task.key, name, task.parameters, tags)
    if preemptions:
        writer.tag(task.key, {layout.PREEMPTIONS: str(preemptions)})
    if has_ended:
        _end(store, writer, task, trial)


def _task(store: StudyStore, trial: Any) -> Task:
    number, sampler = trial.number, trial.user_attrs.get(attributes.SAMPLER, store.spec.sampler.kind)
    return Task(key=trial_name(number), number=number, parameters=store.parameters(number), sampler=sampler)


def _end(store: StudyStore, writer: TrackingWriter, task: Task, trial: Any) -> None:
    """End a run of which nothing is left but what the store says: its epochs are as far as MLflow has heard them."""
    attrs = trial.user_attrs
    report = TrialReport(
        state=cast(Any, STATE_NAMES[trial.state]),
        failure=cast(Failure | None, attrs.get(attributes.FAILURE)),
        error=attrs.get(attributes.REASON),
    )
    metrics, known = attrs.get(attributes.METRICS, {}), writer.last_metrics(task.key)
    # One that MLflow has heard last would be there twice.
    news = {metric: value for metric, value in metrics.items() if known.get(metric) != value}
    writer.end(task.key, task.number, news, last_tags(store.spec, report, metrics), report.error)

"""A study from start to end: store, Ray, tracking, trials, champion."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.console import Console

from pipeline.errors import StudyError
from pipeline.search.store import StudyStore
from pipeline.study import local_ray
from pipeline.study.confirmation import Confirmation, Repeat, repeats_of
from pipeline.study.finish import finish_study
from pipeline.study.ledger import StudyLedger
from pipeline.study.plan import Plan
from pipeline.study.progress import Progress
from pipeline.study.stage import Task, run_stage
from pipeline.tracking.layout import trial_name
from pipeline.tracking.store import check_reachable, open_client
from pipeline.tracking.study import open_study
from pipeline.tracking.writer import TrackingWriter

SPEC_FILE = "spec.json"


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where a study's parts live; None stands for the default."""

    tracking_uri: str
    study_storage: str | None = None
    ray_address: str | None = None


def drive(plan: Plan, places: Places, concurrency: int | None, console: Console) -> None:
    """Run a study, or go on with it, until its budget of trials is met.

    Raises:
        UserError: A place cannot be used, or the study exists with another spec; nothing was started.
        StudyError: The study broke, or was interrupted; what is done is kept.
    """
    client = open_client(places.tracking_uri)
    check_reachable(client)
    plan.folder.mkdir(parents=True, exist_ok=True)
    store = StudyStore(plan.spec, plan.name, places.study_storage or plan.storage)
    (plan.folder / SPEC_FILE).write_text(plan.spec.model_dump_json(indent=2), encoding="utf-8")
    with local_ray.connected(places.ray_address):
        at_once = concurrency or local_ray.slots(plan.spec.resources)
        writer = open_study(client, plan.spec, plan.name, plan.data, plan.reference)
        try:
            error = _run(plan, store, writer, at_once, console)
            finish_study(plan, writer, is_complete=store.remaining() <= 0)
        finally:
            writer.close()
    _raise_for(plan, store, writer, error)


def _run(plan: Plan, store: StudyStore, writer: TrackingWriter, at_once: int, console: Console) -> Exception | None:
    """The search, and where it is complete the confirmation of the best."""
    with Progress(console, plan.spec.trials, plan.signs, list(plan.reference.values())) as progress:
        error = run_stage(plan, StudyLedger(store, writer, progress), _trial, at_once, store.remaining())
        if error or store.remaining() > 0:
            return error
        repeats = repeats_of(plan, store, writer)
        return run_stage(
            plan, Confirmation(repeats, writer, progress), partial(_repeat, repeats), at_once, len(repeats)
        )


def _trial(number: int, parameters: dict[str, Any]) -> Task:
    return Task(number=number, parameters=parameters, name=trial_name(number))


def _repeat(repeats: Sequence[Repeat], index: int, parameters: dict[str, Any]) -> Task:
    one = repeats[index]
    return Task(number=one.trial, parameters=parameters, name=one.key, repeat=one.seed)


def _raise_for(plan: Plan, store: StudyStore, writer: TrackingWriter, error: Exception | None) -> None:
    if error is not None:
        raise StudyError(f"the study {plan.name!r} broke: {error!r}") from error
    if writer.errors:
        raise StudyError(f"MLflow refused {len(writer.errors)} records; the first: {writer.errors[0]}")
    if store.remaining() > 0:
        counts = store.counts()
        done = counts.total() - counts["running"] - counts["waiting"]
        raise StudyError(f"stopped after {done} of {plan.spec.trials} trials; go on with: vae-study resume {plan.name}")
    if not store.counts()["finished"]:
        raise StudyError(f"none of the {plan.spec.trials} trials finished; see the errors in the report and in MLflow")

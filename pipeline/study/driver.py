"""A study from start to end: store, Ray, tracking, trials, champion."""

import shutil
import tempfile
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from pipeline.champion import choose
from pipeline.errors import StudyError
from pipeline.search.pareto import frontier_of
from pipeline.search.store import StudyStore
from pipeline.study import local_ray
from pipeline.study.files import EXAMPLES, SCORES, WEIGHTS
from pipeline.study.ledger import Ledger
from pipeline.study.messages import Assignment
from pipeline.study.plan import Plan
from pipeline.study.progress import Progress
from pipeline.study.tune import run_trials
from pipeline.tracking.layout import trial_name
from pipeline.tracking.reader import children_frame
from pipeline.tracking.store import check_reachable, find_children, open_client
from pipeline.tracking.study import close_study, open_study
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
        writer = open_study(client, plan.spec, plan.name, plan.data.summary(), plan.reference)
        try:
            error = _run(plan, store, writer, min(at_once, plan.spec.trials), console)
            _finish(plan, store, writer)
        finally:
            writer.close()
    _raise_for(plan, store, writer, error)


def _run(plan: Plan, store: StudyStore, writer: TrackingWriter, at_once: int, console: Console) -> Exception | None:
    progress = Progress(console, plan.spec.trials, plan.signs, list(plan.reference.values()))
    workers_folder = tempfile.mkdtemp(prefix=".workers-", dir=plan.folder)

    def assign(number: int, parameters: dict[str, Any]) -> Assignment:
        return Assignment(
            number=number,
            parameters=parameters,
            spec=plan.spec.plain(),
            folder=str(plan.folder / "trials" / trial_name(number)),
            workers_folder=workers_folder,
            workers=at_once,
        )

    try:
        with progress:
            return run_trials(Ledger(store, writer, progress), assign, at_once, plan.spec.resources, plan.folder)
    finally:
        shutil.rmtree(workers_folder, ignore_errors=True)


def _finish(plan: Plan, store: StudyStore, writer: TrackingWriter) -> None:
    """Choose the champion, attach the finalists' files, and close the parent run."""
    writer.drain()
    trials = children_frame(find_children(writer.client, writer.client.get_run(writer.parent_id)))
    champion = choose(trials, plan.rule)
    objectives = [objective.metric for objective in plan.spec.objectives]
    frontier = frontier_of(trials, objectives, plan.signs)["trial"].tolist()
    finalists = sorted({*frontier, *([] if champion is None else [champion])})
    for number in trials.loc[trials["state"] == "finished", "trial"]:
        files = [SCORES, *([EXAMPLES, WEIGHTS] if number in finalists else [])]
        folder = plan.folder / "trials" / trial_name(number)
        writer.log_files(number, [folder / file for file in files])
    state = "finished" if store.remaining() <= 0 else "interrupted"
    note = _note(plan, trials, frontier, champion)
    close_study(writer, state, note, champion, plan.rule)


def _note(plan: Plan, trials: Any, frontier: list[int], champion: int | None) -> str:
    counts = trials["state"].value_counts().to_dict()
    states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
    chosen = f"Chosen by {plan.rule}: **{trial_name(champion)}**." if champion is not None else "No trial was chosen."
    names = ", ".join(trial_name(number) for number in frontier) or "none"
    return (
        f"{chosen}\n\n{len(trials)} trials on {plan.spec.data.source}: {states}.\n\n"
        f"Frontier ({len(frontier)}): {names}.\n\n`vae-study report {plan.name}` writes the report again."
    )


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

"""The driver of a study: it holds the lock, recovers what is missing, runs search and confirmation, and closes."""

import logging
import math
import shutil
from contextlib import suppress
from typing import Any, cast

from ray.tune import Trainable
from rich.console import Console

from vae_study.config.study import CONFIG_FILE
from vae_study.errors import LONGEST_REASON, StudyError, TrialsFailed, UserError, opening
from vae_study.search.lock import DriverLock
from vae_study.search.sampler import SAMPLER
from vae_study.search.study_store import FAILURE, METRICS, PREEMPTIONS, REASON, STATE_NAMES, StudyStore
from vae_study.storage import OWNER_FILE, Owner, claim, owner_of
from vae_study.study import ray_compat, session
from vae_study.study.dispatcher import ConfirmationDispatcher, Dispatcher, last_tags, start_run
from vae_study.study.finalists import Retention, finish_study, repeats_of, to_retrain
from vae_study.study.messages import Assignment, Failure, Task, TrialReport, new_channels, post
from vae_study.study.plan import Locations, Plan, require_memory
from vae_study.study.progress import Progress, StudyCurves
from vae_study.study.search_dispatcher import RetrainingDispatcher, SearchDispatcher
from vae_study.study.session import Shutdown
from vae_study.study.trial_files import subfolders
from vae_study.study.worker import VaeWorker
from vae_study.study.workers import OUTAGES, WorkerSearcher, run_workers
from vae_study.tracking import schema
from vae_study.tracking.schema import ENDED, trial_name
from vae_study.tracking.store import Client
from vae_study.tracking.study import open_study
from vae_study.tracking.writer import TrackingWriter

logger = logging.getLogger(__name__)

SECONDS_AFTER_SHUTDOWN = 5.0


def drive(
    plan: Plan,
    places: Locations,
    client: Client,
    concurrency: session.Concurrency,
    console: Console,
    shutdown: Shutdown,
) -> None:
    """Run a study to its end; see `start`, which has Ray and the tracking store ready.

    With a concurrency of 0 nothing is trained and no Ray is needed: what there is is logged.
    """
    try:
        _drive(plan, places, client, concurrency, console, shutdown)
    except OUTAGES as error:
        raise StudyError(f"the study {plan.name!r} broke: {_root(error)}; {plan.how_to_continue}") from error


def _drive(
    plan: Plan,
    places: Locations,
    client: Client,
    concurrency: session.Concurrency,
    console: Console,
    shutdown: Shutdown,
) -> None:
    url = places.storage_of(plan.name)
    most, likely = 0, 0
    if concurrency != 0:
        is_local = shutdown.local is not None
        most, likely = session.at_once(plan.config.resources, concurrency, plan.config.trials, is_local=is_local)
    # With a number of trials at once or `max`, larger nodes may be going to join.
    if shutdown.local is None and concurrency is None and (there := session.most_memory()):
        require_memory(plan, there)
    plan.folder.require_writable()
    plan.scratch.mkdir(parents=True, exist_ok=True)
    is_new = owner_of(plan.folder) is None
    owner = claim(plan.folder)
    try:
        study = _store(plan, url, owner).study
    except UserError:
        if is_new:
            plan.folder.remove(OWNER_FILE)
            if plan.folder.local:
                with suppress(OSError):
                    plan.folder.local.rmdir()
        raise
    with DriverLock(study) as lock:
        shutdown.watch(lock.lost, StudyError("another driver has taken the study over"))
        # Opened again: until the lock was held, another driver may have changed it.
        store = _store(plan, url, owner)
        _require_results(plan, store)
        _prepare(plan, store, places)
        about = plan.config, plan.name, plan.data, plan.reference, plan.rule, plan.scratch, places.study_file
        writer, stopped = open_study(client, *about, plan.trials, owner), ""
        try:
            recover(store, writer)
            if most:
                stopped = _run(plan, store, writer, most, likely, console, shutdown)
            else:
                recovered_curves(plan, writer)
                repeats_of(plan, store, writer)
            _finish(plan, store, writer, shutdown, stopped)
            _upload(plan, writer, shutdown, console)
        except OUTAGES as error:
            shutdown.request(error)
            _give_up(writer)
        finally:
            writer.close()
    _raise_for(plan, store, shutdown, stopped)


def _give_up(writer: TrackingWriter) -> None:
    """Mark in MLflow what is no longer running, where that can be written."""
    try:
        writer.abandon()
        writer.uploader.drain(SECONDS_AFTER_SHUTDOWN)
    except OUTAGES as error:
        logger.warning("the study may be shown as running until it is resumed: %s", error)


def _require_results(plan: Plan, store: StudyStore) -> None:
    """Raise UserError if results are gone without which the study cannot end."""
    ended = [*store.own_trials(), *store.points()]
    finished = {trial_name(one.number) for one in ended if STATE_NAMES[one.state] == "finished"}
    gone = sorted(finished - {*subfolders(plan.trials)}) if finished else []
    if gone:
        raise UserError(
            f"{plan.trials}: the results of {len(gone)} finished trials are gone, the first of {gone[0]}; expected "
            "them back, or another --name"
        )


def _store(plan: Plan, url: str, owner: Owner) -> StudyStore:
    with opening(f"--study-storage {url}"):
        try:
            return StudyStore(plan.config, plan.name, url, owner)
        except RuntimeError as error:
            if "table schema" not in str(error):
                raise
            # It may be the database behind a tracking server.
            raise UserError(
                f"--study-storage {url}: holds tables of MLflow, or of another release of Optuna; expected a database "
                "of its own"
            ) from None


def _prepare(plan: Plan, store: StudyStore, places: Locations) -> None:
    store.remember_data(plan.data.sha256)
    if plan.config.warm_start:
        store.learn_from(places.storage_of(plan.config.warm_start), plan.config.warm_start)
    plan.folder.write(CONFIG_FILE, plan.config.model_dump_json(indent=2).encode())


def _run(
    plan: Plan, store: StudyStore, writer: TrackingWriter, most: int, likely: int, console: Console, shutdown: Shutdown
) -> str:
    """Run the search; once it is complete, train the best models of sweeps again, and confirm the best trials.

    Returns:
        Why less was trained than the config asks for, if what there is is enough; else empty.
    """
    stopped = ""
    recalled, retention = writer.recall(), Retention(plan, writer.trials())
    progress = Progress(console, plan.config.trials, lambda: shutdown.budget.hours_left)
    retention.drop_leftovers(writer.ended())
    for line in plan.data.lines():
        console.print(f"data  {line}", highlight=False, markup=False, soft_wrap=True)
    with progress.bar:
        try:
            dispatcher = SearchDispatcher(
                store, writer, recalled, progress, retention, shutdown, likely, recovered_curves(plan, writer)
            )
            run_stage(plan, dispatcher, most, store.remaining(), shutdown)
            dispatcher.prefetcher.close()
            stopped = shutdown.take_enough() if _done(store) < plan.config.trials else ""
            if stopped and not shutdown.budget.why_over:
                store.remember_flat(dispatcher.curves.judged)
            if shutdown.reason or shutdown.budget.why_over or (store.remaining() > 0 and not stopped):
                return stopped
            numbers = to_retrain(plan, store, writer)
            own = RetrainingDispatcher(numbers, store, writer, recalled, progress, retention, dispatcher.curves)
            run_stage(plan, own, most, len(numbers), shutdown)
            stopped = shutdown.take_enough() or stopped
            if shutdown.reason or shutdown.budget.why_over:
                return stopped
            repeats = repeats_of(plan, store, writer)
            again = ConfirmationDispatcher(repeats, writer, recalled, progress, retention)
            run_stage(plan, again, most, len(repeats), shutdown)
            stopped = shutdown.take_enough() or stopped
        except OSError as error:
            # On a full disk nothing can be marked as waiting, either.
            shutdown.request(error)
        finally:
            retention.close()
    return stopped


def run_stage(
    plan: Plan,
    dispatcher: Dispatcher,
    at_once: int,
    count: int,
    shutdown: Shutdown,
    trainable: type[Trainable] = VaeWorker,
) -> None:
    """Run `count` tasks of a dispatcher, at most `at_once` at once; mark those that do not end as waiting."""
    if count <= 0:
        return
    at_once, channels = min(at_once, count), new_channels()
    workers = session.Workers(plan.config.resources, at_once).most

    def assign(number: int, is_exclusive: bool) -> Assignment:
        return Assignment(
            config=plan.config.plain(),
            data_sha256=plan.data.sha256,
            folder=str(plan.folder),
            channel=f"{channels}/{number}",
            is_exclusive=is_exclusive,
        )

    try:
        searcher = WorkerSearcher(
            dispatcher, assign, post, tasks=count, at_once=at_once, workers=workers, shutdown=shutdown
        )
        run_workers(searcher, workers(count), plan.config.resources, shutdown, trainable)
    finally:
        if not shutdown.is_ray_dead:
            ray_compat.clear(channels)
    dispatcher.pause()


def _done(store: StudyStore) -> int:
    """How many trials have ended."""
    counts = store.counts()
    return counts.total() - counts["running"] - counts["waiting"]


def _finish(plan: Plan, store: StudyStore, writer: TrackingWriter, shutdown: Shutdown, stopped: str) -> None:
    """Choose the champion and close the runs. After a shutdown, an error here must not hide its reason."""
    is_enough = bool(stopped) and store.counts()["finished"] > 0
    is_complete = not shutdown.reason and (store.remaining() <= 0 or is_enough)
    try:
        finish_study(plan, writer, store.parameters, is_complete, stopped)
    except Exception as error:
        if not shutdown.reason:
            raise
        logger.warning("the interrupted study was not closed: %s", error)


def _upload(plan: Plan, writer: TrackingWriter, shutdown: Shutdown, console: Console) -> None:
    """Wait until MLflow has the last records; after a shutdown, some seconds at most."""
    if shutdown.reason:
        # A later driver, or `sync`, uploads what is left.
        writer.uploader.drain(SECONDS_AFTER_SHUTDOWN)
        return
    with console.status("uploading the last records to MLflow"):
        try:
            writer.drain()
        except StudyError as error:
            raise StudyError(f"the study is done, but {error}; retry later: vae-study sync {plan.words}") from None
    writer.require_accepted()


def _raise_for(plan: Plan, store: StudyStore, shutdown: Shutdown, stopped: str) -> None:
    if (reason := shutdown.reason) is not None:
        is_told = isinstance(reason, StudyError | UserError)
        why = str(reason) if is_told else f"the study {plan.name!r} broke: {_root(reason)}"
        message = f"{why}; {_done(store)} of {plan.config.trials} trials are done; {plan.how_to_continue}"
        failed = isinstance(reason, TrialsFailed)
        raise (TrialsFailed(message, plan.name) if failed else StudyError(message)) from reason
    if not store.counts()["finished"]:
        if not _done(store):
            raise StudyError(f"{stopped}, and no trial has ended yet; {plan.how_to_continue}")
        message = f"none of the {plan.config.trials} trials finished; their errors are in the report and in MLflow"
        raise TrialsFailed(message, plan.name)


def _root(error: BaseException) -> str:
    """The first cause of an error, such as a full disk below three layers of database."""
    if isinstance(error, shutil.Error):
        # All files that could not be copied, each with where from, where to and why.
        return f"cannot copy {error.args[0][0][0]}: {error.args[0][0][-1]}"
    below = error.__cause__ or error.__context__
    return _root(below) if below is not None else f"{type(error).__name__}: {str(error)[:LONGEST_REASON]}"


def recover(store: StudyStore, writer: TrackingWriter) -> None:
    """Log the trials that the study store has and tracking does not.

    A trial's end is in the journal before it is in the study store, so a trial is missing only if a journal is lost.
    Otherwise this only compares states in memory: it asks MLflow nothing, and reads a trial's folder only if the trial
    was proposed and never started.

    Raises:
        OSError: The trials' folders cannot be read.
    """
    # A model that a sweep will keep is open until the sweep ends.
    own = [*store.own_trials(), *(one for one in store.points() if STATE_NAMES[one.state] == "finished")]
    missing = [trial for trial in own if _is_missing(trial, writer)]
    for trial in missing:
        _recover(store, writer, trial)
    # The study store has no confirmations; MLflow may have open ones.
    numbers = {trial.number for trial in own}
    for key, number in writer.open_remotely().items():
        if number in numbers:
            writer.restore(key, store.parameters(number))
    ended = [trial for trial in missing if STATE_NAMES[trial.state] in ENDED]
    if ended:
        logger.warning("the ends of %d trials were not in MLflow, and are logged again", len(ended))


def recovered_curves(plan: Plan, writer: TrackingWriter) -> StudyCurves:
    """The study's curves up to the last trial that has ended; points that earlier drivers did not log are logged."""
    curves, drawn = StudyCurves(plan.reference, plan.signs, plan.rule), writer.curve_step()
    # The trials that are restored are those that an earlier driver may not have drawn.
    for row in sorted(writer.trials().to_dict("records"), key=lambda row: trial_name(row["trial"]) in writer.restored):
        if row["state"] in ENDED:
            metrics = {str(name): value for name, value in row.items() if "/" in str(name)}
            if any(row.get(name, math.nan) >= 0 for name in schema.OF_SWEEPS):
                curves.place(metrics, row["feasible"] and row["state"] == "finished")
                continue
            values = curves.add(row["state"], metrics, row["feasible"])
            if curves.step > drawn:
                writer.log_curves(curves.step, values)
    return curves


def _is_missing(trial: Any, writer: TrackingWriter) -> bool:
    key, state = trial_name(trial.number), STATE_NAMES[trial.state]
    return (state == "running" and not writer.knows(key)) or (state in ENDED and not writer.has_ended(key))


def _recover(store: StudyStore, writer: TrackingWriter, trial: Any) -> None:
    """Log a trial again. If only the study store has its end, the run has the epochs that MLflow has."""
    number, attrs, state = trial.number, trial.user_attrs, STATE_NAMES[trial.state]
    sampler, preemptions = attrs.get(SAMPLER, store.config.sampler.kind), attrs.get(PREEMPTIONS)
    about = {"parameters": store.parameters(number), "sampler": sampler, **store.origin(number)}
    task = Task(key=trial_name(number), number=number, **about)
    if writer.restore(task.key, task.parameters):
        return
    if state in ENDED or preemptions:
        start_run(writer, task)
    if preemptions:
        writer.tag(task.key, {schema.PREEMPTIONS: str(preemptions)})
    if state in ENDED:
        failure = cast(Failure | None, attrs.get(FAILURE))
        report = TrialReport(state=cast(Any, state), failure=failure, error=attrs.get(REASON))
        metrics, known = attrs.get(METRICS, {}), writer.last_metrics(task.key)
        # A value that is the last one in MLflow already would be there twice.
        news = {metric: value for metric, value in metrics.items() if known.get(metric) != value}
        writer.end(task.key, number, news, last_tags(store.config, report, metrics), report.error)

"""A study from its store to its end: lock, tracking, trials, champion."""

import logging

from rich.console import Console

from pipeline.errors import StudyError, UserError
from pipeline.folders import Folder
from pipeline.search.lock import DriverLock
from pipeline.search.store import StudyStore
from pipeline.spec import SPEC_FILE
from pipeline.study import local_ray
from pipeline.study.confirmation import Confirmation, repeats_of
from pipeline.study.finish import finish_study
from pipeline.study.halt import Halt
from pipeline.study.keeper import Keeper
from pipeline.study.mending import mend
from pipeline.study.plan import Places, Plan
from pipeline.study.progress import Progress
from pipeline.study.stage import run_stage
from pipeline.study.trials import StudyLedger
from pipeline.tracking.curves import ENDED, StudyCurves
from pipeline.tracking.layout import trial_name
from pipeline.tracking.store import Client
from pipeline.tracking.study import open_study
from pipeline.tracking.writer import TrackingWriter

logger = logging.getLogger(__name__)

SECONDS_AFTER_A_HALT = 5.0


def drive(
    plan: Plan,
    places: Places,
    client: Client,
    concurrency: local_ray.Concurrency,
    console: Console,
    halt: Halt,
) -> None:
    """As `start`, once Ray and the tracking store are there."""
    url = places.storage_of(plan.name)
    at_once = local_ray.at_once(plan.spec.resources, concurrency, plan.spec.trials)
    plan.folder.require_writable()
    plan.scratch.mkdir(parents=True, exist_ok=True)
    with DriverLock(_store(plan, url).study) as lock:
        halt.watch(lock.lost, StudyError("another driver has taken the study over"))
        # Opened again: until the lock was held, another driver may have changed it.
        store = _store(plan, url)
        _prepare(plan, store, places)
        about = plan.spec, plan.name, plan.data, plan.reference, plan.rule, plan.scratch, places.study_file
        writer = open_study(client, *about, _archive(plan))
        try:
            mend(store, writer)
            _run(plan, store, writer, at_once, console, halt)
            _finish(plan, store, writer, halt)
            _upload(plan, writer, halt, console)
        finally:
            writer.close()
    _raise_for(plan, store, halt)


def _archive(plan: Plan) -> Folder | None:
    """Where the spool's disk goes with the driver's host, and the study's files stay."""
    return None if plan.folder.local else plan.trials


def _store(plan: Plan, url: str) -> StudyStore:
    try:
        return StudyStore(plan.spec, plan.name, url)
    except RuntimeError as error:
        if "table schema" not in str(error):
            raise
        # Such as the one behind a tracking server.
        raise UserError(
            f"--study-storage {url}: holds tables of MLflow, or of another release of Optuna; expected a database of "
            "its own"
        ) from None


def _prepare(plan: Plan, store: StudyStore, places: Places) -> None:
    store.remember_data(plan.data.sha256)
    if plan.spec.warm_start:
        store.learn_from(places.storage_of(plan.spec.warm_start), plan.spec.warm_start)
    plan.folder.write(SPEC_FILE, plan.spec.model_dump_json(indent=2).encode())


def _run(
    plan: Plan, store: StudyStore, writer: TrackingWriter, at_once: local_ray.AtOnce, console: Console, halt: Halt
) -> None:
    """The search, and where it is complete the confirmation of the best."""
    recalled, keeper = writer.recall(), Keeper(plan, writer.trials())
    keeper.drop_leftovers(writer.ended())
    with Progress(console, plan.spec.trials, plan.signs, list(plan.reference.values())) as progress:
        try:
            ledger = StudyLedger(store, writer, recalled, progress, keeper, halt, at_once.likely, _curves(plan, writer))
            run_stage(plan, ledger, at_once.most, store.remaining(), halt)
            ledger.asker.close()
            if halt.why or store.remaining() > 0:
                return
            repeats = repeats_of(plan, store, writer)
            again = Confirmation(repeats, writer, recalled, progress, keeper)
            run_stage(plan, again, at_once.most, len(repeats), halt)
        except OSError as error:
            # A full disk takes no word of what is left open, either.
            halt.ask(error)
        finally:
            keeper.close()


def _curves(plan: Plan, writer: TrackingWriter) -> StudyCurves:
    """The study's curves, as far as earlier drivers have drawn them, or were to."""
    curves, drawn = StudyCurves(plan.reference, plan.signs), writer.curve_step()
    # Where they are not drawn, the others were.
    for row in sorted(writer.trials().to_dict("records"), key=lambda row: trial_name(row["trial"]) in writer.restored):
        if row["state"] in ENDED:
            metrics = {str(name): row[name] for name in plan.reference if name in row}
            values = curves.add(row["state"], metrics, row["feasible"])
            if curves.step > drawn:
                writer.log_curves(curves.step, values)
    return curves


def _finish(plan: Plan, store: StudyStore, writer: TrackingWriter, halt: Halt) -> None:
    """Choose and close; where the study ends early for a trouble of its own, that is what the user is to hear of."""
    try:
        finish_study(plan, writer, store.parameters, is_complete=store.remaining() <= 0 and not halt.why)
    except Exception as error:
        if not halt.why:
            raise
        logger.warning("the interrupted study was not closed: %s", error)


def _upload(plan: Plan, writer: TrackingWriter, halt: Halt, console: Console) -> None:
    """Wait for MLflow, which the last records are on their way to, and no longer than is of use."""
    if halt.why:
        # What is left waits for who goes on, or for `sync`.
        writer.uploader.drain(SECONDS_AFTER_A_HALT)
        return
    with console.status("bringing the last records to MLflow"):
        try:
            writer.drain()
        except StudyError as error:
            raise StudyError(f"the study is done, but {error}; once it is back: vae-study sync {plan.name}") from None
    writer.require_accepted()


def _raise_for(plan: Plan, store: StudyStore, halt: Halt) -> None:
    if halt.why is not None:
        counts = store.counts()
        done = counts.total() - counts["running"] - counts["waiting"]
        told = isinstance(halt.why, StudyError | UserError)
        why = str(halt.why) if told else f"the study {plan.name!r} broke: {_root(halt.why)}"
        raise StudyError(f"{why}; {done} of {plan.spec.trials} trials are done; {plan.how_to_go_on}") from halt.why
    if not store.counts()["finished"]:
        raise StudyError(f"none of the {plan.spec.trials} trials finished; see the errors in the report and in MLflow")


def _root(error: BaseException) -> str:
    """What an error began with: a full disk, say, below three layers of database."""
    below = error.__cause__ or error.__context__
    return _root(below) if below is not None else f"{type(error).__name__}: {error}"

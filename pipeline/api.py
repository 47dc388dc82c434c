"""The commands as functions, for notebooks and tests. Heavy libraries are imported by the function that needs them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.homes import HOME, Home, client_of, saved_spec, sqlite_of, tracking_uri_of
from pipeline.spec import StudySpec, load_spec

if TYPE_CHECKING:
    from rich.console import Console

    from pipeline.report import StudySummary
    from pipeline.scoring import ScoredSummary
    from pipeline.study.cost import Cost
    from pipeline.study.local_ray import Concurrency
    from pipeline.study.plan import Plan
    from pipeline.tracking.record import StudyRecord

REPORTS, SCORES = Path("reports"), Path("scores.parquet")


def check_study(spec: Source, overrides: Sequence[str] = (), name: str | None = None, home: Home = HOME) -> Plan:
    """Validate a study file and its data; nothing is started or written.

    Raises:
        UserError: What is wrong, and where.
    """
    from pipeline.study.plan import make_plan

    return make_plan(_spec(spec, overrides), name, home)


def study_cost(plan: Plan, home: Home = HOME) -> Cost | None:
    """About what a study costs: by its trials so far where `home` has some, else by some seconds of trying here.

    Returns:
        None where this machine is too small for a try.
    """
    from torch import OutOfMemoryError

    from pipeline.errors import UserError
    from pipeline.study.cost import told_cost, tried_cost

    try:
        if saved_spec(plan.name, home).sha256() == plan.spec.sha256():
            record = load_study(plan.name, home=home)
            if cost := told_cost(plan, record.trials, record.history):
                return cost
    except UserError:
        # There is no such study, or nothing of it in MLflow yet.
        pass
    try:
        return tried_cost(plan)
    except (MemoryError, OutOfMemoryError):
        return None


def run_study(
    spec: Source,
    overrides: Sequence[str] = (),
    *,
    name: str | None = None,
    home: Home = HOME,
    tracking_uri: str | None = None,
    study_storage: str | None = None,
    ray_address: str | None = None,
    concurrency: Concurrency = None,
    console: Console | None = None,
) -> StudyRecord:
    """Run a study, or go on with one that was interrupted, until its budget of trials is met.

    Args:
        spec: A study file, its content as a dictionary, or a StudySpec.
        overrides: Settings on top of it, each "key=value".
        name: The study's name; by default the spec's `study`.
        home: Folder of all studies, on a disk or in an object store (s3://bucket/prefix).
        tracking_uri: MLflow's store; by default MLFLOW_TRACKING_URI, else a SQLite file in `home`.
        study_storage: Optuna's store, any SQLAlchemy URL; by default a SQLite file in the study's folder.
        ray_address: A running Ray cluster; by default RAY_ADDRESS, else a local Ray.
        concurrency: The most trials at once; "max" for as many as the cluster takes, also while it grows; by default
            as many as fit when it starts.
        console: Where progress is shown; by default nowhere.

    Raises:
        UserError: Something asked for is wrong; nothing was started.
        StudyError: The study broke or was interrupted.
    """
    import io

    from rich.console import Console

    plan = check_study(spec, overrides, name, home)
    from pipeline.study.plan import Places
    from pipeline.study.start import start

    places = Places(
        tracking_uri=tracking_uri_of(home, tracking_uri),
        storage_of=lambda study: study_storage or sqlite_of(home, study),
        ray_address=ray_address,
        study_file=Path(spec) if isinstance(spec, str | Path) else None,
    )
    start(plan, places, concurrency, console or Console(file=io.StringIO()))
    return load_study(plan.name, home=home, tracking_uri=tracking_uri)


def resume_study(name: str, *, home: Home = HOME, **places: Any) -> StudyRecord:
    """Go on with an interrupted study from the spec in its folder; takes what `run_study` takes.

    Raises:
        UserError: There is no such study in `home`.
    """
    return run_study(saved_spec(name, home), name=name, home=home, **places)


def submit_study(
    spec: Source,
    overrides: Sequence[str] = (),
    *,
    name: str | None = None,
    address: str,
    home: str | None = None,
    concurrency: Concurrency = None,
) -> str:
    """Send a study to a Ray cluster, where it runs as a job.

    Args:
        spec: As in `run_study`; data on this machine are refused.
        overrides: Settings on top of it, each "key=value".
        name: The study's name; by default the spec's `study`.
        address: The cluster's dashboard, such as http://127.0.0.1:8265.
        home: The folder of all studies that all nodes reach; by default the cluster's own.
        concurrency: The most trials at once; "max" for as many as the cluster takes, also while it grows; by default
            as many as fit when it starts.

    Returns:
        The job's id.

    Raises:
        UserError: Something asked for is wrong, or the cluster refuses; nothing was sent.
    """
    from pipeline.cluster import JobQueue, require_portable
    from pipeline.spec.schema import require_study_name

    checked = _spec(spec, overrides)
    name = require_study_name(name or checked.study)
    require_portable(checked, home)
    if checked.data.path is None:
        # Such data are here as well as there; a table in a bucket is for the cluster to read.
        check_study(checked, name=name)
    return JobQueue(address).submit(checked, name, home, concurrency)


def load_study(name: str, *, home: Home = HOME, tracking_uri: str | None = None) -> StudyRecord:
    """A study, finished or running, from MLflow: `.trials` and `.history` are pandas frames.

    Raises:
        UserError: There is no such study.
    """
    from pipeline.tracking.reader import read_study

    return read_study(client_of(home, tracking_uri), name)


def sync_study(
    name: str, *, home: Home = HOME, tracking_uri: str | None = None, show: Callable[[int], None] = lambda waiting: None
) -> int:
    """Bring to MLflow what a study said while MLflow was away; to another `tracking_uri`, all that it ever said.

    Args:
        name: The study's name.
        home: The folder of all studies.
        tracking_uri: MLflow's store, as in `run_study`.
        show: Called now and then with how many records wait.

    Returns:
        How many records were brought there.

    Raises:
        UserError: There is no such study on this machine, or a driver runs it, which brings its records itself.
        StudyError: MLflow stayed away, or refused something; what waits, waits on.
    """
    from pipeline.folders import Folder
    from pipeline.spec.schema import require_study_name
    from pipeline.tracking.sync import sync

    return sync(client_of(home, tracking_uri), name, (Folder.at(home) / require_study_name(name)).scratch, show)


def waiting_records(name: str, home: Home = HOME) -> int:
    """How many records of a study wait on this machine for MLflow, or for `sync_study`."""
    from pipeline.folders import Folder
    from pipeline.spec.schema import require_study_name
    from pipeline.tracking import backlog

    return backlog.waiting_records((Folder.at(home) / require_study_name(name)).scratch)


def score_rows(
    name: str,
    data: str,
    *,
    model: str = "champion",
    output: Path = SCORES,
    explain: bool = False,
    keys: Sequence[str] = (),
    source: str | None = None,
    device: str = "cpu",
    home: Home = HOME,
    tracking_uri: str | None = None,
    progress: Callable[[int, int | None], None] = lambda done, count: None,
) -> ScoredSummary:
    """Score new rows with a model of a study, into a Parquet file.

    Args:
        name: The study's name.
        data: What is scored: a file or folder, a URI such as s3://bucket/key, the name of a bundled set, or
            `python:module:function`.
        model: "champion", "ensemble", or a trial of the frontier such as "trial-0007".
        output: The file; it has the columns `row`, `keys`, `score`, and `above_p90`, `above_p95` and `above_p99`:
            whether the score is above that percentile of normal validation rows.
        explain: Whether to add `nats/COLUMN`: what each column costs above its mean in training rows.
        keys: Columns of the data to hand on to the output.
        source: The data's kind, such as "csv"; by default the place tells.
        device: "cpu", or a GPU such as "cuda".
        home: The folder of all studies.
        tracking_uri: MLflow's store, as in `run_study`.
        progress: Called with the number of rows done, and of all rows where that is known.

    Raises:
        UserError: There is no such study or model, or the data are not as the model takes them.
    """
    from tempfile import TemporaryDirectory

    from pipeline.data.streams import open_stream
    from pipeline.detector import Detector
    from pipeline.scoring import score_file
    from pipeline.tracking.models import fetch_model

    with TemporaryDirectory() as scratch:
        detector = Detector.load(fetch_model(client_of(home, tracking_uri), name, model, Path(scratch)), device)
    stream = open_stream(data, detector.preprocessing, source, keys)
    return score_file(detector, stream, Path(output), explain, progress, name)


def promote_model(name: str, model: str, *, home: Home = HOME, tracking_uri: str | None = None) -> int:
    """Make a model of a study its champion, by hand.

    Returns:
        The version in MLflow's registry that is the champion now.

    Raises:
        UserError: There is no such study, or it has kept no such model.
    """
    from pipeline.tracking.models import promote

    return promote(client_of(home, tracking_uri), name, model)


def serve_model(
    name: str,
    model: str,
    port: int,
    say: Callable[[str], None],
    *,
    home: Home = HOME,
    tracking_uri: str | None = None,
) -> None:
    """Serve a model of a study over HTTP on this machine until it is interrupted.

    Raises:
        UserError: There is no such study or model.
        StudyError: The server failed.
    """
    from pipeline.tracking.serving import serve

    serve(client_of(home, tracking_uri), name, model, port, say)


def build_report(
    name: str,
    *,
    home: Home = HOME,
    tracking_uri: str | None = None,
    output: Path | None = None,
    force: bool = False,
    say: Callable[[str], None] = lambda text: None,
) -> Path:
    """Write a study's report from MLflow alone, and attach it to the study's run there once the study has ended.

    Args:
        name: The study's name.
        home: The folder of all studies.
        tracking_uri: MLflow's store, as in `run_study`.
        output: The folder to write to; by default reports/NAME.
        force: Whether to write it even where the folder has this version's report of the study as it is.
        say: Called with what a user may want to know: the report was there already, or could not be attached.

    Returns:
        The path of report.html.

    Raises:
        UserError: There is no such study.
    """
    from pipeline.report import cache
    from pipeline.tracking.attached import attach_report
    from pipeline.tracking.fingerprint import fingerprint

    client, folder = client_of(home, tracking_uri), Path(output or REPORTS / name)
    facts, page = fingerprint(client, name), folder / "report.html"
    if not force and facts is not None and cache.is_made_from(folder, facts):
        say(f"nothing of {name} has changed since its report was made; --force makes it again")
    else:
        from pipeline.report import write_report
        from pipeline.tracking.reader import read_study

        write_report(read_study(client, name), folder, facts)
    why = attach_report(client, name, page) if facts is not None else ""
    if why:
        say(f"the report is written, but not attached to the study in MLflow: {why}")
    return page


def compare_studies(
    names: Sequence[str], *, home: Home = HOME, tracking_uri: str | None = None, output: Path | None = None
) -> Path:
    """Write a comparison of studies of one data set from MLflow alone.

    Args:
        names: The studies' names, two or more.
        home: The folder of all studies.
        tracking_uri: MLflow's store, as in `run_study`.
        output: The folder to write to; by default reports/A-B-C.

    Returns:
        The path of report.html.

    Raises:
        UserError: There is no such study, or they are of different data or objectives.
    """
    from pipeline.report import write_comparison
    from pipeline.tracking.reader import read_study

    client = client_of(home, tracking_uri)
    records = [read_study(client, name) for name in names]
    return write_comparison(records, Path(output or REPORTS / "-".join(names)))


def summarize(record: StudyRecord) -> StudySummary:
    """The few numbers that matter of a study."""
    from pipeline.report import summary

    return summary(record)


def list_studies(*, home: Home = HOME, tracking_uri: str | None = None) -> list[str]:
    """The names of the studies in a tracking store."""
    from pipeline.tracking.store import study_names

    return study_names(client_of(home, tracking_uri))


Source = str | Path | Mapping[str, Any] | StudySpec


def _spec(source: Source, overrides: Sequence[str]) -> StudySpec:
    return source if isinstance(source, StudySpec) else load_spec(source, overrides)

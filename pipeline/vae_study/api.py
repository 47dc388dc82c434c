"""The commands as functions, for notebooks and scripts. A function imports the heavy libraries that it needs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vae_study.config.study import StudyConfig
from vae_study.errors import UserError
from vae_study.paths import (
    HOME,
    Home,
    Source,
    client_of,
    config_of,
    saved_config,
    scratch_of,
    source_of,
    sqlite_of,
    tracking_uri_of,
)

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from vae_study.detector.score_file import ScoredSummary
    from vae_study.notebook import Study
    from vae_study.report import StudySummary
    from vae_study.study.cost import Cost
    from vae_study.study.plan import Plan
    from vae_study.study.session import Concurrency
    from vae_study.tracking.record import StudyRecord

REPORTS, SCORES = Path("reports"), Path("scores.parquet")


def check_study(config: Source, overrides: Sequence[str] = (), name: str | None = None, home: Home = HOME) -> Plan:
    """Validate a study file and its data. Nothing is started or written.

    Raises:
        UserError: The study file or the data are wrong; the message says what and where.
    """
    return _planned(config_of(config, overrides), name, home, os.environ.get("RAY_ADDRESS"))


def _planned(config: StudyConfig, name: str | None, home: Home, cluster: str | None) -> Plan:
    """The plan of a study; one that is to run on this machine has to fit into its memory."""
    from vae_study.study.plan import make_plan, require_memory

    plan = make_plan(config, name, home)
    if not cluster:
        require_memory(plan)
    return plan


def study_cost(plan: Plan, home: Home = HOME) -> Cost | None:
    """Estimate the cost of a study: from its trials so far if `home` has some, else from seconds of training here.

    Returns:
        The estimate, or None if this machine has too little memory to train one trial.
    """
    from vae_study.study.cost import cost_from_trials, measured_cost
    from vae_study.vae.device import is_out_of_memory

    with suppress(UserError):  # The study is new.
        if saved_config(plan.name, home).sha256() == plan.config.sha256():
            record = load_study(plan.name, home=home)
            if cost := cost_from_trials(plan, record.trials, record.history):
                return cost
    try:
        return measured_cost(plan)
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            return None
        raise


def run_study(
    config: Source,
    overrides: Sequence[str] = (),
    *,
    data: pd.DataFrame | None = None,
    name: str | None = None,
    home: Home = HOME,
    tracking_uri: str | None = None,
    study_storage: str | None = None,
    ray_address: str | None = None,
    concurrency: Concurrency = None,
    hours: float | None = None,
    max_cost: float | None = None,
    price_per_hour: float | None = None,
    gpus: Sequence[int] | None = None,
    console: Console | None = None,
) -> Study:
    """Run a study, or continue an interrupted one, until it has its number of trials or its budget is spent.

    Args:
        config: A study file, its content as a dictionary, or a StudyConfig.
        overrides: Settings on top of it, each "key=value".
        data: The rows in place of `data.source` and `data.path`; they are kept in `home`.
        name: The study's name; by default the config's `study`.
        home: Folder of all studies, on a disk or in an object store (s3://bucket/prefix).
        tracking_uri: MLflow's store; by default MLFLOW_TRACKING_URI, else a SQLite file in `home`.
        study_storage: Optuna's store, any SQLAlchemy URL; by default a SQLite file in the study's folder.
        ray_address: A running Ray cluster; by default RAY_ADDRESS, else a local Ray.
        concurrency: The most parallel trials; "max" for what the cluster can hold, also after autoscaling; by default
            what fits at the start.
        hours: End the training after so many hours; trials that run then are saved, and a later call continues them.
        max_cost, price_per_hour: End it when all workers together have cost `max_cost`, one of them `price_per_hour`.
        gpus: The only GPUs of this machine that a local Ray may use, by nvidia-smi's numbers; by default all.
        console: Where progress is shown; by default in the cell of a notebook, else nowhere.

    Raises:
        UserError: The input is wrong; nothing was started.
        StudyError: The study failed or was interrupted.
    """
    from vae_study.notebook import quiet_console
    from vae_study.study.budget import Limits

    limits = Limits(hours=hours, max_cost=max_cost, price_per_hour=price_per_hour)
    plan = _planned(config_of(config, overrides, data, home), name, home, ray_address or os.environ.get("RAY_ADDRESS"))
    from vae_study.study.plan import Locations
    from vae_study.study.start import start

    places = Locations(
        tracking_uri=tracking_uri_of(home, tracking_uri),
        storage_of=lambda study: study_storage or sqlite_of(home, study),
        ray_address=ray_address,
        study_file=Path(config) if isinstance(config, str | Path) else None,
    )
    start(plan, places, concurrency, console or quiet_console(), limits, gpus)
    return load_study(plan.name, home=home, tracking_uri=tracking_uri)


def resume_study(name: str, *, trials: int | None = None, home: Home = HOME, **others: Any) -> Study:
    """Continue a study with the config in its folder. Takes the other arguments of `run_study`, too.

    Args:
        name: The study's name.
        trials: Its budget of trials, those that it has included; by default that of the config.
        home: As in `run_study`.

    Raises:
        UserError: There is no such study in `home`.
    """
    config: Source = saved_config(name, home)
    if trials is not None:
        config = config_of(saved_config(name, home).plain(), [f"trials={trials}"])
    return run_study(config, name=name, home=home, **others)


def load_study(name: str, *, home: Home = HOME, tracking_uri: str | None = None) -> Study:
    """Read a study, finished or running, from MLflow. `.trials` and `.history` are pandas data frames.

    Raises:
        UserError: There is no such study.
    """
    from vae_study.notebook import Study
    from vae_study.tracking.reader import read_study

    return Study.of(read_study(source_of(home, tracking_uri), name))


def sync_study(
    name: str,
    *,
    home: Home = HOME,
    tracking_uri: str | None = None,
    rebuild: bool = False,
    show: Callable[[int], None] = lambda left: None,
) -> int:
    """Upload to MLflow the pending records of a study on this machine; to another `tracking_uri`, all its records.

    Args:
        name, home, tracking_uri: As in `run_study`.
        rebuild: Whether to upload all its records again, without its journal from the trials' folders.
        show: Called with the number of pending records.

    Returns:
        How many records were uploaded.

    Raises:
        UserError: There is no such study on this machine, or its driver is running and uploads the records itself.
        StudyError: MLflow does not answer, or refused a record; pending records stay on this machine.
    """
    from vae_study.tracking.study import has_journal, sync

    if rebuild and not has_journal(scratch_of(name, home)):
        from vae_study.study.start import rebuild as from_trials

        return from_trials(check_study(saved_config(name, home), (), name, home), tracking_uri_of(home, tracking_uri))
    client = client_of(home, tracking_uri, may_create=pending_records(name, home) > 0 or tracking_uri is not None)
    return sync(client, name, scratch_of(name, home), show, rebuild=rebuild)


def pending_records(name: str, home: Home = HOME) -> int:
    """How many records of a study on this machine are not in MLflow yet."""
    from vae_study.tracking import journal

    return journal.pending_records(scratch_of(name, home))


def score_rows(
    name: str,
    data: str,
    *,
    model: str | None = None,
    output: Path = SCORES,
    explain: bool = False,
    fdr: float | None = None,
    keys: Sequence[str] = (),
    source: str | None = None,
    device: str = "cpu",
    after: Path | None = None,
    maps: Path | None = None,
    home: Home = HOME,
    tracking_uri: str | None = None,
    progress: Callable[[int, int | None], None] = lambda done, count: None,
) -> ScoredSummary:
    """Score new rows with a model of a study, into a Parquet or CSV file.

    Args:
        name: The study's name.
        data: The rows: a file, folder or URI such as s3://bucket/key, a bundled set, or `python:module:function`.
        model: "champion", "ensemble", or one such as "trial-0007"; by default as `tracking.models.default_model` says.
        output: The file, .parquet or .csv; it has the columns `row`, `keys` (of images `file`), `score`,
            `p_value`, `flag`, and `above_p90`, `above_p95` and `above_p99`: whether the score is above that percentile
            of normal validation rows.
        explain: Whether to add `part/COLUMN`: what each column adds to the score, or how much lower the score is with
            the training mean in it, if the score is no sum over columns.
        fdr: The false discovery rate of `flag`; by default the study's `anomaly.fdr`.
        keys: Columns of the data to copy to the output.
        source: The kind of data, such as "csv"; by default it follows from the file's suffix.
        device: "cpu", or a GPU such as "cuda".
        after: An earlier file of scores of the same data, which have grown: only rows behind its last one are scored.
        maps: A new folder, for a picture of each image above the 99th percentile with its anomaly map.
        home, tracking_uri: As in `run_study`.
        progress: Called with the number of rows done and the number of all rows, None if unknown.

    Raises:
        UserError: There is no such study or model, or the data lack what the model needs.
    """
    from vae_study.data import open_stream
    from vae_study.detector.score_file import score_file

    detector = _detector(client_of(home, tracking_uri), name, model, device)
    stream = open_stream(data, detector.preprocessing, source, keys)
    return score_file(detector, stream, Path(output), explain, fdr, progress, name, after, maps)


def _detector(client: Any, name: str, model: str | None, device: str = "cpu") -> Any:
    from tempfile import TemporaryDirectory

    from vae_study.detector.detector import Detector
    from vae_study.tracking.models import default_model, fetch_model

    with TemporaryDirectory() as scratch:
        return Detector.load(fetch_model(client, name, model or default_model(client, name), Path(scratch)), device)


def promote_model(name: str, model: str, *, home: Home = HOME, tracking_uri: str | None = None) -> int:
    """Set the champion alias to another model of a study; return its version. Raise UserError if there is none."""
    from vae_study.tracking.models import promote

    return promote(client_of(home, tracking_uri), name, model)


def serve_model(
    name: str,
    model: str | None,
    port: int,
    say: Callable[[str], None],
    *,
    home: Home = HOME,
    tracking_uri: str | None = None,
) -> None:
    """Serve a model of a study over HTTP on this machine until it is interrupted; `model` as in `score_rows`.

    Raise UserError if there is no such model, its files were changed, or the port is taken.
    """
    from vae_study.server import serve
    from vae_study.tracking.models import default_model, fetch_example

    client = client_of(home, tracking_uri)
    model = model or default_model(client, name)
    serve(_detector(client, name, model), f"{model} of {name}", fetch_example(client, name, model), port, say)


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
        name, home, tracking_uri: As in `run_study`.
        output: The folder to write to; by default reports/NAME.
        force: Whether to write it even if the folder has an up-to-date report.
        say: Called with a message if the report is up to date already, or could not be attached.

    Returns:
        The path of report.html.

    Raises:
        UserError: There is no such study.
    """
    from vae_study.report import build
    from vae_study.tracking.reader import read_study
    from vae_study.tracking.store import attach_report, fingerprint

    client, folder = client_of(home, tracking_uri), Path(output or REPORTS / name)
    facts, page = fingerprint(client, name), folder / "report.html"
    if not force and facts is not None and build.is_made_from(folder, facts):
        say(f"the report of {name} is up to date; --force writes it again")
    else:
        build.write_report(read_study(source_of(home, tracking_uri), name), folder, facts)
    if facts is not None and (why := attach_report(client, name, page)):
        say(f"the report is written, but not attached to the study in MLflow: {why}")
    return page


def compare_studies(
    names: Sequence[str], *, home: Home = HOME, tracking_uri: str | None = None, output: Path | None = None
) -> Path:
    """Write a comparison of studies of one data set from MLflow alone.

    Args:
        names: The studies' names, two or more.
        home, tracking_uri: As in `run_study`.
        output: The folder to write to; by default reports/A-B-C.

    Returns:
        The path of report.html.

    Raises:
        UserError: There is no such study, or they are of different data or objectives.
    """
    from vae_study.report import write_comparison
    from vae_study.tracking.reader import read_study

    source = source_of(home, tracking_uri)
    return write_comparison([read_study(source, name) for name in names], Path(output or REPORTS / "-".join(names)))


def summarize(record: StudyRecord) -> StudySummary:
    """The key numbers of a study."""
    from vae_study.report import summary

    return summary(record)


def list_studies(*, home: Home = HOME, tracking_uri: str | None = None) -> list[str]:
    """The names of the studies in a tracking store."""
    from vae_study.tracking.schema import missing_store
    from vae_study.tracking.sources import study_names

    return [] if missing_store(tracking_uri_of(home, tracking_uri)) else study_names(source_of(home, tracking_uri))

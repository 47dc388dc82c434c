"""The commands: a thin shell over `pipeline.api`. Heavy libraries are imported by the command that needs them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipeline.errors import StudyError, UserError
from pipeline.secrets import guard_process, redacted

if TYPE_CHECKING:
    from pipeline.tracking.record import StudyRecord

EXAMPLES = """
\b
Examples:
  vae-study check search_spaces/digits.yaml
  vae-study run search_spaces/digits.yaml --trials 16 --epochs 30
  vae-study run search_spaces/digits.yaml --name wide --set model.network.hidden='[512, 256]'
  vae-study resume digits
  vae-study report digits
  vae-study score digits new.parquet --output scores.parquet
  vae-study sync digits
  vae-study ui
  vae-study submit search_spaces/digits.yaml --home s3://bucket/studies
"""
SCORE_EXAMPLES = """
\b
Examples:
  vae-study score transactions new.parquet --key id
  vae-study score transactions s3://bucket/2026/ --model ensemble --output scores.parquet
  vae-study score transactions new.csv --model trial-0007 --explain
"""


class Commands(click.Group):
    """A group whose commands end with one message and the right exit code when something is wrong."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; 2 where the user's input is wrong, 1 where the study failed."""
        guard_process()
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise click.UsageError(redacted(error.format_message()), error.ctx) from None
        except (UserError, StudyError) as error:
            click.echo(f"vae-study: {redacted(str(error))}", err=True)
            sys.exit(2 if isinstance(error, UserError) else 1)


@click.group(cls=Commands, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="vae-study")
def main() -> None:
    """Hyperparameter studies of variational autoencoders: which one, and can it tell what is anomalous?"""


def _options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


_home = click.option(
    "--home",
    metavar="PLACE",
    envvar="VAE_STUDY_HOME",
    default="studies",
    show_default=True,
    help="Folder of all studies; also s3://bucket/...",
)
_tracking = click.option(
    "--tracking-uri", metavar="URI", help="MLflow's store.  [default: MLFLOW_TRACKING_URI, else sqlite in HOME]"
)
_places = _options(_home, _tracking)
_address = click.option(
    "--address",
    metavar="URL",
    envvar="RAY_API_SERVER_ADDRESS",
    default="http://127.0.0.1:8265",
    show_default=True,
    help="The cluster's dashboard.",
)
_spec = _options(
    click.argument("spec", type=click.Path(path_type=Path)),
    click.option("--name", help="The study's name.  [default: the spec's `study`]"),
    click.option("--trials", type=int, help="Budget of trials."),
    click.option("--epochs", type=int, help="Epochs of each trial."),
    click.option("--seed", type=int, help="Seed of the sampler and of all trials."),
    click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any key of the spec; null removes it."),
)


class AtOnce(click.ParamType[int | str]):
    """A number of trials, or `max`."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str:
        """The number, or the word."""
        if value == "max":
            return "max"
        if not str(value).isdecimal() or int(value) == 0:
            self.fail(f"came {value!r}, expected a number of trials, 1 or more, or max", param, ctx)
        return int(value)


_concurrency = click.option(
    "--concurrency",
    type=AtOnce(),
    metavar="NUMBER|max",
    help="Most trials at once; max: as many as a cluster takes, also while it grows.  [default: as many as fit now]",
)
_running = _options(
    click.option(
        "--study-storage",
        metavar="URL",
        envvar="VAE_STUDY_STORAGE",
        help="Optuna's store.  [default: sqlite in HOME/NAME]",
    ),
    click.option("--ray-address", metavar="ADDRESS", help="A Ray cluster.  [default: RAY_ADDRESS, else a local Ray]"),
    _concurrency,
    click.option("--no-report", is_flag=True, help="Do not write the report."),
)


def _overrides(settings: tuple[str, ...], trials: int | None, epochs: int | None, seed: int | None) -> list[str]:
    given = {"trials": trials, "training.epochs": epochs, "seed": seed, "sampler.seed": seed}
    return [*settings, *(f"{key}={value}" for key, value in given.items() if value is not None)]


@main.command()
@_spec
@_home
def check(spec: Path, name: str | None, home: str, settings: tuple[str, ...], **budget: int | None) -> None:
    """Validate a spec and its data, and print the plan and about what it costs; start nothing."""
    from pipeline import api
    from pipeline.terminal import cost_text, plan_text

    plan = api.check_study(spec, _overrides(settings, **budget), name, home)
    click.echo(plan_text(plan))
    if cost := api.study_cost(plan, home):
        click.echo(cost_text(plan, cost))


@main.command()
@_spec
@_running
@_places
def run(
    spec: Path,
    name: str | None,
    settings: tuple[str, ...],
    trials: int | None,
    epochs: int | None,
    seed: int | None,
    no_report: bool,
    **places: Any,
) -> None:
    """Run a study, show its progress, then write the report. The same spec again goes on where it was."""
    from rich.console import Console

    from pipeline import api

    overrides = _overrides(settings, trials, epochs, seed)
    _after(api.run_study(spec, overrides, name=name, console=Console(stderr=True), **places), no_report, places)


@main.command()
@click.argument("name")
@_running
@_places
def resume(name: str, no_report: bool, **places: Any) -> None:
    """Go on with an interrupted study."""
    from rich.console import Console

    from pipeline import api

    _after(api.resume_study(name, console=Console(stderr=True), **places), no_report, places)


def _after(record: StudyRecord, no_report: bool, places: dict[str, Any]) -> None:
    from pipeline import api
    from pipeline.terminal import result_text

    home, tracking_uri = places["home"], places["tracking_uri"]
    report = None if no_report else api.build_report(record.name, home=home, tracking_uri=tracking_uri, say=_aside)
    click.echo(result_text(record, report, home))


@main.command(epilog=SCORE_EXAMPLES)
@click.argument("name")
@click.argument("data")
@click.option("--model", default="champion", show_default=True, help="champion, ensemble, or one such as trial-0007.")
@click.option("--output", type=click.Path(path_type=Path), default="scores.parquet", show_default=True)
@click.option("--explain", is_flag=True, help="Add what each column costs, in nats above its mean in training rows.")
@click.option("--key", "keys", multiple=True, metavar="COLUMN", help="A column to hand on to the output.")
@click.option("--source", metavar="KIND", help="Kind of the data, such as csv.  [default: the place tells]")
@click.option("--device", default="cpu", show_default=True, help="Where to compute, such as cuda.")
@_places
def score(name: str, data: str, **options: Any) -> None:
    """Score new rows with a model of a study.

    DATA is a Parquet file or folder, CSV, npz, a folder of images, idx, a bundled set, python:module:function, or an
    s3:// address. The output has `row`, `score`, and for each threshold whether the score is above it.
    """
    from rich.console import Console

    from pipeline import api
    from pipeline.terminal import scored_text, scoring_bar

    with scoring_bar(Console(stderr=True)) as progress:
        found = api.score_rows(name, data, progress=progress, **options)
    click.echo(scored_text(found, options["output"]))


@main.command()
@click.argument("name")
@click.argument("model")
@_places
def promote(name: str, model: str, home: str, tracking_uri: str | None) -> None:
    """Make MODEL, such as trial-0007 or ensemble, the champion of a study in MLflow's registry."""
    from pipeline import api

    version = api.promote_model(name, model, home=home, tracking_uri=tracking_uri)
    click.echo(f"{model} is the champion of {name} now, as version {version}")


@main.command()
@click.argument("name")
@click.option("--model", default="champion", show_default=True, help="champion, ensemble, or one such as trial-0007.")
@click.option("--port", type=int, default=5001, show_default=True)
@_places
def serve(name: str, model: str, port: int, home: str, tracking_uri: str | None) -> None:
    """Serve a model over HTTP on this machine with MLflow; Ctrl-C ends it."""
    from pipeline import api

    api.serve_model(name, model, port, click.echo, home=home, tracking_uri=tracking_uri)


@main.command(short_help="Bring to MLflow what waits on this machine.")
@click.argument("name")
@_places
def sync(name: str, home: str, tracking_uri: str | None) -> None:
    """Bring to MLflow what a study said while MLflow was away.

    Another --tracking-uri gets all that the study ever said. What a killed driver left as running is marked as
    waiting.
    """
    from rich.console import Console

    from pipeline import api

    with Console(stderr=True).status("") as line:
        count = api.sync_study(
            name, home=home, tracking_uri=tracking_uri, show=lambda left: line.update(f"{left:,} records wait")
        )
    click.echo(f"{count:,} records of {name} brought to MLflow; its report: vae-study report {name}")


@main.command(short_help="Write a study's report again, or compare studies.")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--output", type=click.Path(path_type=Path), help="Folder to write to.  [default: reports/NAME]")
@click.option("--force", is_flag=True, help="Write it even where nothing has changed since it was made.")
@_places
def report(names: tuple[str, ...], output: Path | None, force: bool, home: str, tracking_uri: str | None) -> None:
    """Write a study's report again, from MLflow alone; of several studies of the same data, a comparison.

    A report that is there and still true is left as it is. Once the study has ended, the report is attached to its run
    in MLflow.
    """
    from pipeline import api

    if len(names) > 1:
        page = api.compare_studies(names, home=home, tracking_uri=tracking_uri, output=output)
    else:
        page = api.build_report(names[0], home=home, tracking_uri=tracking_uri, output=output, force=force, say=_aside)
    click.echo(page)


def _aside(text: str) -> None:
    click.echo(f"vae-study: {text}", err=True)


@main.command(short_help="Trials by state, best so far, frontier size.")
@click.argument("name", required=False)
@_places
def status(name: str | None, home: str, tracking_uri: str | None) -> None:
    """Trials by state, best so far, frontier size; of all studies where no NAME is given."""
    from pipeline import api
    from pipeline.terminal import status_text

    names = [name] if name else api.list_studies(home=home, tracking_uri=tracking_uri)
    for each in names:
        waiting = api.waiting_records(each, home)
        try:
            click.echo(status_text(api.load_study(each, home=home, tracking_uri=tracking_uri), waiting))
        except UserError as error:
            if not waiting:
                raise
            raise UserError(f"{error}; {waiting:,} records of {each} wait on this machine") from None
    if not names:
        click.echo("no studies yet")


@main.command(short_help="Send a study to a Ray cluster and follow its log.")
@_spec
@_address
@click.option(
    "--home", metavar="PLACE", help="Folder of all studies, such as s3://bucket/studies.  [default: the cluster's]"
)
@_concurrency
@click.option("--detach", is_flag=True, help="Do not follow the log.")
def submit(
    spec: Path,
    name: str | None,
    settings: tuple[str, ...],
    trials: int | None,
    epochs: int | None,
    seed: int | None,
    detach: bool,
    **job: Any,
) -> None:
    """Send a study to a Ray cluster, with this code and without data, and follow its log.

    Ctrl-C ends the following, not the study. The same study again goes on where it was.
    """
    from pipeline import api

    sent = api.submit_study(spec, _overrides(settings, trials, epochs, seed), name=name, **job)
    click.echo(f"sent as {sent}; come back with: vae-study logs {sent}; end it with: vae-study cancel {sent}")
    if not detach:
        _follow(job["address"], sent)


@main.command()
@_address
def jobs(address: str) -> None:
    """The studies that a Ray cluster was sent, and how they are."""
    from pipeline.cluster import JobQueue, jobs_text

    click.echo(jobs_text(JobQueue(address).jobs()))


@main.command()
@click.argument("job")
@_address
def logs(job: str, address: str) -> None:
    """Show a job's log, and follow it until the job ends; JOB is its id, or a study's name for its latest job."""
    from pipeline.cluster import JobQueue

    _follow(address, JobQueue(address).find(job).id)


@main.command()
@click.argument("job")
@_address
def cancel(job: str, address: str) -> None:
    """Have a job save its trials and end; JOB is its id, or a study's name for its latest job."""
    from pipeline.cluster import JobQueue

    queue = JobQueue(address)
    found = queue.find(job).id
    state = queue.cancel(found)
    click.echo(f"{found}: {state}" + ("; submit the same study again to go on" if state == "stopped" else ""))


def _follow(address: str, job: str) -> None:
    from pipeline.cluster import JobQueue

    try:
        JobQueue(address).follow(job, lambda text: click.echo(text, nl=False))
    except KeyboardInterrupt:
        click.echo(f"\n{job} goes on; come back with: vae-study logs {job}", err=True)


@main.command()
@click.option("--port", type=int, default=5000, show_default=True)
@_places
def ui(port: int, home: str, tracking_uri: str | None) -> None:
    """Open the MLflow UI on the tracking store; Ctrl-C ends it."""
    from pipeline.homes import tracking_uri_of
    from pipeline.tracking.server import serve_ui

    serve_ui(tracking_uri_of(home, tracking_uri), port, click.echo)

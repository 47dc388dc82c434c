"""The command line. Each command calls a function of `vae_study.api` and prints its result."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vae_study import cluster_commands, options, study_commands
from vae_study.errors import StudyError, TrialsFailed, UserError, bounded, guard_process, redacted

if TYPE_CHECKING:
    from vae_study.tracking.record import StudyRecord

EXAMPLES = """
\b
Examples:
  vae-study check search_spaces/digits.yaml
  vae-study run search_spaces/digits.yaml --trials 16 --epochs 30
  vae-study run search_spaces/digits.yaml --name wide --set model.network.hidden='[512, 256]'
  vae-study run search_spaces/digits.yaml --trials 1000 --hours 2 --set stop_when.flat_for=30
  vae-study resume digits --hours 1
  vae-study watch digits --open
  vae-study report digits
  vae-study score digits new.parquet --output scores.parquet
  vae-study sync digits
  vae-study ui
  vae-study submit search_spaces/digits.yaml --home s3://bucket/studies
"""
SCORE_EXAMPLES = """
\b
Examples:
  vae-study score transactions new.parquet --key id --fdr 0.05
  vae-study score transactions s3://bucket/2026/ --model ensemble --output scores.parquet
  vae-study score transactions new.csv --model trial-0007 --explain
  vae-study score textures photos --maps flaws
  vae-study score plant plant.parquet --after scores-1.parquet --output scores-2.parquet
"""


class Commands(click.Group):
    """A command group that turns UserError and StudyError into one message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; exit with 2 for a UserError, with 1 for a StudyError."""
        guard_process()
        # Notebooks name a backend of their own for every process that they start; ours draws into files.
        os.environ["MPLBACKEND"] = "agg"
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            raise click.UsageError(bounded(redacted(error.format_message())), error.ctx) from None
        except (UserError, StudyError) as error:
            click.echo(f"vae-study: {redacted(str(error))}", err=True)
            sys.exit(2 if isinstance(error, UserError) else 1)


@click.group(cls=Commands, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="vae-study")
def main() -> None:
    """Run hyperparameter studies of variational autoencoders, and detect anomalies with the best model."""


@main.command()
@click.argument("data")
@click.option("--label", metavar="COLUMN", help="Says which rows are anomalous.  [default: one that is called so]")
@click.option("--name", help="The study's name.  [default: that of the data]")
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), metavar="FILE", help="A new file.  [default: NAME.yaml]"
)
def init(data: str, label: str | None, name: str | None, output: Path | None) -> None:
    """Write a study file from a look at the data, with a reason for every setting.

    DATA is a file, a folder, a URI such as s3://bucket/key, a bundled data set, or python:module:function.
    """
    from vae_study.draft import draft_study

    name, text = draft_study(data, name, label)
    path = output or Path(f"{name}.yaml")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"--output: {path} is there already; expected a new file") from None
    except OSError as error:
        raise UserError(f"--output: {path} cannot be written: {error.strerror}") from None
    click.echo(f"{text}\nwritten    {path}\ncheck it   vae-study check {path}\nrun it     vae-study run {path}")


@main.command()
def schema() -> None:
    """Print the JSON schema of study files, with which an editor completes keys and explains them."""
    import json

    from vae_study.config.json_schema import study_schema

    click.echo(json.dumps(study_schema(), indent=2))


@main.command()
@options.config
@options.home
@click.option("--columns", is_flag=True, help="Print a table of the data's columns instead of the plan.")
@options.price
@click.option("--cluster", type=click.Path(path_type=Path), metavar="FILE", help="Cost and time on a cluster.yaml.")
@click.option("--prices", type=click.Path(path_type=Path), metavar="FILE", help="Prices of machines.  [default: ours]")
def check(
    config: Path,
    overrides: list[str],
    name: str | None,
    home: str,
    columns: bool,
    price_per_hour: float | None,
    cluster: Path | None,
    prices: Path | None,
) -> None:
    """Validate a study file and its data; print features, warnings, plan and estimated cost. Starts nothing."""
    from vae_study import api
    from vae_study.cluster.prices import machines_of, offers, offers_text
    from vae_study.terminal import columns_text, cost_text, plan_text

    machines = machines_of(cluster, prices) if cluster else None
    if prices and not cluster:
        raise UserError("--prices: is for --cluster; expected that, too")
    plan = api.check_study(config, overrides, name, home)
    if columns:
        click.echo(columns_text(plan))
        return
    click.echo(plan_text(plan))
    if cost := api.study_cost(plan, home):
        click.echo(cost_text(plan, cost, price_per_hour))
        if machines:
            found = offers(machines, plan.config.resources, cost.worker_hours, cost.trials)
            click.echo(offers_text(machines, found, datetime.now()))


@main.command()
@options.config
@options.running
@click.option("--open", "opens", is_flag=True, help="Follow it in a browser page, as `watch` does.")
@options.places
def run(config: Path, overrides: list[str], name: str | None, no_report: bool, opens: bool, **places: Any) -> None:
    """Run a study with a progress line, then write the report. Running it again continues where it stopped."""
    from rich.console import Console

    from vae_study import api

    with _telling_of_failures(no_report, places), _page(config, overrides, name, places) if opens else nullcontext():
        record = api.run_study(config, overrides, name=name, console=Console(stderr=True), **places)
    _after(record, no_report, places)


def _page(config: Path, overrides: list[str], name: str | None, places: dict[str, Any]) -> AbstractContextManager[None]:
    from vae_study.config.loading import load_config
    from vae_study.watch import page_beside

    given = {"--home": places["home"], "--tracking-uri": places["tracking_uri"]}
    words = [word for option, value in given.items() if value for word in (option, value)]
    return page_beside(name or load_config(config, overrides).study, words)


@main.command(short_help="Follow a running study in a browser page.")
@click.argument("name")
@click.option("--port", type=int, default=0, help="To listen at, on this machine only.  [default: any that is free]")
@click.option("--open", "opens", is_flag=True, help="Open the page in a browser.")
@click.option("--until-over", is_flag=True, hidden=True)
@options.places
def watch(name: str, **settings: Any) -> None:
    """Serve a page that follows a running study: the best so far, what is in training, the frontier, the hypervolume.

    Only this machine reaches the page; Ctrl-C ends it, not the study.
    """
    from vae_study.watch import watch_study

    watch_study(name, say=click.echo, **settings)


@main.command()
@click.argument("name")
@click.option("--trials", type=int, help="Budget of trials, the earlier ones included.  [default: the study's]")
@options.running
@options.places
def resume(name: str, no_report: bool, **places: Any) -> None:
    """Continue a study that was interrupted or has stopped, or one that is to have more trials."""
    from rich.console import Console

    from vae_study import api

    with _telling_of_failures(no_report, places):
        record = api.resume_study(name, console=Console(stderr=True), **places)
    _after(record, no_report, places)


@contextmanager
def _telling_of_failures(no_report: bool, places: dict[str, Any]) -> Iterator[None]:
    """Print the result and write the report also of a study that ended since its trials failed."""
    from vae_study import api

    try:
        yield
    except TrialsFailed as error:
        record = api.load_study(error.study, home=places["home"], tracking_uri=places["tracking_uri"])
        _after(record, no_report, places)
        raise


def _after(record: StudyRecord, no_report: bool, places: dict[str, Any]) -> None:
    from vae_study import api
    from vae_study.terminal import result_text

    home, tracking_uri = places["home"], places["tracking_uri"]
    report = None if no_report else api.build_report(record.name, home=home, tracking_uri=tracking_uri, say=_aside)
    click.echo(result_text(record, report, home))


@main.command(epilog=SCORE_EXAMPLES)
@click.argument("name")
@click.argument("data")
@options.model
@click.option("--output", "-o", type=click.Path(path_type=Path), default="scores.parquet", show_default=True)
@click.option("--explain", is_flag=True, help="Add what each column does to the score.")
@click.option("--fdr", type=float, metavar="RATE", help="False discovery rate of `flag`.  [default: anomaly.fdr, 0.1]")
@click.option("--key", "keys", multiple=True, metavar="COLUMN", help="A column to copy to the output.")
@click.option("--source", metavar="KIND", help="Kind of the data, such as csv.  [default: from the suffix]")
@click.option("--device", default="cpu", show_default=True, help="Device, such as cuda.")
@click.option(
    "--after",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Score only the rows behind the last one of FILE, an earlier file of scores of DATA, which has grown.",
)
@click.option(
    "--maps",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Of images above the 99th percentile, write pictures of their anomaly maps into a new FOLDER.",
)
@options.places
def score(name: str, data: str, **settings: Any) -> None:
    """Score new rows with a model of a study.

    DATA is a Parquet file or folder, CSV, npz, a folder of images, idx, a bundled set, python:module:function, or an
    s3:// address. The output, .parquet or .csv, has `row`, `score`, `p_value`, `flag`, and for each threshold whether
    the score is above it; of images also `file`.
    """
    from rich.console import Console

    from vae_study import api
    from vae_study.terminal import scored_text, scoring_bar

    with scoring_bar(Console(stderr=True)) as progress:
        found = api.score_rows(name, data, progress=progress, **settings)
    click.echo(scored_text(found, settings["output"]))


@main.command(short_help="Write a study's report again, or compare studies.")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Folder to write to.  [default: reports/NAME]")
@click.option("--force", is_flag=True, help="Write it even if it is up to date.")
@options.places
def report(names: tuple[str, ...], output: Path | None, force: bool, home: str, tracking_uri: str | None) -> None:
    """Write a study's report again, from MLflow alone; for several studies of the same data, a comparison.

    An up-to-date report is left as it is. Once the study has ended, the report is attached to its run in MLflow.
    """
    from vae_study import api

    if len(names) > 1:
        page = api.compare_studies(names, home=home, tracking_uri=tracking_uri, output=output)
    else:
        page = api.build_report(names[0], home=home, tracking_uri=tracking_uri, output=output, force=force, say=_aside)
    click.echo(page)


def _aside(text: str) -> None:
    click.echo(f"vae-study: {text}", err=True)


@main.command(short_help="Trials by state, best so far, frontier size.")
@click.argument("name", required=False)
@options.places
def status(name: str | None, home: str, tracking_uri: str | None) -> None:
    """Trials by state, best so far, frontier size; without NAME of all studies."""
    from vae_study import api
    from vae_study.terminal import status_text

    names = [name] if name else api.list_studies(home=home, tracking_uri=tracking_uri)
    for each in names:
        pending = api.pending_records(each, home)
        try:
            click.echo(status_text(api.load_study(each, home=home, tracking_uri=tracking_uri), pending, home))
        except UserError as error:
            if not pending:
                raise
            raise UserError(f"{error}; {pending:,} records of {each} on this machine are not uploaded yet") from None
    if not names:
        click.echo("no studies yet")


@main.command()
@click.option("--port", type=int, default=5000, show_default=True)
@options.places
def ui(port: int, home: str, tracking_uri: str | None) -> None:
    """Open the MLflow UI on the tracking store; Ctrl-C ends it."""
    from vae_study.paths import tracking_uri_of
    from vae_study.tracking.serving import serve_ui

    serve_ui(tracking_uri_of(home, tracking_uri), port, click.echo)


for command in (*study_commands.ALL, *cluster_commands.ALL):
    main.add_command(command)

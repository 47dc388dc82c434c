"""The commands that manage a study that has run: its models, its records, and the whole of it."""

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from vae_study import options
from vae_study.errors import UserError

ASK_EXAMPLES = """
\b
Examples:
  vae-study ask transactions --rows 20
  vae-study learn transactions transactions-labels.csv
  vae-study learn transactions --forget
"""
EXPORT_EXAMPLES = """
\b
Examples:
  vae-study export transactions --output transactions.zip
  vae-study import transactions.zip --home studies     (on another machine)
"""


@click.command()
@click.argument("name")
@click.argument("model")
@options.places
def promote(name: str, model: str, home: str, tracking_uri: str | None) -> None:
    """Set the champion alias of a study in MLflow's registry to MODEL, such as trial-0007 or ensemble."""
    from vae_study import api

    version = api.promote_model(name, model, home=home, tracking_uri=tracking_uri)
    click.echo(f"{model} is the champion of {name} now, as version {version}")


@click.command(epilog=ASK_EXAMPLES)
@click.argument("name")
@click.option("--rows", type=int, default=20, show_default=True, help="How many rows to ask for.")
@click.option("--output", "-o", type=click.Path(path_type=Path), metavar="FILE", help="[default: NAME-labels.csv]")
@options.places
def ask(name: str, rows: int, output: Path | None, home: str, tracking_uri: str | None) -> None:
    """Write the rows whose labels would help most in choosing among the models of a study without labels.

    The file has an empty column `label`: fill in 1 for an anomaly and 0 for a normal row, from the top as far as you
    get, and give it to `learn`. Nothing is trained.
    """
    from vae_study.labels import ask_labels
    from vae_study.storage import words_of

    path, count = ask_labels(name, rows, output, home=home, tracking_uri=tracking_uri)
    click.echo(f"written    {path}: {count:,} rows, the most helpful first; fill in the column label, 1 or 0")
    click.echo(f"then       vae-study learn {words_of(name, home)} {shlex.quote(str(path))}")


@click.command(epilog=ASK_EXAMPLES)
@click.argument("name")
@click.argument("labels", metavar="FILE", type=click.Path(path_type=Path), required=False)
@click.option("--forget", is_flag=True, help="Go back to the champion before the labels.")
@options.places
def learn(name: str, labels: Path | None, forget: bool, home: str, tracking_uri: str | None) -> None:
    """Choose the model of a study anew by labels of its rows, and make it the champion. Nothing is trained.

    FILE is a CSV file with the columns `row` and `label`, as `ask` writes it; rows without a label do not count.
    """
    from vae_study.labels import forget_labels, learn_labels
    from vae_study.storage import words_of
    from vae_study.terminal import learned_text

    if forget == (labels is not None):
        raise UserError("learn: expected either a FILE of labels, or --forget")
    if labels is None:
        before = forget_labels(name, home=home, tracking_uri=tracking_uri)
        click.echo(f"{before} is the champion of {name}, as if there had been no labels")
        return
    found = learn_labels(name, labels, home=home, tracking_uri=tracking_uri)
    click.echo(learned_text(found, words_of(name, home)))


@click.command()
@click.argument("name")
@options.model
@click.option("--port", type=int, default=5001, show_default=True)
@options.places
def serve(name: str, model: str | None, port: int, home: str, tracking_uri: str | None) -> None:
    """Serve a model over HTTP on this machine, for JSON and CSV; Ctrl-C ends it."""
    from vae_study import api

    api.serve_model(name, model, port, click.echo, home=home, tracking_uri=tracking_uri)


@click.command(short_help="Upload to MLflow the records that are only on this machine.")
@click.argument("name")
@click.option("--rebuild", is_flag=True, help="Upload all records again, also those that MLflow had.")
@options.places
def sync(name: str, rebuild: bool, home: str, tracking_uri: str | None) -> None:
    """Upload to MLflow the records that a study wrote while MLflow did not answer.

    With another --tracking-uri, all records of the study are uploaded to that store; so they are if a run was deleted
    in MLflow, which makes it anew. Trials that a killed driver left in the state running are marked as waiting.
    """
    from rich.console import Console

    from vae_study import api
    from vae_study.storage import words_of

    with Console(stderr=True).status("") as line:
        show = lambda left: line.update(f"{left:,} records pending")  # noqa: E731
        count = api.sync_study(name, home=home, tracking_uri=tracking_uri, rebuild=rebuild, show=show)
    click.echo(f"{count:,} records of {name} uploaded to MLflow; its report: vae-study report {words_of(name, home)}")


@click.command(epilog=EXPORT_EXAMPLES)
@click.argument("name")
@click.option("--output", "-o", type=click.Path(path_type=Path), metavar="FILE", help="[default: NAME.zip]")
@options.places
def export(name: str, output: Path | None, home: str, tracking_uri: str | None) -> None:
    """Write a study to one zip file: its config, trials, models, records and report. Data are not in it."""
    from vae_study.archive import export_study

    say = partial(click.echo, err=True)
    click.echo(f"written {export_study(name, output, home=home, tracking_uri=tracking_uri, say=say)}")


@click.command("import")
@click.argument("file", type=click.Path(path_type=Path))
@options.places
def import_(file: Path, home: str, tracking_uri: str | None) -> None:
    """Take a study from a FILE that `vae-study export` wrote, on this machine or another, into HOME and MLflow."""
    from vae_study.archive import import_study
    from vae_study.storage import words_of

    name = import_study(file, home=home, tracking_uri=tracking_uri)
    click.echo(f"imported {name}; see it: vae-study status {words_of(name, home)}")


@click.command()
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Say what would be deleted, and delete nothing.")
@options.study_storage
@options.places
def delete(name: str, yes: bool, dry_run: bool, **places: Any) -> None:
    """Delete a study: its folder in HOME, its trials, and its runs and models in MLflow. Reports and data stay.

    MLflow keeps deleted runs until `mlflow gc`. The folder cannot be brought back: `vae-study export` first.
    """
    from vae_study.archive import delete_study

    for line in delete_study(name, dry_run=True, **places):
        click.echo(line)
    if dry_run:
        return
    if not yes and not sys.stdin.isatty():
        raise UserError(f"delete {name}: asks before it deletes, and there is no terminal to ask on; expected --yes")
    if yes or click.confirm("Delete all of this?"):
        delete_study(name, **places)
        click.echo(f"deleted {name}")


ALL = (promote, ask, learn, serve, sync, export, import_, delete)

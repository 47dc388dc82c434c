"""The commands that send studies to a cluster, and look after them there."""

from pathlib import Path
from typing import Any

import click

from vae_study import options
from vae_study.errors import UserError

MANIFEST = "docs/cluster.kuberay.yaml"
SUBMIT_EXAMPLES = f"""
\b
Examples:
  vae-study submit search_spaces/digits.yaml --concurrency max --hours 8
  vae-study submit search_spaces/digits.yaml --kubernetes {MANIFEST} --apply
  vae-study submit search_spaces/digits.yaml --kubernetes {MANIFEST} --schedule '0 3 * * *' --output nightly.yaml
"""


@click.command(short_help="Send a study to a Ray cluster and follow its log.", epilog=SUBMIT_EXAMPLES)
@options.config
@options.address
@click.option(
    "--home", metavar="PLACE", help="Folder of all studies, such as s3://bucket/studies.  [default: the cluster's]"
)
@options.concurrency
@options.limits
@click.option("--detach", is_flag=True, help="Do not follow the log.")
@click.option(
    "--kubernetes",
    "manifest",
    is_flag=False,
    flag_value=MANIFEST,
    type=click.Path(path_type=Path),
    metavar="[FILE]",
    help=f"Print a manifest for KubeRay instead: FILE with the study in it.  [without FILE: {MANIFEST}]",
)
@click.option("--apply", "applies", is_flag=True, help="Give the manifest to `kubectl apply`.")
@click.option("--output", "-o", type=click.Path(path_type=Path), metavar="FILE", help="Write the manifest to a file.")
@click.option("--schedule", metavar="CRON", help="Run it again and again, as in '0 3 * * *': daily at 3:00 UTC.")
def submit(
    config: Path,
    overrides: list[str],
    detach: bool,
    address: str,
    manifest: Path | None,
    applies: bool,
    output: Path | None,
    schedule: str | None,
    **job: Any,
) -> None:
    """Send a study to a Ray cluster, with this code and without data, and follow its log.

    Ctrl-C stops following, not the study. Submitting it again continues where it stopped. With --kubernetes, KubeRay
    starts a Ray cluster for the study, with the code of the manifest's image.
    """
    from vae_study.submission import study_manifest, submit_study

    if manifest:
        text, name = study_manifest(manifest, config, overrides, schedule=schedule, **job)
        _hand_over(text, name, applies, output, repeats=schedule is not None)
        return
    given = {"--apply": applies, "--output": output, "--schedule": schedule}
    if lonely := [option for option, value in given.items() if value]:
        raise UserError(f"{lonely[0]}: is of a manifest; expected --kubernetes, too")
    sent = submit_study(config, overrides, address=address, **job)
    click.echo(f"submitted as {sent}; follow its log: vae-study logs {sent}; stop it: vae-study cancel {sent}")
    if not detach:
        _follow(address, sent)


def _hand_over(text: str, name: str, applies: bool, output: Path | None, *, repeats: bool) -> None:
    from vae_study.cluster.kubernetes import apply

    if output:
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UserError(f"--output: {output} cannot be written: {error.strerror}") from None
    if applies:
        click.echo(apply(text), nl=False)
        reach = "" if repeats else f"; reach it: kubectl port-forward service/{name}-head-svc 8265"
        click.echo(f"submitted as {name}{reach}; then: vae-study jobs, logs and cancel", err=True)
    elif not output:
        click.echo(text, nl=False)


@click.command()
@options.address
def jobs(address: str) -> None:
    """The jobs of a Ray cluster that are studies, with their states."""
    from vae_study.cluster.jobs import JobQueue, jobs_text

    click.echo(jobs_text(JobQueue(address).jobs()))


@click.command()
@click.argument("job")
@options.address
def logs(job: str, address: str) -> None:
    """Show a job's log, and follow it until the job ends; JOB is its id, or a study's name for its latest job."""
    from vae_study.cluster.jobs import JobQueue

    _follow(address, JobQueue(address).find(job).id)


@click.command()
@click.argument("job")
@options.address
def cancel(job: str, address: str) -> None:
    """Save a job's trials and stop it; JOB is its id, or a study's name for its latest job."""
    from vae_study.cluster.jobs import JobQueue

    queue = JobQueue(address)
    found = queue.find(job).id
    state = queue.cancel(found)
    click.echo(f"{found}: {state}" + ("; submit the same study again to continue" if state == "stopped" else ""))


def _follow(address: str, job: str) -> None:
    from vae_study.cluster.jobs import JobQueue

    try:
        JobQueue(address).follow(job, lambda text: click.echo(text, nl=False))
    except KeyboardInterrupt:
        click.echo(f"\n{job} keeps running; follow its log again: vae-study logs {job}", err=True)


ALL = (submit, jobs, logs, cancel)

"""Studies for other machines: sent to a Ray cluster as a job, or written into a manifest for Kubernetes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vae_study.config.study import StudyConfig, require_study_name
from vae_study.paths import HOME, Source, config_of

if TYPE_CHECKING:
    from vae_study.study.session import Concurrency


def submit_study(
    config: Source,
    overrides: Sequence[str] = (),
    *,
    name: str | None = None,
    address: str,
    home: str | None = None,
    concurrency: Concurrency = None,
    **limits: float | None,
) -> str:
    """Send a study to a Ray cluster, where it runs as a job.

    Args:
        config: As in `run_study`. A data path on this machine is refused.
        overrides, name: As in `run_study`.
        address: The cluster's dashboard, such as http://127.0.0.1:8265.
        home: The folder of all studies that all nodes reach; by default the cluster's own.
        concurrency: As in `run_study`; so are the `limits` hours, max_cost and price_per_hour.

    Returns:
        The job's id.

    Raises:
        UserError: The input is wrong, or the cluster refuses the job; nothing was sent.
    """
    from vae_study.cluster.jobs import JobQueue

    checked, name, words = _portable(config, overrides, name, home, limits)
    return JobQueue(address).submit(checked, name, home, concurrency, words)


def study_manifest(
    manifest: Path,
    config: Source,
    overrides: Sequence[str] = (),
    *,
    name: str | None = None,
    home: str | None = None,
    concurrency: Concurrency = None,
    schedule: str | None = None,
    **limits: float | None,
) -> tuple[str, str]:
    """A manifest with which KubeRay runs a study on Kubernetes.

    Args:
        manifest: One such as docs/cluster.kuberay.yaml, with its blanks filled in.
        config, overrides, name, home: As in `submit_study`.
        concurrency: As in `run_study`, by default max; so are the `limits` hours, max_cost and price_per_hour.
        schedule: Five fields of cron, in UTC: the study is run again and again, each day with the date in its name.

    Returns:
        The manifest's text, and the name of the RayJob or RayCronJob in it.

    Raises:
        UserError: The input is wrong.
    """
    from vae_study.cluster.kubernetes import kubernetes_manifest

    checked, name, words = _portable(config, overrides, name, home, limits)
    return kubernetes_manifest(
        manifest, checked, name, home=home, concurrency=concurrency, limits=words, schedule=schedule
    )


def _portable(
    config: Source, overrides: Sequence[str], name: str | None, home: str | None, limits: Mapping[str, float | None]
) -> tuple[StudyConfig, str, list[str]]:
    """A study that can run on another machine, its name, and the words of its limits."""
    from vae_study.cluster.jobs import require_portable
    from vae_study.study.budget import Limits
    from vae_study.study.plan import make_plan

    words = Limits(**limits).words
    checked = config_of(config, overrides)
    name = require_study_name(name or checked.study)
    require_portable(checked, home)
    if checked.data.path is None:
        # Bundled data can be checked here; files in object storage are read on the cluster only.
        make_plan(checked, name, HOME)
    return checked, name, words

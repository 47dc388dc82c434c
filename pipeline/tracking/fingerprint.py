"""Whether a study is what it was, from a few facts of MLflow that cost a request each."""

from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline.secrets import redacted
from pipeline.tracking import layout
from pipeline.tracking.models.names import CHAMPION, NAME
from pipeline.tracking.store import require_parent

OURS = "vae_study."
# On the parent run: the sha256 of the report that is attached to it.
REPORT = "vae_study.report_sha256"


def fingerprint(client: MlflowClient, name: str) -> dict[str, Any] | None:
    """What changes whenever a study does that has ended: JSON values; None of a study that runs.

    A driver that goes on with a study, or `sync`, ends its parent run again, at another time. Whom a user promotes is
    in the registry.

    Raises:
        UserError: There is no such study in this tracking store.
    """
    parent = require_parent(client, name)
    tags = {key: value for key, value in parent.data.tags.items() if key.startswith(OURS) and key != REPORT}
    if tags.get(layout.STATE) == "running" or parent.info.end_time is None:
        return None
    return {
        "store": redacted(client.tracking_uri),
        "run": parent.info.run_id,
        "status": parent.info.status,
        "ended_ms": parent.info.end_time,
        "tags": tags,
        "promoted": promoted_model(client, name),
    }


def promoted_model(client: MlflowClient, study: str) -> str | None:
    """The model that is the registry's champion now, such as "trial-0007"; None where there is none."""
    try:
        version = client.get_model_version_by_alias(study, CHAMPION)
    except MlflowException:
        return None
    return str(version.tags.get(NAME, f"version {version.version}"))

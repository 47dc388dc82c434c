"""The finished report on its study's parent run: a file, and a link to it in the run's description."""

import hashlib
from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run

from pipeline.secrets import redacted
from pipeline.tracking import layout
from pipeline.tracking.fingerprint import REPORT
from pipeline.tracking.store import require_parent

FOLDER = "report"
LABEL = "The report"
LONGEST_REASON = 300


def attach_report(client: MlflowClient, name: str, page: Path) -> str:
    """Attach a report to the parent run of its study, unless it is there already.

    Args:
        client: Of the tracking store.
        name: The study's.
        page: The report's one file, `report.html`.

    Returns:
        Why it could not be attached; empty where it could. A report is worth having without that.
    """
    digest = hashlib.sha256(page.read_bytes()).hexdigest()
    try:
        parent = require_parent(client, name)
        if parent.data.tags.get(REPORT) != digest:
            client.log_artifact(parent.info.run_id, str(page), FOLDER)
            client.set_tag(parent.info.run_id, REPORT, digest)
        note = parent.data.tags.get(layout.NOTE, "")
        if f"[{LABEL}](" not in note:
            client.set_tag(parent.info.run_id, layout.NOTE, _linked(note, parent, page.name))
    except Exception as error:
        # An artifact store fails with the errors of its own library.
        return redacted(str(error) or type(error).__name__).strip().partition("\n")[0][:LONGEST_REASON]
    return ""


def _linked(note: str, parent: Run, file: str) -> str:
    """A description with a link to the report at the end of its first line: the UI shows four lines by itself."""
    # They need what chooses and compares, which takes a second to import.
    from pipeline.tracking.description.layouts import LONGEST_NOTE
    from pipeline.tracking.description.links import filled, to_study

    link = filled(to_study(LABEL, f"artifacts/{FOLDER}/{file}"), {}, parent.info.experiment_id, parent.info.run_id)
    first, end, rest = note.partition("\n")
    text = f"{first} {link}{end}{rest}".strip()
    return text if len(text) <= LONGEST_NOTE else note

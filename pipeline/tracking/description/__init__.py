"""What the parent run says of itself in MLflow: Markdown, the verdict first, since only four lines show at once."""

from pipeline.tracking.description.links import filled
from pipeline.tracking.description.plan import plan_note
from pipeline.tracking.description.result import result_note

__all__ = ["filled", "plan_note", "result_note"]

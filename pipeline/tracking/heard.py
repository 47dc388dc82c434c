"""A run as far as MLflow has heard of it, in the records that told it so."""

from collections import defaultdict
from collections.abc import Iterator

from mlflow import MlflowClient
from mlflow.entities import Metric, Run

from pipeline.tracking import layout
from pipeline.tracking.frames import RunFacts
from pipeline.tracking.spool import Record

ENDED = ("FINISHED", "FAILED")
# Tags that a run is started with.
IDENTITY = (layout.KIND, layout.TRIAL, layout.SEED, layout.SAMPLER)


def has_ended(run: Run) -> bool:
    """Whether MLflow has heard all of a run: its status comes last."""
    return run.info.status in ENDED and run.data.tags[layout.STATE] not in ("running", "waiting")


def facts_of(run: Run) -> RunFacts:
    """What MLflow has of a run; one whose last words were cut off has not ended."""
    facts = RunFacts.of(run)
    if run.info.status not in ENDED and facts.tags[layout.STATE] != "waiting":
        facts.tags[layout.STATE] = "running"
    return facts


def records_of(client: MlflowClient, key: str, run: Run) -> list[Record]:
    """A run that has not ended, with the times that MLflow has, so that to say it again changes nothing there.

    It takes a request for each metric.
    """
    tags = {tag: run.data.tags[tag] for tag in IDENTITY if tag in run.data.tags}
    about = {"name": run.info.run_name, "parameters": dict(run.data.params), "tags": tags}
    start: Record = {"op": "start", "run": key, "time_ms": run.info.start_time, **about}
    epochs = [[epoch, stamp, metrics] for epoch, stamp, metrics in _epochs(client, run)]
    told = [{"op": "epochs", "run": key, "time_ms": epochs[-1][1], "epochs": epochs}] if epochs else []
    return [start, *told]


def _epochs(client: MlflowClient, run: Run) -> Iterator[tuple[int, int, dict[str, float]]]:
    points: defaultdict[int, list[Metric]] = defaultdict(list)
    for name in run.data.metrics:
        for point in client.get_metric_history(run.info.run_id, name):
            points[point.step].append(point)
    for epoch in sorted(points.keys() - {0}):
        # Behind the last epoch there may be what was measured at the end, which is later.
        stamp = min(point.timestamp for point in points[epoch])
        yield epoch, stamp, {point.key: point.value for point in points[epoch] if point.timestamp == stamp}

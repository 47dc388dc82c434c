"""A study as its driver tells it, what its records have to become in MLflow, and what is found there."""

import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run
from vae_study.tracking import schema
from vae_study.tracking.events import PARENT, Event, TextLogged, parsed
from vae_study.tracking.record import EpochRecord
from vae_study.tracking.store import open_experiment
from vae_study.tracking.writer import TrackingWriter

Step = Callable[[TrackingWriter], None]
METRICS = ("train/loss", "val/kl", "val/reconstruction")
FIRST_MS = 1_700_000_000_000
ODD = {1: float("nan"), 2: float("inf"), 3: -float("inf"), 4: 1e-320}


def new_parent(client: MlflowClient, study: str) -> Run:
    """The parent run of a study that has just begun."""
    tags = {schema.KIND: "study", schema.STUDY: study, schema.STATE: "running"}
    return client.create_run(open_experiment(client, study), tags=tags, run_name=study)


def silent(client: MlflowClient, parent: Run, folder: Path) -> TrackingWriter:
    """A writer whose records stay in the journal."""
    writer = TrackingWriter(client, parent, {}, folder)
    writer.close()
    return writer


def epochs(number: int, first: int, last: int) -> list[EpochRecord]:
    """Some epochs of a trial, with values that tell which they are."""
    return [
        EpochRecord(
            epoch=epoch,
            timestamp_ms=FIRST_MS + 1000 * epoch + number,
            metrics={name: ODD.get(number, 1) * epoch / (place + 3) + number for place, name in enumerate(METRICS)},
        )
        for epoch in range(first, last + 1)
    ]


def start(number: int) -> Step:
    key, tags = schema.trial_name(number), {schema.KIND: "trial", schema.TRIAL: str(number)}
    parameters = {"beta": number / 3, "network.hidden": (32, number)}
    return lambda writer: writer.start(key, f"t{number:03d} z={number}", parameters, tags)


def log(number: int, first: int, last: int) -> Step:
    return lambda writer: writer.log_epochs(schema.trial_name(number), epochs(number, first, last))


def end(number: int, state: str = "finished", error: str | None = None) -> Step:
    metrics = {"test/auroc": number / 7} if state == "finished" else {}
    return lambda writer: writer.end(schema.trial_name(number), number, metrics, {schema.STATE: state}, error)


def tag(key: str, **tags: str) -> Step:
    return lambda writer: writer.tag(key, {f"vae_study.{name}": value for name, value in tags.items()})


def pause(number: int) -> Step:
    return lambda writer: writer.pause(schema.trial_name(number))


def whole_trial(number: int, count: int = 4) -> list[Step]:
    """A trial without any trouble."""
    return [start(number), *(log(number, epoch, epoch) for epoch in range(1, count + 1)), end(number)]


#: A study with all that can happen to its trials, by trial and last the parent's own, each in its order.
STORY: list[list[Step]] = [
    [start(0), log(0, 1, 2), tag("trial-0000", preemptions="1"), log(0, 3, 5), end(0), tag("trial-0000", more="ü")],
    [start(1), log(1, 1, 1), end(1, "failed", "Traceback\nValueError: \u2028 no")],
    [start(2), log(2, 1, 2), pause(2), start(2), log(2, 3, 3), end(2, "pruned")],
    [start(3), log(3, 1, 1), log(3, 2, 3)],
    [
        lambda writer: writer.log(TextLogged(text="{}", name="config.json")),
        lambda writer: writer.log_frame(pd.DataFrame({"trial": [0, 1]}), "trials.parquet"),
        lambda writer: writer.log(TextLogged(text='{"a": 1}', name="config.json")),
        lambda writer: writer.close_parent({schema.STATE: "finished"}, "FINISHED"),
    ],
]


def records_of(writer: TrackingWriter) -> list[Event]:
    return [parsed(plain) for _, plain in writer.journal.read()]


def expected(events: Iterable[Event]) -> dict[str, dict[str, Any]]:
    """What is to be in MLflow after these records, by run: the plainest reading of them."""
    runs: dict[str, dict[str, Any]] = {}
    histories: dict[str, dict[int, Any]] = {}
    for record in (event.plain() for event in events):
        key, kind = record["run"], record["op"]
        run = runs.setdefault(key, {"tags": {}, "points": {}, "files": {}, "params": {}})
        if kind == "start":
            run |= {"name": record["name"], "status": "RUNNING", "params": record["parameters"]}
            run["tags"] |= {**record["tags"], schema.STATE: "running"}
        elif kind == "epochs":
            for epoch, stamp, metrics in record["epochs"]:
                histories.setdefault(key, {})[epoch] = metrics
                run["points"] |= {(name, epoch): (stamp, _stored(value)) for name, value in metrics.items()}
        elif kind == "end":
            history = histories.get(key, {})
            final = {name: _stored(value) for name, value in record["metrics"].items()}
            run["points"] |= {(name, 0): (record["time_ms"], value) for name, value in final.items()}
            rows = [{"trial": record["number"], "epoch": epoch, **metrics} for epoch, metrics in history.items()]
            run["files"]["history.parquet"] = _rows(rows)
            if record["error"]:
                run["files"]["error.txt"] = record["error"]
            run["tags"] |= record["tags"]
            run["status"] = "FAILED" if record["tags"][schema.STATE] == "failed" else "FINISHED"
            run["ended"] = record["time_ms"]
        elif kind == "tags":
            run["tags"] |= record["tags"]
        elif kind == "status":
            run["status"] = record["status"]
        elif kind == "text":
            run["files"][record["name"]] = record["text"]
        else:
            run["files"] |= {Path(file).name: _content(Path(file)) for file in record["files"] if Path(file).exists()}
    return runs


def _stored(value: float) -> str:
    """MLflow has no infinity."""
    largest = sys.float_info.max
    return repr(float(min(max(value, -largest), largest)) if value == value else value)


def _rows(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, str]]:
    return [{str(name): repr(float(value)) for name, value in row.items()} for row in rows]


def _content(path: Path) -> Any:
    if path.suffix == ".parquet":
        return _rows(pd.read_parquet(path).to_dict("records"))
    return path.read_text(encoding="utf-8")


def found(client: MlflowClient, parent: Run) -> dict[str, dict[str, Any]]:
    """What is in MLflow, by run, in the words of `expected`; it fails where a run or a point is there twice."""
    query = f"tags.`{schema.PARENT}` = '{parent.info.run_id}'"
    children = client.search_runs([parent.info.experiment_id], query)
    uids = [run.data.tags[schema.UID] for run in children]
    assert len(set(uids)) == len(uids), "the same run is there twice"
    keys = {run.data.tags[schema.UID].partition("/")[2]: run for run in children}
    return {key: _found(client, run) for key, run in {**keys, PARENT: client.get_run(parent.info.run_id)}.items()}


def _found(client: MlflowClient, run: Run) -> dict[str, Any]:
    state: dict[str, Any] = {"status": run.info.status, "params": run.data.params, "name": run.info.run_name}
    state["tags"] = run.data.tags
    state["ended"] = run.info.end_time
    state["points"] = {}
    for name in run.data.metrics:
        for point in client.get_metric_history(run.info.run_id, name):
            assert (name, point.step) not in state["points"], "the same point is there twice"
            value = np.nan if np.isnan(point.value) else point.value
            state["points"][name, point.step] = (point.timestamp, repr(float(value)))
    with tempfile.TemporaryDirectory() as scratch:
        names = [file.path for file in client.list_artifacts(run.info.run_id)]
        paths = {name: client.download_artifacts(run.info.run_id, name, scratch) for name in names}
        state["files"] = {name: _content(Path(path)) for name, path in paths.items()}
    return state


def check(client: MlflowClient, parent: Run, records: Iterable[Event]) -> None:
    """All that the records say is in MLflow, once, and nothing else."""
    wanted, there = expected(records), found(client, parent)
    assert there.keys() == {*wanted, PARENT}
    for key, run in wanted.items():
        tags = {name: value for name, value in there[key]["tags"].items() if name in run["tags"]}
        assert {**there[key], "tags": tags} | {"ended": None} == there[key] | run | {"ended": None}
        assert there[key]["points"] == run["points"]
        assert there[key]["files"] == run["files"]
        if "ended" in run:
            assert there[key]["ended"] == run["ended"]

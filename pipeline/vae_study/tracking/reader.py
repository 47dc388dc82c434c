"""Studies read from MLflow as plain frames and arrays; and single runs, for a driver that resumes a study."""

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vae_study.errors import UserError, redacted
from vae_study.tracking import schema
from vae_study.tracking.events import EpochsLogged, Event, RunStarted
from vae_study.tracking.record import (
    ChampionRecord,
    EpochRecord,
    RunRecord,
    StudyRecord,
    confirmations_frame,
    joined,
    trials_frame,
)
from vae_study.tracking.sources import ClientSource, RunSource, children, require_parent

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

# MLflow's statuses of runs that have ended, and the tags that a run is started with.
ENDED = ("FINISHED", "FAILED")
STARTED_WITH = (schema.KIND, schema.TRIAL, schema.SEED, schema.SAMPLER, schema.DEVICE)


def read_study(source: RunSource, name: str) -> StudyRecord:
    """A study by its name, finished or still running.

    Raises:
        UserError: There is no such study in this tracking store.
    """
    parent = require_parent(source, name)
    with tempfile.TemporaryDirectory() as scratch:
        files = _Artifacts(source, Path(scratch))
        trials, history = _frames(source, parent, files)
        confirmations = confirmations_frame(children(source, parent, "confirmation"))
        if len(confirmations):
            trials, confirmations = _with_udr(parent, files, trials, confirmations)
        config = files.json(parent, schema.CONFIG_FILE)
        return StudyRecord(
            name=name,
            config=config,
            data=_data(parent, files),
            environment=files.json(parent, schema.ENVIRONMENT_FILE),
            trials=trials,
            history=history,
            reference=files.json(parent, schema.REFERENCE_FILE),
            champion=_champion(parent, trials, files, has_series=bool(config["data"].get("sequence"))),
            tracking_uri=redacted(source.uri),
            experiment_id=str(parent.experiment_id),
            run_id=str(parent.run_id),
            confirmations=confirmations,
            promoted=source.promoted(parent),
            stopped=parent.tags.get(schema.STOPPED, "") if parent.tags[schema.STATE] == "finished" else "",
            **_comparison(parent, files),
        )


class _Artifacts:
    """A run's files, each downloaded when it is first needed."""

    def __init__(self, source: RunSource, scratch: Path):
        self.source, self.scratch = source, scratch

    def path(self, run: RunRecord, name: str) -> Path:
        folder = self.scratch / str(run.run_id)
        folder.mkdir(exist_ok=True)
        return self.source.file(str(run.run_id), name, folder)

    def json(self, parent: RunRecord, name: str) -> Any:
        try:
            return json.loads(self.path(parent, name).read_text(encoding="utf-8"))
        except OSError as error:
            study = parent.tags[schema.STUDY]
            raise UserError(f"the study {study!r} has no readable {name} in MLflow: {error}") from None


def _frames(source: RunSource, parent: RunRecord, files: _Artifacts) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Trials and history: from the parent's files if the study has ended, else from the runs of its trials."""
    if parent.tags.get(schema.STATE) != "running":
        paths = [files.path(parent, name) for name in (schema.TRIALS_FILE, schema.HISTORY_FILE)]
        return pd.read_parquet(paths[0]), pd.read_parquet(paths[1])
    trials = children(source, parent)
    return trials_frame(trials), joined([*_histories(files, {str(run.run_id): run for run in trials}).values()])


def _with_udr(
    parent: RunRecord, files: _Artifacts, trials: pd.DataFrame, seeds: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Trials and further seeds with how far each agrees with the others of its trial, once the study has ended."""
    try:
        found = pd.read_parquet(files.path(parent, schema.UDR_FILE))
    except OSError:
        return trials, seeds
    own = found[found["seed"].eq(0)].drop(columns="seed")
    return trials.merge(own, on="trial", how="left"), seeds.merge(found, on=["trial", "seed"], how="left")


def _histories(files: _Artifacts, runs: Mapping[str, RunRecord]) -> dict[str, pd.DataFrame]:
    ended = {key: run for key, run in runs.items() if run.tags[schema.STATE] in schema.ENDED}
    return {key: pd.read_parquet(files.path(run, schema.HISTORY_FILE)) for key, run in ended.items()}


def downloaded_histories(client: "MlflowClient", runs: Mapping[str, "Run"]) -> dict[str, pd.DataFrame]:
    """The histories of those runs that have ended, by their keys: one row per epoch."""
    from vae_study.tracking.store import run_record

    with tempfile.TemporaryDirectory() as scratch:
        files = _Artifacts(ClientSource(client), Path(scratch))
        return _histories(files, {key: run_record(run) for key, run in runs.items()})


def _data(parent: RunRecord, files: _Artifacts) -> dict[str, Any]:
    """The data summary, with the preprocessing."""
    summary: dict[str, Any] = files.json(parent, schema.DATA_FILE)
    if "columns" in summary:
        summary["preprocessing"] = files.json(parent, schema.PREPROCESSING_FILE)
    return summary


def _comparison(parent: RunRecord, files: _Artifacts) -> dict[str, pd.DataFrame]:
    """The detectors and their scores, of a study that has a champion."""
    if schema.CHAMPION_SCORE not in parent.tags:
        return {}
    names = {"choices": schema.CHOICES_FILE, "detectors": schema.DETECTORS_FILE}
    return {field: pd.read_parquet(files.path(parent, name)) for field, name in names.items()}


def _champion(parent: RunRecord, trials: pd.DataFrame, files: _Artifacts, has_series: bool) -> ChampionRecord | None:
    number = parent.tags.get(schema.CHAMPION)
    if number is None:
        return None
    run = RunRecord(run_id=str(trials.set_index("trial").loc[int(number), "run_id"]))
    with np.load(files.path(run, schema.EXAMPLES_FILE), allow_pickle=False) as arrays:
        return ChampionRecord.from_arrays(
            arrays,
            trial=int(number),
            rule=parent.tags[schema.CHAMPION_RULE],
            score=parent.tags.get(schema.CHAMPION_SCORE),
            scores=pd.read_parquet(files.path(run, schema.SCORES_FILE)),
            series=_series(run, files) if has_series else pd.DataFrame(),
        )


def trial_scores(source: RunSource, record: StudyRecord, numbers: Sequence[int]) -> dict[int, pd.DataFrame]:
    """The scores of some finished trials, by number: one row per validation or test row, as in `detectors`."""
    runs = record.trials.set_index("trial")["run_id"]
    with tempfile.TemporaryDirectory() as scratch:
        files = _Artifacts(source, Path(scratch))
        return {n: pd.read_parquet(files.path(RunRecord(run_id=str(runs[n])), schema.SCORES_FILE)) for n in numbers}


def _series(run: RunRecord, files: _Artifacts) -> pd.DataFrame:
    """What a champion makes of test's series; no rows before it was packed."""
    try:
        return pd.read_parquet(files.path(run, schema.SERIES_FILE))
    except OSError:
        return pd.DataFrame()


def has_ended(run: "Run") -> bool:
    """Whether MLflow has all events of a run: its status is set last."""
    return run.info.status in ENDED and run.data.tags[schema.STATE] not in ("running", "waiting")


def remote_state(run: "Run") -> RunRecord:
    """What MLflow has of a run; one without its last status has not ended."""
    from vae_study.tracking.store import run_record

    found = run_record(run)
    if run.info.status not in ENDED and found.tags[schema.STATE] != "waiting":
        found.tags[schema.STATE] = "running"
    return found


def events_of_open_run(client: "MlflowClient", key: str, run: "Run") -> list[Event]:
    """The events of a run that has not ended, with the times that MLflow has, so that a replay changes nothing there.

    This takes one request per metric.
    """
    start = RunStarted(
        run=key,
        time_ms=run.info.start_time,
        name=run.info.run_name,
        parameters=dict(run.data.params),
        tags={tag: run.data.tags[tag] for tag in STARTED_WITH if tag in run.data.tags},
    )
    epochs = list(_epochs(client, run))
    return [start, EpochsLogged(run=key, time_ms=epochs[-1].timestamp_ms, epochs=epochs)] if epochs else [start]


def _epochs(client: "MlflowClient", run: "Run") -> Iterator[EpochRecord]:
    points: defaultdict[int, list[Metric]] = defaultdict(list)
    for name in run.data.metrics:
        for point in client.get_metric_history(run.info.run_id, name):
            points[point.step].append(point)
    for epoch in sorted(points.keys() - {0}):
        # What was measured at the end may have the last epoch's step, with a later time.
        stamp = min(point.timestamp for point in points[epoch])
        metrics = {point.key: point.value for point in points[epoch] if point.timestamp == stamp}
        yield EpochRecord(epoch=epoch, timestamp_ms=stamp, metrics=metrics)

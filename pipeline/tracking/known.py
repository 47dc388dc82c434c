"""The runs beneath a parent as the study has told them, whether they have reached MLflow or not."""

from collections.abc import Iterable, Mapping

import pandas as pd

from pipeline.tracking import layout
from pipeline.tracking.frames import RunFacts, history_frame, joined
from pipeline.tracking.spool import Record


class KnownRuns:
    """The state of every run after each record; what happened before the spool began comes from MLflow."""

    def __init__(self, runs: Mapping[str, RunFacts]):
        """Begin with the runs that MLflow has, by their keys."""
        self._runs = dict(runs)

    def apply(self, record: Record) -> None:
        """What a record changes."""
        operation, run = record["op"], self._runs.setdefault(record["run"], RunFacts())
        if operation == "start":
            run.params |= record["parameters"]
            run.tags |= {**record["tags"], layout.STATE: "running"}
        elif operation == "epochs":
            for _, _, metrics in record["epochs"]:
                run.metrics |= metrics
        elif operation == "end":
            run.metrics |= record["metrics"]
            run.tags |= record["tags"]
        elif operation in ("tags", "study"):
            run.tags |= record["tags"]

    def state(self, key: str) -> str | None:
        """What a run was last said to be: running, waiting, finished and so on."""
        run = self._runs.get(key)
        return run.tags.get(layout.STATE) if run else None

    def tags(self, key: str) -> dict[str, str]:
        """A run's tags."""
        return self._runs[key].tags

    def metrics(self, key: str) -> dict[str, float]:
        """A run's metrics at their last value."""
        run = self._runs.get(key)
        return run.metrics if run else {}

    def of_kind(self, kind: str) -> dict[str, RunFacts]:
        """The runs that are trials, or confirmations, by their keys; in the order of their numbers and seeds."""
        chosen = [(key, run) for key, run in self._runs.items() if run.tags.get(layout.KIND) == kind]
        return dict(sorted(chosen, key=lambda pair: pair[1].order))


def histories(records: Iterable[Record]) -> dict[str, pd.DataFrame]:
    """The histories of the runs that have ended, by their keys."""
    ended: dict[str, pd.DataFrame] = {}
    under_way: dict[str, dict[int, Mapping[str, float]]] = {}
    for record in records:
        key, operation = record["run"], record["op"]
        if operation == "start":
            ended.pop(key, None)
        elif operation == "epochs":
            under_way.setdefault(key, {}).update({epoch: metrics for epoch, _, metrics in record["epochs"]})
        elif operation == "end":
            ended[key] = history_frame(record["number"], under_way.pop(key, {}))
    return ended


def history_of(trials: Iterable[str], *found: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The histories of some trials in their order, each from the last place that has it."""
    every = {key: frame for place in found for key, frame in place.items()}
    return joined([every[key] for key in trials if key in every])

"""A study in a process of its own, to be killed, and what must hold of it afterwards."""

import json
import signal
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path

import optuna
import pandas as pd
import psutil
from mlflow import MlflowClient
from vae_study.api import load_study
from vae_study.search.study_store import STATE_NAMES
from vae_study.tracking import schema
from vae_study.tracking.store import find_children, require_parent

from tests.command import Command
from tests.waiting import command_line

CONFIG = Path(__file__).parents[2] / "search_spaces" / "digits.yaml"
TRIALS = 10
# About a second of training a trial; some are stopped early. What is not told otherwise are ten of them.
SMALL = [
    f"trials={TRIALS}",
    "training.epochs=36",
    "model.network.hidden=[32, 16]",
    "early_stopping={kind: pareto, min_epochs: 4}",
    "checkpoints.every_seconds=0.2",
    "diagnostics.iwae_draws=0",
    "confirm=null",
]
# Each stage costs a driver new workers.
CONFIRMED = "confirm={top: 1, seeds: 1}"
# On a slow disk, a short trial may end before its first checkpoint is due.
EVERY_EPOCH = "checkpoints.every_seconds=0"


class Driver(Command):
    """`vae-study run` or `resume` as a process of its own."""

    def __init__(
        self,
        home: Path,
        *words: str,
        more: Sequence[str] = (),
        ray: str | None = None,
        settings: Sequence[str] = (),
        change: Callable[[], None] | None = None,
    ):
        """Start it.

        Args:
            home: Made where it is not there.
            words: The command; by default `run`.
            more: Further words of it.
            ray: The address of a Ray of this process's to join; by default it starts its own.
            settings: What a `run` sets beside SMALL.
            change: As of any command.
        """
        # Not in HOME, whose disk may be full.
        self.home, self.output = home, home.with_name(f"{home.name}.txt")
        home.mkdir(parents=True, exist_ok=True)
        command = [*(words or ("run", str(CONFIG)))]
        for setting in () if words else (*SMALL, *settings):
            command += ["--set", setting]
        command += [*more, "--home", str(home), "--no-report", *(["--ray-address", ray] if ray else [])]
        super().__init__(command, home, self.output, change)
        self.tree = psutil.Process(self.pid)
        # A Ray of one's own is beneath one, with the workers.
        self._above_workers = psutil.Process() if ray else self.tree

    def kill(self) -> None:
        """No grace: neither handlers nor clean-up run."""
        self.send_signal(signal.SIGKILL)
        self.wait()

    def workers(self) -> list[psutil.Process]:
        """The worker processes that are in a trial."""
        found = self._above_workers.children(recursive=True)
        found = [child for child in found if command_line(child).startswith("ray::")]
        return [child for child in found if "VaeWorker" in command_line(child) or "Trainable" in command_line(child)]

    def text(self) -> str:
        """What it has printed so far."""
        return self.output.read_text(errors="replace")


def ended(home: Path, states: Sequence[str] = ("COMPLETE", "PRUNED", "FAIL")) -> int:
    """How many trials have ended so; read so that the study's own driver notices nothing."""
    path = home / "digits" / "study.db"
    query = f"SELECT COUNT(*) FROM trials WHERE state IN ({', '.join(map(repr, states))})"
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            return int(database.execute(query).fetchone()[0])
    except sqlite3.OperationalError:
        return 0


def newest_checkpoint(home: Path) -> Path | None:
    """The running trial's newest checkpoint."""
    found = sorted((home / "digits" / "checkpoints").glob("trial-*/epoch-*.safetensors"))
    return found[-1] if found else None


def under_way(home: Path) -> set[str]:
    """The trials that have told of epochs."""
    with suppress(FileNotFoundError):
        lines = (home / "digits" / "journal.jsonl").read_text().splitlines()
        # The last line may be half written.
        return {json.loads(line)["run"] for line in lines[:-1] if line.startswith('{"op": "epochs"')}
    return set()


def study_of(home: Path) -> optuna.Study:
    """The study store of a study that no driver is about to make."""
    return optuna.load_study(study_name="digits", storage=f"sqlite:///{home / 'digits' / 'study.db'}")


def check_invariants(home: Path, trials: int) -> None:
    """Exactly the budget of trials, each once in Optuna and once in MLflow, with one state and one whole history."""
    stored = study_of(home).get_trials()
    assert [trial.number for trial in stored] == list(range(trials))
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    parent = require_parent(client, "digits")
    children = find_children(client, parent)
    assert [int(run.data.tags[schema.TRIAL]) for run in children] == list(range(trials))
    assert parent.info.status == "FINISHED"
    for trial, run in zip(stored, children, strict=True):
        state = STATE_NAMES[trial.state]
        assert run.data.tags[schema.STATE] == state
        assert run.info.status == ("FAILED" if state == "failed" else "FINISHED")
        assert run.data.params.keys() == trial.params.keys()
    _check_histories(client, home, children)


def _check_histories(client: MlflowClient, home: Path, children: list) -> None:
    """Every epoch once: in the files, and point for point in MLflow's database."""
    record = load_study("digits", home=home)
    epochs = record.history.groupby("trial")["epoch"].apply(list)
    for run in children:
        number = int(run.data.tags[schema.TRIAL])
        if number not in epochs:
            assert run.data.tags[schema.STATE] == "failed"
            continue
        assert epochs[number] == list(range(1, len(epochs[number]) + 1))
        for name in ("val/reconstruction", "val/auroc"):
            points = Counter(point.step for point in client.get_metric_history(run.info.run_id, name))
            assert points == Counter(epochs[number])
        if run.data.tags[schema.STATE] == "finished":
            assert len(epochs[number]) == record.config["training"]["epochs"]


def check_equal(home: Path, undisturbed: Path) -> None:
    """The same configurations, states and metrics to the last bit; clocks and identities may differ.

    A study of fewer trials than the undisturbed one equals its beginning: no trial knows how many are to come.
    """
    one, other = (load_study("digits", home=place) for place in (home, undisturbed))
    count = len(one.trials)
    for frames in ((one.trials, other.trials), (one.history, other.history)):
        pd.testing.assert_frame_equal(*(beginning(frame, count) for frame in frames), check_exact=True, check_like=True)
    if count == len(other.trials):
        assert one.champion.trial == other.champion.trial


def beginning(frame: pd.DataFrame, count: int) -> pd.DataFrame:
    """What is told of the first trials, without clocks, identities, further seeds, and branches that none took."""
    others = ["run_id", "time/epoch_seconds", "preemptions", schema.UDR]
    kept = frame[frame["trial"] < count].drop(columns=others, errors="ignore")
    return kept.dropna(axis="columns", how="all").convert_dtypes()

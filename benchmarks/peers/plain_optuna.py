"""Optuna by itself: two processes on one journal file, metrics to MLflow after every epoch."""

import json
import subprocess
import sys
from pathlib import Path

import mlflow
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import MaxTrialsCallback
from optuna.trial import TrialState

from benchmarks.peers.tutorial import train

OBJECTIVES = ("val_reconstruction", "val_kl")


def study_of(folder: str) -> optuna.Study:
    """The study that both processes share."""
    storage = JournalStorage(JournalFileBackend(f"{folder}/journal.log"))
    return optuna.create_study(study_name="study", storage=storage, directions=["minimize"] * 2, load_if_exists=True)


def work(data: str, epochs: int, folder: str, trials: int) -> None:
    """One process: trials until there are enough."""
    mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
    mlflow.set_experiment("study")

    def objective(trial: optuna.Trial) -> tuple[float, ...]:
        beta = trial.suggest_float("beta", 0.05, 20, log=True)
        latent_dim = trial.suggest_int("latent_dim", 2, 32, log=True)
        with mlflow.start_run(run_name=f"trial {trial.number}"):
            mlflow.log_params(trial.params)
            found = train(
                Path(data), beta, latent_dim, epochs, 0,
                lambda epoch, metrics: mlflow.log_metrics(metrics, step=epoch),
            )  # fmt: skip
            mlflow.log_metrics(found, step=epochs)
        return tuple(found[name] for name in OBJECTIVES)

    done = MaxTrialsCallback(trials, states=(TrialState.COMPLETE, TrialState.RUNNING))
    study_of(folder).optimize(objective, callbacks=[done])


def main() -> None:
    """Arguments: data.npz, configurations.json, epochs, folder; `work` in front makes a worker."""
    words = sys.argv[1:]
    if words[0] == "work":
        work(words[1], int(words[3]), words[4], len(json.loads(Path(words[2]).read_text())))
        return
    study = study_of(words[3])
    for configuration in json.loads(Path(words[1]).read_text()):
        study.enqueue_trial(configuration)
    mlflow.set_tracking_uri(f"sqlite:///{words[3]}/mlflow.db")
    mlflow.set_experiment("study")
    command = [sys.executable, "-m", "benchmarks.peers.plain_optuna", "work", *words]
    for process in [subprocess.Popen(command) for _ in range(2)]:
        process.wait()


if __name__ == "__main__":
    main()

"""The script most people write: a Ray Tune function trainable, OptunaSearch and the MLflow logger."""

import json
import sys
from pathlib import Path

import mlflow
import optuna
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.search.optuna import OptunaSearch

from benchmarks.peers.tutorial import train


def main() -> None:
    """Arguments: data.npz, configurations.json, epochs, folder."""
    data, configurations, epochs, folder = sys.argv[1], json.loads(Path(sys.argv[2]).read_text()), *sys.argv[3:]

    def trainable(config: dict[str, float]) -> None:
        last: dict[str, float] = {}
        found = train(
            Path(data), config["beta"], int(config["latent_dim"]), int(epochs), 0,
            lambda epoch, metrics: (last.update(metrics), tune.report(metrics))[1],
        )  # fmt: skip
        tune.report({**last, **found})

    uri = f"sqlite:///{folder}/mlflow.db"
    mlflow.set_tracking_uri(uri)
    search = OptunaSearch(
        space={
            "beta": optuna.distributions.FloatDistribution(0.05, 20, log=True),
            "latent_dim": optuna.distributions.IntDistribution(2, 32, log=True),
        },
        metric=["val_reconstruction", "val_kl"],
        mode=["min", "min"],
        points_to_evaluate=configurations,
    )
    tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        tune_config=tune.TuneConfig(search_alg=search, num_samples=len(configurations)),
        run_config=tune.RunConfig(
            name="study",
            storage_path=folder,
            verbose=0,
            callbacks=[MLflowLoggerCallback(tracking_uri=uri, experiment_name="study")],
        ),
    ).fit()


if __name__ == "__main__":
    main()

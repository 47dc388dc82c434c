"""Configurations for tests, by the short names that a config uses."""

from dataclasses import replace
from typing import Any

from safetensors.torch import load, save
from vae_study.config.data import DataConfig
from vae_study.config.model import TrialConfig
from vae_study.config.search_space import with_values
from vae_study.data import prepare
from vae_study.vae.stacking import ModelSetup

SMALL = {"network.hidden": (32, 16), "likelihood": "bernoulli", "training.epochs": 3, "latent_dim": 4}


def trial_config(values: dict[str, Any]) -> TrialConfig:
    return TrialConfig.model_validate(with_values({}, {**SMALL, **values}))


def model_setup(seed: int = 0, **values: Any) -> ModelSetup:
    """A model whose parameters are named with `__` for a dot."""
    return ModelSetup(
        config=trial_config({name.replace("__", "."): value for name, value in values.items()}), seed=seed
    )


def digits_data():
    """Images, whose rows are also taken as the steps of a sequence."""
    return replace(prepare(DataConfig(source="digits", anomaly_labels=(8,))), sequence_shape=(8, 8))


def first(split, rows):
    parts = {name: getattr(split, name)[:rows] for name in ("x_ND", "is_anomaly_N", "row_N", "label_code_N")}
    return replace(split, **parts)


def train(model_batch, epochs):
    """The metrics of some epochs, but for the time they took."""
    histories = [model_batch.train_epoch() for _ in range(epochs)]
    return [
        [{name: v for name, v in one.items() if not name.startswith("time/")} for one in each] for each in histories
    ]


def stored(state):
    """The same, from the bytes that a disk would keep."""
    return load(save(state))


def same(first, second):
    """Bit for bit, which == is not: it takes -0 for 0 and no NaN for itself."""
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and first[name].numpy().tobytes() == second[name].numpy().tobytes()
        for name in first
    )

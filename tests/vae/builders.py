"""Configurations for tests, by the short names that a spec uses."""

from dataclasses import replace
from typing import Any

from safetensors.torch import load, save

from pipeline.spec.searching import with_values
from pipeline.spec.trial import TrialSpec
from pipeline.vae.population import Member

SMALL = {"network.hidden": (32, 16), "likelihood": "bernoulli", "training.epochs": 3, "latent_dim": 4}


def trial_spec(values: dict[str, Any]) -> TrialSpec:
    return TrialSpec.model_validate(with_values({}, {**SMALL, **values}))


def member(seed: int = 0, **values: Any) -> Member:
    """A member whose parameters are named with `__` for a dot."""
    return Member(spec=trial_spec({name.replace("__", "."): value for name, value in values.items()}), seed=seed)


def first(split, rows):
    parts = {name: getattr(split, name)[:rows] for name in ("x_ND", "is_anomaly_N", "row_N", "label_code_N")}
    return replace(split, **parts)


def train(population, epochs):
    """The metrics of some epochs, but for the time they took."""
    histories = [population.train_epoch() for _ in range(epochs)]
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

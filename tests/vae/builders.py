"""Configurations for tests, by the short names that a spec uses."""

from typing import Any

from pipeline.spec.searching import with_values
from pipeline.spec.trial import TrialSpec
from pipeline.vae.population import Member

SMALL = {"network.hidden": (32, 16), "likelihood": "bernoulli", "training.epochs": 3, "latent_dim": 4}


def trial_spec(values: dict[str, Any]) -> TrialSpec:
    return TrialSpec.model_validate(with_values({}, {**SMALL, **values}))


def member(seed: int = 0, **values: Any) -> Member:
    """A member whose parameters are named with `__` for a dot."""
    return Member(spec=trial_spec({name.replace("__", "."): value for name, value in values.items()}), seed=seed)

"""Optuna's samplers, as this project sets them up. All of them read constraints from the trials themselves."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from optuna import samplers
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseGASampler, BaseSampler

SAMPLERS: Mapping[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: samplers.TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True),
    "nsga2": lambda seed: samplers.NSGAIISampler(seed=seed),
    "nsga3": lambda seed: samplers.NSGAIIISampler(seed=seed),
    # A branch's parameters are drawn at random, as its model needs values of all trials: no warning for each of them.
    "gp": lambda seed: samplers.GPSampler(seed=seed, warn_independent_sampling=False),
    "random": lambda seed: samplers.RandomSampler(seed=seed),
}


def make_sampler(kind: str, seed: int) -> BaseSampler:
    """A sampler by the name that a spec gives it."""
    # For good, as a passing filter would not be safe among threads.
    warnings.filterwarnings("ignore", category=ExperimentalWarning)
    return SAMPLERS[kind](seed)


def first_generation(kind: str) -> dict[str, Any]:
    """The system attributes by which a genetic sampler knows a trial as one of its first generation.

    Without them it would never look at a trial that it has not proposed itself.
    """
    sampler = make_sampler(kind, 0)
    return {sampler._get_generation_key(): 0} if isinstance(sampler, BaseGASampler) else {}

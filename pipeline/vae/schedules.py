"""KL annealing and learning rates: what they are at each step, as functions of the fraction of the budget spent."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.spec.trial import KlAnnealing, TrialSpec

Floats = NDArray[np.float64]
# How steep the sigmoid is: before it is rescaled it goes from sigmoid(-STEEPNESS) to sigmoid(STEEPNESS).
STEEPNESS = 6.0


def _none(time_T: Floats, annealing: KlAnnealing) -> Floats:
    return np.ones_like(time_T)


def _linear(time_T: Floats, annealing: KlAnnealing) -> Floats:
    return np.minimum(1.0, time_T / annealing.warmup)


def _cosine(time_T: Floats, annealing: KlAnnealing) -> Floats:
    return np.asarray(0.5 * (1 - np.cos(np.pi * np.minimum(1.0, time_T / annealing.warmup))))


def _sigmoid(time_T: Floats, annealing: KlAnnealing) -> Floats:
    position_T = np.minimum(1.0, time_T / annealing.warmup)

    def raw(position: Floats | float) -> Floats:
        return np.asarray(1 / (1 + np.exp(-STEEPNESS * (2 * np.asarray(position) - 1))))

    return np.asarray((raw(position_T) - raw(0.0)) / (raw(1.0) - raw(0.0)))


def _cyclical(time_T: Floats, annealing: KlAnnealing) -> Floats:
    """Fu et al. 2019, equations 6 and 7."""
    position_T = (time_T * annealing.cycles) % 1.0
    return np.minimum(1.0, position_T / annealing.ramp)


SCHEDULES: Mapping[str, Callable[[Floats, KlAnnealing], Floats]] = {
    "none": _none,
    "linear": _linear,
    "cosine": _cosine,
    "sigmoid": _sigmoid,
    "cyclical": _cyclical,
}


def learning_rate_factors(kind: str, steps: int) -> Floats:
    """What a member's learning rate is multiplied by at each step of its budget, shape (T,)."""
    time_T = np.arange(steps) / steps
    return np.ones(steps) if kind == "constant" else np.asarray(0.5 * (1 + np.cos(np.pi * time_T)))


def kl_weights(annealing: KlAnnealing, steps: int) -> Floats:
    """The KL weight of each optimizer step of a budget.

    Args:
        annealing: The schedule; its times are fractions of the budget.
        steps: Optimizer steps of the whole budget, T. Step t is at time t / T.

    Returns:
        Weights from 0 to 1, shape (T,).
    """
    return SCHEDULES[annealing.schedule](np.arange(steps) / steps, annealing)


class Schedule(NamedTuple):
    """What changes from step to step over one member's budget, each of shape (T,).

    Attributes:
        kl_weight_T: The KL weights.
        rate_T: The learning rates.
    """

    kl_weight_T: Floats
    rate_T: Floats

    def cut(self, start: int, steps: int) -> Floats:
        """KL weights and learning rates of some steps from one on, (2, S)."""
        return np.stack([whole_T[start : start + steps] for whole_T in self])


def schedule_of(spec: TrialSpec, steps_per_epoch: int) -> Schedule:
    """The schedule of a trial's own budget of epochs."""
    training, steps = spec.training, spec.training.epochs * steps_per_epoch
    factor_T = learning_rate_factors(training.learning_rate_schedule, steps)
    return Schedule(kl_weights(spec.objective.kl_annealing, steps), training.learning_rate * factor_T)

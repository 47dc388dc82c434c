"""How long a command may train: hours, and the cost of its workers."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from vae_study.errors import UserError

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one command may spend; None for no limit.

    Attributes:
        hours: From its start to the end of training.
        max_cost: Of all workers together, in the currency of the price.
        price_per_hour: Of one worker.

    Raises:
        UserError: A limit is not above 0, or one of cost and price is missing.
    """

    hours: float | None = None
    max_cost: float | None = None
    price_per_hour: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UserError(f"--{name.replace('_', '-')}: got {value:g}, expected a number above 0")
        if self.max_cost is not None and self.price_per_hour is None:
            raise UserError("--max-cost: needs --price-per-hour, what one worker costs an hour")
        if self.max_cost is None and self.price_per_hour is not None:
            raise UserError("--price-per-hour: needs --max-cost, what all workers together may cost")

    @property
    def words(self) -> list[str]:
        """The options of a command that have these limits."""
        given = {f"--{name.replace('_', '-')}": value for name, value in vars(self).items() if value is not None}
        return [word for name, value in given.items() for word in (name, repr(value))]


class Budget:
    """What a command has spent of its limits.

    Attributes:
        worker_hours: The time of all workers together, each from its first report on.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic):
        """Begin now; `clock` gives seconds."""
        self.limits, self._clock, self.worker_hours = limits, clock, 0.0
        self._began = self._counted = clock()

    def spend(self, workers: int) -> str:
        """Count the time since the last call for so many workers, and return `why_over`."""
        now = self._clock()
        self.worker_hours += workers * (now - self._counted) / SECONDS_PER_HOUR
        self._counted = now
        return self.why_over

    @property
    def hours_left(self) -> float:
        """Until the limit of hours; infinite without one."""
        spent = (self._clock() - self._began) / SECONDS_PER_HOUR
        return math.inf if self.limits.hours is None else self.limits.hours - spent

    @property
    def why_over(self) -> str:
        """Which limit is reached, such as "--hours 2 are over"; empty while none is."""
        limits = self.limits
        if self.hours_left <= 0:
            return f"--hours {limits.hours:g} are over"
        if limits.max_cost is not None and self.worker_hours * (limits.price_per_hour or 0) >= limits.max_cost:
            return f"--max-cost {limits.max_cost:g} is reached after {self.worker_hours:.3g} worker-hours"
        return ""

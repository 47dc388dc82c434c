"""What a trial has to keep to be worth choosing."""

import math
from collections.abc import Mapping
from typing import Self

from pydantic import model_validator

from pipeline.spec.base import SpecPart
from pipeline.spec.metrics import Metric

# What a metric that is missing counts as, and the most that any value counts as; samplers take finite numbers only.
LARGEST_VIOLATION = 1e6


class Constraint(SpecPart):
    """One bound of one metric, in the metric's unit; the bound itself is allowed.

    Attributes:
        metric: What is bounded.
        at_least: The smallest value that is allowed.
        at_most: The largest value that is allowed.
    """

    metric: Metric
    at_least: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _has_one_bound(self) -> Self:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError("exactly one of at_least and at_most")
        return self

    @property
    def name(self) -> str:
        """What is bounded and on which side, such as "val/kl at_most"."""
        return f"{self.metric} {'at_least' if self.at_most is None else 'at_most'}"

    def violation(self, metrics: Mapping[str, float]) -> float:
        """How far a trial is beyond the bound, in the metric's unit; 0 or less where it is kept. Always finite."""
        value = metrics.get(self.metric, math.nan)
        if not math.isfinite(value):
            return LARGEST_VIOLATION
        low = -math.inf if self.at_least is None else self.at_least
        high = math.inf if self.at_most is None else self.at_most
        return max(-LARGEST_VIOLATION, min(max(low - value, value - high), LARGEST_VIOLATION))

"""Which trials end before their budget of epochs is spent."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.spec.base import Count, SpecPart
from pipeline.spec.metrics import Metric


class EarlyStoppingSpec(SpecPart):
    """The rule by which a trial is judged at some of its epochs, the rungs, against earlier trials at the same rung.

    No trial is judged in an epoch whose KL weight is below 1.

    Attributes:
        kind: `pareto` lets the best by non-dominated sorting of the objectives go on, `asha` the best by `metric`
            (Li et al. 2020), `median` those that are not worse than the median of `metric` (Golovin et al. 2017);
            `none` stops nothing.
        metric: What `asha` and `median` compare.
        reduction_factor: `pareto` and `asha` let one of so many go on at each rung, and each rung is so many times as
            far as the last.
        min_epochs: The first rung. By default, the one after which three more make the whole budget; for `median`, a
            tenth of the budget.
    """

    kind: Literal["none", "pareto", "asha", "median"] = "none"
    metric: Metric = "val/elbo"
    reduction_factor: Annotated[int, Field(ge=2)] = 3
    min_epochs: Count | None = None

    @property
    def compares_one_metric(self) -> bool:
        """Whether `metric` is compared, and not the study's objectives."""
        return self.kind in ("asha", "median")

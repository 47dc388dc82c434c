"""The validation metrics that a study may be steered by."""

from collections.abc import Mapping
from typing import Literal

Metric = Literal["val/reconstruction", "val/kl", "val/elbo", "val/squared_error", "val/auroc", "val/active_units"]
Direction = Literal["minimize", "maximize"]

#: Which way is better, where the study does not say so itself.
DIRECTIONS: Mapping[Metric, Direction] = {
    "val/reconstruction": "minimize",
    "val/kl": "minimize",
    "val/elbo": "maximize",
    "val/squared_error": "minimize",
    "val/auroc": "maximize",
    "val/active_units": "maximize",
}

#: Metrics that only a code with a rate has.
WITH_RATE: tuple[Metric, ...] = ("val/kl", "val/elbo")

"""The rule that chooses one trial. Validation only: test rows take no part in any choice."""

import numpy as np
import pandas as pd

RULES = ("val/auroc", "val/elbo")


def choose(trials: pd.DataFrame, by: str) -> int | None:
    """The number of the finished trial with the highest value of a validation metric; of equals, the earliest.

    Args:
        trials: A row a trial, with `trial`, `state` and the metrics.
        by: One of RULES.

    Returns:
        None where no finished trial has a finite value.
    """
    if trials.empty or by not in trials:
        return None
    is_finite = np.isfinite(trials[by].to_numpy(np.float64, na_value=np.nan))
    finished = trials[(trials["state"] == "finished") & is_finite].sort_values("trial")
    return None if finished.empty else int(finished["trial"].iloc[finished[by].to_numpy().argmax()])

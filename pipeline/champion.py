"""The rule that chooses among trials. Validation only: test rows take no part in any choice."""

import numpy as np
import pandas as pd

#: Validation metrics that a trial may be chosen by, and whether more (1) or less (-1) is better.
RULES = {"val/auroc": 1, "val/elbo": 1, "val/reconstruction": -1}


def ranked(trials: pd.DataFrame, by: str) -> list[int]:
    """The numbers of the finished trials, the best value of a validation metric first; of equals, the earliest.

    Args:
        trials: A row a trial, with `trial`, `state` and the metrics.
        by: One of RULES.

    Returns:
        None of the trials without a finite value.
    """
    if trials.empty or by not in trials:
        return []
    is_finite = np.isfinite(trials[by].to_numpy(np.float64, na_value=np.nan))
    finished = trials[(trials["state"] == "finished") & is_finite].sort_values("trial")
    order = np.argsort(-RULES[by] * finished[by].to_numpy(np.float64), kind="stable")
    return [int(number) for number in finished["trial"].to_numpy()[order]]


def choose(trials: pd.DataFrame, by: str) -> int | None:
    """The first of `ranked`, or None where there is none."""
    return next(iter(ranked(trials, by)), None)

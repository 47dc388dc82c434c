"""The rules that choose among trials, and among their scores. Validation only: test rows take no part in any choice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.anomaly import SCORES
from pipeline.search.pareto import feasible


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One way to choose.

    Attributes:
        metric: The metric that is compared; one that ends in "/" has a value for each anomaly score.
        sign: 1 where more is better, -1 where less is.
        score: The score that goes with it where the study names none; None where the rule chooses the score too.
        needs_labels: Whether validation has to have labelled anomalies.
    """

    metric: str
    sign: int
    score: str | None
    needs_labels: bool = False


# The scores beside the rules are those that did best with them on real sets: docs/benchmarks.md.
RULES: Mapping[str, Rule] = {
    "val/auroc": Rule(metric="val_auroc/", sign=1, score=None, needs_labels=True),
    "val/elbo": Rule(metric="val/elbo", sign=1, score="elbo"),
    "val/reconstruction": Rule(metric="val/reconstruction", sign=-1, score="residual_mahalanobis"),
    "pseudo": Rule(metric="pseudo_auroc/", sign=1, score="residual_mahalanobis"),
}


@dataclass(frozen=True)
class Pick:
    """A trial, the score to use it with, and the value of the rule's metric."""

    trial: int
    score: str
    value: float


def ranked(trials: pd.DataFrame, by: str, score: str | None = None) -> list[Pick]:
    """The eligible trials, each with its best score by a rule, the best first; of equals, the earliest.

    Args:
        trials: A row a trial, with `trial`, `state`, the metrics, and `feasible` where the study knows constraints.
        by: One of RULES.
        score: The anomaly score that the study insists on; by default the rule's own, or any.

    Returns:
        None of the trials without a finite value.
    """
    if trials.empty:
        return []
    best: dict[int, Pick] = {}
    for pick in _picks(eligible(trials).sort_values("trial"), RULES[by], score):
        held = best.get(pick.trial)
        if held is None or RULES[by].sign * (pick.value - held.value) > 0:
            best[pick.trial] = pick
    return sorted(best.values(), key=lambda pick: (-RULES[by].sign * pick.value, pick.trial))


def eligible(trials: pd.DataFrame) -> pd.DataFrame:
    """The finished trials that keep the study's constraints.

    All finished ones where none does: a study without a champion would help nobody.
    """
    finished = trials[trials["state"] == "finished"]
    kept = feasible(finished)
    return finished if kept.empty else kept


def _picks(finished: pd.DataFrame, rule: Rule, score: str | None) -> list[Pick]:
    wanted = score or rule.score
    scores: Sequence[str] = SCORES if wanted is None else (wanted,)
    picks = []
    for name in scores:
        metric = f"{rule.metric}{name}" if rule.metric.endswith("/") else rule.metric
        if metric in finished:
            values = finished[metric].to_numpy(np.float64, na_value=np.nan)
            rows = zip(finished["trial"], values, strict=True)
            picks += [Pick(int(trial), name, float(value)) for trial, value in rows if np.isfinite(value)]
    return picks


def choose(trials: pd.DataFrame, by: str, score: str | None = None) -> Pick | None:
    """The first of `ranked`, or None where there is none."""
    return next(iter(ranked(trials, by, score)), None)

"""Which model each rule takes, and how it compares with other rules, with ensembles and with no training at all."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from pipeline.anomaly import BASELINE
from pipeline.choosing import RULES, eligible
from pipeline.choosing.comparison import ENSEMBLES
from pipeline.report.tables.frames import Interval, Missing, numbers, row_of, scalar
from pipeline.report.tables.scored import champion_auroc, followed_score, meant, score_of, stored_auroc
from pipeline.tracking.record import StudyRecord

Kind = Literal["rule", "ensemble", "baseline"]
# What a study of an earlier version is asked for, which compared nothing itself.
PLAIN_RULES = ("val/auroc", "val/elbo")
LARGER_IS_BETTER = ("auroc", "auroc_low", "auprc", "elbo", "active_units", "probe_accuracy")
EARLIER = (
    "The study is of an earlier version, which compared its choice with no ensemble and no nearest-neighbours baseline."
)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Something that scores rows: what a rule takes, an ensemble, or the baseline.

    Attributes:
        name: The rule's metric, such as "val/elbo", or as in `pipeline.choosing.comparison`.
        kind: Which of the three.
        needs_labels: Whether labelled anomalies of validation take part in the choice.
        trials: Its trials: one of a rule, none of the baseline.
        scores: Their anomaly scores, each once.
        val_auroc: On the validation split, where some rules choose.
        test_auroc: On the test split, which no rule sees.
        average_precision: On the test split.
        chosen: Whether the study chose its model by this rule.
    """

    name: str
    kind: Kind
    needs_labels: bool
    trials: tuple[int, ...]
    scores: tuple[str, ...]
    val_auroc: float
    test_auroc: Interval
    average_precision: float
    chosen: bool


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """Those of the choices that have a test AUROC, to be drawn: rules, then ensembles, then the baseline."""

    choices: tuple[Choice, ...]


def best(trials: pd.DataFrame, metric: str) -> int | None:
    """The trial with the best value of a metric, the first of equals; None where no value is finite."""
    larger_is_better = metric.rpartition("/")[2] in LARGER_IS_BETTER
    values = numbers(trials, metric) * (1.0 if larger_is_better else -1.0)
    values[~np.isfinite(values)] = -np.inf
    return int(trials["trial"].iloc[values.argmax()]) if np.isfinite(values).any() else None


def choices(record: StudyRecord) -> tuple[Choice, ...]:
    """What each rule takes, the study's own first, then the ensembles and the baseline where the study has them."""
    compared = [_compared(record, row) for row in record.choices.to_dict("records")]
    order = {"rule": 0, "ensemble": 1, "baseline": 2}
    return tuple(sorted(compared or _ranked(record), key=lambda choice: (not choice.chosen, order[choice.kind])))


def _compared(record: StudyRecord, row: Mapping[Any, Any]) -> Choice:
    frame, name = pd.DataFrame([row]), str(row["rule"])
    picks = json.loads(str(row.get("picks") or "[]"))
    value, low, high = (scalar(frame, metric) for metric in ("auroc", "auroc_low", "auroc_high"))
    return Choice(
        name=name,
        kind=_kind(name),
        needs_labels=bool(row.get("needs_labels") == 1),
        trials=tuple(dict.fromkeys(int(trial) for trial, _ in picks)),
        scores=tuple(dict.fromkeys(meant(record, int(trial), str(score)) for trial, score in picks)),
        val_auroc=scalar(frame, "val_auroc"),
        test_auroc=Interval(value=value, low=low, high=high),
        average_precision=scalar(frame, "average_precision"),
        chosen=record.champion is not None and record.champion.rule == name,
    )


def _kind(name: str) -> Kind:
    if name in ENSEMBLES:
        return "ensemble"
    return "baseline" if name == BASELINE else "rule"


def _ranked(record: StudyRecord) -> list[Choice]:
    """For a study that compared nothing itself: the best eligible trials, with the score that it followed."""
    champion = record.champion
    taken = {champion.rule: champion.trial} if champion else {}
    for rule in PLAIN_RULES:
        trial = best(eligible(record.trials), rule)
        if trial is not None:
            taken.setdefault(rule, trial)
    return [_of_trial(record, rule, trial) for rule, trial in taken.items()]


def _of_trial(record: StudyRecord, rule: str, trial: int) -> Choice:
    row, champion = row_of(record, trial), record.champion
    chosen = champion is not None and champion.rule == rule
    score = score_of(record, champion) if chosen and champion is not None else followed_score(record)
    return Choice(
        name=rule,
        kind="rule",
        needs_labels=rule in RULES and RULES[rule].needs_labels,
        trials=(trial,),
        scores=(meant(record, trial, score),) if score else (),
        val_auroc=scalar(row, "val/auroc"),
        test_auroc=champion_auroc(record) if chosen else stored_auroc(row),
        average_precision=scalar(row, "test/auprc"),
        chosen=chosen,
    )


def side_by_side(found: Sequence[Choice], why_unknown: str) -> SideBySide | Missing:
    """The detectors of a study that compared them."""
    if all(choice.kind == "rule" for choice in found):
        return Missing(EARLIER)
    known = tuple(choice for choice in found if np.isfinite(choice.test_auroc.value))
    return SideBySide(choices=known) if known else Missing(why_unknown)

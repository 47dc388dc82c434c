"""Sentences on how the study went, each computed from the tables: what was stopped, refused, lost, or given to it."""

import math
from collections.abc import Iterator, Mapping

from pipeline.report.names import metric_name, metric_unit
from pipeline.report.tables import Constraint, Constraints, EarlyStopping, Preemptions, StudyTables
from pipeline.report.words import count, hours, listing, percent, significant, trial_list

RULES = {
    "pareto": "non-dominated sorting",
    "asha": "successive halving (ASHA)",
    "median": "the median rule",
}
# More epochs than these at which trials were stopped are told by their range.
MOST_STOPS = 4
BOUNDS = {"at_least": "at least", "at_most": "at most"}


def course(tables: StudyTables) -> Iterator[str]:
    """What happened on the way; nothing of a study of an earlier version, which knew none of it."""
    yield from _given(tables)
    if tables.stopping is not None:
        yield _stopping(tables.stopping)
    yield from _constraints(tables.constraints)
    yield from _preemptions(tables.preemptions)


def _given(tables: StudyTables) -> Iterator[str]:
    """What the search began with."""
    enqueued, source = len(tables.record.spec.get("enqueue") or ()), tables.record.spec.get("warm_start")
    if enqueued:
        were = "was" if enqueued == 1 else "were"
        yield f"{count(enqueued, 'configuration')} of the study file {were} to be tried first."
    if source:
        yield f"The search was warm-started with the finished trials of the study {source}."


def _stopping(table: EarlyStopping) -> str:
    stopped = "no trial"
    if table.stopped:
        share = percent(len(table.stopped) / table.trials)
        stopped = f"{len(table.stopped):,} of {count(table.trials, 'trial')} ({share}){_after(table.stopped_after)}"
    told = f"Early stopping by {_rule(table)} ended {stopped}"
    if not math.isfinite(table.share):
        return f"{told}."
    who = "the finished and the stopped trials together" if table.stopped else "the finished trials"
    return (
        f"{told}: {who} trained {percent(table.share)} of the epochs of their full budgets "
        f"({table.trained:,} of {table.full:,}){_spared(table)}."
    )


def _after(epochs: Mapping[int, int]) -> str:
    """When they were stopped: at each of a few epochs, else when the first, half of them, and the last were."""
    if not epochs:
        return ""
    if len(epochs) == 1:
        return f" after {count(next(iter(epochs)), 'epoch')}"
    if len(epochs) <= MOST_STOPS:
        told = (f"{n:,} after {count(at, 'epoch')}" for at, n in epochs.items())
        return f", {listing(told)}"
    every = [at for at, n in epochs.items() for _ in range(n)]
    half = every[(len(every) - 1) // 2]
    return f" after {every[0]:,} to {every[-1]:,} epochs, half of them after {half:,} at most"


def _spared(table: EarlyStopping) -> str:
    return f" and spared about {hours(table.spared_hours)}" if table.stopped and table.spared_hours > 0 else ""


def _rule(table: EarlyStopping) -> str:
    kind = str(table.rule.get("kind"))
    metric, factor, least = (table.rule.get(name) for name in ("metric", "reduction_factor", "min_epochs"))
    what = f" on {metric_name(str(metric))}" if metric and kind != "pareto" else ""
    details = [
        f"reduction factor {significant(float(factor))}" if factor and kind != "median" else "",
        f"not before epoch {least}" if least else "",
    ]
    told = ", ".join(filter(None, details))
    return f"{RULES.get(kind, kind)}{what}{f' ({told})' * bool(told)}"


def _constraints(table: Constraints) -> Iterator[str]:
    if not table.bounds or not table.finished:
        return
    if not table.violating:
        kept = listing(constraint_name(bound) for bound in table.bounds)
        yield f"All {count(table.finished, 'finished trial')} keep the constraints: {kept}."
        return
    violate = "violates" if len(table.violating) == 1 else "violate"
    each = listing(
        f"{constraint_name(bound)} ({count(len(bound.violating), 'trial')})"
        for bound in table.bounds
        if bound.violating
    )
    yield (
        f"{len(table.violating):,} of {count(table.finished, 'finished trial')} {violate} a constraint and "
        f"{'is' if len(table.violating) == 1 else 'are'} not on the frontier: {each}."
    )


def constraint_name(bound: Constraint) -> str:
    """Such as "validation KL at most 20 nats"."""
    unit = f" {metric_unit(bound.metric)}".rstrip()
    return f"{metric_name(bound.metric)} {BOUNDS[bound.bound]} {significant(bound.limit)}{unit}"


def _preemptions(table: Preemptions) -> Iterator[str]:
    if table.trials:
        often = f", {table.times:,} times in all," if table.times > len(table.trials) else ""
        were, their = ("was", "its") if len(table.trials) == 1 else ("were", "their")
        yield (
            f"{count(len(table.trials), 'trial')} {were} interrupted by a lost worker{often} and went on from {their} "
            f"last checkpoint: {trial_list(table.trials)}."
        )

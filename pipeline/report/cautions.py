"""The report's warnings, each computed from the tables."""

import math
from collections.abc import Iterator

from pipeline.report.names import detector_name, digits_of, metric_name, parameter_name
from pipeline.report.prose_course import constraint_name
from pipeline.report.prose_detection import drift
from pipeline.report.tables import Confirmation, Edge, Interval, Missing, StudyTables, WarmUp
from pipeline.report.tables.frames import with_state
from pipeline.report.words import count, listing, number, significant, trial_list

WIDE_INTERVAL = 0.1


def cautions(tables: StudyTables) -> list[str]:
    """What should make a reader doubt the numbers above."""
    return [
        *_unfinished(tables),
        *_infeasible(tables),
        *_collapsed(tables),
        *_warm_up(tables.warm_up),
        *(_edge(tables, edge) for edge in tables.edges),
        *drift(tables),
        *_width(tables.summary.test_auroc),
        *_one_seed(tables),
        *_not_the_best_on_average(tables),
    ]


def _unfinished(tables: StudyTables) -> Iterator[str]:
    running, waiting, failed = (tables.summary.states[state] for state in ("running", "waiting", "failed"))
    total = sum(tables.summary.states.values())
    if running:
        yield f"The study is not over: {count(running, 'trial')} still running."
    if waiting:
        yield f"The study was interrupted: {count(waiting, 'trial')} waiting to be resumed."
    if failed >= 0.1 * max(total, 1):
        yield f"{failed:,} of {count(total, 'trial')} failed."


def _infeasible(tables: StudyTables) -> Iterator[str]:
    found = tables.constraints
    if found.none_kept:
        broken = listing(constraint_name(bound) for bound in found.bounds if bound.violating)
        yield (
            f"No finished trial keeps the constraints{f' ({broken})' * bool(broken)}, so every choice here is made "
            f"among all {count(found.finished, 'finished trial')}."
        )


def _collapsed(tables: StudyTables) -> Iterator[str]:
    found = tables.collapse
    if found.trials:
        where = f", all at beta {significant(found.smallest_beta)} or more" * math.isfinite(found.smallest_beta)
        rule = "no active unit, or a validation KL below 0.05 nats" if found.with_kl else "no active unit"
        what = count(found.known, "posterior" if found.with_kl else "code")
        yield f"{len(found.trials):,} of {what} collapsed ({rule}){where}: {trial_list(found.trials)}."


def _warm_up(found: WarmUp) -> Iterator[str]:
    short = sorted((*found.finished, *found.stopped))
    if not short:
        return
    its, it = ("its", "it") if len(short) == 1 else ("their", "they")
    stopped = f" ({len(found.stopped):,} of them stopped early)" * bool(found.stopped and found.finished)
    on = f", though {trial_list(found.frontier)} {'is' if len(found.frontier) == 1 else 'are'} on the frontier"
    yield (
        f"Warm-up was cut short: the KL weight of {trial_list(short)}{stopped} had not reached 1 when {it} ended, so "
        f"{its} KL and ELBO are not yet those of the full objective{on * bool(found.frontier)}."
    )


def _edge(tables: StudyTables, edge: Edge) -> str:
    rules = {trial: choice.name for choice in reversed(tables.choices) for trial in choice.trials}
    chosen = edge.trial == tables.summary.champion_trial
    who = "the chosen trial" if chosen else f"the best by {detector_name(rules[edge.trial])}"
    return (
        f"Trial {edge.trial}, {who}, has {parameter_name(edge.parameter)} {significant(edge.value)}, at the "
        f"{edge.end} end of its range ({significant(edge.limit)}): better values may lie beyond."
    )


def _width(auroc: Interval) -> Iterator[str]:
    if math.isfinite(auroc.low) and auroc.high - auroc.low > WIDE_INTERVAL:
        width = number(auroc.high - auroc.low, 2)
        yield f"The interval of the test AUROC is {width} wide: too few test examples to tell close models apart."


def _one_seed(tables: StudyTables) -> Iterator[str]:
    if isinstance(tables.confirmation, Confirmation):
        return
    finished = with_state(tables.record, "finished")
    searched = [name for name in tables.parameters if name in finished.columns]
    if len(finished) > 1 and searched and not finished[searched].astype(str).duplicated().any():
        yield (
            "Each configuration was trained once: intervals tell the luck of the test examples, not that of the "
            "training seed."
        )


def _not_the_best_on_average(tables: StudyTables) -> Iterator[str]:
    """Another trial may do better over its seeds than the chosen one."""
    if isinstance(tables.confirmation, Missing):
        return
    metric = tables.confirmation.metric
    spread = tables.confirmation.spreads[metric].dropna(subset="mean")
    means = dict(zip(spread["trial"].tolist(), spread["mean"].tolist(), strict=True))
    chosen = tables.summary.champion_trial
    rounded = {trial: round(mean, digits_of(metric)) for trial, mean in means.items()}
    top = max(rounded, key=lambda trial: rounded[trial] * (-1 if metric == "val/reconstruction" else 1), default=None)
    if top is not None and chosen in rounded and rounded[top] != rounded[chosen]:
        better, own = (number(rounded[trial], digits_of(metric)) for trial in (top, chosen))
        yield (
            f"Over its seeds trial {top} has the better mean {metric_name(metric)}, {better} against {own} of the "
            "chosen trial."
        )

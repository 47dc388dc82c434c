"""The report's sentences, each computed from the tables; a sentence without its numbers is left out."""

import math
from collections.abc import Iterator

import pandas as pd

from pipeline.report.tables import Choice, Edge, Interval, StudyTables
from pipeline.report.tables.frames import row_of, scalar, with_state
from pipeline.report.tables.frontier import objective_signs
from pipeline.report.words import (
    count,
    hours,
    listing,
    metric_name,
    metric_unit,
    number,
    parameter_name,
    significant,
    trial_list,
)

WIDE_INTERVAL = 0.1
STATES = {"finished": "finished", "stopped": "stopped early", "failed": "failed", "running": "still running"}
FAMILIES = {
    "vae": "a variational autoencoder",
    "autoencoder": "an autoencoder",
    "denoising": "a denoising autoencoder",
    "conditional": "a conditional variational autoencoder",
    "hierarchical": "a hierarchical variational autoencoder",
    "vector_quantized": "a vector-quantized autoencoder",
    "adversarial": "an adversarial autoencoder",
}


def overview(tables: StudyTables) -> list[str]:
    """The summary's paragraphs: what was searched, the trade-off, the chosen model."""
    parts = (_searched(tables), (*_trade_off(tables), *_best_elbo(tables)), _chosen(tables))
    return [paragraph for part in parts if (paragraph := " ".join(part))]


def cautions(tables: StudyTables) -> list[str]:
    """What should make a reader doubt the numbers above."""
    return [
        *_unfinished(tables),
        *_collapsed(tables),
        *(_edge(tables, edge) for edge in tables.edges),
        *_width(tables.summary.test_auroc),
        *_one_seed(tables),
    ]


def _searched(tables: StudyTables) -> Iterator[str]:
    counts = {state: n for state, n in tables.summary.states.items() if n}
    if not counts:
        yield "No trial has begun yet."
        return
    family = str(tables.record.spec.get("model", {}).get("family", "model"))
    source = tables.record.data.get("source") or "unnamed data"
    states = listing(f"{n:,} {STATES[state]}" for state, n in counts.items())
    yield f"{count(sum(counts.values()), 'trial')} of {FAMILIES.get(family, f'a {family}')} on {source}: {states}."
    if tables.summary.epochs and math.isfinite(tables.summary.training_hours):
        time = hours(tables.summary.training_hours)
        yield f"Together they trained {count(tables.summary.epochs, 'epoch')} in {time}, added up over trials."


def _trade_off(tables: StudyTables) -> Iterator[str]:
    size, finished = tables.summary.frontier_size, tables.summary.states["finished"]
    if not size:
        yield "No trial is on the frontier yet, because none has finished with all objectives measured."
        return
    names = [metric_name(metric) for metric in objective_signs(tables.record.spec)]
    be = "is" if size == 1 else "are"
    trade = f"no other improves one of {listing(names)} without losing on another" if len(names) > 1 else "the best"
    yield f"{size} of {count(finished, 'finished trial')} {be} on the frontier{f': {trade}' * (finished > 1)}."
    if size > 1:
        first, last = (_place(tables, tables.frontier.iloc[[end]]) for end in (0, -1))
        yield f"It runs from {first} to {last}."


def _place(tables: StudyTables, row: pd.DataFrame) -> str:
    values = (
        f"{metric_name(metric)} {number(scalar(row, metric))} {metric_unit(metric)}".strip()
        for metric in objective_signs(tables.record.spec)
    )
    return f"{listing(values)} (trial {int(row['trial'].iloc[0])})"


def _best_elbo(tables: StudyTables) -> Iterator[str]:
    trial = tables.summary.best_elbo_trial
    if trial is not None:
        value = number(tables.summary.best_elbo_nats)
        yield f"The best validation ELBO is {value} nats per example, of trial {trial}{_settings(tables, trial)}."


def _settings(tables: StudyTables, trial: int) -> str:
    row = row_of(tables.record, trial)
    known = [(name, scalar(row, name)) for name in ("beta", "latent_dim")]
    parts = [f"{parameter_name(name)} {significant(value)}" for name, value in known if math.isfinite(value)]
    return f" ({', '.join(parts)})" if parts else ""


def _chosen(tables: StudyTables) -> Iterator[str]:
    trial, rule = tables.summary.champion_trial, tables.summary.champion_rule
    if trial is None or rule is None:
        yield "No model has been chosen yet."
        return
    detects = _detects(tables.summary.test_auroc)
    yield f"Trial {trial}{_settings(tables, trial)} was chosen by {metric_name(rule)}{detects}."
    yield from (_other(tables, other) for other in tables.choices if not other.chosen)


def _detects(auroc: Interval) -> str:
    if not math.isfinite(auroc.value):
        return ""
    known = math.isfinite(auroc.low)
    sure = f", with a 95 % interval from {number(auroc.low, 3)} to {number(auroc.high, 3)}" if known else ""
    return f"; on test examples, which no choice has seen, its AUROC is {number(auroc.value, 3)}{sure}"


def _other(tables: StudyTables, other: Choice) -> str:
    if other.trial == tables.summary.champion_trial:
        return f"Choosing by {metric_name(other.rule)} would have taken the same trial."
    # Of the rounded values, so that the sentence agrees with a reader's own subtraction.
    gap = round(other.test_auroc.value, 3) - round(tables.summary.test_auroc.value, 3)
    outcome = ""
    if math.isfinite(gap):
        difference = f"{number(abs(gap), 3)} {'more' if gap > 0 else 'less'}" if gap else "just as much"
        outcome = f", whose test AUROC is {number(other.test_auroc.value, 3)}, {difference}"
    return f"Choosing by {metric_name(other.rule)} would have taken trial {other.trial}{outcome}."


def _unfinished(tables: StudyTables) -> Iterator[str]:
    running, failed = tables.summary.states["running"], tables.summary.states["failed"]
    total = sum(tables.summary.states.values())
    if running:
        yield f"The study is not over: {count(running, 'trial')} still running."
    if failed >= 0.1 * max(total, 1):
        yield f"{failed:,} of {count(total, 'trial')} failed."


def _collapsed(tables: StudyTables) -> Iterator[str]:
    found = tables.collapse
    if found.trials:
        where = f", all at beta {significant(found.smallest_beta)} or more" * math.isfinite(found.smallest_beta)
        yield (
            f"{len(found.trials):,} of {count(found.known, 'posterior')} collapsed (no active unit, or a validation KL "
            f"below 0.05 nats){where}: {trial_list(found.trials)}."
        )


def _edge(tables: StudyTables, edge: Edge) -> str:
    rules = {choice.trial: choice.rule for choice in reversed(tables.choices)}
    chosen = edge.trial == tables.summary.champion_trial
    who = "the chosen trial" if chosen else f"the best by {metric_name(rules[edge.trial])}"
    return (
        f"Trial {edge.trial}, {who}, has {parameter_name(edge.parameter)} {significant(edge.value)}, at the "
        f"{edge.end} end of its range ({significant(edge.limit)}): better values may lie beyond."
    )


def _width(auroc: Interval) -> Iterator[str]:
    if math.isfinite(auroc.low) and auroc.high - auroc.low > WIDE_INTERVAL:
        width = number(auroc.high - auroc.low, 2)
        yield f"The interval of the test AUROC is {width} wide: too few test examples to tell close models apart."


def _one_seed(tables: StudyTables) -> Iterator[str]:
    finished = with_state(tables.record, "finished")
    searched = [name for name in tables.parameters if name in finished.columns]
    if len(finished) > 1 and searched and not finished[searched].astype(str).duplicated().any():
        yield (
            "Each configuration was trained once: intervals tell the luck of the test examples, not that of the "
            "training seed."
        )

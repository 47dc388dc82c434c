"""The report's sentences, each computed from the tables; a sentence without its numbers is left out."""

import math
from collections.abc import Iterator

import pandas as pd

from pipeline.report.names import detector_name, digits_of, metric_name, metric_unit, parameter_name, score_name
from pipeline.report.prose_course import course
from pipeline.report.prose_detection import comparison, detects
from pipeline.report.prose_mattered import matters_most
from pipeline.report.tables import Missing, StudyTables
from pipeline.report.tables.frames import row_of, scalar, search_range
from pipeline.report.tables.frontier import objective_signs
from pipeline.report.words import count, hours, listing, number, significant

STATES = {
    "finished": "finished",
    "stopped": "stopped early",
    "failed": "failed",
    "running": "still running",
    "waiting": "waiting to be resumed",
}
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
    """The summary's paragraphs: what was searched, how that went, the trade-off, the chosen model, what else was."""
    trade_off = (*_trade_off(tables), *_best_elbo(tables), *_none_collapsed(tables), *matters_most(tables.importances))
    parts = (_searched(tables), course(tables), trade_off, _chosen(tables), comparison(tables))
    return [paragraph for part in parts if (paragraph := " ".join(part))]


def _searched(tables: StudyTables) -> Iterator[str]:
    counts = {state: n for state, n in tables.summary.states.items() if n}
    if not counts:
        yield "No trial has begun yet."
        return
    source = tables.record.data.get("source") or "unnamed data"
    states = listing(f"{n:,} {STATES[state]}" for state, n in counts.items())
    yield f"{count(sum(counts.values()), 'trial')} of {_family(tables)} on {source}: {states}."
    if tables.summary.epochs and math.isfinite(tables.summary.training_hours):
        time = hours(tables.summary.training_hours)
        yield f"Together they trained {count(tables.summary.epochs, 'epoch')} in {time}, added up over trials."


def _family(tables: StudyTables) -> str:
    families = search_range(tables.record, "family").get("choices")
    if not families:
        families = [tables.record.spec.get("model", {}).get("family", "model")]
    names = listing(FAMILIES.get(str(family), f"a {family}") for family in families)
    return names if len(families) == 1 else f"{len(families)} model families ({names})"


def _trade_off(tables: StudyTables) -> Iterator[str]:
    size, finished = tables.summary.frontier_size, tables.summary.states["finished"]
    if tables.constraints.none_kept:
        yield "No trial is on the frontier, because none of the finished ones keeps the constraints."
        return
    if not size:
        yield "No trial is on the frontier yet, because none has finished with all objectives measured."
        return
    names = [metric_name(metric) for metric in objective_signs(tables.record.spec)]
    be = "is" if size == 1 else "are"
    kept = " that keeps the constraints" * bool(tables.constraints.violating)
    trade = f"no other{kept} improves one of {listing(names)} without losing on another"
    trade = trade if len(names) > 1 else f"the best{kept}"
    yield f"{size:,} of {count(finished, 'finished trial')} {be} on the frontier{f': {trade}' * (finished > 1)}."
    if size > 1:
        first, last = (_place(tables, tables.frontier.iloc[[end]]) for end in (0, -1))
        yield f"It runs from {first} to {last}."
    if not isinstance(tables.knee, Missing):
        knee = _place(tables, row_of(tables.record, tables.knee.trial))
        yield f"Its knee, where it lies farthest from the line between these ends, is at {knee}."


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
        some = tables.constraints.violating and not tables.constraints.none_kept
        of = " of those that keep the constraints" * bool(some)
        yield f"The best validation ELBO{of} is {value} nats per example, of trial {trial}{_settings(tables, trial)}."


def _none_collapsed(tables: StudyTables) -> Iterator[str]:
    """Those that did are among the cautions."""
    found = tables.collapse
    if found.with_kl and found.known and not found.trials:
        yield f"No posterior of {count(found.known, 'finished trial')} collapsed."


def _settings(tables: StudyTables, trial: int) -> str:
    row = row_of(tables.record, trial)
    known = [(name, scalar(row, name)) for name in ("beta", "latent_dim")]
    parts = [f"{parameter_name(name)} {significant(value)}" for name, value in known if math.isfinite(value)]
    return f" ({', '.join(parts)})" if parts else ""


def _chosen(tables: StudyTables) -> Iterator[str]:
    trial, rule, score = tables.summary.champion_trial, tables.summary.champion_rule, tables.summary.champion_score
    if trial is None or rule is None:
        yield "No model has been chosen yet."
        return
    scored = f", scored by {score_name(score)}" if score else ""
    yield f"Trial {trial}{_settings(tables, trial)} was chosen by {detector_name(rule)}{scored}{detects(tables)}."
    yield from _over_seeds(tables, trial)
    yield from _code(tables)


def _over_seeds(tables: StudyTables, trial: int) -> Iterator[str]:
    if isinstance(tables.confirmation, Missing):
        return
    metric = tables.confirmation.metric
    spreads = tables.confirmation.spreads[metric]
    spread = spreads[spreads["trial"] == trial]
    mean, deviation = scalar(spread, "mean"), scalar(spread, "deviation")
    if math.isfinite(deviation):
        digits, unit = digits_of(metric), f" {metric_unit(metric)}".rstrip()
        yield (
            f"Over {int(scalar(spread, 'seeds'))} seeds the chosen trial’s {metric_name(metric)} is "
            f"{number(mean, digits)}{unit} on average, standard deviation {number(deviation, digits)}."
        )


def _code(tables: StudyTables) -> Iterator[str]:
    """What is known of the chosen code beside its cost."""
    code = tables.code
    if math.isfinite(code.probe_accuracy):
        shown = f", shown {100 * code.probe_share:.3g} % of the training labels," * math.isfinite(code.probe_share)
        found = f"{number(100 * code.probe_accuracy, 1)} % of the normal test examples"
        yield f"A linear classifier on its code{shown} names the label of {found}."
    if math.isfinite(code.perplexity):
        size = f" of {code.codebook_size:,}" * bool(code.codebook_size)
        yield f"Its codes use the codebook as if {number(code.perplexity, 1)}{size} entries were equally frequent."

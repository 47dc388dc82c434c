"""The sentences of a report: its opening paragraphs, warnings, key numbers, and the notes beside its tables.

Their text is in templates/*.txt; this module computes what they state.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from vae_study.metrics import NO_HYPERVOLUME, sign_of
from vae_study.report.formatting import (
    count,
    digits_of,
    hypervolume_unit,
    listing,
    metric_name,
    metric_unit,
    number,
    paragraphs,
    parameter_name,
    percent,
    score_name,
    sentences,
    significant,
)
from vae_study.report.frames import Missing, row_of, scalar, with_state
from vae_study.report.frontier import knee, objective_signs
from vae_study.report.parameters import search_range
from vae_study.report.sections.choices import Choice, choices, compare_baseline, compare_labels, score_table
from vae_study.report.sections.code import code_facts, collapse, edges, warm_up
from vae_study.report.sections.highest_rows import highest_rows
from vae_study.report.sections.importances import LEAST_TRIALS, Importances, importances
from vae_study.report.sections.outcomes import (
    Constraint,
    EarlyStopping,
    constraints,
    early_stopping,
    preemptions,
)
from vae_study.report.sections.thresholds import scores
from vae_study.report.sections.trials import confirmation
from vae_study.report.tables import StudyTables

STATES = {"running": "still running", "waiting": "waiting to be resumed"}
FAMILIES = {
    "vae": "a variational autoencoder",
    "autoencoder": "an autoencoder",
    "denoising": "a denoising autoencoder",
    "conditional": "a conditional variational autoencoder",
    "hierarchical": "a hierarchical variational autoencoder",
    "vector_quantized": "a vector-quantized autoencoder",
    "adversarial": "an adversarial autoencoder",
    "semi_supervised": "a semi-supervised variational autoencoder",
    "vae_gan": "a variational autoencoder with a learned similarity (VAE/GAN)",
}
CODES = {"step": " with a code for each step", "map": " with a map as code"}
STOPPING_RULES = {"pareto": "non-dominated sorting", "asha": "successive halving (ASHA)", "median": "the median rule"}
# A parameter that explains less of every target than this matters little.
LITTLE = 0.05
MOST_EXPLAINED = 3
BOUNDS = {"at_least": "at least", "at_most": "at most"}
# With more different stopping epochs than these, only their range and median are given.
MOST_STOPS = 4
# From this width on, an interval of an AUROC says little.
WIDE_INTERVAL = 0.1


def overview(tables: StudyTables) -> list[str]:
    """The paragraphs: what was searched, how that went, the trade-off, the chosen model, and its comparison."""
    record, summary, bounds = tables.record, tables.summary, tables.of(constraints)
    stopping = tables.of(early_stopping)
    return paragraphs(
        "overview.txt",
        record=record,
        summary=summary,
        states=[f"{n:,} {STATES.get(state, state)}" for state, n in summary.states.items() if n],
        family=family_name(tables),
        source=record.data.get("source") or "unnamed data",
        enqueued=len(record.config.get("enqueue") or ()),
        warm_start=record.config.get("warm_start"),
        stopping=stopping,
        stopping_rules=STOPPING_RULES,
        stopped_after=_stopped_after(stopping) if stopping else "",
        constraints=bounds,
        kept=" that satisfies the constraints" if bounds.violating else "",
        bounds=[_bound(bound) for bound in bounds.bounds],
        violated=[f"{_bound(b)} ({count(len(b.violating), 'trial')})" for b in bounds.bounds if b.violating],
        preemptions=tables.of(preemptions),
        objectives=[metric_name(metric) for metric in objective_signs(record.config)],
        ends=[_point(tables, tables.frontier.iloc[[end]]) for end in (0, -1)] if summary.frontier_size > 1 else [],
        knee=_knee(tables),
        best_settings=settings(tables, summary.best_elbo_trial),
        collapse=tables.of(collapse),
        most_important=most_important(tables),
        chosen_settings=settings(tables, summary.champion_trial),
        code=tables.of(code_facts),
        comparison=comparison_note(tables.of(choices)),
    )


def warnings(tables: StudyTables) -> list[str]:
    """What a reader has to know before trusting the numbers."""
    found, bounds = tables.of(choices), tables.of(constraints)
    return paragraphs(
        "warnings.txt",
        summary=tables.summary,
        total=sum(tables.summary.states.values()),
        constraints=bounds,
        violated=[_bound(bound) for bound in bounds.bounds if bound.violating],
        collapse=tables.of(collapse),
        warm_up=tables.of(warm_up),
        edges=edges(tables.record, found),
        rules={trial: choice.name for choice in reversed(found) for trial in choice.trials},
        drifted=drifted(tables),
        wide_interval=WIDE_INTERVAL,
        one_seed=has_one_seed(tables),
        better_over_seeds=_better_over_seeds(tables),
    )


def family_name(tables: StudyTables) -> str:
    """Such as "a variational autoencoder"; all of them where the family is searched."""
    families = search_range(tables.record, "family").get("choices")
    if not families:
        families = [tables.record.config.get("model", {}).get("family", "model")]
    names = listing(FAMILIES.get(str(family), f"a {family}") for family in families)
    is_searched = search_range(tables.record, "latent").get("choices")
    code = "" if is_searched else CODES.get(tables.record.config.get("model", {}).get("latent", ""), "")
    return (names if len(families) == 1 else f"{len(families)} model families ({names})") + code


def _stopped_after(found: EarlyStopping) -> str:
    """The epochs at which trials were stopped: each of a few, else the first, the median and the last."""
    epochs = found.stopped_after
    if not epochs:
        return ""
    if len(epochs) == 1:
        return f" after {count(next(iter(epochs)), 'epoch')}"
    if len(epochs) <= MOST_STOPS:
        each = (f"{n:,} after {count(at, 'epoch')}" for at, n in epochs.items())
        return f", {listing(each)}"
    every = [at for at, n in epochs.items() for _ in range(n)]
    half = every[(len(every) - 1) // 2]
    return f" after {every[0]:,} to {every[-1]:,} epochs, half of them after {half:,} at most"


def _bound(bound: Constraint) -> str:
    """Such as "validation KL at most 20 nats"."""
    unit = f" {metric_unit(bound.metric)}".rstrip()
    return f"{metric_name(bound.metric)} {BOUNDS[bound.bound]} {significant(bound.limit)}{unit}"


def _knee(tables: StudyTables) -> str:
    found = tables.of(knee)
    return "" if isinstance(found, Missing) else _point(tables, row_of(tables.record, found.trial))


def _point(tables: StudyTables, row: pd.DataFrame) -> str:
    """A trial's objectives, such as "validation KL 20.20 nats (trial 3)"."""
    values = (
        f"{metric_name(metric)} {number(scalar(row, metric))} {metric_unit(metric)}".strip()
        for metric in objective_signs(tables.record.config)
    )
    return f"{listing(values)} (trial {int(row['trial'].iloc[0])})"


def settings(tables: StudyTables, trial: int | None) -> str:
    """Such as " (beta 1, latent size 8)"; empty where neither is known."""
    row = row_of(tables.record, -1 if trial is None else trial)
    known = [(name, scalar(row, name)) for name in ("beta", "latent_dim")]
    parts = [f"{parameter_name(name)} {significant(value)}" for name, value in known if math.isfinite(value)]
    return f" ({', '.join(parts)})" if parts else ""


def over_seeds(tables: StudyTables) -> dict[str, Any] | None:
    """The chosen trial's `metric` over its seeds, as a row of `Confirmation.spreads`; None if it has fewer than two."""
    found = tables.of(confirmation)
    if isinstance(found, Missing):
        return None
    spread = found.spreads[found.metric]
    rows = spread[(spread["trial"] == tables.summary.champion_trial) & np.isfinite(spread["deviation"])]
    return {"metric": found.metric, **{str(key): rows[key].iloc[0] for key in rows}} if len(rows) else None


def has_one_seed(tables: StudyTables) -> bool:
    """Whether several trials have finished, and no configuration among them was trained twice."""
    finished = with_state(tables.record, "finished")
    searched = [name for name in tables.parameters if name in finished.columns]
    if not isinstance(tables.of(confirmation), Missing) or len(finished) < 2 or not searched:
        return False
    return not finished[searched].astype(str).duplicated().any()


def _better_over_seeds(tables: StudyTables) -> dict[str, str] | None:
    """The trial with the best mean over its seeds, where that is better than the chosen trial's as it is printed."""
    found, chosen = tables.of(confirmation), tables.summary.champion_trial
    if isinstance(found, Missing):
        return None
    spread, digits = found.spreads[found.metric].dropna(subset="mean"), digits_of(found.metric)
    means = zip(spread["trial"].tolist(), spread["mean"].tolist(), strict=True)
    rounded = {trial: round(mean, digits) for trial, mean in means}
    best = min(rounded, key=lambda trial: sign_of(found.metric) * rounded[trial], default=None)
    if best is None or chosen not in rounded or rounded[best] == rounded[chosen]:
        return None
    better, own = (number(rounded[trial], digits) for trial in (best, chosen))
    return {"metric": found.metric, "trial": str(best), "mean": better, "chosen": own}


@dataclass(frozen=True, kw_only=True)
class KeyNumber:
    """A number at the head of the page, with its name and a remark."""

    name: str
    value: str
    remark: str = ""


def key_numbers(tables: StudyTables) -> tuple[KeyNumber, ...]:
    """The study's main numbers, and those of the chosen model's code where it has such."""
    s = tables.summary
    others = [f"{n:,} {state}" for state, n in s.states.items() if n and state != "finished"]
    size, volume = frontier_numbers(tables)
    return (
        KeyNumber(name="Trials finished", value=f"{s.states['finished']:,}", remark=", ".join(others)),
        size,
        best_number(tables),
        KeyNumber(name="Test AUROC", value=number(s.test_auroc.value, 3), remark=_auroc_remark(tables)),
        *_alarm_numbers(tables),
        volume,
        *_of_code(tables),
    )  # fmt: skip


def frontier_numbers(tables: StudyTables) -> tuple[KeyNumber, KeyNumber]:
    """The size of the frontier, and its hypervolume."""
    s = tables.summary
    kept = " that satisfies the constraints" * bool(tables.of(constraints).violating)
    unit = hypervolume_unit(objective_signs(tables.record.config)) * math.isfinite(s.hypervolume)
    return (
        KeyNumber(name="On the frontier", value=f"{s.frontier_size:,}",
                  remark=f"not dominated by any finished trial{kept}"),
        KeyNumber(name="Hypervolume", value=number(s.hypervolume), remark=unit if s.hypervolume else NO_HYPERVOLUME),
    )  # fmt: skip


def best_number(tables: StudyTables) -> KeyNumber:
    """The best ELBO; where finished trials have none, the best of the first objective."""
    elbo, trial = tables.summary.best_elbo_nats, tables.summary.best_elbo_trial
    if trial is not None or tables.frontier.empty:
        remark = f"nats, trial {trial}" if trial is not None else ""
        return KeyNumber(name="Best validation ELBO", value=number(elbo), remark=remark)
    metric = next(iter(objective_signs(tables.record.config)))
    remark = ", ".join(filter(None, (metric_unit(metric), f"trial {int(tables.frontier['trial'].iloc[0])}")))
    value = number(scalar(tables.frontier, metric), digits_of(metric))
    return KeyNumber(name=f"Best {metric_name(metric)}", value=value, remark=remark)


def _alarm_numbers(tables: StudyTables) -> Iterator[KeyNumber]:
    """Average precision and what an alarm budget gives, where the test split has anomalies."""
    s = tables.summary
    if math.isfinite(s.average_precision.value):
        chance = f"by chance {number(s.points['prevalence'], 3)}"
        ends = f"95 % interval {number(s.average_precision.low, 3)} to {number(s.average_precision.high, 3)}"
        value = number(s.average_precision.value, 3)
        yield KeyNumber(name="Average precision", value=value, remark=f"{ends}, {chance}")
        ends = f"95 % interval {percent(s.points['alarm_low'])} to {percent(s.points['alarm_high'])}"
        found = f"{percent(s.points['alarm_recall'])} of the anomalies"
        remark = f"of {s.points['alarms']:,.0f} on test, {ends}; {found}"
        yield KeyNumber(name="Real alarms", value=percent(s.points["alarm_precision"]), remark=remark)


def _auroc_remark(tables: StudyTables) -> str:
    """The score that the AUROC is of, and its interval; or why there is none."""
    s = tables.summary
    if s.why_no_auroc or s.champion_score is None:
        return s.why_no_auroc
    interval = f", 95 % interval {number(s.test_auroc.low, 3)} to {number(s.test_auroc.high, 3)}"
    return f"of {score_name(s.champion_score)}{interval * math.isfinite(s.test_auroc.low)}"


def _of_code(tables: StudyTables) -> Iterator[KeyNumber]:
    code = tables.of(code_facts)
    if math.isfinite(code.label_accuracy):
        told = f", told {100 * code.told_share:.3g} % of the labels" * math.isfinite(code.told_share)
        value = number(code.label_accuracy, 3)
        yield KeyNumber(name="Label accuracy", value=value, remark=f"of the model itself{told}")
    if math.isfinite(code.probe_accuracy):
        share = f", trained with {100 * code.probe_share:.3g} % of the labels" * math.isfinite(code.probe_share)
        value = number(code.probe_accuracy, 3)
        yield KeyNumber(name="Probe accuracy", value=value, remark=f"linear classifier on the chosen code{share}")
    if math.isfinite(code.perplexity):
        size = f"of {code.codebook_size:,} entries" * bool(code.codebook_size)
        yield KeyNumber(name="Codebook perplexity", value=number(code.perplexity, 1), remark=size)


def comparison_note(found: Sequence[Choice]) -> str:
    """How the chosen model compares with the choice of another rule, and with the baseline."""
    return sentences("notes.txt", "compared", compare_labels(found), compare_baseline(found))


def drift_note(tables: StudyTables) -> str:
    """Which thresholds do not hold on the normal rows of the test split."""
    return sentences("notes.txt", "drift", drifted(tables))


def drifted(tables: StudyTables) -> list[dict[str, str]]:
    """The `expected` and the `found` share of false alarms of each threshold that does not hold."""
    found = tables.of(scores)
    if isinstance(found, Missing) or found.thresholds.empty:
        return []
    rows = found.thresholds[found.thresholds["drifted"]].to_dict("records")
    return [{"expected": f"{100 - r['percentile']:g} %", "found": percent(r["false_alarm_rate"])} for r in rows]


def score_note(tables: StudyTables) -> str:
    """How much the test AUROC depends on the anomaly score."""
    table = tables.of(score_table)
    if isinstance(table, Missing):
        return ""
    test, means = (
        table.values.dropna(subset=column).sort_values(column, kind="stable").to_dict("records")
        for column in ("test", "mean_test")
    )
    return sentences("notes.txt", "scores", table, test, means)


def top_rows_note(tables: StudyTables) -> str:
    """How to read the table of the most anomalous rows."""
    table = tables.of(highest_rows)
    if isinstance(table, Missing):
        return ""
    return sentences("notes.txt", "top_rows", table, not tables.summary.why_no_auroc)


def importance_note(tables: StudyTables) -> str:
    """What an importance is, and which parameters explain much, little, or an unknown part."""
    table = tables.of(importances)
    if isinstance(table, Missing):
        return ""
    highest_P = np.nan_to_num(table.share_PT, nan=-1).max(axis=1)
    explained = [
        (parameter_name(table.parameters[index]), _explained(table, index))
        for index in np.flatnonzero(highest_P >= LITTLE)[:MOST_EXPLAINED].tolist()
    ]
    little, unknown = (
        [parameter_name(table.parameters[index]) for index in np.flatnonzero(which_P)]
        for which_P in ((highest_P >= 0) & (highest_P < LITTLE), highest_P < 0)
    )
    return sentences("notes.txt", "importances", explained, little, unknown, LITTLE, LEAST_TRIALS)


def most_important(tables: StudyTables) -> tuple[str, str] | None:
    """The name of the parameter that explains most, and what it explains; None where none explains much."""
    table = tables.of(importances)
    if isinstance(table, Missing) or np.nan_to_num(table.share_PT[0]).max() < LITTLE:
        return None
    return parameter_name(table.parameters[0]), _explained(table, 0)


def _explained(table: Importances, parameter: int) -> str:
    """Such as "95.3 % of the variance of validation KL and 80.1 % of that of validation AUROC"."""
    shares = zip(table.targets, table.share_PT[parameter], strict=True)
    known = [(metric_name(target), percent(float(share))) for target, share in shares if np.isfinite(share)]
    return listing(f"{share} of {'that' if i else 'the variance'} of {name}" for i, (name, share) in enumerate(known))

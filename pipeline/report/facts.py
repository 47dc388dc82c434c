"""The numbers to see at once."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.report import names, words
from pipeline.report.tables import StudyTables
from pipeline.report.tables.frames import scalar
from pipeline.report.tables.frontier import objective_signs


@dataclass(frozen=True, kw_only=True)
class Fact:
    """A number to see at once, with its name and a remark."""

    name: str
    value: str
    remark: str = ""


def facts(tables: StudyTables) -> tuple[Fact, ...]:
    """The study's main numbers, and those of the chosen model's code where it has such."""
    s = tables.summary
    chosen = words.NONE if s.champion_trial is None else str(s.champion_trial)
    rule = f"by {names.detector_name(s.champion_rule)}" if s.champion_rule else ""
    others = [f"{n:,} {state}" for state, n in s.states.items() if n and state != "finished"]
    unit = names.hypervolume_unit(objective_signs(tables.record.spec)) * math.isfinite(s.hypervolume)
    return (
        Fact(name="Trials finished", value=f"{s.states['finished']:,}", remark=", ".join(others)),
        Fact(name="On the frontier", value=f"{s.frontier_size:,}", remark=_rivals(tables)),
        _best(tables),
        Fact(name="Chosen trial", value=chosen, remark=rule),
        Fact(name="Test AUROC", value=words.number(s.test_auroc.value, 3), remark=_detection(tables)),
        Fact(name="Hypervolume", value=words.number(s.hypervolume), remark=unit),
        *_code(tables),
    )


def _rivals(tables: StudyTables) -> str:
    which = " that keeps the constraints" * bool(tables.constraints.violating)
    return f"not dominated by any finished trial{which}"


def data_notes(data: Mapping[str, Any]) -> tuple[str, ...]:
    """What was done to the data: columns left out, rows moved, values that stand in."""
    notes = data.get("notes") or ()
    return (notes,) if isinstance(notes, str) else tuple(str(note) for note in notes)


def _detection(tables: StudyTables) -> str:
    """Which score the AUROC is of, and how sure it is; or why there is none."""
    s = tables.summary
    if s.why_no_auroc or s.champion_score is None:
        return s.why_no_auroc
    sure = f", 95 % interval {words.number(s.test_auroc.low, 3)} to {words.number(s.test_auroc.high, 3)}"
    return f"of {names.score_name(s.champion_score)}{sure * math.isfinite(s.test_auroc.low)}"


def _best(tables: StudyTables) -> Fact:
    """The best ELBO; where finished trials have none, the best of the first objective."""
    elbo, trial = tables.summary.best_elbo_nats, tables.summary.best_elbo_trial
    if trial is not None or tables.frontier.empty:
        remark = f"nats, trial {trial}" if trial is not None else ""
        return Fact(name="Best validation ELBO", value=words.number(elbo), remark=remark)
    metric = next(iter(objective_signs(tables.record.spec)))
    value = words.number(scalar(tables.frontier, metric), names.digits_of(metric))
    where = f"trial {int(tables.frontier['trial'].iloc[0])}"
    unit = names.metric_unit(metric)
    return Fact(name=f"Best {names.metric_name(metric)}", value=value, remark=f"{unit}, {where}" if unit else where)


def _code(tables: StudyTables) -> Iterator[Fact]:
    code = tables.code
    if math.isfinite(code.probe_accuracy):
        shown = f", shown {100 * code.probe_share:.3g} % of the labels" * math.isfinite(code.probe_share)
        value = words.number(code.probe_accuracy, 3)
        yield Fact(name="Probe accuracy", value=value, remark=f"linear classifier on the chosen code{shown}")
    if math.isfinite(code.perplexity):
        size = f"of {code.codebook_size:,} entries" * bool(code.codebook_size)
        yield Fact(name="Codebook perplexity", value=words.number(code.perplexity, 1), remark=size)

"""The first screen of a report: which model, how good it is, how it compares, how sure that is, and what to do next.

The sentences are in templates/verdict.txt; this module computes what they state.
"""

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from vae_study.metrics import BASELINE, ENSEMBLE_PREFERENCE, PUBLIC_TABLES
from vae_study.report.formatting import detector_name, parameter_name, sentences, significant
from vae_study.report.frames import Missing, with_state
from vae_study.report.overview import WIDE_INTERVAL, drifted, family_name, has_one_seed, over_seeds, settings
from vae_study.report.sections.choices import DetectorComparison, choices, compare_baseline, compare_ensemble
from vae_study.report.sections.code import edges, warm_up
from vae_study.report.sections.outcomes import constraints, early_match
from vae_study.report.sections.thresholds import scores
from vae_study.report.tables import StudyTables
from vae_study.tracking.record import StudyRecord

MOST_STEPS = 3
# Of the highest rows; and from which share of them on two rankings are called about the same.
MOST_HIGHEST, HARDLY = 20, 0.9


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A question that a reader has, and the study's answer in one or a few sentences."""

    question: str
    text: str


@dataclass(frozen=True, kw_only=True)
class ModelVoice:
    """How much the models change the ranking of test rows, without labels.

    Attributes:
        correlation: Spearman's, of the ensemble of the best trials with the detector without a model, which is in it.
        highest: How many of the highest rows are compared.
        shared: How many of them are among the highest of both.
    """

    correlation: float
    highest: int
    shared: int

    @property
    def change(self) -> str:
        """In a word."""
        if self.shared >= HARDLY * self.highest:
            return "hardly change"
        return "change" if 2 * self.shared >= self.highest else "change much of"


def model_voice(record: StudyRecord) -> ModelVoice | None:
    """Of a study that knows no anomaly and has an ensemble without labels; None of others."""
    rows, (ensemble, baseline) = record.detectors, (ENSEMBLE_PREFERENCE[1], BASELINE)
    if rows.empty or not {ensemble, baseline} <= {*rows} or rows["anomaly"].any():
        return None
    ranks = rows.loc[rows["split"].eq("test"), [ensemble, baseline]].rank(ascending=False)
    highest = min(MOST_HIGHEST, len(ranks) // 2)
    if not highest:
        return None
    shared = int((ranks <= highest).all(axis=1).sum())
    correlation = float(ranks[ensemble].corr(ranks[baseline]))
    return ModelVoice(correlation=correlation, highest=highest, shared=shared)


def verdict(tables: StudyTables) -> tuple[Answer, ...]:
    """The answers, the most important first; a question without an answer is left out."""
    summary, found = tables.summary, tables.of(scores)
    compared, ensemble = compare_baseline(tables.of(choices)), compare_ensemble(tables.of(choices))
    has_model, own = summary.champion_trial is not None, settings(tables, summary.champion_trial)
    flagged = None if isinstance(found, Missing) or found.thresholds.empty else found.thresholds.iloc[-1].to_dict()
    voice = model_voice(tables.record)
    answers = {
        "Which model": _said(
            "model", summary, family_name(tables), own, tables.of(early_match), tables.of(constraints).none_kept
        ),
        "How good": _said("good", summary, flagged) if has_model else "",
        "What to expect": _said("expected", PUBLIC_TABLES, voice) if voice else "",
        "Against no model": _said("compared", compared) if compared else "",
        "Against the best ensemble": _said("ensemble", ensemble) if ensemble else "",
        "How sure": _said("sure", summary, over_seeds(tables), has_one_seed(tables)) if has_model else "",
        "What next": " ".join([*next_steps(tables, compared, ensemble)][:MOST_STEPS]),
    }
    return tuple(Answer(question=question, text=text) for question, text in answers.items() if text)


def _said(macro: str, *values: object) -> str:
    return sentences("verdict.txt", macro, *values)


def next_steps(
    tables: StudyTables, compared: DetectorComparison | None, ensemble: DetectorComparison | None
) -> Iterator[str]:
    """What a user should do with this study, the most urgent first.

    Args:
        tables: The study.
        compared, ensemble: The chosen model beside the detector without a model, and beside the best ensemble.
    """
    record, summary = tables.record, tables.summary
    name, states = shlex.quote(record.name), summary.states
    if states["failed"] and not states["finished"]:
        yield "No trial has finished: see Failures below for why."
    if states["waiting"]:
        yield f"Continue the study: vae-study resume {name}."
    elif states["running"]:
        yield "Wait until the study has ended."
    if summary.champion_trial is None:
        return
    if summary.why_no_auroc:
        if tables.record.detectors.empty or tables.record.detectors["anomaly"].any():
            yield "Label some anomalies, so that detection can be measured and the choice can use them."
        else:
            yield f"Label some rows, so that the choice can use them: vae-study ask {name} writes those that help most."
    if ensemble is not None and ensemble.is_worse:
        yield f"Prefer that ensemble: vae-study score {name} DATA --model {ensemble.other.name}."
    elif compared is not None and compared.is_worse:
        label = detector_name(compared.other.name)
        yield f"Search on, with other parameters, or score with the {label}: it detects better than the chosen model."
    for edge in edges(record, tables.of(choices)):
        if edge.trial == summary.champion_trial:
            end = "below" if edge.end == "lower" else "above"
            yield f"Search {parameter_name(edge.parameter)} {end} {significant(edge.limit)} too."
    if summary.champion_trial in tables.of(warm_up).finished:
        yield "Train longer: the chosen trial’s KL warm-up did not end."
    if drifted(tables):
        yield "Compute thresholds from newer normal rows: those of the test split differ."
    if summary.test_auroc.high - summary.test_auroc.low > WIDE_INTERVAL:
        yield "Label more anomalies: the interval is wide."
    if has_one_seed(tables) and len(with_state(record, "finished")) > 1 and math.isfinite(summary.test_auroc.value):
        yield "Repeat the best trials with new seeds: confirm: {top: 3, seeds: 5}."
    yield f"Score new rows: vae-study score {name} DATA."

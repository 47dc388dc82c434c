"""A comparison's sentences, each computed from its tables. Plain text; escaping is the templates' task."""

import math
from collections.abc import Iterator

import numpy as np

from pipeline.report.comparison.differences import of_data, of_units
from pipeline.report.comparison.tables import Comparison, OneStudy
from pipeline.report.names import hypervolume_unit, metric_name, score_name
from pipeline.report.tables.frames import Missing
from pipeline.report.words import Words, count, interval, listing, number


def overview(table: Comparison) -> list[str]:
    """The paragraphs at the head of the page: what is compared, the trade-off, the chosen models."""
    parts = (_what(table), _trade_off(table), _models(table))
    return [paragraph for part in parts if (paragraph := " ".join(part))]


def cautions(table: Comparison) -> list[str]:
    """What a reader has to know before he takes one number for better than another."""
    return [*_other_rows(table), *_unfinished(table), *_unequal_budgets(table)]


def _what(table: Comparison) -> Iterator[str]:
    source = table.studies[0].record.data.get("source") or "unnamed data"
    yield f"{listing(table.names)}: {count(len(table.studies), 'study', 'studies')} of {source}."
    axes = listing(f"{'lower' if sign > 0 else 'higher'} {metric_name(metric)}" for metric, sign in _signs(table))
    yield f"All of them look for {axes}."


def _signs(table: Comparison) -> list[tuple[str, float]]:
    return list(table.objectives.items())


def _trade_off(table: Comparison) -> Iterator[str]:
    known = [study for study in table.studies if math.isfinite(study.summary.hypervolume)]
    if len(known) > 1:
        first, *others = sorted(known, key=lambda study: -study.summary.hypervolume)
        unit = hypervolume_unit(table.objectives)
        rest = listing(f"{number(other.summary.hypervolume)} of {other.name}" for other in others)
        volume = f"{number(first.summary.hypervolume)} {unit}".strip()
        yield f"Against one reference, {first.name} has the largest hypervolume: {volume}, against {rest}."
    joint = {study.name: int(study.frontier["joint"].sum()) for study in table.studies}
    if total := sum(joint.values()):
        shares = listing(f"{size} of {name}" for name, size in joint.items())
        yield f"Of all studies together, {count(total, 'trial')} {_is(total)} dominated by none: {shares}."


def _is(size: int) -> str:
    return "is" if size == 1 else "are"


def _models(table: Comparison) -> Iterator[str]:
    known = [study for study in table.studies if math.isfinite(study.summary.test_auroc.value)]
    if not known:
        return
    first, *others = sorted(known, key=lambda study: -study.summary.test_auroc.value)
    yield f"The chosen model of {first.name} has the highest test AUROC, {interval(first.summary.test_auroc)}."
    if near := [study.name for study in others if _overlaps(first, study)]:
        yield f"Its interval overlaps with {'that' if len(near) == 1 else 'those'} of {listing(near)}."
    if far := [study.name for study in others if _overlaps(first, study) is False]:
        yield f"Its interval lies above {'that' if len(far) == 1 else 'those'} of {listing(far)}."


def _overlaps(one: OneStudy, other: OneStudy) -> bool | None:
    ours, theirs = one.summary.test_auroc, other.summary.test_auroc
    return None if math.isnan(ours.low) or math.isnan(theirs.high) else theirs.high >= ours.low


def _other_rows(table: Comparison) -> Iterator[str]:
    if keys := of_data(table.differences):
        yield (
            f"The studies prepare or split their data differently ({listing(keys)}): their numbers are of other rows "
            "or in other units, and no difference below is one of models alone."
        )
    if keys := of_units(table.differences):
        yield (
            f"The studies differ in {listing(keys)}: a reconstruction in nats is of another density there, so that "
            "neither frontiers nor hypervolumes can be compared."
        )


def _unfinished(table: Comparison) -> Iterator[str]:
    for study in table.studies:
        open_trials = study.summary.states["running"] + study.summary.states["waiting"]
        if open_trials:
            yield f"{study.name} has {count(open_trials, 'trial')} that {_is(open_trials)} not done yet."
        if not study.summary.states["finished"]:
            yield f"No trial of {study.name} has finished."


def _unequal_budgets(table: Comparison) -> Iterator[str]:
    epochs = {study.name: study.summary.epochs for study in table.studies if study.summary.epochs}
    if len(epochs) > 1 and max(epochs.values()) > 1.2 * min(epochs.values()):
        told = listing(f"{name} {size:,}" for name, size in epochs.items())
        yield f"They trained for unequal numbers of epochs, all trials together: {told}."


def why_no_plane(table: Comparison) -> str:
    """Why no frontiers are drawn; empty where they are."""
    if len(table.objectives) < 2:
        return "The studies have one objective, so that there is no trade-off to draw."
    sizes = [len(study.frontier) for study in table.studies]
    return "" if any(sizes) else "No study has a finished trial, so that there is no frontier yet."


def why_no_volume(table: Comparison) -> str:
    """Why no hypervolume is drawn; empty where it is."""
    missing = [study.hypervolume for study in table.studies if isinstance(study.hypervolume, Missing)]
    return missing[0].why if len(missing) == len(table.studies) else ""


def why_no_auroc(table: Comparison) -> str:
    """Why no AUROC is drawn; empty where it is."""
    known = np.isfinite([study.summary.test_auroc.value for study in table.studies])
    return "" if known.any() else "No study has a chosen model whose test AUROC is known."


def frontiers(table: Comparison) -> Words:
    """Of the frontiers over each other."""
    first, *others = (metric_name(metric) for metric in table.objectives)
    second = others[0] if others else ""
    caption = f"The frontiers: {first} against {second}. Filled: no trial of any of the studies is better in all."
    if len(others) > 1:
        caption += f" Drawn without {listing(others[1:])}."
    sizes = listing(f"{study.name} with {count(len(study.frontier), 'trial')}" for study in table.studies)
    return Words(caption=caption, alt=f"Frontiers in the plane of {first} and {second}: {sizes}.")


def hypervolumes(table: Comparison) -> Words:
    """Of the hypervolumes over the epochs, or the trials."""
    point = listing(f"{metric_name(metric)} {number(value)}" for metric, value in table.reference.items())
    found = listing(f"{study.name} {number(study.summary.hypervolume)}" for study in table.studies)
    caption = f"The hypervolume after each finished trial, against the common reference: {point}. "
    caption += "What lies below the picture's edge is of the first quarter of a study's trials."
    return Words(caption=caption, alt=f"Steps that grow with what was trained; at their ends: {found}.")


def chosen(table: Comparison) -> Words:
    """Of the chosen models side by side."""
    found = listing(f"{study.name} {interval(study.summary.test_auroc)}" for study in table.studies)
    caption = "The chosen models' AUROC on the test split with 95 % intervals"
    with_baseline = any(study.baseline for study in table.studies)
    caption += "; grey, the raw nearest neighbours, which need no training." if with_baseline else "."
    return Words(caption=caption, alt=f"A dot with an interval for each study: {found}.")


def score_of(study: OneStudy) -> str:
    """The anomaly score of a study's chosen model."""
    return score_name(study.summary.champion_score) if study.summary.champion_score else ""

"""Which model each rule takes, how it compares with ensembles and with no training, and AUROC by score."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Picture

from vae_study.anomaly import detection
from vae_study.anomaly.paired import verdict
from vae_study.metrics import AREA_LABELS, BASELINES, ENSEMBLES, RULES, difference_columns, need
from vae_study.report.figure import Figure, Grid
from vae_study.report.formatting import NONE, captions, count, detector_name, interval, listing, number, score_name
from vae_study.report.frames import Interval, Missing, numbers, row_of, scalar, with_state
from vae_study.report.parameters import has_rate
from vae_study.report.sections.detection import curves
from vae_study.report.style import ANOMALY, CHOSEN, GREY, NORMAL, figure
from vae_study.report.tables import (
    NO_CHAMPION,
    StudyTables,
    best,
    champion_auroc,
    followed_score,
    meaning,
    meant,
    score_of,
    stored_auroc,
    stored_scores,
)
from vae_study.selection.ranking import eligible
from vae_study.tracking.record import ChampionRecord, StudyRecord

Kind = Literal["rule", "ensemble", "baseline"]
# The rules that are shown while a study has not compared its detectors yet.
PLAIN_RULES = ("val/auroc", "val/elbo")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Something that scores rows: what a rule takes, an ensemble, or the baseline.

    Attributes:
        name: The rule's metric, such as "val/elbo", or as in `vae_study.selection.comparison`.
        kind: Which of the three.
        needs_labels: Whether labelled anomalies of validation take part in the choice.
        trials: Its trials: one of a rule, none of the baseline.
        scores: Their anomaly scores, each once.
        val_auroc: On the validation split, where some rules choose.
        test_auroc: On the test split, which no rule sees.
        average_precision: On the test split.
        alarm_precision: The share of real ones among the alarms of the study's budget on the test split.
        differences: By area and "chosen" or "baseline": how much larger the area is on test than that of the chosen
            model or of the baseline, with its paired interval.
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
    alarm_precision: float = np.nan
    differences: Mapping[tuple[str, str], Interval] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """The choices with a known test AUROC: rules, then ensembles, then the baseline."""

    choices: tuple[Choice, ...]


def choices(record: StudyRecord) -> tuple[Choice, ...]:
    """What each rule takes, the study's own first, then the ensembles and the baseline where the study has them."""
    compared = [_compared(record, row) for row in record.choices.to_dict("records")]
    order = {"rule": 0, "ensemble": 1, "baseline": 2}
    return tuple(sorted(compared or _ranked(record), key=lambda choice: (not choice.chosen, order[choice.kind])))


def _compared(record: StudyRecord, row: Mapping[Any, Any]) -> Choice:
    frame, name = pd.DataFrame([row]), str(row["rule"])
    pairs = [(int(trial), str(score)) for trial, score in json.loads(str(row.get("selections") or "[]"))]
    value, low, high = (scalar(frame, metric) for metric in ("auroc", "auroc_low", "auroc_high"))
    return Choice(
        name=name,
        kind="ensemble" if name in ENSEMBLES else "baseline" if name in BASELINES else "rule",
        needs_labels=bool(row.get("needs_labels") == 1),
        trials=tuple(dict.fromkeys(trial for trial, _ in pairs)),
        scores=tuple(dict.fromkeys(meant(record, trial, score) for trial, score in pairs)),
        val_auroc=scalar(frame, "val_auroc"),
        test_auroc=Interval(value=value, low=low, high=high),
        average_precision=scalar(frame, "average_precision"),
        alarm_precision=scalar(frame, "alarm_precision"),
        chosen=record.champion is not None and record.champion.rule == name,
        differences={
            (area, reference): Interval(*(scalar(frame, column) for column in difference_columns(area, reference)))
            for area in AREA_LABELS
            for reference in ("chosen", "baseline")
        },
    )


def _ranked(record: StudyRecord) -> list[Choice]:
    """Of a study that has not compared its detectors: the best eligible trials, with the score that they follow."""
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


def drawable_choices(tables: StudyTables) -> SideBySide | Missing:
    """The choices that can be drawn; `Missing` if the study has compared rules only, or knows no test AUROC."""
    found, measured = tables.of(choices), tables.of(curves)
    if all(choice.kind == "rule" for choice in found):
        return Missing("No model has been compared with ensembles and with a detector without a model yet.")
    known = tuple(choice for choice in found if np.isfinite(choice.test_auroc.value))
    return SideBySide(choices=known) if known else Missing(measured.why if isinstance(measured, Missing) else "")


@dataclass(frozen=True, kw_only=True)
class AreaComparison:
    """One area of the chosen model and of another detector.

    Attributes:
        name: "AUROC" or "average precision".
        other: The other detector's.
        more: How much more the other has, of values rounded as they are printed, so that it agrees with a reader's own
            subtraction. NaN where one is unknown.
        low, high: The ends of the paired interval of that difference; NaN where unknown.
    """

    name: str
    other: float
    more: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Whether the chosen model is "better" or "worse", or the rows show no difference: "tie"; "" if unknown."""
        return verdict(-self.high, -self.low)


@dataclass(frozen=True, kw_only=True)
class DetectorComparison:
    """The chosen model compared with another detector on the same test rows: AUROC, average precision, alarms."""

    chosen: Choice
    other: Choice
    areas: tuple[AreaComparison, ...]

    @property
    def verdicts(self) -> tuple[str, ...]:
        """Of each area whose paired interval is known."""
        return tuple(area.verdict for area in self.areas if area.verdict)

    @property
    def is_worse(self) -> bool:
        """Whether the chosen model is worse in some area and better in none."""
        return "worse" in self.verdicts and "better" not in self.verdicts


def compare_labels(found: Sequence[Choice]) -> DetectorComparison | None:
    """Compare the chosen model with the first rule that differs from its rule in whether it needs labels."""
    return _compare(found, lambda chosen, other: other.kind == "rule" and other.needs_labels != chosen.needs_labels)


def compare_baseline(found: Sequence[Choice]) -> DetectorComparison | None:
    """Compare the chosen model with the detector without a model."""
    return _compare(found, lambda _, other: other.kind == "baseline")


def compare_ensemble(found: Sequence[Choice]) -> DetectorComparison | None:
    """Compare the chosen model with the ensemble of the highest AUROC on validation."""
    known = [choice for choice in found if choice.kind == "ensemble" and math.isfinite(choice.val_auroc)]
    best = max(known, key=lambda choice: choice.val_auroc, default=None)
    return _compare(found, lambda _, other: other is best)


def _compare(found: Sequence[Choice], is_other: Callable[[Choice, Choice], bool]) -> DetectorComparison | None:
    chosen = next((choice for choice in found if choice.chosen), None)
    other = next((other for other in found if chosen is not None and is_other(chosen, other)), None)
    if chosen is None or other is None:
        return None
    areas = []
    for area, name in AREA_LABELS.items():
        ours, theirs = (_area_of(choice, area) for choice in (chosen, other))
        paired = other.differences.get((area, "chosen"), Interval(np.nan))
        more = round(theirs, 3) - round(ours, 3)
        areas.append(AreaComparison(name=name, other=theirs, more=more, low=paired.low, high=paired.high))
    return DetectorComparison(chosen=chosen, other=other, areas=tuple(areas))


def _area_of(choice: Choice, area: str) -> float:
    return choice.test_auroc.value if area == "auroc" else float(getattr(choice, area))


# Whether a choice needs labels, as a colour and a mark that does without colours.
KINDS = {"needs labels": (ANOMALY, "s"), "needs no labels": (NORMAL, "o"), "needs no model": (GREY, "D")}


def draw_side_by_side(table: SideBySide) -> Picture:
    """A row each: a dot with its interval, a ring around the study's own, and a line where the baseline is."""
    drawn = figure(0.34 * len(table.choices) + 1.1)
    axes = drawn.add_subplot()
    heights = [-row for row in range(len(table.choices))]
    pairs = list(zip(heights, table.choices, strict=True))
    for kind, (colour, marker) in KINDS.items():
        some = [(y, choice.test_auroc) for y, choice in pairs if _label_need(choice) == kind]
        if some:
            ys = [y for y, _ in some]
            axes.hlines(ys, [area.low for _, area in some], [area.high for _, area in some], color=colour,
                        linewidth=1.4)  # fmt: skip
            axes.scatter(np.array([area.value for _, area in some]), ys, s=30, color=colour, marker=marker, zorder=3,
                         label=kind)  # fmt: skip
    for y, choice in pairs:
        if choice.chosen:
            axes.scatter(choice.test_auroc.value, y, s=150, facecolors="none", edgecolors=CHOSEN, linewidths=1.6,
                         zorder=4, label="the study’s rule")  # fmt: skip
        if choice.kind == "baseline":
            axes.axvline(choice.test_auroc.value, color=GREY, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    axes.set_yticks(heights, [detector_name(choice.name)[:40] for choice in table.choices])
    axes.set(ylim=(0.6 - len(table.choices), 0.6), xlabel="test AUROC")
    axes.grid(False, axis="y")
    axes.margins(x=0.04)
    drawn.legend(loc="outside upper left", ncols=4, handletextpad=0.3, columnspacing=1.2)
    return drawn


def _label_need(choice: Choice) -> str:
    if choice.kind == "baseline":
        return "needs no model"
    return "needs labels" if choice.needs_labels else "needs no labels"


SIDE_BY_SIDE = Figure(
    name="side_by_side", numbers=drawable_choices, draw=draw_side_by_side, words=captions("side_by_side")
)


def choice_grid(tables: StudyTables) -> Grid:
    """What each rule selects, the ensembles and the baseline."""
    columns: dict[str, Callable[[Choice], str]] = {
        "rule": lambda choice: detector_name(choice.name),
        "needs labels": lambda choice: "yes" if choice.needs_labels else "no",
        "trial": lambda choice: _listed(choice, "trial", map(str, choice.trials)),
        "score": lambda choice: _listed(choice, "score", map(score_name, choice.scores)),
        "validation AUROC": lambda choice: number(choice.val_auroc, 3),
        "test AUROC (95 % interval)": lambda choice: interval(choice.test_auroc),
        "average precision": lambda choice: number(choice.average_precision, 3),
        "precision of the alarms": lambda choice: number(choice.alarm_precision, 3),
        "AUROC against the baseline": lambda choice: _against_baseline(choice, "auroc"),
        "average precision against the baseline": lambda choice: _against_baseline(choice, "average_precision"),
        "alarms against the baseline": lambda choice: _against_baseline(choice, "alarm_precision"),
    }
    found = tables.of(choices)
    return Grid(
        label="The choice of each rule, the ensembles and the baseline; none of them uses the test split",
        head=tuple(columns),
        rows=tuple(tuple(cell(choice) for cell in columns.values()) for choice in found),
        marked=next((detector_name(choice.name) for choice in found if choice.chosen), ""),
        is_wide=True,
    )


def _against_baseline(choice: Choice, area: str) -> str:
    """The verdict and the paired interval, such as "better [0.011, 0.045]"; empty for the baseline itself."""
    found = choice.differences.get((area, "baseline"), Interval(np.nan))
    told = verdict(found.low, found.high)
    if choice.kind == "baseline" or not told:
        return NONE
    return f"{told} [{number(found.low, 3)}, {number(found.high, 3)}]"


def _listed(choice: Choice, what: str, names: Iterable[str]) -> str:
    """The names; of an ensemble only how many there are."""
    known = list(names)
    if choice.kind == "ensemble":
        return count(len(known), what)
    return listing(known) or NONE


# What the splits of `ScoreTable` are called in a stored score, and in the printed table.
SPLITS = {"pseudo": ("", "pseudo-anomalies"), "val": ("validation", "validation"), "test": ("test", "test")}


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """AUROC by anomaly score.

    Attributes:
        values: One row per score: `score`; of the chosen trial `pseudo` (AUROC against pseudo-anomalies),
            `val`, `test`; and their means over the finished trials, `mean_pseudo`, `mean_val`, `mean_test`. NaN where
            unknown.
        chosen: The score that the chosen model is used with.
        trials: The finished trials.
        without_rate: Whether the scores that have a KL in them are left out, as the chosen code has none.
    """

    values: pd.DataFrame
    chosen: str
    trials: int
    without_rate: bool


def score_table(record: StudyRecord) -> ScoreTable | Missing:
    """Every score of the chosen trial, and the means over all finished ones."""
    champion = record.champion
    if champion is None:
        return Missing(NO_CHAMPION)
    finished, rated = with_state(record, "finished"), has_rate(record, champion.trial)
    names = [name for name in stored_scores(champion) if rated or not need([name], "rate")]
    values = pd.DataFrame([_row(record, champion, finished, name) for name in names])
    if not len(values) or not np.isfinite(values.drop(columns="score").to_numpy(np.float64)).any():
        return Missing("No AUROC of any score is known.")
    return ScoreTable(values=values, chosen=meaning(record, champion), trials=len(finished), without_rate=not rated)


def _row(record: StudyRecord, champion: ChampionRecord, finished: pd.DataFrame, score: str) -> dict[str, object]:
    found: dict[str, object] = {
        "score": score,
        "pseudo": scalar(row_of(record, champion.trial), f"pseudo_auroc/{score}"),
    }
    for split in ("val", "test"):
        rows = champion.scores[champion.scores["split"].eq(SPLITS[split][0])]
        score_N = numbers(rows, score)
        known_N = np.isfinite(score_N)
        found[split] = detection.auroc(rows["anomaly"].eq(True).to_numpy(np.bool_)[known_N], score_N[known_N])
    for split in SPLITS:
        values = numbers(finished, f"{split}_auroc/{score}")
        known = values[np.isfinite(values)]
        found[f"mean_{split}"] = float(known.mean()) if len(known) else float("nan")
    return found


def score_grid(tables: StudyTables) -> Grid:
    """AUROC by score, shaded from 0.5 to 1."""
    table = tables.of(score_table)
    if isinstance(table, Missing):
        return Grid(missing=table.why)
    named = {split: f"trial {tables.summary.champion_trial}: {name}" for split, (_, name) in SPLITS.items()}
    named |= {f"mean_{split}": f"mean of {count(table.trials, 'trial')}: {name}" for split, (_, name) in SPLITS.items()}
    shown = [column for column in named if table.values[column].notna().any()]
    records = table.values.to_dict("records")
    return Grid(
        label="AUROC by anomaly score, darker from 0.5 to 1; do not choose by the columns of the test split",
        is_wide=True,
        head=("score", *(named[column] for column in shown)),
        rows=tuple((score_name(row["score"]), *(number(row[column], 3) for column in shown)) for row in records),
        marked=score_name(table.chosen),
        heat=tuple(
            tuple(0.0 if math.isnan(row[column]) else round(max(0.0, 2 * row[column] - 1), 2) for column in shown)
            for row in records
        ),
    )

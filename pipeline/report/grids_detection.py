"""Tables of detection as they are printed."""

import math

from pipeline.report import words
from pipeline.report.grids import Grid
from pipeline.report.names import detector_name, score_name
from pipeline.report.tables import Choice, Missing, StudyTables
from pipeline.report.tables.explained import Reason
from pipeline.report.words import count, interval, number, percent, quantity

SPLITS = {"pseudo": "pseudo-anomalies", "val": "validation", "test": "test"}
LONGEST_TEXT = 40
# The largest float32, which stands for a score that overflowed.
OVERFLOW = 3.4e38


def choice_grid(tables: StudyTables) -> Grid:
    """What each rule takes, and what stands beside it."""
    head = ("rule", "needs labels", "trial", "score", "validation AUROC", "test AUROC (95 % interval)",
            "average precision")  # fmt: skip
    chosen = next((detector_name(choice.name) for choice in tables.choices if choice.chosen), "")
    return Grid(head=head, rows=tuple(map(_choice_cells, tables.choices)), marked=chosen)


def _choice_cells(choice: Choice) -> tuple[str, ...]:
    return (
        detector_name(choice.name),
        "yes" if choice.needs_labels else "no",
        *_picks(choice),
        number(choice.val_auroc, 3),
        interval(choice.test_auroc),
        number(choice.average_precision, 3),
    )


def _picks(choice: Choice) -> tuple[str, str]:
    if choice.kind == "baseline":
        return words.NONE, words.NONE
    if choice.kind == "ensemble":
        return count(len(choice.trials), "trial"), count(len(choice.scores), "score")
    picks = words.listing(map(str, choice.trials)), words.listing(map(score_name, choice.scores))
    return picks[0] or words.NONE, picks[1] or words.NONE


def measure_grid(tables: StudyTables) -> Grid:
    """How well the chosen model detects, in the numbers that people compare detectors by."""
    found = tables.curves
    if isinstance(found, Missing):
        return Grid(head=(), rows=())
    point = found.points
    rows = (
        ("AUROC", interval(found.auroc), "chance that an anomaly scores higher than a normal row; guessing gives 0.5"),
        ("average precision", interval(found.average_precision),
         f"mean precision over the recall; guessing gives the prevalence, {number(found.prevalence, 3)}"),
        ("FPR at 95 % TPR", percent(point["fpr_at_95_tpr"]), "normal rows flagged where 95 % of anomalies are found"),
        ("TPR at 1 % FPR", percent(point["tpr_at_1_fpr"]), "anomalies found where 1 % of normal rows are flagged"),
        ("precision at n", percent(point["precision_at_n"]),
         f"anomalies among the {found.anomalies:,} highest scores, as many as there are anomalies"),
        ("best F1", number(point["best_f1"], 3), "at the best threshold for these very labels, so too good to expect"),
    )  # fmt: skip
    # Where a column is narrow, an interval stays on one line.
    unbroken = tuple((name, value.replace(" ", "\N{NO-BREAK SPACE}"), what) for name, value, what in rows)
    return Grid(head=("measure", f"by {score_name(found.score)}", "what it is"), rows=unbroken)


def threshold_grid(tables: StudyTables) -> Grid:
    """What flagging above each threshold does on the test split."""
    head = ("percentile of normal validation scores", "threshold", "false alarms meant", "false alarms on test",
            "precision", "recall")  # fmt: skip
    found = tables.scores
    if isinstance(found, Missing):
        return Grid(head=head, rows=())
    rows = (
        (
            words.significant(row["percentile"]),
            number(row["threshold"], 3),
            f"{100 - row['percentile']:g} %",
            percent(row["false_alarm_rate"]) + (" (drift)" if row["drifted"] else ""),
            percent(row["precision"]) if len(found.anomaly_N) else words.NONE,
            percent(row["recall"]),
        )
        for row in found.thresholds.to_dict("records")
    )
    return Grid(head=head, rows=tuple(rows))


def score_grid(tables: StudyTables) -> Grid:
    """AUROC by score, shaded from 0.5 to 1."""
    table = tables.score_table
    if isinstance(table, Missing):
        return Grid(head=(), rows=())
    named = {split: f"trial {tables.summary.champion_trial}: {name}" for split, name in SPLITS.items()}
    named |= {f"mean_{split}": f"mean of {count(table.trials, 'trial')}: {name}" for split, name in SPLITS.items()}
    shown = [column for column in named if table.values[column].notna().any()]
    records = table.values.to_dict("records")
    return Grid(
        head=("score", *(named[column] for column in shown)),
        rows=tuple((score_name(row["score"]), *(number(row[column], 3) for column in shown)) for row in records),
        marked=score_name(table.chosen),
        heat=tuple(tuple(_heat(row[column]) for column in shown) for row in records),
    )


def _heat(auroc: float) -> float:
    return 0.0 if math.isnan(auroc) else round(max(0.0, 2 * auroc - 1), 2)


def top_grid(tables: StudyTables) -> Grid:
    """The most anomalous test rows; a line of the last column for each thing that the model did not expect."""
    table = tables.top
    if isinstance(table, Missing):
        return Grid(head=(), rows=())
    records = table.rows.to_dict("records")
    cells = {"row": [_short(row["row"]) for row in records]}
    if table.rows["label"].ne("").any():
        cells["label"] = [_short(row["label"]) for row in records]
    if not tables.summary.why_no_auroc:
        cells["anomaly"] = ["yes" if row["anomaly"] else "no" for row in records]
    cells["score"] = [_score(row["score"]) for row in records]
    if table.reasons:
        cells["what the model did not expect"] = [_reasons(row) for row in table.reasons]
    return Grid(head=tuple(cells), rows=tuple(zip(*cells.values(), strict=True)))


def _score(value: float) -> str:
    return f"overflow ({quantity(value)})" if value >= OVERFLOW else quantity(value)


def _reasons(reasons: tuple[Reason, ...]) -> str:
    return ";\n".join(_reason(reason) for reason in reasons) or "nothing above usual"


def _reason(reason: Reason) -> str:
    sign = "" if reason.value is None else {1: "≥ ", 0: "", -1: "≤ "}[reason.beyond]
    value, expected = _value(reason.value), _value(reason.expected)
    told = "as expected, though not surely" if value == expected else f"not {expected}"
    return f"{_short(reason.column)} {sign}{value}, {told} (+{number(reason.nats, 1 if reason.nats >= 10 else 2)} nats)"


def _value(value: float | str | None) -> str:
    if value is None:
        return "missing"
    return _short(value) if isinstance(value, str) else quantity(value)


def _short(text: str) -> str:
    """On one line, as the lines of a cell say something else."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_TEXT else f"{line[: LONGEST_TEXT - 1]}…"

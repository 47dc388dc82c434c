"""Sentences on detection, each computed from the tables; a sentence without its numbers is left out."""

import math
from collections.abc import Iterator

from pipeline.report.names import detector_name, score_name
from pipeline.report.tables import Choice, Contest, Missing, ScoreTable, StudyTables
from pipeline.report.words import count, interval, listing, number, percent

OVERLAP = {True: ", and the intervals overlap", False: ", and the intervals do not overlap", None: ""}
# What another rule would have had, by whether the chosen model's needs labels.
INSTEAD = {True: "Without labels", False: "With the labels of validation anomalies"}


def detects(tables: StudyTables) -> str:
    """How well the chosen model does on test, or why that is not known; it ends the sentence that names the model."""
    auroc, why = tables.summary.test_auroc, tables.summary.why_no_auroc
    if not math.isfinite(auroc.value):
        return f"; it has no test AUROC: {why}" if why else ""
    known = math.isfinite(auroc.low)
    sure = f", with a 95 % interval from {number(auroc.low, 3)} to {number(auroc.high, 3)}" if known else ""
    return f"; on test examples, which no choice has seen, its AUROC is {number(auroc.value, 3)}{sure}"


def comparison(tables: StudyTables) -> Iterator[str]:
    """What labels were worth, and whether the search was worth it at all."""
    if tables.labels is not None:
        yield _labels(tables.labels)
    if tables.baseline is not None and tables.baseline.overlap is not None:
        yield _baseline(tables.baseline)


def _labels(contest: Contest) -> str:
    chosen, rival = contest.chosen, contest.rival
    how = f"{INSTEAD[chosen.needs_labels]}, by {detector_name(rival.name)}, the choice would have been"
    if (rival.trials, rival.scores) == (chosen.trials, chosen.scores):
        return f"{how} the same."
    who = f"trial {rival.trials[0]}" if rival.trials != chosen.trials else "the same trial"
    scored = "" if rival.scores == chosen.scores else f", scored by {_scores(rival)}"
    if not math.isfinite(contest.points):
        return f"{how} {who}{scored}."
    auroc = f"its test AUROC is {number(rival.test_auroc.value, 3)}, {_points(contest)}"
    return f"{how} {who}{scored}: {auroc}{OVERLAP[contest.overlap]}."


def _scores(choice: Choice) -> str:
    return listing(map(score_name, choice.scores))


def _points(contest: Contest) -> str:
    if not round(contest.points, 1):
        return "the same"
    size = number(abs(contest.points), 1)
    return f"{size} point{'s' if size != '1.0' else ''} {'higher' if contest.points > 0 else 'lower'}"


def _baseline(contest: Contest) -> str:
    what = "The baseline without a model, the distance to the nearest training rows, has a test AUROC of"
    return f"{what} {interval(contest.rival.test_auroc)}, {_points(contest)}: {_verdict(contest)}."


def _verdict(contest: Contest) -> str:
    if contest.points < 0:
        unsure = "the chosen model did better, but the intervals overlap, so that may be the luck of these test rows"
        return unsure if contest.overlap else "the chosen model beats it, as the intervals do not overlap"
    close = "the chosen model does not beat it (the intervals overlap, so neither does the baseline beat the model)"
    return close if contest.overlap else "the chosen model is worse than none, as the intervals do not overlap"


def drift(tables: StudyTables) -> Iterator[str]:
    """Where thresholds do not hold on the test's normal rows."""
    thresholds = None if isinstance(tables.scores, Missing) else tables.scores.thresholds
    drifted = [] if thresholds is None or thresholds.empty else thresholds[thresholds["drifted"]].to_dict("records")
    if not drifted:
        return
    meant = listing(f"{100 - row['percentile']:g} %" for row in drifted)
    real = listing(percent(row["false_alarm_rate"]) for row in drifted)
    who, flag = ("A threshold", "flags") if len(drifted) == 1 else ("Thresholds", "flag")
    yield (
        f"{who} meant to flag {meant} of normal rows {flag} {real} of the test’s normal rows: they differ from "
        "validation’s normal rows by more than chance explains; that is drift in the data, not the model."
    )


def score_matters(table: ScoreTable | Missing) -> Iterator[str]:
    """How far apart the scores are."""
    if isinstance(table, Missing):
        return
    test = table.values.dropna(subset="test").sort_values("test", kind="stable")
    if len(test) > 1:
        ends = test.iloc[[0, -1]].to_dict("records")
        told = " to ".join(f"{number(end['test'], 3)} ({score_name(end['score'])})" for end in ends)
        yield f"With the same trained model the test AUROC runs from {told}."
    means = table.values.dropna(subset="mean_test").sort_values("mean_test", kind="stable")
    if len(means) > 1:
        top, over = means.to_dict("records")[-1], count(table.trials, "finished trial")
        yield f"On average over {over}, {score_name(top['score'])} is highest on test, {number(top['mean_test'], 3)}."
    if table.without_rate:
        yield "The code has no rate, so the scores with a KL in them are left out."


def top_rows(tables: StudyTables) -> Iterator[str]:
    """How to read the table of the most anomalous rows."""
    table = tables.top
    if isinstance(table, Missing):
        return
    found = int(table.rows["anomaly"].sum())
    if not tables.summary.why_no_auroc:
        yield f"{found} of these {count(len(table.rows), 'row')} {'is' if found == 1 else 'are'} labelled anomalous."
    if table.missing:
        yield table.missing
        return
    if table.reasons:
        units = "in the units of the data" if table.in_user_units else "as the network sees them, scaled"
        yield (
            f"Values are {units}; what the model gave back in their place is after “not”. Nats are what a column cost "
            "in the reconstruction, above its usual cost in training rows."
        )
    if any(reason.beyond for row in table.reasons for reason in row):
        yield "≥ and ≤: the value lies beyond the training rows and was cut off there."
    if table.of_the_code:
        score = score_name(table.score)
        yield f"The score, {score}, looks at the code only: what the reconstruction missed need not be why it is high."

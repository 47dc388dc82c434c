"""The first screen: its numbers against scikit-learn and the slow way, and what it advises in which case."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score
from vae_study.metrics import BASELINE, PUBLIC_TABLES
from vae_study.report.tables import StudyTables
from vae_study.report.verdict import verdict
from vae_study.terminal import status_text
from vae_study.tracking.record import StudyRecord

from .detectors import compared
from .families import confirmed
from .odd import odd
from .studies import study


def answers(record: StudyRecord) -> dict[str, str]:
    return {answer.question: answer.text for answer in verdict(StudyTables(record))}


def test_the_alarms_are_counted_on_the_test_rows(digits: StudyRecord) -> None:
    assert digits.champion is not None
    scores = digits.champion.scores
    test = scores[scores["split"] == "test"]
    score_N, is_anomaly_N = test[str(digits.champion.score)].to_numpy(), test["anomaly"].to_numpy(bool)
    assert len(np.unique(score_N)) == len(score_N)
    alarms = answers(replace(digits, config={**digits.config, "anomaly": {"score": None, "alarms": 30}}))["How good"]
    real = is_anomaly_N[np.argsort(-score_N)][:30].sum()
    assert f"If the 30 highest of {len(test)} test rows are alarms, about {round(100 * real / 30)} of 100" in alarms
    assert f"they find {100 * real / is_anomaly_N.sum():.1f} % of the anomalies" in alarms
    count = int(is_anomaly_N.sum())
    found = is_anomaly_N[np.argsort(-score_N)][:count].mean()
    told = f"Of the {count} highest scores, as many as there are anomalies, about {round(100 * found)} of 100 are real."
    assert told in alarms
    assert f"AUROC {roc_auc_score(is_anomaly_N, score_N):.3f}" in alarms
    area, chance = average_precision_score(is_anomaly_N, score_N), is_anomaly_N.mean()
    assert f"average precision {area:.3f} ({chance:.3f} by chance)" in alarms


def test_without_labels_it_says_so_and_how_many_normal_rows_are_flagged() -> None:
    record = study(trials=10, epochs=6, labels=False)
    told = answers(record)
    assert record.champion is not None
    score, scores = str(record.champion.score or "elbo"), record.champion.scores
    held_out, test = (scores.loc[scores["split"] == split, score] for split in ("validation", "test"))
    flagged = (test > np.percentile(held_out, 99)).mean()
    assert "Detection cannot be measured on the test split: no labelled anomaly" in told["How good"]
    assert (
        f"Above the 99 % threshold are {100 * flagged:.1f} % of the normal test rows; the target is 1 %."
        in (told["How good"])
    )
    assert told["What next"].startswith("Label some anomalies")
    assert "Against no model" not in told


def test_a_tie_is_called_a_tie_and_a_worse_model_is_not_advised(digits: StudyRecord) -> None:
    def said(low: float, high: float, detector: str = BASELINE) -> dict[str, str]:
        """With these ends of the paired interval of a detector minus the chosen model; ensembles are ties."""
        columns = [name for name in digits.choices if name.endswith(("_low", "_high")) and "chosen" in name]
        assert columns
        names, made = digits.choices["rule"], digits.choices.copy()
        for name in columns:
            made[name] = made[name].mask(names.str.startswith("ensemble"), -0.1 if name.endswith("low") else 0.1)
            made[name] = made[name].mask(names == detector, low if name.endswith("low") else high)
        return answers(replace(digits, choices=made))

    better, tie, worse = said(-0.2, -0.1), said(-0.1, 0.1), said(0.1, 0.2)
    assert better["Against no model"].startswith("Better in ")
    assert tie["Against no model"].startswith("A tie in ")
    assert "Better" not in tie["Against no model"]
    assert worse["Against no model"].startswith("Worse in ")
    advice = "or score with the detector without a model: it detects better than the chosen model."
    assert advice in worse["What next"]
    assert advice not in better["What next"] + tie["What next"]
    best = digits.choices[digits.choices["rule"].str.startswith("ensemble")].set_index("rule")["val_auroc"].idxmax()
    ensemble = said(0.1, 0.2, best)
    assert "Worse in " in ensemble["Against the best ensemble"]
    assert f"Prefer that ensemble: vae-study score digits DATA --model {best}." in ensemble["What next"]


def test_another_promoted_model_is_named(digits: StudyRecord) -> None:
    assert digits.champion is not None
    own = f"trial-{digits.champion.trial:04d}"
    assert "registry" not in answers(replace(digits, promoted=own))["Which model"]
    told = answers(replace(digits, promoted="ensemble_best"))["Which model"]
    assert told.endswith("In MLflow’s registry ensemble_best is the champion now.")
    assert "promoted" not in status_text(replace(digits, promoted=own), 0)
    assert "\npromoted   ensemble_best, the champion in MLflow's registry\n" in (
        status_text(replace(digits, promoted="ensemble_best"), 0)
    )


def test_the_ensemble_of_the_highest_auroc_on_validation_is_compared(digits: StudyRecord) -> None:
    found = digits.choices[digits.choices["rule"].str.startswith("ensemble")]
    best = found.loc[found["val_auroc"].idxmax()]
    told = answers(digits)["Against the best ensemble"]
    assert f"highest AUROC of the ensembles on validation, {best['val_auroc']:.3f}" in told
    assert f"Theirs: AUROC {best['auroc']:.3f}" in told


def test_how_sure_it_is_depends_on_seeds(digits: StudyRecord) -> None:
    once = study(trials=10, epochs=6)
    assert "Each configuration was trained once" in answers(once)["How sure"]
    assert "confirm: {top: 3, seeds: 5}" in answers(once)["What next"]
    again = answers(confirmed(once))
    assert "Over 4 seeds" in again["How sure"]
    assert "confirm" not in again["What next"]


@pytest.mark.parametrize(
    ("name", "model", "step"),
    [
        ("all failed", "No model: no trial has finished.", "see Failures below"),
        ("empty", "No model: no trial has started yet.", ""),
        ("running", "No model", "Wait until the study has ended."),
        ("interrupted", "", "Continue the study: vae-study resume "),
    ],
)
def test_an_unfinished_study_says_what_it_lacks(name: str, model: str, step: str) -> None:
    told = answers(odd(name))
    assert model in told["Which model"]
    assert step in told.get("What next", "")


def test_every_answer_is_whole_for_odd_studies(table: StudyRecord) -> None:
    for record in (table, odd("constant"), odd("one row"), odd("none feasible"), odd("huge scores")):
        for text in answers(record).values():
            assert text.endswith(".")
            assert not pd.Series(text.split()).isin(["nan", "None", "–"]).any()


def test_without_labels_it_says_what_to_expect_and_whether_the_models_change_the_ranking() -> None:
    record = compared(study(trials=10, epochs=6, labels=False))
    test = record.detectors["split"].eq("test")
    ensemble, baseline = (record.detectors.loc[test, name] for name in ("ensemble_best", BASELINE))
    told = answers(record)
    highest = [set(one.nlargest(20).index) for one in (ensemble, baseline)]
    correlation = spearmanr(ensemble, baseline).statistic
    assert f": {len(highest[0] & highest[1])} of the 20 highest rows are the same" in told["What to expect"]
    assert f"(Spearman’s correlation of all {correlation:.2f})".replace("-", "−") in told["What to expect"]
    assert "vae-study ask digits writes those that help most" in told["What next"]
    same = record.detectors.assign(ensemble_best=record.detectors[BASELINE] * 2)
    assert "Here the models hardly change the ranking" in answers(replace(record, detectors=same))["What to expect"]


def test_with_labels_there_is_nothing_to_expect_but_what_was_measured(digits: StudyRecord) -> None:
    assert "What to expect" not in answers(digits)


def test_what_to_expect_is_what_the_benchmarks_say() -> None:
    text = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    odd, others = PUBLIC_TABLES["OddBench"], PUBLIC_TABLES["ADBench"]
    (row,) = (line for line in text.splitlines() if line.startswith("| **without a model** (four members)"))
    cells = [cell.strip() for cell in row.split("|")]
    for found, cell in ((odd, cells[4]), (others, cells[8])):
        more, error = cell.split()
        assert (round(float(more), 1), round(float(error.strip("()")), 1)) == (found.more, found.error)
    assert f"win on {odd.better} of the {odd.tables} tables and lose on {odd.worse}" in " ".join(text.split())
    added = f"adds {odd.model} ({odd.model_error}) on OddBench and {others.model} ({others.model_error}) on ADBench"
    assert added in " ".join(text.split())

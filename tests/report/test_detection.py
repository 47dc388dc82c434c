"""The chosen model's detection numbers against scikit-learn and slow references, by the score it was chosen with."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from vae_study.metrics import SCORES
from vae_study.report import summary
from vae_study.report.figure import Grid
from vae_study.report.formatting import interval, number
from vae_study.report.frames import Missing
from vae_study.report.frontier import frontier
from vae_study.report.overview import drift_note, warnings
from vae_study.report.sections.detection import curves, measure_grid
from vae_study.report.sections.thresholds import Scores, promise_grid, scores, threshold_grid
from vae_study.report.sections.trials import frontier_grid, trial_grid
from vae_study.report.tables import StudyTables, auroc_metric, champion_auroc, tidy
from vae_study.tracking.record import StudyRecord

from .detectors import compared
from .studies import study


def rows_of(record: StudyRecord, score: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    assert record.champion is not None
    test = record.champion.scores.query("split == 'test'")
    return test["anomaly"].to_numpy(), test[score or record.champion.score].to_numpy()


def with_scores(record: StudyRecord, frame: pd.DataFrame) -> StudyRecord:
    assert record.champion is not None
    return replace(record, champion=replace(record.champion, scores=frame))


def test_every_number_is_of_the_score_that_the_model_was_chosen_with(digits: StudyRecord) -> None:
    found, (is_anomaly, score) = curves(tidy(digits)), rows_of(digits)
    assert not isinstance(found, Missing)
    assert digits.champion is not None
    assert found.score == digits.champion.score != "elbo"
    assert found.auroc.value == summary(digits).test_auroc.value == pytest.approx(roc_auc_score(is_anomaly, score))
    assert found.average_precision.value == pytest.approx(average_precision_score(is_anomaly, score))
    assert found.prevalence == pytest.approx(is_anomaly.mean())
    thresholds = np.unique(score)
    rates = np.array([((score >= t)[is_anomaly].mean(), (score >= t)[~is_anomaly].mean()) for t in thresholds])
    assert found.points["fpr_at_95_tpr"] == pytest.approx(rates[rates[:, 0] >= 0.95, 1].min())
    assert found.points["tpr_at_1_fpr"] == pytest.approx(rates[rates[:, 1] <= 0.01, 0].max())
    assert found.points["precision_at_n"] == pytest.approx(is_anomaly[np.argsort(-score)[:87]].mean())
    assert found.points["best_f1"] == pytest.approx(max(f1_score(is_anomaly, score >= t) for t in thresholds))


def cell(grid: Grid, trial: int | None, column: str) -> str:
    return next(row[grid.head.index(column)] for row in grid.rows if row[0] == str(trial))


def test_where_a_page_has_two_aurocs_each_is_named_by_its_score(digits: StudyRecord) -> None:
    tables = StudyTables(digits)
    trial, told = tables.summary.champion_trial, interval(tables.summary.test_auroc)
    stored = digits.trials.set_index("trial").loc[trial, "test/auroc"]
    every = trial_grid(tables)
    followed = cell(every, trial, "test AUROC of negative ELBO")
    assert followed.startswith(number(float(stored), 3))
    assert followed != told
    assert not {"test AUROC", "validation AUROC"} & set(every.head)
    assert measure_grid(tables).rows[0][1].replace("\N{NO-BREAK SPACE}", " ") == told
    only = StudyTables(tables.record)
    only.once(lambda tables: tables.trials[tables.trials["trial"] == trial], key=frontier)
    assert cell(frontier_grid(only), trial, "test AUROC of residual Mahalanobis distance") == told


def test_where_the_score_is_the_followed_one_every_trial_keeps_its_interval() -> None:
    record = compared(study(trials=12, epochs=4), score="latent_knn")
    tables, metric = StudyTables(record), "test AUROC of latent nearest neighbours"
    assert record.champion is not None
    assert record.champion.score == "latent_knn"
    assert auroc_metric(tables.record, "val") == "val_auroc/latent_knn"
    grid = frontier_grid(tables)
    assert all("[" in row[grid.head.index(metric)] for row in grid.rows)
    own = tables.trials.set_index("trial").loc[record.champion.trial]
    assert own["test/auroc_low"] == tables.summary.test_auroc.low


def test_thresholds_are_percentiles_of_validation_s_normal_rows(digits: StudyRecord) -> None:
    table = scores(tidy(digits))
    assert isinstance(table, Scores)
    assert digits.champion is not None
    frame = digits.champion.scores
    normal = frame[(frame["split"] == "validation") & ~frame["anomaly"]][digits.champion.score]
    assert table.thresholds["threshold"].tolist() == pytest.approx(np.percentile(normal, [90, 95, 99]))
    assert table.thresholds["false_alarm_rate"].tolist() == pytest.approx(
        [(table.normal_N > threshold).mean() for threshold in table.thresholds["threshold"]]
    )
    assert not table.thresholds["drifted"].any()


def test_what_p_values_promise_stands_beside_what_happened_on_test(digits: StudyRecord) -> None:
    assert digits.champion is not None
    frame, (is_anomaly, score) = digits.champion.scores, rows_of(digits)
    normal = frame[(frame["split"] == "validation") & ~frame["anomaly"]][digits.champion.score].to_numpy()
    p = np.array([(1 + (normal >= one).sum()) / (1 + len(normal)) for one in score])
    grid = promise_grid(StudyTables(digits))
    assert [row[0] for row in grid.rows] == [
        *(f"p-value ≤ {level:g}" for level in (0.01, 0.05, 0.1)),
        *(f"flag, FDR {level:g}" for level in (0.05, 0.1, 0.2)),
    ]
    alarms = [p <= level for level in (0.01, 0.05, 0.1)]
    alarms += [false_discovery_control(p) <= level for level in (0.05, 0.1, 0.2)]
    for row, flagged, whole in zip(grid.rows, alarms, [~is_anomaly] * 3 + alarms[3:], strict=True):
        false = (flagged & ~is_anomaly).sum()
        assert (row[3], row[4]) == (f"{flagged.sum():,}", f"{false:,}")
        kind = "normal" if row[0].startswith("p-value") else "flagged"
        told = f"{number(100 * false / max(whole.sum(), 1), 1)} % of {kind} rows"
        assert row[2] == (told if whole.any() else "–")


def test_drift_is_told_in_words_beside_the_thresholds_and_among_the_warnings(digits: StudyRecord) -> None:
    assert digits.champion is not None
    assert drift_note(StudyTables(digits)) == ""
    frame = digits.champion.scores.copy()
    moved = frame["split"].eq("test")
    frame.loc[moved, digits.champion.score] *= 1.6
    tables = StudyTables(with_scores(digits, frame))
    told = drift_note(tables)
    assert told.startswith("The thresholds for 10 %, 5 % and 1 % false alarms flag ")
    assert told.endswith("The probable cause is that normal rows differ between the two splits (drift).")
    assert told in warnings(tables)
    rates = threshold_grid(tables)
    real = [row[rates.head.index("realised on test")] for row in rates.rows]
    assert all(rate.endswith(" % (drift)") and rate.removesuffix(" (drift)") in told for rate in real)


def test_scores_that_tie_at_a_threshold_are_no_drift(digits: StudyRecord) -> None:
    assert digits.champion is not None
    constant = digits.champion.scores.assign(**{str(digits.champion.score): 2.0})
    tables = StudyTables(with_scores(digits, constant))
    assert isinstance(tables.of(scores), Scores)
    assert not tables.of(scores).thresholds["drifted"].any()
    assert champion_auroc(tables.record).value == 0.5


def test_without_anomalies_nothing_is_said_to_be_precise() -> None:
    tables = StudyTables(compared(study(trials=6, epochs=3, labels=False)))
    grid = threshold_grid(tables)
    assert {row[grid.head.index("precision")] for row in grid.rows} == {"–"}


@pytest.mark.parametrize(("anomaly", "why"), [(False, "no labelled anomaly among the examples"), (True, "no normal")])
def test_one_class_gives_a_reason_and_no_number(digits: StudyRecord, anomaly: bool, why: str) -> None:
    assert digits.champion is not None
    record = with_scores(digits, digits.champion.scores.assign(anomaly=anomaly))
    found = summary(record)
    assert np.isnan([found.test_auroc.value, found.test_auroc.low, found.test_auroc.high]).all()
    assert why in found.why_no_auroc
    missing = curves(tidy(record))
    assert isinstance(missing, Missing)
    assert why in missing.why
    assert measure_grid(StudyTables(record)).rows == promise_grid(StudyTables(record)).rows == ()


def test_scores_that_are_not_finite_are_left_out_and_counted(digits: StudyRecord) -> None:
    assert digits.champion is not None
    broken = digits.champion.scores.copy()
    broken.loc[broken.index[-3:], digits.champion.score] = [np.nan, np.inf, -np.inf]
    table = scores(tidy(with_scores(digits, broken)))
    assert isinstance(table, Scores)
    assert table.without_score == 3
    assert len(table.normal_N) + len(table.anomaly_N) == 408


@pytest.mark.parametrize("share", [2, 10, 40])
def test_the_histogram_shows_the_normal_rows_whatever_overflowed(digits: StudyRecord, share: int) -> None:
    assert digits.champion is not None
    frame, name = digits.champion.scores.copy(), str(digits.champion.score)
    frame.loc[frame.index % share == 0, name] = np.finfo(np.float32).max
    table = scores(tidy(with_scores(digits, frame)))
    assert isinstance(table, Scores)
    usual = table.normal_N[table.normal_N < 1e6]
    low, high = table.view
    assert low <= usual.min() < usual.max() <= high
    if share > 2:
        assert high < 1e4


def test_curves_end_where_they_must(digits: StudyRecord) -> None:
    table = curves(tidy(digits))
    assert not isinstance(table, Missing)
    assert table.roc.iloc[0].tolist() == [0, 0]
    assert table.roc.iloc[-1].tolist() == [1, 1]
    assert table.prevalence == pytest.approx(87 / 411)
    assert table.average_precision.low <= table.average_precision.value <= table.average_precision.high


def test_a_score_that_is_no_longer_stored_gives_way(digits: StudyRecord) -> None:
    assert digits.champion is not None
    left = digits.champion.scores.drop(columns=[name for name in SCORES if name != "kl"])
    table = scores(tidy(with_scores(digits, left)))
    assert isinstance(table, Scores)
    assert table.score == "kl"

"""Rare faults: a detector that ranks pairs as well as another, but raises false alarms, is not called better."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from vae_study.anomaly.detection import auroc, average_precision
from vae_study.anomaly.scores import Neighbours
from vae_study.metrics import BASELINE
from vae_study.report.overview import overview
from vae_study.report.tables import StudyTables, summary
from vae_study.report.verdict import verdict
from vae_study.selection.comparison import Candidate, baseline_verdicts, compare
from vae_study.selection.ranking import Selection, choose
from vae_study.tracking.record import StudyRecord

from .studies import study

SCORE = "residual_mahalanobis"


def sensors(rows: int = 20_000, faults: float = 0.01, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Correlated sensors with rare, dense operating modes; faults break the correlation, a quarter only slightly."""
    random = np.random.default_rng(seed)
    mixing_FD = random.normal(size=(3, 8))
    x_ND = random.normal(size=(rows, 3)) @ mixing_FD + 0.1 * random.normal(size=(rows, 8))
    is_fault_N = random.random(rows) < faults
    other_N = ~is_fault_N & (random.random(rows) < 0.02)
    modes_MD = random.normal(size=(6, 8))
    modes_MD *= 20 / np.linalg.norm(modes_MD, axis=1, keepdims=True)
    x_ND[other_N] = 0.1 * x_ND[other_N] + modes_MD[random.integers(0, 6, other_N.sum())]
    size_N = np.where(random.random(rows) < 0.75, 5.0, 1.5) * is_fault_N
    x_ND[np.arange(rows), random.integers(0, 8, rows)] += size_N
    return x_ND, is_fault_N


@pytest.fixture(scope="module")
def record() -> StudyRecord:
    """A study of sensors whose chosen model has collapsed, beside the nearest neighbours."""
    x_ND, is_fault_N = sensors()
    train_ND = x_ND[:12_000][~is_fault_N[:12_000]]
    split = np.repeat(["validation", "test"], 4000)
    rows = pd.DataFrame({"split": split, "row": np.arange(8000), "label": "x", "anomaly": is_fault_N[12_000:]})
    centred_ND = x_ND[12_000:] - train_ND.mean(axis=0)
    plain_N = np.einsum("nd,de,ne->n", centred_ND, np.linalg.inv(np.cov(train_ND.T)), centred_ND)
    frame = rows.assign(**{SCORE: plain_N})
    baseline = rows.assign(**{BASELINE: Neighbours(train_ND[:3000]).distance(x_ND[12_000:])})
    found = [
        Candidate(name="val/auroc", needs_labels=True, selections=(Selection(0, SCORE, 0.98),)),
        Candidate(name=BASELINE, needs_labels=False, selections=(), with_baseline=True),
    ]
    choices, detectors = compare(found, lambda _: frame, baseline, "val/auroc", 40)
    made = study(trials=6, epochs=3)
    assert made.champion is not None
    trials = made.trials.assign(**{"val/collapsed": 1.0, f"val_auroc/{SCORE}": 0.98})
    champion = replace(made.champion, trial=0, rule="val/auroc", score=SCORE, scores=frame)
    validation = is_fault_N[12_000:16_000]
    splits = {"validation": {"rows": 4000, "anomalies": int(validation.sum())}}
    history = made.history.assign(**{"val/auroc": 0.979})
    return replace(made, trials=trials, history=history, choices=choices, detectors=detectors, champion=champion,
                   data={**made.data, "splits": splits})  # fmt: skip


def test_the_case_is_a_tie_in_auroc_and_a_clear_loss_in_average_precision(record: StudyRecord) -> None:
    test = record.detectors[record.detectors["split"] == "test"]
    truth = test["anomaly"].to_numpy()
    ours, neighbours = (test[name].to_numpy() for name in ("val/auroc", BASELINE))
    assert abs(auroc(truth, ours) - auroc(truth, neighbours)) < 0.03
    assert average_precision(truth, neighbours) > average_precision(truth, ours) + 0.15


def test_summary_and_verdict_name_the_better_detector_the_collapse_and_the_tie(record: StudyRecord) -> None:
    told = " ".join(overview(StudyTables(record)))
    assert "a collapsed model whose decoder ignores the code" in told
    assert "is worse in average precision and precision within the alarm budget than the baseline" in told
    assert "in AUROC it is a tie: these rows do not show a difference" in told
    answers = {answer.question: answer.text for answer in verdict(StudyTables(record))}
    first, _, meaning, *_ = answers["Which model"].split(". ")
    assert "that has collapsed: its decoder ignores the code" in first
    assert meaning == "That score is then the plain Mahalanobis distance from the training mean"
    assert "The search added nothing measurable" in answers["Which model"]
    compared = answers["Against no model"]
    assert compared.startswith("Worse in average precision and precision within the alarm budget. A tie in AUROC")
    facts = summary(record)
    assert facts.verdicts == baseline_verdicts(record.choices.to_dict("records"))
    assert facts.verdicts[0].startswith("a tie in AUROC")
    assert facts.verdicts[1].startswith("worse in average precision")
    assert facts.collapsed


def test_a_trial_that_is_not_collapsed_is_chosen_where_it_is_as_good(record: StudyRecord) -> None:
    trials = pd.DataFrame({"trial": [0, 1], "state": "finished", f"val_auroc/{SCORE}": [0.9892, 0.9889],
                           "val/collapsed": [1.0, 0.0]})  # fmt: skip
    assert choose(trials, "val/auroc", None, (40, 3960)) == Selection(1, SCORE, 0.9889)

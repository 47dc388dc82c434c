import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score
from vae_study.anomaly.conformal import TailScale
from vae_study.metrics import BASELINE, ENSEMBLES, RULES, SCORES
from vae_study.selection.comparison import VOTE, candidates, compare

TRIALS = 6


def frames(labels: bool = True) -> tuple[dict[int, pd.DataFrame], pd.DataFrame]:
    """Scores of six trials, the later the better, and the baseline's, of the same 300 rows."""
    random = np.random.default_rng(0)
    split = np.repeat(["validation", "test"], 150)
    is_anomaly = (random.random(300) < 0.2) & labels
    about = pd.DataFrame({"split": split, "row": np.arange(300), "label": "x", "anomaly": is_anomaly})

    def column(strength: float) -> np.ndarray:
        return np.exp(random.normal(size=300) + strength * is_anomaly)

    scores = {n: about.assign(**{score: column(n / 3) for score in SCORES}) for n in range(TRIALS)}
    return scores, about.assign(**{BASELINE: column(1.0)})


def trials(scores: dict[int, pd.DataFrame]) -> pd.DataFrame:
    """What the study knows of the trials: ELBO rises with their number."""
    rows = []
    for number, frame in scores.items():
        part = frame[frame["split"] == "validation"]
        areas = {f"val_auroc/{s}": roc_auc_score(part["anomaly"], part[s]) for s in SCORES if part["anomaly"].any()}
        areas |= {name.replace("auroc", "auprc"): value for name, value in areas.items()}
        pseudo = {f"pseudo_auroc/{s}": 0.5 + number / 20 for s in SCORES}
        rows.append(
            {"trial": number, "state": "finished", "val/elbo": number, "val/reconstruction": -number} | areas | pseudo
        )
    return pd.DataFrame(rows)


def compared(labels: bool = True) -> tuple[pd.DataFrame, pd.DataFrame, dict[int, pd.DataFrame], pd.DataFrame]:
    scores, baseline = frames(labels)
    found = candidates(trials(scores), [1, 4], ("val/elbo", "val/auroc"), None, 3)
    table, rows = compare(found, lambda number: scores[number], baseline)
    return table.set_index("rule"), rows, scores, baseline


def test_every_rule_ensemble_and_the_baseline_are_put_to_the_same_test_rows():
    table, rows, scores, baseline = compared()
    assert list(table.index) == [*RULES, *ENSEMBLES, BASELINE]
    test = (baseline["split"] == "test").to_numpy()
    truth = baseline["anomaly"].to_numpy()[test]
    for name, row in table.iterrows():
        assert row["auroc"] == pytest.approx(roc_auc_score(truth, rows[name][test]))
        assert row["average_precision"] == pytest.approx(average_precision_score(truth, rows[name][test]))
        assert row["auroc_low"] < row["auroc"] < row["auroc_high"]
    assert (rows[BASELINE] == baseline[BASELINE]).all()
    assert (rows["val/elbo"] == scores[5]["elbo"]).all()
    assert table.loc["val/elbo", ["trial", "score"]].tolist() == [5, "elbo"]
    assert set(table.index[table["needs_labels"]]) == {"val/auroc", "val/auprc", "ensemble_labels"}


def test_an_ensemble_without_labels_is_the_detector_without_a_model_and_the_mean_of_its_trials():
    table, rows, scores, baseline = compared()
    assert json.loads(table.loc["ensemble_best", "selections"]) == [[trial, VOTE] for trial in (5, 4, 3)]
    assert json.loads(table.loc["ensemble_frontier", "selections"]) == [[trial, VOTE] for trial in (1, 4)]
    normal = ((baseline["split"] == "validation") & ~baseline["anomaly"]).to_numpy()
    columns = [scores[trial][VOTE].to_numpy() for trial in (1, 4)]
    expected = np.mean([TailScale.of(one[normal])(one) for one in columns], axis=0) + baseline[BASELINE].to_numpy()
    assert rows["ensemble_frontier"].to_numpy() == pytest.approx(expected)
    labelled = json.loads(table.loc["ensemble_labels", "selections"])
    assert len(labelled) == len({trial for trial, _ in labelled}) == 3


@pytest.mark.parametrize("rule", ["val/auroc", "val/auprc"])
def test_the_ensemble_that_uses_labels_has_the_best_trials_by_the_study_s_own_rule(rule):
    scores, _ = frames()
    known = trials(scores).assign(
        **{f"val_auprc/{name}": lambda table, n=name: -table[f"val_auroc/{n}"] for name in SCORES}
    )
    found = {one.name: one for one in candidates(known, [1], ("val/elbo", rule), None, 2)}
    column = RULES[rule].metric
    best = known[[f"{column}{name}" for name in SCORES]].max(axis=1).sort_values(ascending=False).index[:2]
    assert {pick.trial for pick in found["ensemble_labels"].selections} == set(known.loc[best, "trial"])


def test_neither_a_rule_nor_an_ensemble_takes_a_trial_that_violates_a_constraint():
    scores, _ = frames()
    known = trials(scores).assign(feasible=[True, True, True, True, False, False])
    for members in (1, 3, 5):
        found = {one.name: one for one in candidates(known, [1, 3], ("val/elbo", "val/auroc"), None, members)}
        assert {pick.trial for one in found.values() for pick in one.selections} <= {0, 1, 2, 3}
        assert {pick.trial for pick in found["ensemble_best"].selections} == {3, 2, 1, 0} - set(range(4 - members))
    none = {one.name: one for one in candidates(known.assign(feasible=False), [], ("val/elbo", "val/auroc"), None, 1)}
    assert none["val/elbo"].selections[0].trial == 5
    assert "ensemble_frontier" not in none


def test_without_labels_there_are_no_rules_that_need_them_and_no_areas():
    table, rows, _, _ = compared(labels=False)
    assert not table["needs_labels"].any()
    assert table[["auroc", "auroc_low", "average_precision", "val_auroc"]].isna().all().all()
    assert np.isfinite(rows[table.index.tolist()].to_numpy()).all()

"""Which rows are asked about, and what their labels choose."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import roc_auc_score
from vae_study.metrics import SCORES
from vae_study.selection.comparison import combined
from vae_study.selection.labels import learned, rows_to_ask
from vae_study.selection.ranking import standard_error

SHAPES = st.tuples(st.integers(1, 6), st.integers(1, 30))
SCORES_DN = SHAPES.flatmap(lambda shape: arrays(np.float64, shape, elements=st.integers(-5, 5).map(float)))


@given(SCORES_DN, st.integers(1, 40))
def test_each_row_is_asked_about_once_and_more_rows_begin_with_the_same(scores_DN, count):
    every, some = rows_to_ask(scores_DN, scores_DN.shape[1]), rows_to_ask(scores_DN, count)
    assert sorted(every) == [*range(scores_DN.shape[1])]
    assert some.tolist() == every[:count].tolist()
    # Only the order of the scores counts.
    assert rows_to_ask(np.exp(scores_DN), count).tolist() == some.tolist()


@given(SCORES_DN)
def test_every_detector_has_its_highest_row_asked_about_before_any_has_its_third(scores_DN):
    detectors = len(scores_DN)
    highest = {int(score_N.argmax()) for score_N in scores_DN}
    assert highest <= set(rows_to_ask(scores_DN, detectors).tolist())
    assert rows_to_ask(scores_DN, 1).tolist() == [scores_DN[0].argmax()]
    second = {place for score_N in scores_DN for place in np.argsort(-score_N, kind="stable")[:2].tolist()}
    assert set(rows_to_ask(scores_DN, len(second)).tolist()) == second


def scored(trials: int = 4, rows: int = 120) -> tuple[dict[int, pd.DataFrame], np.ndarray, np.ndarray, np.ndarray]:
    """Scores that say nothing, those of the detector without a model, and labels of some rows."""
    random = np.random.default_rng(1)
    about = {"split": np.repeat(["validation", "test"], rows // 2), "anomaly": False}
    frames = {n: pd.DataFrame({**about, **{one: random.normal(size=rows) for one in SCORES}}) for n in range(trials)}
    return frames, random.exponential(size=rows), random.permutation(rows)[:30], np.arange(30) < 10


def test_labels_choose_the_pairs_of_trial_and_score_that_separate_them_best():
    frames, raw_N, place_L, is_anomaly_L = scored()
    for trial, score, more in ((2, "kl", 9.0), (1, "latent_knn", 1.0), (1, "elbo", 0.8)):
        frames[trial].loc[place_L[is_anomaly_L], score] += more
    areas = {
        (n, score): roc_auc_score(is_anomaly_L, frame[score].to_numpy()[place_L])
        for n, frame in frames.items()
        for score in SCORES
    }
    found = learned(frames, raw_N, place_L, is_anomaly_L, None, 3)
    best = sorted(areas, key=lambda pair: -areas[pair])[:3]
    assert [(one.trial, one.score) for one in found.selections] == best
    assert best[0] == (2, "kl")
    of_one_score = learned(frames, raw_N, place_L, is_anomaly_L, "kl", 3)
    assert {one.score for one in of_one_score.selections} == {"kl"}
    assert of_one_score.selections[0].trial == 2


def test_of_equal_pairs_those_come_first_that_the_ensembles_without_labels_use():
    frames, raw_N, place_L, is_anomaly_L = scored()
    for frame in frames.values():
        frame.loc[place_L[is_anomaly_L], [*SCORES]] += 99
    found = learned(frames, raw_N, place_L, is_anomaly_L, None, 4)
    assert [(one.trial, one.score) for one in found.selections] == [(n, "residual_mahalanobis") for n in frames]


@pytest.mark.parametrize("misleads", [False, True])
def test_the_detector_without_a_model_stays_unless_the_labels_speak_clearly_against_it(misleads):
    frames, raw_N, place_L, is_anomaly_L = scored()
    frames[3].loc[place_L[is_anomaly_L], "elbo"] += 3
    raw_N[place_L[is_anomaly_L != misleads]] += 99
    found = learned(frames, raw_N, place_L, is_anomaly_L, None, 1)
    assert found.with_baseline is not misleads


def test_better_by_two_standard_errors_is_not_clear_on_rows_that_the_pairs_were_chosen_by():
    frames, raw_N, place_L, is_anomaly_L = scored()
    frames[3].loc[place_L[is_anomaly_L], "elbo"] += 1.5
    counts, seen = (int(is_anomaly_L.sum()), int((~is_anomaly_L).sum())), set()
    for strength in np.linspace(0, 8, 60):
        misleading_N = raw_N.copy()
        misleading_N[place_L[~is_anomaly_L]] += strength
        found = learned(frames, misleading_N, place_L, is_anomaly_L, None, 1)
        alone_N = frames[found.selections[0].trial][found.selections[0].score].to_numpy()
        together_N = combined(frames, found.selections, misleading_N)
        alone, together = (roc_auc_score(is_anomaly_L, one_N[place_L]) for one_N in (alone_N, together_N))
        errors = (alone - together) / standard_error("val/auroc", alone, counts)
        assert found.with_baseline is (errors <= 3)
        seen.add(int(errors))
    assert {1, 2, 3} <= seen

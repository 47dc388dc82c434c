from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.covariance import LedoitWolf
from vae_study.anomaly.detection import pseudo_anomalies
from vae_study.anomaly.scores import (
    FULL_COVARIANCE,
    LARGEST,
    REFERENCE_ROWS,
    Gaussian,
    Moments,
    Neighbours,
    Parts,
    Scorer,
    reference_rows,
)
from vae_study.metrics import SCORES, SIMPLE_SCORES, scores_of


def parts(rows: int, seed: int, features: int = 6, latents: int = 3) -> Parts:
    """What a model might say of some rows."""
    random = np.random.default_rng(seed)
    columns = random.normal(size=(4, rows)) ** 2
    return Parts(
        reconstruction_N=columns[0],
        kl_N=columns[1],
        reconstruction_probability_N=columns[2],
        squared_error_N=columns[3],
        residual_ND=random.normal(size=(rows, features)) * np.arange(1, features + 1),
        mean_NZ=random.normal(size=(rows, latents)) @ random.normal(size=(latents, latents)),
    )


def test_every_score_is_what_its_definition_says():
    trained, some = parts(200, 0), parts(30, 1)
    scores = Scorer.fit(trained).scores(some)
    assert tuple(scores) == scores_of(is_images=False)
    assert tuple(Scorer.fit(trained, (1, 2, 3)).scores(some)) == tuple(SCORES) == scores_of(is_images=True)
    assert scores["elbo"] == pytest.approx(some.reconstruction_N + some.kl_N)
    for name in ("reconstruction", "kl", "reconstruction_probability", "squared_error"):
        assert (scores[name] == getattr(some, f"{name}_N")).all()
    for name, fitted, asked in (
        ("residual_mahalanobis", trained.residual_ND, some.residual_ND),
        ("latent_mahalanobis", trained.mean_NZ, some.mean_NZ),
    ):
        assert scores[name] == pytest.approx(LedoitWolf().fit(fitted).mahalanobis(asked))


@given(st.integers(0, 1000), st.integers(1, 12))
def test_nearest_neighbours_are_those_of_all_pairs(seed, rows):
    random = np.random.default_rng(seed)
    reference_RD = random.normal(size=(rows, 4)) * [1, 10, 0.1, 0]
    x_ND = random.normal(size=(5, 4)) * [1, 10, 0.1, 0]
    width_D = np.where(reference_RD.std(axis=0) > 0, reference_RD.std(axis=0), 1)
    distance_NR = np.sqrt((((x_ND[:, None] - reference_RD) / width_D) ** 2).sum(axis=2))
    expected_N = np.sort(distance_NR, axis=1)[:, :5].mean(axis=1)
    assert Neighbours(reference_RD).distance(x_ND) == pytest.approx(expected_N)


def test_of_a_long_code_fewer_rows_are_kept_and_its_dimensions_count_one_by_one():
    latents, rows = FULL_COVARIANCE + 1, 6000
    trained = replace(parts(rows, 0), mean_NZ=np.random.default_rng(0).normal(size=(rows, latents)))
    arrays = Scorer.fit(trained).arrays()
    kept_RZ = arrays["latent_reference"]
    assert 2**22 - latents < kept_RZ.size <= 2**22
    assert (kept_RZ == trained.mean_NZ[reference_rows(rows, len(kept_RZ))]).all()
    assert arrays["latent_precision"].shape == (latents,)
    assert arrays["latent_precision"] == pytest.approx(1 / (trained.mean_NZ.var(axis=0) + 1e-6))
    assert Scorer.shapes(6, latents, arrays)["latent_precision"] == (latents,)


def test_a_row_that_overflows_the_model_scores_highest_and_stays_a_number():
    trained, some = parts(100, 0), parts(4, 1)
    some.reconstruction_N[:] = [1, np.inf, np.nan, 2]
    some.mean_NZ[2], some.residual_ND[1] = np.nan, 1e300
    scores = Scorer.fit(trained).scores(some)
    assert all(np.isfinite(score_N).all() for score_N in scores.values())
    assert (scores["elbo"][[1, 2]] == LARGEST).all()
    assert set(np.argsort(scores["reconstruction"])[-2:]) == {1, 2}
    assert set(SIMPLE_SCORES) <= set(scores)


def test_a_diverged_model_has_scores_that_say_nothing():
    diverged = replace(parts(50, 0), mean_NZ=np.full((50, 3), np.nan), residual_ND=np.full((50, 6), np.nan))
    scores = Scorer.fit(diverged).scores(diverged)
    assert all(np.isfinite(score_N).all() for score_N in scores.values())
    assert all(np.ptp(scores[name]) == 0 for name in ("residual_mahalanobis", "latent_mahalanobis", "latent_knn"))


@given(st.integers(0, 1000), st.integers(2, 60), st.integers(1, 9), st.integers(1, 7), st.booleans())
def test_a_scorer_made_from_its_arrays_gives_the_same_bits(seed, rows, features, latents, is_images):
    image = (1, 1, features) if is_images else None
    scorer, some = Scorer.fit(parts(rows, seed, features, latents), image), parts(20, seed + 1, features, latents)
    arrays = {name: np.frombuffer(array.tobytes()).reshape(array.shape) for name, array in scorer.arrays().items()}
    assert Scorer.shapes(features, latents, arrays).keys() == arrays.keys()
    again, scores = Scorer.from_arrays(arrays, image).scores(some), scorer.scores(some)
    assert tuple(scores) == scores_of(is_images)
    assert all((again[name] == scores[name]).all() for name in scores)


def test_the_map_of_an_image_has_its_maximum_where_the_model_is_wrong():
    trained, some = parts(200, 0, features=16), parts(3, 1, features=16)
    some.residual_ND[1, 6] = 40 * trained.residual_ND[:, 6].std()
    scorer = Scorer.fit(trained, (1, 4, 4))
    maps_NHW, scores = scorer.maps(some.residual_ND), scorer.scores(some)
    assert np.unravel_index(maps_NHW[1].argmax(), (4, 4)) == (1, 2)
    assert scores["map_maximum"].argmax() == 1
    assert (scores["map_maximum"] == maps_NHW.max(axis=(1, 2))).all()


@given(st.sets(st.sampled_from(tuple(SCORES))))
def test_only_the_scores_that_are_asked_for_are_given_and_are_the_same(names):
    scorer, some = Scorer.fit(parts(60, 0), (1, 2, 3)), parts(20, 1)
    every, asked = scorer.scores(some), scorer.scores(some, names)
    assert list(asked) == [name for name in SCORES if name in names]
    assert all((asked[name] == every[name]).all() for name in names)


def test_wide_data_have_the_distance_of_independent_features():
    x_ND = np.random.default_rng(0).normal(size=(12, FULL_COVARIANCE + 1))
    gaussian = Gaussian.fit(x_ND)
    expected_N = ((x_ND - x_ND.mean(axis=0)) ** 2 / x_ND.var(axis=0)).sum(axis=1)
    assert gaussian.squared_distance(x_ND) == pytest.approx(expected_N, rel=1e-3)


def test_the_reference_is_every_training_row_or_always_the_same_of_them():
    assert (reference_rows(7) == np.arange(7)).all()
    many = reference_rows(REFERENCE_ROWS * 3)
    assert len(many) == len(set(many)) == REFERENCE_ROWS
    assert (many == reference_rows(REFERENCE_ROWS * 3)).all()


def test_pseudo_anomalies_spoil_rows_in_three_ways_and_always_the_same():
    normal_ND = np.random.default_rng(0).normal([0, 5, -3], [1, 2, 0.1], (400, 3)).astype(np.float32)
    kinds = pseudo_anomalies(normal_ND, 0)
    assert all((again_ND == kinds[kind]).all() for kind, again_ND in pseudo_anomalies(normal_ND, 0).items())
    swapped_ND = kinds["column_swap"] != normal_ND
    assert 0.3 < swapped_ND.mean() < 0.6
    assert swapped_ND.any(axis=1).mean() > 0.98
    assert all(np.isin(kinds["column_swap"][:, d], normal_ND[:, d]).all() for d in range(3))
    assert (kinds["noise"] - normal_ND).std(axis=0) == pytest.approx(0.5 * normal_ND.std(axis=0), rel=0.1)
    mean_D = normal_ND.mean(axis=0)
    assert kinds["stretch"] - mean_D == pytest.approx(1.5 * (normal_ND - mean_D), abs=1e-4)


@pytest.mark.parametrize("as_rows", [np.asarray, torch.as_tensor])
def test_moments_of_rows_in_parts_are_those_of_all_rows(as_rows):
    x_ND = np.random.default_rng(0).normal(5, [[1, 10, 0.1]], (200, 3))
    whole, parts = Moments(), Moments()
    whole.add(as_rows(x_ND))
    for start in range(0, 200, 64):
        parts.add(as_rows(x_ND[start : start + 64]))
    for one, other in zip(whole.diagonal(), parts.diagonal(), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
    mean_D, precision_D = map(np.asarray, whole.diagonal())
    np.testing.assert_allclose(mean_D, x_ND.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(precision_D, 1 / (x_ND.var(axis=0) + 1e-6), rtol=1e-10)

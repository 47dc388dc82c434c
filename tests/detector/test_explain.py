import numpy as np
import pandas as pd
import pytest
from vae_study.anomaly.scores import ADDITIVE, Gaussian
from vae_study.detector.pyfunc import _load_pyfunc
from vae_study.errors import UserError
from vae_study.metrics import scores_of

from tests.detector.builders import ensemble, single, study, table
from tests.detector.conftest import GAUSSIAN
from tests.vae.builders import model_setup

COLUMNS = ["a", "b", "c", "constant", "e", "kind"]


@pytest.mark.parametrize("score", ADDITIVE)
@pytest.mark.parametrize("trial", [0, 2])
def test_the_columns_add_up_to_a_score_that_is_a_sum(small, tmp_path, score, trial):
    detector = small.packed(single(trial, score), tmp_path / "packed")
    scored = detector.score(small.held_out_ND, explain=True)
    parts = scored.filter(like="part/")
    assert list(parts.columns) == [f"part/{name}" for name in COLUMNS]
    summands = {"elbo": ["usual", "kl"], "reconstruction": ["usual"], "reconstruction_probability": ["usual"]}
    assert list(detector.summands) == summands.get(score, [])
    total_N = parts.sum(axis=1) + scored[[*detector.summands]].sum(axis=1)
    assert total_N.to_numpy() == pytest.approx(scored["score"].to_numpy(), rel=1e-5, abs=1e-4)
    assert detector.explanation.startswith("the columns add up to the score: ")


def test_a_usual_row_has_no_cost_above_the_usual(small, tmp_path):
    detector = small.packed(single(0, "elbo"), tmp_path / "packed")
    train = detector.score(small.data.splits["train"].x_ND, explain=True)
    assert train.filter(like="part/").mean().to_numpy() == pytest.approx(np.zeros(len(COLUMNS)), abs=1e-4)
    assert train["usual"].unique() == pytest.approx([train["reconstruction"].mean()], rel=1e-4)


def test_a_masked_value_has_no_part_in_a_score_and_the_score_is_that_of_the_others(tmp_path):
    made = study(table(missing="mask"), [model_setup(1, **GAUSSIAN, latent_dim=3)], tmp_path)
    x_ND, names = made.held_out_ND.copy(), list(made.data.feature_names)
    is_missing_N = np.isnan(x_ND[:, names.index("c")])
    assert 0 < is_missing_N.sum() < len(x_ND)
    kinds = {one: made.packed(single(0, one), tmp_path / one) for one in scores_of(is_images=False)}
    for one, detector in {**kinds, "ensemble": made.packed(ensemble(0), tmp_path / "ensemble")}.items():
        scored = detector.score(x_ND, explain=True)
        assert np.isfinite(scored.to_numpy(np.float64)).all(), one
        if one in kinds:
            np.testing.assert_allclose(scored["score"], made.scores(0)[one], rtol=1e-9)
        if one == "residual_mahalanobis":
            # A residual of 0 is not the mean of all residuals.
            continue
        assert not scored["part/c"][is_missing_N].any(), one
        assert scored["part/c"][~is_missing_N].all(), one
        if detector.summands is not None:
            total_N = scored.filter(like="part/").sum(axis=1) + scored[[*detector.summands]].sum(axis=1)
            np.testing.assert_allclose(total_N, scored["score"], rtol=1e-5, atol=1e-4)
    # Without a model, a missing value counts as the mean of the reference rows.
    mean_D = detector.baseline.reference_RD.mean(axis=0)
    filled_ND = np.where(np.isnan(x_ND), mean_D, x_ND)
    np.testing.assert_allclose(detector.baseline.score(x_ND.astype(np.float64)), detector.baseline.score(filled_ND))
    usual_N = kinds["elbo"].score(x_ND, explain=True)["usual"]
    assert usual_N.nunique() == 2
    train = kinds["elbo"].score(made.data.splits["train"].x_ND, explain=True)
    assert train.filter(like="part/").mean().to_numpy() == pytest.approx(np.zeros(len(COLUMNS)), abs=1e-4)
    x_ND[:] = np.nan
    assert np.isfinite(kinds["elbo"].score(x_ND)["score"]).all()


def test_the_parts_of_a_mahalanobis_distance_are_those_of_plain_loops():
    random = np.random.default_rng(0)
    x_ND = random.normal(size=(40, 4)) @ random.normal(size=(4, 4))
    fitted = Gaussian.fit(x_ND)
    for x_D, found_D in zip(x_ND, fitted.contributions(x_ND), strict=True):
        centred_D = x_D - fitted.mean_D
        for j in range(4):
            expected = sum(centred_D[j] * fitted.precision_DD[j, i] * centred_D[i] for i in range(4))
            assert found_D[j] == pytest.approx(expected)
    assert fitted.contributions(x_ND).sum(axis=1) == pytest.approx(fitted.squared_distance(x_ND))


LEFT_OUT = [single(0, "kl"), single(1, "latent_mahalanobis"), single(1, "latent_knn"), ensemble(0, 1)]


@pytest.mark.parametrize("choice", LEFT_OUT)
def test_other_scores_are_explained_by_the_training_mean_in_each_column(small, tmp_path, choice):
    detector = small.packed(choice, tmp_path / "packed")
    x_ND, train_ND = small.held_out_ND[:20], small.data.splits["train"].x_ND
    scored = detector.score(x_ND, explain=True)
    assert detector.summands is None
    assert "do not add up to the score" in detector.explanation
    assert [name for name in scored if name.startswith("part/")] == [f"part/{name}" for name in COLUMNS]
    for name in COLUMNS:
        features = [
            place
            for place, feature in enumerate(small.data.feature_names)
            if feature == name or feature.startswith((f"{name}=", f"{name} "))
        ]
        assert features
        for row, part in enumerate(scored[f"part/{name}"]):
            other_1D = x_ND[row : row + 1].copy()
            other_1D[0, features] = train_ND[:, features].astype(np.float64).mean(axis=0)
            lower = detector.score(other_1D)["score"].iloc[0]
            assert part == pytest.approx(scored["score"].iloc[row] - lower, rel=1e-5, abs=1e-5)


def test_each_pixel_is_told_of_as_the_trials_own_explanation_has_it(digits, tmp_path):
    trials = study(digits, [model_setup(5)], tmp_path / "trials")
    with np.load(tmp_path / "trials" / "0" / "examples.npz") as arrays:
        places, expected_TD = arrays["top_place"], arrays["top_contributions"]
    detector = trials.packed(single(0, "elbo"), tmp_path / "packed")
    found = detector.score(digits.splits["test"].x_ND[places], explain=True).filter(like="part/")
    assert list(found.columns) == [f"part/{name}" for name in digits.feature_names]
    assert found.to_numpy() == pytest.approx(expected_TD, rel=1e-4, abs=1e-4)


@pytest.fixture(scope="module")
def frame():
    """Rows as a user has them."""
    random = np.random.default_rng(3)
    numbers = {name: random.normal(size=40) for name in ("a", "b", "c", "constant", "e")}
    numbers["c"][::7] = np.nan
    return pd.DataFrame({**numbers, "kind": random.choice(["red", "green", "new"], 40)})


def test_a_frame_in_any_order_with_other_columns_scores_as_its_features_do(small, tmp_path, frame):
    detector = small.packed(ensemble(0, 2), tmp_path / "packed")
    model = _load_pyfunc(str(tmp_path / "packed"))
    found = model.predict(frame)
    mixed = frame[["kind", "e", "b", "a", "c", "constant"]].assign(id=[object() for _ in frame.index], late=1)
    assert found.equals(model.predict(mixed, params={}))
    assert list(found.columns[:4]) == ["score", "p_value", "above_p90", "above_p95"]
    raw = detector.preprocessing.inverse(small.held_out_ND)
    back = model.predict(raw)
    assert back["score"].to_numpy() == pytest.approx(detector.score(small.held_out_ND)["score"].to_numpy(), rel=1e-3)


def test_a_frame_without_a_column_is_refused(small, tmp_path, frame):
    small.pack(single(0, "elbo"), tmp_path / "packed")
    with pytest.raises(UserError, match="'b'"):
        _load_pyfunc(str(tmp_path / "packed")).predict(frame.drop(columns="b"))

import itertools
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vae_study.anomaly.scores import ADDITIVE
from vae_study.detector.detector import PARTS
from vae_study.errors import UserError
from vae_study.metrics import BASELINE, SCORES, scores_of
from vae_study.selection.comparison import combined
from vae_study.vae.families import FAMILIES

from tests.detector.builders import ensemble, labelled, single, study
from tests.vae.builders import model_setup

FLAGS = {"above_p90": 90, "above_p95": 95, "above_p99": 99}
VARIANTS = {name: {"family": name} for name in FAMILIES} | {
    "denoising-deterministic": {"family": "denoising", "code": "deterministic"},
    "conv": {"network__kind": "conv", "network__channels": (4, 8), "network__hidden": (16,)},
    "batch-norm": {"network__batch_norm": True},
    "conv-batch-norm": {"network__kind": "conv", "network__channels": (4, 8), "network__batch_norm": True},
    "linear": {"network__hidden": ()},
    "gaussian": {"likelihood": "gaussian", "sigma": 0.3, "latent_dim": 5},
    **{
        f"learned-{kind}": {"likelihood": "gaussian_learned", "learned_sigma": kind}
        for kind in ("shared", "per_feature", "per_example")
    },
}
ENSEMBLES = {
    "best": ensemble(0, 1, 2),
    "lone": ensemble(1),
    "labels": labelled((0, "kl"), (2, "reconstruction_probability"), (1, "squared_error")),
    "every score": labelled(*itertools.product((0, 1), scores_of(is_images=False))),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_score_of_every_family_is_what_the_training_code_gave(digits, tmp_path, variant):
    trials = study(digits, [model_setup(5, training__epochs=1, **VARIANTS[variant])], tmp_path / "trials")
    frame = trials.scores(0)
    for score in SCORES:
        found = trials.packed(single(0, score), tmp_path / score)
        for split in ("validation", "test"):
            part, x_ND = frame[frame["split"] == split], digits.splits[split].x_ND
            scored = found.score(x_ND, explain=score in ADDITIVE)
            assert scored["score"].to_numpy() == pytest.approx(part[score].to_numpy(), rel=1e-6)
            for name in PARTS:
                assert scored[name].to_numpy() == pytest.approx(part[name].to_numpy(), rel=1e-6)
            if score in ADDITIVE:
                total_N = scored.filter(like="part/").sum(axis=1) + scored[[*found.summands]].sum(axis=1)
                assert total_N.to_numpy() == pytest.approx(scored["score"].to_numpy(), rel=1e-4, abs=1e-3)


@pytest.mark.parametrize("name", ENSEMBLES)
def test_an_ensemble_is_what_combined_gives(small, tmp_path, name):
    choice = ENSEMBLES[name]
    frames = {number: small.scores(number) for number in small.configs}
    raw_N = small.baseline.scores[BASELINE].to_numpy() if choice.with_baseline else None
    expected_N = combined(frames, choice.selections, raw_N)
    scored = small.packed(choice, tmp_path / "packed").score(small.held_out_ND)
    assert scored["score"].to_numpy() == pytest.approx(expected_N, rel=1e-6, abs=1e-9)
    votes = [f"trial-{pick.trial:04d}/{pick.score}" for pick in choice.selections]
    raw = [BASELINE] if choice.with_baseline else []
    assert list(scored.columns) == ["score", "p_value", *FLAGS, *votes, *raw]
    mean_N = scored[votes].mean(axis=1)
    whole_N = mean_N + scored[BASELINE] if raw else mean_N
    assert whole_N.to_numpy() == pytest.approx(expected_N, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("choice", [single(0, "elbo"), single(1, "latent_knn"), *ENSEMBLES.values()])
def test_thresholds_are_percentiles_of_its_own_scores_of_normal_validation_rows(small, tmp_path, choice):
    scored = small.packed(choice, tmp_path / "packed").score(small.held_out_ND)
    score_N = scored["score"].to_numpy()
    for name, percentile in FLAGS.items():
        threshold = np.percentile(score_N[small.is_normal_validation_N], percentile)
        is_close_N = np.isclose(score_N, threshold, rtol=1e-6)
        assert scored[name].dtype == bool
        assert (scored[name].to_numpy() == (score_N > threshold))[~is_close_N].all()


@pytest.mark.parametrize("choice", [single(0, "elbo"), *ENSEMBLES.values()])
def test_a_p_value_counts_its_own_scores_of_normal_validation_rows(small, tmp_path, choice):
    detector = small.packed(choice, tmp_path / "packed")
    scored = detector.score(small.held_out_ND)
    normal_M = scored["score"].to_numpy()[small.is_normal_validation_N]
    assert detector.calibration_M == pytest.approx(np.sort(normal_M), rel=1e-6, abs=1e-9)
    for score, p_value in scored[["score", "p_value"]].itertuples(index=False):
        # A row that was used for calibration equals its own score, however that was rounded.
        higher = ((normal_M > score) | np.isclose(normal_M, score, rtol=1e-5, atol=1e-9)).sum()
        assert p_value == pytest.approx((1 + higher) / (1 + len(normal_M)))


@pytest.fixture(scope="module")
def some(small, tmp_path_factory):
    """Detectors, and what they say of all rows at once."""
    packed = [small.packed(one, tmp_path_factory.mktemp("packed") / "a") for one in (single(0, "elbo"), ensemble(1, 2))]
    packed.append(
        small.packed(labelled(*itertools.product((0, 1, 2), scores_of(False))), tmp_path_factory.mktemp("b") / "b")
    )
    return [(one, one.score(small.held_out_ND, explain=one.summands is not None)) for one in packed]


@given(seed=st.integers(0, 1000), rows=st.integers(0, 40), factor=st.sampled_from([1, 2, 16]))
@settings(max_examples=30)
def test_a_row_scores_the_same_in_any_company_order_and_pass(small, some, seed, rows, factor):
    places = np.random.default_rng(seed).choice(len(small.held_out_ND), rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vae_study.vae.inference.ROWS_PER_MINIBATCH", 32 * factor)
        patch.setattr("vae_study.vae.inference.MLP_FACTOR", 1)
        for detector, whole in some:
            found = detector.score(small.held_out_ND[places], explain=detector.summands is not None)
            assert list(found.columns) == list(whole.columns)
            assert found.dtypes.equals(whole.dtypes)
            expected, numbers = whole.iloc[places], [name for name in whole if name not in FLAGS]
            assert found[numbers].to_numpy() == pytest.approx(expected[numbers].to_numpy(), rel=1e-6, abs=1e-6)


def test_rows_that_no_model_can_know_score_highest_and_stay_numbers(small, some):
    x_ND = small.held_out_ND[:20].copy()
    x_ND[3], x_ND[4, 0], x_ND[5] = 1e30, np.nan, -np.inf
    for detector, _ in some:
        scored = detector.score(x_ND)
        assert np.isfinite(scored["score"]).all()
        assert scored["score"].iloc[3:6].min() > scored["score"].drop([3, 4, 5]).max()
        assert scored.iloc[3:6][[*FLAGS]].to_numpy().all()


def test_a_row_scores_the_same_beside_rows_that_overflow(small, some):
    x_ND = small.held_out_ND[:20].copy()
    x_ND[::2] = 1e30
    for detector, whole in some:
        found = detector.score(x_ND)[1::2]
        assert found["score"].to_numpy() == pytest.approx(whole["score"][1:20:2].to_numpy(), rel=1e-6)


@pytest.mark.parametrize("shape", [(3, 2), (3, 99), (5,), (2, 3, 4)])
def test_rows_of_other_features_are_refused(some, shape):
    with pytest.raises(UserError, match=r"got an array of shape .*, expected \(rows, \d+\)"):
        some[0][0].score(np.zeros(shape, np.float32))


def test_memory_does_not_grow_with_the_rows_beside_the_result(small, some):
    peaks = []
    for repeats in (5, 80):
        x_ND = np.tile(small.held_out_ND, (repeats, 1))
        tracemalloc.start()
        scored = some[1][0].score(x_ND)
        peaks.append(tracemalloc.get_traced_memory()[1] - 2 * scored.memory_usage(deep=True).sum())
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 2e6

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.neighbors import LocalOutlierFactor as ScikitLearnsFactor
from vae_study.anomaly.input_ensemble import (
    BINS,
    MEMBERS,
    MOST_PIXELS,
    Histogram,
    InputEnsemble,
    LocalOutlierFactor,
    block_means,
)

RANDOM = np.random.default_rng(0)


def table(rows, features=4):
    """Correlated normal columns, of which one has few values and one never varies."""
    x_ND = RANDOM.normal(size=(rows, features)) @ RANDOM.normal(size=(features, features))
    x_ND[:, 0], x_ND[:, -1] = np.round(x_ND[:, 0]), 3.0
    return x_ND


def scaled(reference_RD, x_ND):
    deviation_D = reference_RD.std(axis=0)
    return (x_ND - reference_RD.mean(axis=0)) / np.where(deviation_D > 0, deviation_D, 1)


@pytest.mark.parametrize(("rows", "features"), [(300, 4), (300, 30), (8, 3)])
def test_the_local_outlier_factor_is_scikit_learn_s(rows, features):
    reference_RD, x_ND = table(rows, features), 2 * table(50, features)
    theirs = ScikitLearnsFactor(n_neighbors=min(10, rows - 1), novelty=True).fit(scaled(reference_RD, reference_RD))
    _, factor_N = LocalOutlierFactor(reference_RD)(x_ND)
    assert factor_N == pytest.approx(-theirs.score_samples(scaled(reference_RD, x_ND)))


def test_distances_are_those_of_a_slow_search():
    reference_RD, x_ND = table(60), table(20)
    every_NR = np.linalg.norm(scaled(reference_RD, x_ND)[:, None] - scaled(reference_RD, reference_RD), axis=2)
    distance_N, _ = LocalOutlierFactor(reference_RD)(x_ND)
    assert distance_N == pytest.approx(np.sort(every_NR, axis=1)[:, :3].mean(axis=1))


@given(
    reference_RD=arrays(np.float64, (12, 2), elements=st.integers(-20, 20).map(float)),
    x_ND=arrays(np.float64, (5, 2), elements=st.integers(-30, 30).map(float)),
)
def test_a_histogram_counts_the_rows_in_the_same_bin(reference_RD, x_ND):
    expected_N = np.zeros(len(x_ND))
    for feature in range(2):
        known_R = reference_RD[:, feature]
        low, high = known_R.min(), known_R.max()
        width = (high - low) / BINS if high > low else 1 / BINS

        def bin_of(value, low=low, high=high, width=width):
            return min((value - low) // width, BINS - 1) if low <= value <= high else None

        for row, value in enumerate(x_ND[:, feature]):
            place = bin_of(value)
            count = 0 if place is None else sum(bin_of(other) == place for other in known_R)
            expected_N[row] -= np.log((count + 0.5) / (len(known_R) + 0.5 * BINS))
    assert Histogram(reference_RD)(x_ND) == pytest.approx(expected_N)


def test_its_score_is_the_sum_of_its_members_and_survives_its_arrays_to_the_last_bit():
    fitted, x_ND = InputEnsemble.fit(table(300), table(80)), table(50)
    members = fitted.members(x_ND)
    assert [*members] == [*MEMBERS]
    assert fitted.score(x_ND) == pytest.approx(np.sum([*members.values()], axis=0))
    arrays_of = fitted.arrays()
    for name, shape in InputEnsemble.shapes(4).items():
        pairs = zip(arrays_of[name].shape, shape, strict=True)
        assert all(size in (wanted, wanted or size) for size, wanted in pairs)
    again = InputEnsemble.from_arrays(arrays_of)
    assert (again.score(x_ND) == fitted.score(x_ND)).all()
    assert (np.concatenate([again.score(x_ND[:7]), again.score(x_ND[7:])]) == again.score(x_ND)).all()


@given(seed=st.integers(0, 100))
def test_a_row_far_from_all_others_scores_higher_than_they_do_and_nothing_overflows(seed):
    random = np.random.default_rng(seed)
    fitted = InputEnsemble.fit(random.normal(size=(40, 3)), random.normal(size=(20, 3)))
    usual_N = fitted.score(random.normal(size=(30, 3)))
    far_N = fitted.score(np.array([[9.0] * 3, [1e30] * 3, [-1e38] * 3]))
    assert np.isfinite(far_N).all()
    assert far_N.min() > usual_N.max()


def test_ranks_do_not_see_the_shape_of_a_column():
    # Between the rows that it was fitted to, ranks are interpolated.
    x_ND = RANDOM.normal(size=(150, 3))
    one_N, other_N = (InputEnsemble.fit(rows, rows)._raw(rows)["rank_distance"] for rows in (x_ND, np.exp(x_ND)))
    assert one_N == pytest.approx(other_N)


@pytest.mark.parametrize("rows", [2, 3, 11])
def test_few_rows_or_equal_rows_are_enough(rows):
    for reference_RD in (table(rows), np.ones((rows, 2))):
        fitted = InputEnsemble.fit(reference_RD, reference_RD[:1])
        assert np.isfinite(fitted.score(reference_RD)).all()


@pytest.mark.parametrize("shape", [(65, 130), (3, 64, 40)])
def test_large_images_are_compared_by_the_means_of_blocks(shape):
    x_ND = np.random.default_rng(0).normal(size=(4, math.prod(shape)))
    found_ND = block_means(x_ND, shape)
    side = math.ceil(math.sqrt(math.prod(shape) / MOST_PIXELS))
    images = x_ND.reshape(4, -1, *shape[-2:])
    starts = [range(0, size, side) for size in shape[-2:]]
    expected = [
        [image[top : top + side, left : left + side].mean() for image in row for top in starts[0] for left in starts[1]]
        for row in images
    ]
    np.testing.assert_allclose(found_ND, expected, atol=1e-12)
    assert block_means(x_ND, None) is x_ND
    assert block_means(x_ND[:, :4096], (64, 64)).shape == (4, 4096)


def test_the_same_ensemble_of_images_comes_back_from_its_arrays():
    random = np.random.default_rng(0)
    fitted = InputEnsemble.fit(random.normal(size=(20, 8450)), random.normal(size=(10, 8450)), (65, 130))
    again, x_ND = InputEnsemble.from_arrays(fitted.arrays(), (65, 130)), random.normal(size=(5, 8450))
    assert fitted.score(x_ND).tobytes() == again.score(x_ND).tobytes()
    assert fitted.histogram.low_D.shape == (33 * 65,)

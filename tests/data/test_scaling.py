import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.data import SPLIT_NAMES
from pipeline.data.scaling import SCALES

from .tables import LABELS, prepared, table

numbers = st.floats(-1e4, 1e4, width=32)
tables = arrays(np.float32, (100, 3), elements=numbers)
scales = st.sampled_from(sorted(SCALES))


@given(tables, arrays(np.float32, (100, 3), elements=numbers), scales, st.booleans())
def test_no_other_row_than_those_of_train_has_a_say_in_the_scaling(x_ND, other_ND, scale, is_image):
    shape = {"image_shape": (1, 3)} if is_image else {}
    before = prepared(table(x_ND, **shape), scale=scale)
    train_N = before.splits["train"].row_N
    other_ND[train_N] = x_ND[train_N]
    # One row outside train stays too: its scaled value must not move.
    kept = before.splits["test"].row_N[0]
    other_ND[kept] = x_ND[kept]
    after = prepared(table(other_ND, **shape), scale=scale)
    assert (before.splits["train"].x_ND == after.splits["train"].x_ND).all()
    assert (before.splits["test"].x_ND[0] == after.splits["test"].x_ND[0]).all()


@given(tables, st.booleans())
def test_unit_lies_within_0_and_1_and_train_reaches_both(x_ND, is_image):
    scale = SCALES["unit"](x_ND[:50], is_image)
    scaled_ND = scale(x_ND)
    assert scaled_ND.dtype == np.float32
    assert ((scaled_ND >= 0) & (scaled_ND <= 1)).all()
    # All pixels of an image are one column here: they share their range.
    columns = (-1, 1) if is_image else (50, 3)
    train_ND, varies_D = scaled_ND[:50].reshape(columns), np.ptp(x_ND[:50].reshape(columns), axis=0) > 0
    assert (train_ND.min(axis=0) == 0).all()
    assert (train_ND.max(axis=0)[varies_D] == 1).all()


def test_the_pixels_of_an_image_share_one_range():
    x_ND = np.array([[0, 2], [0, 16], [0, 4]], np.float32)
    assert SCALES["unit"](x_ND, True)(x_ND).tolist() == [[0, 0.125], [0, 1], [0, 0.25]]
    assert SCALES["unit"](x_ND, False)(x_ND)[:, 1].tolist() == [0, 1, np.float32(1 / 7)]


def test_standard_gives_train_mean_0_and_variance_1_and_may_leave_it_elsewhere():
    random = np.random.default_rng(0)
    x_ND = (random.normal(size=(100, 3)) * [1e-3, 1, 1e3] + [5, 0, -1e5]).astype(np.float32)
    splits = prepared(table(x_ND), scale="standard").splits
    np.testing.assert_allclose(splits["train"].x_ND.mean(axis=0), 0, atol=1e-2)
    np.testing.assert_allclose(splits["train"].x_ND.var(axis=0), 1, rtol=1e-3)
    assert abs(splits["test"].x_ND.var(axis=0) - 1).max() > 1e-2


@given(numbers, scales, st.booleans())
def test_a_feature_that_is_constant_in_train_does_no_harm(value, scale, is_image):
    """It stays finite, and a change elsewhere is not blown up."""
    train_ND = np.full((97, 2), value, np.float32)
    scaler = SCALES[scale](train_ND, is_image)
    assert len(np.unique(scaler(train_ND))) == 1
    moved_ND = scaler(train_ND + np.float32(1)) - scaler(train_ND)
    assert (abs(moved_ND) <= 1 + 1e-2).all()


def test_none_leaves_the_values():
    x_ND = np.arange(300, dtype=np.float32).reshape(100, 3)
    splits = prepared(table(x_ND), scale="none").splits
    assert all((splits[name].x_ND == x_ND[splits[name].row_N]).all() for name in SPLIT_NAMES)


@pytest.mark.parametrize("part", ["value", "label", "name", "nothing"])
def test_the_fingerprint_changes_with_the_content_and_only_then(part):
    x_ND, label_N, names = np.zeros((100, 2)), LABELS.copy(), ["one", "other"]
    before = prepared(table(x_ND, label_N, feature_names=tuple(names))).sha256
    if part == "value":
        x_ND[99, 1] = 1e-30
    if part == "label":
        label_N[0] = 3
    if part == "name":
        names[1] = "another"
    after = prepared(table(x_ND, label_N, feature_names=tuple(names)), scale="standard").sha256
    assert (before == after) == (part == "nothing")

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from vae_study.data import Preprocessing
from vae_study.data.table import ROWS_PER_CHUNK
from vae_study.errors import UserError

from .tables import fit, prepared, table, with_categories

ALL = np.arange(100)
numbers = st.floats(-1e4, 1e4, width=32)
gappy = st.floats(-1e4, 1e4, width=32) | st.just(np.nan)
words = st.sampled_from(["a", "b", "c", "missing", "(rare)", "", "é"]) | st.none()
scales = st.sampled_from(["unit", "standard", "robust", "quantile", "none"])
encodings = st.sampled_from(["one_hot", "ordinal"])


@st.composite
def tables(draw):
    """Two numeric and two categorical columns of 30 rows, with much that is missing, rare or constant."""
    x_ND = draw(arrays(np.float32, (30, 2), elements=gappy, fill=st.just(np.float32(1))))
    columns = [draw(st.lists(words, min_size=30, max_size=30)) for _ in range(2)]
    return with_categories(x_ND, *columns)


@given(
    arrays(np.float32, (100, 3), elements=numbers),
    arrays(np.float32, (100, 3), elements=numbers),
    scales,
    st.booleans(),
)
def test_no_other_row_than_those_of_train_has_a_say(x_ND, other_ND, scale, is_image):
    x_ND[:2] = [[0, 0, 0], [1, 1, 1]]
    shape = {"image_shape": (1, 3)} if is_image else {}
    other_ND[:60] = x_ND[:60]
    before, after = (fit(table(array, **shape), ALL[:60], scale=scale) for array in (x_ND, other_ND))
    assert before == after


@given(tables(), scales, encodings, st.sampled_from([0, 0.1, 0.3]), st.integers(1, 29))
def test_it_survives_json_and_does_the_same_again(source, scale, encode, rare, rows):
    try:
        fitted = fit(source, ALL[:rows], scale=scale, encode=encode, rare=rare, missing="median")
    except UserError as error:
        if "no column has several values" not in str(error):
            raise
        return
    again = Preprocessing.from_plain(json.loads(json.dumps(fitted.plain(), allow_nan=False)))
    assert again == fitted
    x_ND = fitted.transform(source)
    assert np.isfinite(x_ND).all()
    assert len(set(fitted.feature_names)) == x_ND.shape[1]
    np.testing.assert_array_equal(again.transform(source), x_ND)
    pd.testing.assert_frame_equal(again.inverse(x_ND), fitted.inverse(x_ND))


@given(tables(), st.sampled_from(["unit", "standard", "none"]), encodings)
def test_training_rows_come_back_in_the_users_columns_and_units(source, scale, encode):
    try:
        fitted = fit(source, scale=scale, encode=encode, missing="median")
    except UserError:
        return
    frame = fitted.inverse(fitted.transform(source))
    assert tuple(frame.columns) == (*source.feature_names, *source.category_names)
    for place, name in enumerate(source.feature_names):
        np.testing.assert_allclose(frame[name], source.x_ND[:, place], atol=1e-2)
    for place, name in enumerate(source.category_names):
        values = (*source.categories[place], None)
        assert [value if isinstance(value, str) else None for value in frame[name]] == [
            values[code] for code in source.code_NC[:, place]
        ]


def test_the_pixels_of_an_image_share_one_scale_and_none_is_left_out():
    source = table([[0, 2], [0, 16], [0, 4]], image_shape=(1, 2), label_N=[0, 0, 0])
    fitted = fit(source)
    assert fitted.transform(source).tolist() == [[0, 0.125], [0, 1], [0, 0.25]]
    assert fitted.inverse(np.array([[0.5, 0.25]], np.float32)).to_numpy().tolist() == [[8, 4]]
    assert fitted.notes == ()
    assert fit(table([[0, 2], [1, 16]], label_N=[0, 0])).transform(source)[:, 1].tolist() == [0, 1, np.float32(1 / 7)]


def test_a_sample_of_many_images_reaches_both_ends_of_the_range(monkeypatch):
    monkeypatch.setattr("vae_study.data.feature_columns.LARGEST_SAMPLE", 10)
    x_ND = np.random.default_rng(0).uniform(1, 2, (100, 4))
    x_ND[7, 3], x_ND[93, 0] = 0, 10
    scaled_ND = fit(table(x_ND, image_shape=(2, 2)), ALL).transform(table(x_ND, image_shape=(2, 2)))
    np.testing.assert_allclose(scaled_ND, x_ND / 10, rtol=1e-6)


def test_many_columns_that_are_left_out_or_have_missing_values_are_counted():
    x_ND = np.random.default_rng(0).normal(size=(60, 30))
    x_ND[:, :12] = 1
    x_ND[3, 15:] = np.nan
    x_ND[:, :2] = np.nan
    notes = fit(table(x_ND), ALL[:60], missing="median").notes
    assert [note for note in notes if "more columns" in note] == [
        "5 more columns with one value in all training rows: see vae-study check --columns",
        "10 more columns with missing values: see vae-study check --columns",
    ]
    assert len(notes) == 14


@pytest.mark.parametrize(
    ("scale", "clip", "far"),
    [("unit", None, 1), ("quantile", None, 1), ("standard", None, 10), ("robust", 4.0, 4), ("unit", 3.0, 3)],
)
def test_of_a_column_that_is_constant_in_train_any_other_value_is_far_off(scale, clip, far):
    x_ND = np.stack([np.ones(100), np.arange(100)], axis=1)
    x_ND[60:, 0] = [0.999, 7, -1e30, 1, *np.full(36, 1.0)]
    fitted = fit(table(x_ND), ALL[:60], scale=scale, clip=clip)
    assert fitted.feature_names == ("feature 0", "feature 1")
    assert fitted.notes == ("all training rows have 1 in 'feature 0': any other value counts as far off",)
    scaled_ND = fitted.transform(table(x_ND))
    assert scaled_ND[:, 0].tolist() == [*[0] * 60, far, far, far, *[0] * 37]
    frame = Preprocessing.from_plain(json.loads(json.dumps(fitted.plain()))).inverse(scaled_ND[59:64])
    # Which other value it was is not known any more.
    np.testing.assert_array_equal(frame["feature 0"], [1, np.nan, np.nan, np.nan, 1])
    assert fitted.summary()["dropped"] == []


@pytest.mark.parametrize("scale", ["unit", "standard", "none"])
def test_a_table_of_constant_columns_is_refused(scale):
    with pytest.raises(UserError, match=r"a table: no column has several values to train on: all training rows have 1"):
        fit(table(np.ones((100, 2))), scale=scale)


def test_the_median_stands_in_for_missing_values_and_a_feature_says_where():
    x_ND = np.array([[1, 0], [np.nan, 1], [3, 2], [5, np.nan]])
    source = table(x_ND, label_N=[0] * 4)
    fitted = fit(source, ALL[:3], scale="none", missing="median")
    assert fitted.feature_names == ("feature 0", "feature 0 missing", "feature 1")
    assert fitted.transform(source).tolist() == [[1, 0, 0], [2, 1, 1], [3, 0, 2], [5, 0, 1]]
    assert fitted.summary()["missing"] == {"feature 0": 1}
    assert fitted.notes == (
        "training rows without 'feature 0', where feature 'feature 0 missing' is 1: 1; the median 2 is used instead",
    )
    assert fitted.notes_on_new_gaps(source, ALL[3:4]) == (
        "rows without 'feature 1', which every training row has: 1; the median 1 is used instead",
    )
    np.testing.assert_array_equal(fitted.inverse(fitted.transform(source, ALL[1:2]))["feature 0"], [np.nan])


def test_what_is_masked_stays_missing_in_all_features_of_its_column_and_comes_back_so():
    heat_N, valve_N = np.array([1, np.nan, 3, 5, 7]), ["shut", "open", None, "open", "open"]
    source = with_categories(heat_N[:, None], valve_N)
    for encode, features in (("one_hot", ["category 0=open", "category 0=shut"]), ("ordinal", ["category 0"])):
        fitted = fit(source, encode=encode, scale="standard", missing="mask")
        assert fitted.feature_names == ("feature 0", *features)
        x_ND = fitted.transform(source)
        np.testing.assert_array_equal(np.isnan(x_ND[:, 0]), np.isnan(heat_N))
        assert np.isnan(x_ND[2, 1:]).all()
        assert not np.isnan(x_ND[[0, 1, 3, 4], 1:]).any()
        # The scales are those of the values that are there.
        assert np.nanmean(x_ND[:, 0]) == pytest.approx(0, abs=1e-6)
        whole = fit(with_categories(np.ones((4, 1)), [one for one in valve_N if one]), encode=encode, scale="standard")
        assert fitted.categories[0].scale == whole.categories[0].scale
        back = Preprocessing.from_plain(json.loads(json.dumps(fitted.plain()))).inverse(x_ND)
        np.testing.assert_allclose(back["feature 0"], heat_N, rtol=1e-6)
        assert [None if pd.isna(one) else one for one in back["category 0"]] == valve_N
    assert fitted.notes == tuple(
        f"training rows without {name!r}: 1; they are masked, and cost the model nothing"
        for name in ("feature 0", "category 0")
    )
    assert fit(table([[1, 0], [2, 1]], label_N=None), missing="mask").notes_on_new_gaps(
        table([[np.nan, 0]], label_N=None), ALL[:1]
    ) == ("rows without 'feature 0', which every training row has: 1; they are masked, and cost the model nothing",)


def test_a_column_without_any_value_in_train_is_left_out():
    x_ND = np.stack([np.full(100, np.nan), np.arange(100)], axis=1)
    fitted = fit(table(x_ND), missing="median")
    assert fitted.feature_names == ("feature 1",)
    assert fitted.inverse(fitted.transform(table(x_ND)))["feature 0"].isna().all()


def test_a_constant_column_with_gaps_says_where_they_are_and_where_another_value_is():
    fitted = fit(table([[1], [np.nan], [1]], label_N=[0] * 3), missing="median")
    assert fitted.feature_names == ("feature 0", "feature 0 missing")
    assert fitted.transform(table([[np.nan], [5], [1]], label_N=[0] * 3)).tolist() == [[0, 1], [1, 0], [0, 0]]


def test_missing_values_are_refused_with_column_and_count():
    x_ND = np.arange(200.0).reshape(100, 2)
    x_ND[[3, 50, 99], 1] = np.nan
    said = r"a table: missing values in column 'feature 1' 3; expected none,"
    with pytest.raises(UserError, match=f"{said} or data.missing: median or mask"):
        prepared(table(x_ND))
    fitted = fit(table(np.arange(200.0).reshape(100, 2)))
    with pytest.raises(UserError, match=rf"{said} as in the training data \(data.missing: refuse\)"):
        fitted.transform(table(x_ND))
    with pytest.raises(UserError, match="column 'category 0' 1; expected none"):
        prepared(with_categories(np.arange(100.0)[:, None], ["a", None] + ["b"] * 98, label_N=ALL % 5))
    with pytest.raises(UserError, match="'feature 1' 3; expected none in an image"):
        prepared(table(x_ND, image_shape=(1, 2)), missing="median")


def test_a_new_table_may_have_its_columns_in_any_order_but_must_have_them():
    x_ND = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    fitted = fit(table(x_ND))
    other = table(x_ND[:, ::-1], feature_names=("feature 2", "feature 1", "feature 0"))
    np.testing.assert_array_equal(fitted.transform(other), fitted.transform(table(x_ND)))
    short = table(x_ND[:, :1], feature_names=("feature 1",), where="new.csv")
    with pytest.raises(UserError, match=r"new\.csv: no column 'feature 0', no column 'feature 2'; expected every"):
        fitted.transform(short)
    text = with_categories(x_ND[:, :2], ["a"] * 100, category_names=("feature 2",))
    with pytest.raises(UserError, match="column 'feature 2' holds categories, expected numbers"):
        fitted.transform(text)
    with pytest.raises(UserError, match="got no images, expected images of 1x3 pixels"):
        fit(table(x_ND, image_shape=(1, 3))).transform(table(x_ND))


def test_a_column_that_was_left_out_may_be_missing_later():
    x_ND = np.stack([np.full(100, np.nan), np.arange(100)], axis=1)
    only = table(x_ND[:, 1:], feature_names=("feature 1",))
    assert fit(table(x_ND), missing="median").transform(only).shape == (100, 1)


def test_names_stay_distinct_where_a_column_is_called_like_the_feature_of_another():
    x_ND = np.array([[1, 2], [np.nan, 3], [2, 5]])
    fitted = fit(table(x_ND, label_N=[0] * 3, feature_names=("a", "a missing")), missing="median")
    assert fitted.feature_names == ("a", "a missing", "a missing (2)")


def test_many_rows_are_transformed_in_parts_that_fit_together():
    x_ND = np.random.default_rng(0).normal(size=(ROWS_PER_CHUNK + 10, 2))
    source = table(x_ND, label_N=np.zeros(len(x_ND)))
    fitted = fit(source, scale="standard")
    whole_ND = fitted.transform(source)
    rows_N = np.array([ROWS_PER_CHUNK + 3, 1, ROWS_PER_CHUNK - 1])
    np.testing.assert_array_equal(fitted.transform(source, rows_N), whole_ND[rows_N])


@given(arrays(np.float32, (100, 2), elements=numbers), st.floats(0.5, 3))
def test_clip_holds_in_scaled_units(x_ND, clip):
    x_ND[:2] = [[0, 0], [1, 1]]
    fitted = fit(table(x_ND), ALL[:60], scale="standard", clip=clip)
    assert (abs(fitted.transform(table(x_ND))) <= np.float32(clip)).all()

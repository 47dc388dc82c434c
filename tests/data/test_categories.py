import numpy as np
import pytest

from .tables import fit, with_categories

COLUMN = ["b"] * 50 + ["a"] * 30 + [None] * 10 + ["x", "y"] * 5


def test_categories_come_by_how_common_they_are_and_rare_ones_share_a_bucket():
    source = with_categories(np.arange(100.0)[:, None], COLUMN)
    fitted = fit(source, rare=0.06, missing="median")
    names = ("category 0=b", "category 0=a", "category 0 missing", "category 0 rare")
    assert fitted.feature_names[1:] == names
    assert fitted.transform(source)[:, 1:].sum(axis=0).tolist() == [50, 30, 10, 10]
    frame = fitted.inverse(fitted.transform(source))
    assert frame["category 0"].fillna("none").value_counts().to_dict() == {"b": 50, "a": 30, "none": 10, "(rare)": 10}
    assert fitted.summary()["categories"] == {"category 0": ["b", "a", "(missing)", "(rare)"]}


def test_ordinal_gives_the_place_and_the_bucket_the_last_one():
    source = with_categories(np.arange(100.0)[:, None], COLUMN)
    fitted = fit(source, rare=0.06, missing="median", encode="ordinal")
    assert fitted.feature_names[1:] == ("category 0",)
    np.testing.assert_allclose(np.unique(fitted.transform(source)[:, 1]), [0, 1 / 3, 2 / 3, 1], rtol=1e-6)


@pytest.mark.parametrize("encode", ["one_hot", "ordinal"])
@pytest.mark.parametrize("scale", ["unit", "standard", "quantile"])
@pytest.mark.parametrize("rare", [0, 0.06])
def test_a_category_that_train_has_not_shown_is_a_rare_one(encode, scale, rare):
    known = with_categories(np.arange(100.0)[:, None], [value or "m" for value in COLUMN])
    fitted = fit(known, rare=rare, encode=encode, scale=scale)
    # Another vocabulary: places differ, names count.
    new = with_categories(np.arange(3.0)[:, None], ["new", "b", "a"])
    assert fitted.inverse(fitted.transform(new))["category 0"].tolist() == ["(rare)", "b", "a"]


def test_columns_of_categories_that_say_nothing_are_left_out():
    source = with_categories(np.arange(100.0)[:, None], ["a"] * 100, [str(row) for row in range(100)])
    fitted = fit(source, rare=0.05)
    assert fitted.feature_names == ("feature 0",)
    assert fitted.notes == (
        "column 'category 0' is left out: all training rows have a",
        "column 'category 1' is left out: each of its categories is rarer than data.categories.rare",
    )
    assert fitted.inverse(fitted.transform(source)).iloc[0].tolist() == [0, "a", "(rare)"]


def test_one_hot_features_are_0_or_1_under_every_scale():
    source = with_categories(np.arange(100.0)[:, None], [value or "m" for value in COLUMN])
    for scale in ("unit", "standard", "robust", "quantile", "none"):
        assert set(np.unique(fit(source, scale=scale, clip=0.5).transform(source)[:, 1:])) == {0, 1}

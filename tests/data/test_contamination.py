"""Training rows that may be anomalies of which nobody knows: which are left out, and what stays as it was."""

import numpy as np
import pytest
from sklearn.ensemble import IsolationForest
from vae_study.config.loading import load_config
from vae_study.data import splits
from vae_study.data import table as tables
from vae_study.data.splits import most_isolated
from vae_study.errors import UserError

from tests.data.tables import prepared, table

ROWS, HIDDEN = 400, 12


def rows(seed=0):
    """Normal rows, and some far from them, whose labels say nothing: (N, D), and which these are."""
    random = np.random.default_rng(seed)
    x_ND = random.normal(size=(ROWS, 4))
    hidden = np.sort(random.choice(np.arange(10, ROWS), HIDDEN, replace=False))
    x_ND[hidden] += random.choice([-9, 9], (HIDDEN, 4))
    return x_ND, hidden


def examples(x_ND):
    """A table of them in which every row counts as normal but ten."""
    return table(x_ND, np.where(np.arange(len(x_ND)) < 10, 4, 0))


def test_hidden_anomalies_are_in_no_split_and_all_other_rows_stay_where_they_were():
    x_ND, hidden = rows()
    plain, found = (prepared(examples(x_ND), contamination=share, scale="standard") for share in (0, 0.05))
    there = np.intersect1d(plain.splits["train"].row_N, hidden)
    left_out = np.setdiff1d(plain.splits["train"].row_N, found.splits["train"].row_N)
    assert len(there) > 3
    assert set(there) <= set(left_out)
    assert len(left_out) == round(0.05 * len(plain.splits["train"].row_N))
    for split in ("validation", "test"):
        assert found.splits[split].row_N.tolist() == plain.splits[split].row_N.tolist()
    # What is left out has no part in the scale, either.
    np.testing.assert_allclose(found.splits["train"].x_ND.std(axis=0), 1, rtol=1e-5)
    (note,) = set(found.notes) - set(plain.notes)
    assert f"(data.contamination 0.05): {len(left_out)} of {len(plain.splits['train'].row_N)}" in note
    named = note.split("the rarest first: rows ")[1].split(", ...")[0].split(", ")
    assert {int(row) - 1 for row in named} <= set(there)


def test_they_are_those_of_the_library_s_forest_in_however_many_chunks(monkeypatch):
    x_ND, _ = rows(1)
    score_N = IsolationForest(random_state=3).fit(x_ND).score_samples(x_ND)
    expected = np.argsort(score_N, kind="stable")[:40].tolist()
    for size in (ROWS, 77):
        chunks = [x_ND[start : start + size] for start in range(0, ROWS, size)]
        assert most_isolated(lambda chunks=chunks: iter(chunks), ROWS, 0.1, 3).tolist() == expected
    # Of many rows the trees are drawn from a sample, here a quarter.
    monkeypatch.setattr(splits, "MOST_FITTED", ROWS // 4)
    sampled = most_isolated(lambda: iter(np.array_split(x_ND, 7)), ROWS, 0.1, 3)
    assert len({*sampled.tolist()} & {*expected}) >= 30


def test_the_same_rows_are_left_out_again_also_with_missing_values_and_small_chunks(monkeypatch):
    x_ND, hidden = rows(2)
    x_ND[np.random.default_rng(0).random(x_ND.shape) < 0.1] = np.nan
    one = prepared(examples(x_ND), contamination=0.1, missing="mask", scale="standard")
    monkeypatch.setattr(tables, "ROWS_PER_CHUNK", 13)
    other = prepared(examples(x_ND), contamination=0.1, missing="mask", scale="standard")
    assert one.splits["train"].row_N.tolist() == other.splits["train"].row_N.tolist()
    assert not {*one.splits["train"].row_N} & {*hidden}


@pytest.mark.parametrize("value", ["-0.1", "0.6", "auto"])
def test_a_share_outside_zero_to_a_half_is_refused(value):
    plain = {"study": "s", "data": {"source": "digits"}, "search": {"beta": {"low": 0.1, "high": 1}}}
    with pytest.raises(UserError, match=r"data\.contamination"):
        load_config(plain, [f"data.contamination={value}"])


def test_windows_share_rows_so_that_none_can_be_left_out():
    data = {"source": "csv", "path": "t.csv", "sequence": {"time": "t", "window": 4}, "split": {"by": "time"}}
    plain = {"study": "s", "data": data, "search": {"beta": {"low": 0.1, "high": 1}}}
    with pytest.raises(UserError, match=r"data\.contamination: got 0\.1, expected 0 with data\.sequence"):
        load_config(plain, ["data.contamination=0.1"])

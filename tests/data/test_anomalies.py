import re

import numpy as np
import pytest
from vae_study.config.loading import load_config
from vae_study.data.table import find_anomalies
from vae_study.errors import UserError

from .tables import prepared, table

X = np.zeros((4, 1))


def labelled(label_N, **changes):
    return table(np.zeros((len(label_N), 1)), label_N, where="cards.parquet", **changes)


@pytest.mark.parametrize(
    ("label_N", "chosen", "found"),
    [
        ([0, 1, 2, 1], (1,), [1, 3]),
        ([0, 1, 2, 1], (1, 2), [1, 2, 3]),
        ([0, 1, 2, 1], (1.0,), [1, 3]),
        ([0, 1, 2, 1], (), []),
        (["8", "9", "8", "9"], ("8",), [0, 2]),
        ([False, True, False, False], (True,), [1]),
        ([0.5, 1.5, 0.5, 0.5], (1.5,), [1]),
    ],
)
def test_rows_with_the_labels_named_are_anomalous(label_N, chosen, found):
    assert np.flatnonzero(find_anomalies(labelled(label_N), chosen)).tolist() == found


@pytest.mark.parametrize("label_N", [[0, 1, 0, 0], ["0", "1", "0", "0"], [False, True, False, False], [0, 0, 0, 0]])
def test_of_labels_0_and_1_in_a_file_1_is_anomalous(label_N):
    found = find_anomalies(labelled(label_N, has_binary_labels=True), None)
    assert found.tolist() == [label in (1, "1") for label in label_N]
    assert not find_anomalies(labelled(label_N), None).any()


def test_without_labels_all_rows_are_normal():
    source = table(X, label_N=None, labels=())
    assert find_anomalies(source, None).tolist() == find_anomalies(source, ()).tolist() == [False] * 4


@pytest.mark.parametrize(
    ("label_N", "chosen", "says"),
    [
        ([0, 1, 2, 3], (7,), "got 7, which does not occur in cards.parquet; expected some of 0, 1, 2, 3"),
        ([0, 1, 2, 4], ("4",), "got '4', .*expected some of 0, 1, 2, 4; did you mean 4?"),
        ([0, 1, 2, 4], (True,), "got True, which does not occur"),
        ([False, True, False, False], (1,), "got 1, which does not occur .*expected some of False, True"),
        (["fraud", "fine"], ("frau",), ".*did you mean 'fraud'?"),
        ([1, 1, 1, 1], (1,), r"all 4 rows of cards\.parquet are anomalous"),
    ],
)
def test_labels_that_cannot_be_are_refused(label_N, chosen, says):
    with pytest.raises(UserError, match=rf"data\.anomaly_labels: {says}"):
        find_anomalies(labelled(label_N), chosen)


def test_labels_of_a_file_that_are_not_0_and_1_need_a_choice():
    said = r"cards\.parquet: labels not 0/1 and no data\.anomaly_labels; got 0 \(1 rows\), 1 \(2 rows\), 2 \(1 rows\)$"
    with pytest.raises(UserError, match=said):
        find_anomalies(labelled([0, 1, 2, 1], has_binary_labels=True), None)
    with pytest.raises(UserError, match=r"9 \(1 rows\) and 30 more$"):
        find_anomalies(labelled(np.arange(40), has_binary_labels=True), None)


def test_all_rows_anomalous_by_default_is_refused_with_their_number():
    with pytest.raises(UserError, match=r"all 4 rows of cards\.parquet are anomalous"):
        find_anomalies(labelled([1, 1, 1, 1], has_binary_labels=True), None)


def test_anomaly_labels_without_labels_are_refused():
    with pytest.raises(UserError, match=r"got 1, fraud, but a table has no labels"):
        find_anomalies(table(X, label_N=None, labels=()), (1, "fraud"))


def test_rows_without_a_label_are_normal_and_their_label_is_no_class():
    label_N = ["ok", "unknown", "bad", "unknown", "warm"] * 8
    x_ND = np.random.default_rng(0).normal(size=(40, 2))
    data = prepared(table(x_ND, label_N), anomaly_labels=("bad",), unlabelled=("unknown",))
    assert data.classes == ("ok", "warm")
    assert "rows whose label is not known (data.unlabelled), and that count as normal: 16" in data.notes
    for name, split in data.splits.items():
        is_unknown_N = split.label_N == "unknown"
        assert is_unknown_N.any()
        assert not split.is_anomaly_N[is_unknown_N].any()
        indicator_NC = data.condition(name)
        np.testing.assert_array_equal(indicator_NC.sum(axis=1) == 0, is_unknown_N | (split.label_N == "bad"))


@pytest.mark.parametrize(
    ("label_N", "words"),
    [
        (["ok", "unknwon", "ok", "bad"], "data.unlabelled: got 'unknown', which does not occur in a table; expected "
         "some of bad, ok, unknwon; did you mean 'unknwon'?"),
        (None, "data.unlabelled: got unknown, but a table has no labels; data.label says where they are"),
    ],
)  # fmt: skip
def test_a_label_that_stands_for_none_has_to_occur(label_N, words):
    source = table(np.random.default_rng(0).normal(size=(4, 2)), label_N)
    with pytest.raises(UserError, match=re.escape(words)):
        prepared(source, anomaly_labels=(), unlabelled=("unknown",))


def test_no_label_is_anomalous_and_unknown_at_once():
    plain = {"study": "s", "data": {"source": "digits"}, "search": {"beta": {"low": 0.1, "high": 1}}}
    with pytest.raises(UserError, match=r"data\.unlabelled: got '8', which data\.anomaly_labels has as well"):
        load_config(plain, ["data.anomaly_labels=[7, 8]", "data.unlabelled=[8]"])

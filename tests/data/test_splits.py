import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data import SPLIT_NAMES, prepare
from pipeline.data.splits import split_rows
from pipeline.errors import UserError
from pipeline.spec import DataSpec
from pipeline.spec.schema import SplitSpec

from .tables import prepared, table


@st.composite
def cases(draw):
    """Rows of which some are anomalous, and fractions that add up to 1."""
    is_anomaly_N = np.array(draw(st.lists(st.booleans(), min_size=1, max_size=300)))
    shares = np.array(draw(st.tuples(*[st.integers(1, 20)] * 3)), float)
    train, validation, test = (shares / shares.sum()).tolist()
    return is_anomaly_N, SplitSpec(train=train, validation=validation, test=test, seed=draw(st.integers(0, 2**40)))


@given(cases())
def test_every_row_is_in_exactly_one_split_and_no_anomaly_in_train(case):
    is_anomaly_N, spec = case
    rows = split_rows(is_anomaly_N, spec)
    assert tuple(rows) == SPLIT_NAMES
    assert sorted(np.concatenate(list(rows.values())).tolist()) == list(range(len(is_anomaly_N)))
    assert not is_anomaly_N[rows["train"]].any()
    again = split_rows(is_anomaly_N, spec)
    assert all((rows[name] == again[name]).all() for name in SPLIT_NAMES)


@given(cases())
def test_normal_rows_are_shared_by_the_fractions_and_anomalies_as_validation_is_to_test(case):
    is_anomaly_N, spec = case
    rows = split_rows(is_anomaly_N, spec)
    normal, anomalous = (~is_anomaly_N).sum(), is_anomaly_N.sum()
    for name in SPLIT_NAMES:
        assert abs((~is_anomaly_N[rows[name]]).sum() - normal * getattr(spec, name)) <= 1 + 1e-9
    found = is_anomaly_N[rows["validation"]].sum()
    assert abs(found - anomalous * spec.validation / (spec.validation + spec.test)) <= 0.5 + 1e-9


def test_another_seed_gives_another_split_of_the_same_sizes():
    is_anomaly_N = np.arange(200) % 10 == 0
    one, other = (split_rows(is_anomaly_N, SplitSpec(seed=seed)) for seed in (0, 1))
    for name in SPLIT_NAMES:
        assert len(one[name]) == len(other[name])
        assert set(one[name]) != set(other[name])


def test_whether_a_normal_row_trains_does_not_depend_on_the_order_of_the_rows():
    """A split must mix: data sets often come sorted by label."""
    rows = split_rows(np.zeros(3_000, bool), SplitSpec())
    assert {name: abs(rows[name].mean() - 1_500) < 100 for name in SPLIT_NAMES} == dict.fromkeys(SPLIT_NAMES, True)


@pytest.mark.parametrize("scale", ["unit", "standard", "none"])
@pytest.mark.parametrize(
    ("source", "label", "rows", "anomalies"), [("digits", 8, 1797, 174), ("breast_cancer", 0, 569, 212)]
)
def test_the_bundled_data_sets_are_ready_for_training(source, label, rows, anomalies, scale):
    data = prepare(DataSpec(source=source, anomaly_labels=(label,), scale=scale))
    splits = data.splits
    assert sum(len(split.row_N) for split in splits.values()) == rows
    assert [int(splits[name].is_anomaly_N.sum()) for name in SPLIT_NAMES] == [0, anomalies // 2, anomalies // 2]
    for split in splits.values():
        assert split.x_ND.dtype == np.float32
        assert np.isfinite(split.x_ND).all()
        assert ((split.label_N == str(label)) == split.is_anomaly_N).all()
        assert len(split.normal_ND) == (~split.is_anomaly_N).sum()
    assert len(data.feature_names) == splits["train"].x_ND.shape[1]
    assert data.image_shape == ((8, 8) if source == "digits" else None)
    assert data.summary()["splits"]["test"] == {"rows": len(splits["test"].row_N), "anomalies": anomalies // 2}


def test_rows_scales_and_labels_belong_together():
    x_ND = np.arange(100, dtype=np.float32)[:, None] * [1, -1]
    data = prepared(table(x_ND), scale="none")
    for split in data.splits.values():
        assert (split.x_ND[:, 0] == split.row_N).all()
        assert (split.label_N.astype(int) == split.row_N % 5).all()


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"anomaly_labels": (4, 7)}, r"data\.anomaly_labels: came 7, .*expected some of 0, 1, 2, 3, 4"),
        ({"anomaly_labels": ("4",)}, r"data\.anomaly_labels: came '4', .*expected some of 0, 1"),
        ({"anomaly_labels": (0, 1, 2, 3, 4)}, r"data\.anomaly_labels: all 100 rows"),
        ({"split": SplitSpec(train=0.001, validation=0.5, test=0.499)}, r"data\.split\.train: came 0\.001"),
        ({"split": SplitSpec(train=0.5, validation=0.499, test=0.001)}, r"data\.split\.test: came 0\.001"),
    ],
)
def test_data_that_cannot_be_split_as_asked_are_refused(spec, says):
    with pytest.raises(UserError, match=says):
        prepared(table(np.zeros((100, 2))), **spec)


def test_without_anomaly_labels_all_rows_are_normal():
    data = prepared(table(np.zeros((100, 2))), anomaly_labels=())
    assert [len(data.splits[name].row_N) for name in SPLIT_NAMES] == [60, 20, 20]
    assert not any(split.is_anomaly_N.any() for split in data.splits.values())

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from vae_study.config.data import SplitConfig
from vae_study.data import SPLIT_NAMES
from vae_study.data.splits import assign_splits, duplicate_ids, link_groups
from vae_study.errors import UserError

from .tables import LABELS, prepared, table, with_categories

KINDS = ["random", "stratified", "group", "time"]


def unlike(rows):
    """As many rows, no two of them equal."""
    return table(np.arange(rows)[:, None], label_N=np.zeros(rows))


def split_without_duplicates(is_anomaly_N, config):
    """The split by chance as it was before rows could be equal; studies of then must find their rows again."""
    random = np.random.default_rng(config.seed)
    normal_N = random.permutation(np.flatnonzero(~is_anomaly_N))
    anomalous_N = random.permutation(np.flatnonzero(is_anomaly_N))
    cuts = np.round(np.cumsum([config.train, config.validation]) * len(normal_N)).astype(int)
    train, validation, test = np.split(normal_N, cuts)
    half = round(len(anomalous_N) * config.validation / (config.validation + config.test))
    return {
        "train": np.sort(train),
        "validation": np.sort(np.concatenate([validation, anomalous_N[:half]])),
        "test": np.sort(np.concatenate([test, anomalous_N[half:]])),
    }


@st.composite
def configs(draw, by="random"):
    """Fractions that add up to 1."""
    shares = np.array(draw(st.tuples(*[st.integers(1, 20)] * 3)), float)
    train, validation, test = (shares / shares.sum()).tolist()
    column = "when" if by in ("group", "time") else None
    seed = draw(st.integers(0, 2**40))
    return SplitConfig(by=by, column=column, train=train, validation=validation, test=test, seed=seed)


flags = st.lists(st.booleans(), min_size=1, max_size=300).map(np.array)


def divided(source, is_anomaly_N, config):
    """The rows of each split, or None where one would have no normal row."""
    try:
        return assign_splits(source, is_anomaly_N, config).rows
    except UserError as error:
        if "leaves it no normal row" not in str(error):
            raise
        return None


@given(flags, configs())
def test_without_equal_rows_a_split_by_chance_is_what_it_always_was(is_anomaly_N, config):
    rows = divided(unlike(len(is_anomaly_N)), is_anomaly_N, config)
    expected = split_without_duplicates(is_anomaly_N, config)
    assert (rows is None) == any(is_anomaly_N[part].all() for part in expected.values())
    if rows is not None:
        assert tuple(rows) == SPLIT_NAMES
        assert all((rows[name] == expected[name]).all() for name in SPLIT_NAMES)
        assert {part.dtype for part in rows.values()} == {np.dtype(np.int64)}


@given(st.lists(st.integers(0, 3), min_size=5, max_size=60).filter(lambda values: len(set(values)) > 2), configs())
def test_a_few_rows_that_repeat_often_leave_no_split_empty(values, config):
    source = table(np.array(values)[:, None])
    rows = assign_splits(source, np.zeros(len(values), bool), config).rows
    kinds = [set(np.array(values)[part]) for part in rows.values()]
    assert all(kinds)
    assert sum(map(len, kinds)) == len(set(values))


@given(flags, configs())
def test_normal_rows_are_shared_by_the_fractions_and_anomalies_as_validation_is_to_test(is_anomaly_N, config):
    rows = divided(unlike(len(is_anomaly_N)), is_anomaly_N, config)
    if rows is None:
        return
    normal, anomalous = (~is_anomaly_N).sum(), is_anomaly_N.sum()
    for name in SPLIT_NAMES:
        assert abs((~is_anomaly_N[rows[name]]).sum() - normal * getattr(config, name)) <= 1 + 1e-9
    found = is_anomaly_N[rows["validation"]].sum()
    assert abs(found - anomalous * config.validation / (config.validation + config.test)) <= 0.5 + 1e-9


@st.composite
def repetitive(draw):
    """Tables most of whose rows come again, with groups or times."""
    rows = draw(st.integers(20, 80))
    column = st.lists(st.integers(0, draw(st.integers(1, 30))), min_size=rows, max_size=rows)
    numbers, codes, split, labels = (np.array(draw(column)) for _ in range(4))
    x_ND = np.stack([numbers, np.where(numbers % 5 == 0, np.nan, numbers % 3)], axis=1)
    text = [f"{code % 4}" for code in codes]
    source = with_categories(x_ND, text, label_N=labels % 3, split_N=split)
    return source, np.array(draw(st.lists(st.integers(0, 5).map(lambda n: n == 0), min_size=rows, max_size=rows)))


def exact_rows(source):
    return [
        (*map(str, x_D.tolist()), *code_C.tolist()) for x_D, code_C in zip(source.x_ND, source.code_NC, strict=True)
    ]


@pytest.mark.parametrize("by", KINDS)
@given(data=st.data())
def test_nothing_leaks_from_split_to_split(by, data):
    source, is_anomaly_N = data.draw(repetitive())
    config = data.draw(configs(by))
    rows = divided(source, is_anomaly_N, config)
    if rows is None:
        return
    assert sorted(np.concatenate(list(rows.values())).tolist()) == list(range(len(is_anomaly_N)))
    assert not is_anomaly_N[rows["train"]].any()
    again = divided(source, is_anomaly_N, config)
    assert all((rows[name] == again[name]).all() for name in SPLIT_NAMES)
    keys = exact_rows(source)
    found = [{keys[row] for row in rows[name]} for name in SPLIT_NAMES]
    assert sum(map(len, found)) == len(set.union(*found))
    if by == "group":
        groups = [set(source.split_N[rows[name]].tolist()) for name in SPLIT_NAMES]
        assert sum(map(len, groups)) == len(set.union(*groups))
    if by == "time":
        begins = {
            key: min(t for t, other in zip(source.split_N, keys, strict=True) if other == key) for key in set(keys)
        }
        assert max(begins[key] for key in found[0]) < min(begins[key] for key in found[2])


@given(repetitive())
def test_duplicate_groups_are_the_rows_that_are_equal_numbered_by_their_first(case):
    source, _ = case
    keys = exact_rows(source)
    order = list(dict.fromkeys(keys))
    assert duplicate_ids(source).tolist() == [order.index(key) for key in keys]


def test_the_two_zeros_are_equal_and_a_missing_value_equals_a_missing_value():
    x_ND = np.array([[0.0], [-0.0], [np.nan], [-np.nan], [1]])
    assert duplicate_ids(table(x_ND, label_N=np.zeros(5))).tolist() == [0, 0, 1, 1, 2]


def test_equal_rows_join_groups_over_any_number_of_steps():
    equal_N, group_N = np.array([0, 1, 0, 2, 3, 2]), np.array([7, 7, 5, 5, 9, 9])
    assert link_groups(equal_N, group_N).tolist() == [0] * 6
    assert link_groups(np.arange(6), group_N).tolist() == [0, 0, 1, 1, 2, 2]


def test_every_label_is_shared_by_the_fractions():
    label_N = np.arange(1_000) % 10 // 4
    source = table(np.arange(1_000)[:, None], label_N=label_N)
    rows = assign_splits(source, label_N == 2, SplitConfig(by="stratified")).rows
    counts = {name: np.bincount(label_N[rows[name]], minlength=3).tolist() for name in SPLIT_NAMES}
    assert counts == {"train": [240, 240, 0], "validation": [80, 80, 100], "test": [80, 80, 100]}


def test_normal_rows_that_went_with_an_anomaly_count_towards_the_fractions():
    """1,000 rows of 100 groups, of which every tenth holds one anomaly."""
    group_N = np.arange(1_000) // 10
    source = table(np.arange(1_000)[:, None], label_N=np.zeros(1_000), split_N=group_N)
    is_anomaly_N = np.arange(1_000) % 100 == 0
    assignment = assign_splits(source, is_anomaly_N, SplitConfig(by="group", column="account"))
    normals = {name: int((~is_anomaly_N[assignment.rows[name]]).sum()) for name in SPLIT_NAMES}
    assert [
        abs(normals[name] - 990 * share) <= 10 for name, share in zip(SPLIT_NAMES, (0.6, 0.2, 0.2), strict=True)
    ] == [True] * 3
    assert "moved to validation or test because they equal an anomaly or are of its group: 90" in assignment.notes[-1]


def test_the_earliest_rows_train_and_the_latest_judge_wherever_they_stand():
    time_N = np.random.default_rng(0).permutation(100).astype(float)
    source = table(np.arange(100)[:, None], split_N=time_N)
    is_anomaly_N = np.isin(time_N, [3, 50, 70, 99])
    assignment = assign_splits(source, is_anomaly_N, SplitConfig(by="time", column="when"))
    times = {name: sorted(time_N[assignment.rows[name]].astype(int).tolist()) for name in SPLIT_NAMES}
    assert times["train"] == [time for time in range(60) if time not in (3, 50)]
    assert times["validation"] == [3, 50, *range(60, 80)]
    assert times["test"] == list(range(80, 100))
    assert assignment.notes == ("anomalies of the training period, which went to validation: 2",)


def test_equal_times_stay_together():
    time_N = np.repeat(np.arange(10), 10)
    source = table(np.arange(100)[:, None], split_N=time_N)
    config = SplitConfig(by="time", column="when", train=0.57, validation=0.2, test=0.23)
    rows = assign_splits(source, np.zeros(100, bool), config).rows
    assert [len(rows[name]) for name in SPLIT_NAMES] == [60, 20, 20]


def test_equal_rows_go_where_the_first_of_them_is_and_are_counted():
    x_N = np.arange(100)
    x_N[90:] = x_N[:10]
    is_anomaly_N = x_N == 5
    is_anomaly_N[95] = False
    assignment = assign_splits(
        table(x_N[:, None], split_N=np.arange(100)), is_anomaly_N, SplitConfig(by="time", column="when")
    )
    assert set(range(90, 100)) - set(assignment.rows["train"].tolist()) == {95}
    assert assignment.notes == (
        "rows that repeat an earlier one in every feature, and share its split: 10",
        "rows that equal one of an earlier period, and went where that one is: 10",
        "anomalies of the training period, which went to validation: 1",
        "normal rows moved to validation because they equal an anomaly of the training period: 1",
    )


def test_another_seed_gives_another_split_of_the_same_sizes():
    is_anomaly_N = np.arange(200) % 10 == 0
    one, other = (assign_splits(unlike(200), is_anomaly_N, SplitConfig(seed=seed)).rows for seed in (0, 1))
    for name in SPLIT_NAMES:
        assert len(one[name]) == len(other[name])
        assert set(one[name]) != set(other[name])


def test_whether_a_normal_row_trains_does_not_depend_on_the_order_of_the_rows():
    """A split must mix: data sets often come sorted by label."""
    rows = assign_splits(unlike(3_000), np.zeros(3_000, bool), SplitConfig()).rows
    assert {name: abs(rows[name].mean() - 1_500) < 100 for name in SPLIT_NAMES} == dict.fromkeys(SPLIT_NAMES, True)


DISTINCT = np.arange(100)[:, None]


@pytest.mark.parametrize(
    ("x_ND", "split", "says"),
    [
        (DISTINCT, {"train": 0.001, "validation": 0.5, "test": 0.499}, r"data\.split\.train: got 0\.001"),
        (DISTINCT, {"train": 0.5, "validation": 0.499, "test": 0.001}, r"data\.split\.test: got 0\.001"),
        (DISTINCT * 0, {}, r"which leaves it no normal row; rows that repeat an earlier one .*: 99"),
        (DISTINCT, {"by": "time", "column": "when"}, r"data\.split\.by: got 'time', but a table has no"),
    ],
)
def test_data_that_cannot_be_split_as_asked_are_refused(x_ND, split, says):
    with pytest.raises(UserError, match=says):
        prepared(table(x_ND), split=SplitConfig(**split))


def test_one_group_cannot_be_split():
    with pytest.raises(UserError, match=r"no normal row; independent sets of rows \(no common group, .*: 1"):
        assign_splits(
            table(DISTINCT, split_N=np.zeros(100, int)), LABELS == 4, SplitConfig(by="group", column="account")
        )


def test_a_split_by_labels_needs_labels():
    with pytest.raises(UserError, match="got 'stratified', which needs labels, and a table has none"):
        prepared(table(DISTINCT, label_N=None, labels=()), anomaly_labels=None, split=SplitConfig(by="stratified"))

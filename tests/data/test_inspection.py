"""What is said aloud about a table: warnings with their keys, the table of columns, categories that scoring meets."""

import numpy as np
import pandas as pd
import pytest
from vae_study.config.data import CategoriesConfig, DataConfig, SplitConfig
from vae_study.data import open_stream, prepare
from vae_study.data.inspection import COLUMN_HEADS, folded
from vae_study.errors import UserError

from .files import function, read, refusal, write_frame

RANDOM = np.random.default_rng(0)
COUNT = 400


def warnings(frame, **config):
    """The warnings on a frame, and the data set."""
    config = {"missing": "median"} | config
    data = prepare(DataConfig(source=function(lambda: frame), **config))
    return [note for note in data.notes if note.startswith("warning: ")], data


def frame(**columns) -> pd.DataFrame:
    """A number, a category and a label, of which nothing is to be said, and what is given."""
    usual = {
        "a": RANDOM.normal(size=COUNT),
        "shop": RANDOM.choice(["x", "y"], COUNT),
        "Label": (np.arange(COUNT) >= 380).astype(int),
    }
    return pd.DataFrame(usual | columns)


def test_of_a_table_without_oddities_nothing_is_said():
    assert warnings(frame(), label="Label")[0] == []


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"id": RANDOM.permutation(COUNT)}, "column 'id': 400 of 400 values are distinct: an identifier? data.exclude"),
        ({"id": [f"k{row}" for row in range(COUNT)]}, "column 'id': 400 of 400 values are distinct"),
        ({"id": 1_234_567_890_123_456_789 + np.arange(COUNT)}, "column 'id': 400 of 400 values are distinct"),
        ({"p": ["1,000", "2,500", "12,000", "3,000"] * 100}, "such as '1,000', and become categories; data.thousands"),
        ({"p": ["0,5", "1,25", "3,5", "7,75"] * 100}, "such as '0,5', and become categories; data.decimal: ','"),
        ({"p": [f"{row % 30}%" for row in range(COUNT)]}, "and become categories; data.signs: ['%'] reads"),
        ({"p": [f"${row % 30}.10" for row in range(COUNT)]}, "data.signs: ['$'] reads them"),
        ({"p": ["(5.00)", "(3.10)", "7-", "2.50"] * 100}, "and become categories; data.signs: ['()', '-']"),
        ({"p": ["1.234,50 \u20ac", "3,10 \u20ac", "9,99 EUR", "0,50"] * 100}, "data.signs: ['\u20ac', 'EUR'] reads"),
        ({"id": [*range(5_000, 5_390), *range(5_000, 5_010)]}, "'id': 390 of 400 values are distinct: an identifier?"),
        ({"tick": np.cumsum(RANDOM.geometric(0.01, COUNT) ** 3)}, "'tick': 400 of 400 values are distinct"),
        ({"p": ["?", "?", "?", "7"] * 99 + ["?", "8", "9", "?"]}, "become categories; data.missing_values: ['?']"),
        ({"p": ["2024-01-05 10:00", "n"] + ["2024-01-06 11:00"] * 398}, "dates or times such as '2024-01-05"),
        ({"p": ["05.01.2024", "06.01.2024"] * 200}, "dates or times such as '05.01.2024'"),
        ({"p": ["Jan 5, 2024", "Feb 6, 2024"] * 200}, "dates or times such as "),
        ({"p": ["5 Jan 2024", "10 Feb 2024"] * 200}, "dates or times such as "),
        ({"p": ["10:30", "11:45"] * 200}, "dates or times such as '10:30'"),
        ({"p": ["tcp", "TCP", "udp", "udp"] * 100}, "the categories 'TCP' (100 rows) and 'tcp' (100 rows) differ"),
        ({"p": ["caf\u00e9", "cafe\u0301", "udp", "udp"] * 100}, "differ only in blanks, case or unicode form"),
        ({"fraud": np.arange(COUNT) % 2}, "'fraud' is called like a label and used as a feature; data.exclude: ["),
        ({"b": (np.arange(COUNT) >= 380).astype(int)}, "column 'b' is 1 in the anomalous rows only: a second label?"),
    ],
)  # fmt: skip
def test_a_column_that_may_be_meant_otherwise_is_named_with_its_key(columns, says):
    (found,) = warnings(frame(**columns), label="Label", categories=CategoriesConfig(rare=0))[0]
    assert says in found
    assert "data." in found or "mend the file" in found


@pytest.mark.parametrize(
    "made",
    [
        lambda: RANDOM.normal(5_000_000, 400_000, COUNT).round(),
        lambda: RANDOM.lognormal(10, 1, COUNT).astype(int),
        lambda: RANDOM.exponential(1e6, COUNT).astype(np.int64),
        lambda: [f"k{row % 300}" for row in range(COUNT)],
    ],
)
def test_ordinary_measurements_are_no_identifiers(made):
    assert warnings(frame(bytes=made()), label="Label")[0] == []


def test_where_no_column_looks_like_a_label_it_is_asked_for_too(tmp_path):
    _, data = warnings(frame().drop(columns="Label"))
    assert "no labels, so every row counts as normal; data.label names the column that says" in "".join(data.notes)
    np.savez(tmp_path / "t.npz", X=RANDOM.normal(size=(60, 3)), labels=np.arange(60) % 2)
    data = prepare(DataConfig(source="npz", path=str(tmp_path / "t.npz")))
    assert "no labels, so every row counts as normal; data.arrays.y names the array" in "".join(data.notes)
    with pytest.raises(UserError, match=r"but .* has no labels; data.label says where they are"):
        prepare(DataConfig(source="npz", path=str(tmp_path / "t.npz"), anomaly_labels=(1,)))


@pytest.mark.parametrize("dates", [["2024-01-05", "2024-02-06"], ["2024-01-05 10:00:00", "2024-01-05T11:00:00"]])
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_iso_dates_are_refused_as_numbers_and_taken_as_declared(dates, kind, tmp_path):
    table = pd.DataFrame({"a": range(40), "when": dates[:1] * 20 + dates[1:] * 20})
    source, path = write_frame(kind, table, tmp_path)
    message = refusal(source, path)
    assert "column 'when': got times (timestamp[ns]), which are no feature; data.exclude: [when] leaves" in message
    assert "data.split.column splits by it; data.categories.columns takes text as categories" in message
    assert read(source, path, categories=CategoriesConfig(columns=("when",))).categories == (tuple(dates),)
    time_N = read(source, path, split=SplitConfig(by="time", column="when")).split_N
    assert time_N.tolist() == pd.to_datetime(table["when"], format="ISO8601").dt.as_unit("ns").astype("int64").tolist()


@pytest.mark.parametrize("name", ["Label", "is_fraud", "target", "bit"])
def test_a_label_that_is_not_named_is_asked_for(name):
    (found,) = warnings(frame().rename(columns={"Label": name}))[0]
    assert found.startswith(
        f"warning: no data.label, so every row counts as normal; column '{name}' holds only 0 and 1"
    )
    assert f"data.label: {name}" in found


def test_labels_that_differ_only_in_blanks_or_case_are_named_with_their_rows():
    labels = ["Normal"] * 380 + ["Attack", "Attack "] * 10
    (found,), data = warnings(frame(Label=labels), label="Label", anomaly_labels=("Attack",))
    assert "the labels 'Attack' (10 rows) and 'Attack ' (10 rows) differ only in blanks" in found
    both, data = warnings(frame(Label=labels), label="Label", anomaly_labels=("Attack", "Attack "))
    assert len(both) == 1
    assert sum(int(split.is_anomaly_N.sum()) for split in data.splits.values()) == 20


def conflicting() -> pd.DataFrame:
    x_ND = np.round(RANDOM.normal(size=(1_000, 3)), 3)
    x_ND[:300], x_ND[-1] = 0.5, 0.5
    return pd.DataFrame(x_ND, columns=list("abc")).assign(y=(np.arange(1_000) >= 970).astype(int))


def test_one_row_that_decides_over_hundreds_is_named_and_can_be_left_out():
    table = conflicting()
    (found,), data = warnings(table, label="y")
    assert found.startswith("warning: 1 anomalous row (row 1,000) equals 300 normal ones, which leave train for it")
    assert "data.split.conflicts: leave_out" in found
    none, data = warnings(table, label="y", split=SplitConfig(conflicts="leave_out"))
    assert none == []
    assert any("(row 1,000) equals 300 normal ones, and is in no split" in note for note in data.notes)
    rows_N = np.concatenate([split.row_N for split in data.splits.values()])
    assert sorted(rows_N.tolist()) == list(range(999))
    held = [{*split.row_N.tolist()} & {*range(300)} for split in data.splits.values()]
    assert sorted(map(len, held)) == [0, 0, 300]


def test_the_columns_are_what_pandas_says_of_them():
    table = frame(when=np.where(np.arange(COUNT) % 40 == 0, np.nan, 1.76e12 + np.arange(COUNT) % 7), flat=1)
    _, data = warnings(table, label="Label", exclude=("shop",))
    lines = {line[0]: dict(zip(COLUMN_HEADS, line, strict=True)) for line in data.columns}
    assert list(lines) == ["a", "shop", "Label", "when", "flat"]
    assert lines["when"]["missing"] == str(table["when"].isna().sum())
    assert lines["when"]["distinct"] == str(table["when"].nunique())
    assert lines["when"]["range"] == f"{table['when'].min():.0f} to {table['when'].max():.0f}"
    assert lines["when"]["becomes"] == "2 features, scale unit"
    assert lines["flat"]["becomes"] == "1 feature, the same in all training rows: another value is far off"
    assert (lines["shop"]["role"], lines["Label"]["role"], lines["a"]["role"]) == ("left out", "label", "number")
    assert lines["Label"]["distinct"] == str(table["Label"].nunique())


@pytest.mark.parametrize("kind", ["parquet", "csv", "python"])
def test_columns_can_be_excluded(kind, tmp_path):
    source, path = write_frame(kind, frame(id=range(COUNT)), tmp_path)
    path = None if path is None else str(path)
    data = prepare(DataConfig(source=source, path=path, label="Label", exclude=("id",)))
    assert data.feature_names[0] == "a"
    assert "id" not in data.feature_names
    assert "no column (of data.exclude) 'ids'; " in refusal(source, path, exclude=("ids",))
    assert "did you mean 'id'?" in refusal(source, path, exclude=("ids",))
    assert "is in data.exclude and data.label too" in refusal(source, path, exclude=("Label",), label="Label")


@pytest.mark.parametrize(
    ("scored", "says"),
    [
        ([" Private", " State"], "300 of 300 rows have a value of 'work' such as ' Private', which differs"),
        (["PRIVATE", "State"], "150 of 300 rows have a value of 'work' such as 'PRIVATE', which differs"),
        ([" ", "State"], "150 of 300 rows have a value of 'work' such as ' ', which is blank"),
        (["Other", "State"], "150 of 300 rows have a value of 'work' that is none of the model's categories"),
        (["Private", "State"], ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_categories_that_scoring_meets_and_training_did_not_are_counted(scored, says, kind, tmp_path):
    known = pd.DataFrame({"a": RANDOM.normal(size=300), "work": ["Private", "State"] * 150})
    data = prepare(DataConfig(source=function(lambda: known)))
    _, path = write_frame(kind, known.assign(work=scored * 150), tmp_path)
    stream = open_stream(str(path), data.preprocessing)
    for _ in range(2):
        assert sum(len(batch.x_ND) for batch in stream) == 300
        found = [*stream.differences.notes()]
        assert len(found) == bool(says)
        assert says in "".join(found)


@pytest.mark.parametrize(
    ("one", "other"), [("a b", " A  B"), ("\u00c5", "A\u030a"), ("\u00df", "SS"), ("x\u00a0y", "x y")]
)
def test_what_people_overlook_is_folded(one, other):
    assert folded(one) == folded(other)

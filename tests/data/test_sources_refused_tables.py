import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from vae_study.config.data import CategoriesConfig, DataConfig, SplitConfig
from vae_study.data.sources.source import Rows
from vae_study.data.sources.table_reader import build_table
from vae_study.errors import UserError

from .files import function, labels, read, refusal, words, write_frame

KINDS = ["parquet", "csv", "python"]
COUNT = 5_000
every_kind = pytest.mark.parametrize("kind", KINDS)


def spoilt(values, *places_and_values):
    """Values of which some are replaced."""
    values = list(values)
    for place, value in places_and_values:
        values[place] = value
    return values


def frame(**columns) -> pd.DataFrame:
    """A number, a word and a label, and what is said."""
    usual = {"amount": np.arange(COUNT) / 2, "shop": ["a", "b"] * (COUNT // 2), "label": [0, 1] * (COUNT // 2)}
    return pd.DataFrame(usual | columns)


NUMBERS = [float(number) for number in range(COUNT)]
TEXTS = spoilt(map(str, NUMBERS), (16, "n/a"), (802, "oops"), (4000, "n/a"))
DAY = pd.Timestamp("2024-01-01")
by_time, by_group = ({"split": SplitConfig(by=by, column="when")} for by in ("time", "group"))

REFUSED = {
    "text among numbers": (
        {"amount": TEXTS},
        {},
        "column 'amount': 3 of 5,000 values are text such as 'n/a' (rows 17, 803, 4,001); "
        "expected numbers, or the column in data.categories.columns",
    ),
    "as much text as numbers": (
        {"shop": ["7", "x"] * (COUNT // 2)},
        {},
        "column 'shop': 2,500 of 5,000 values are text such as 'x' (rows 2, 4, 6, ...); expected numbers",
    ),
    "infinite": (
        {"amount": spoilt(NUMBERS, (3, np.inf), (4_999, -np.inf))},
        {},
        "column 'amount': 2 of 5,000 values are infinite; expected finite numbers",
    ),
    "beyond float32": (
        {"amount": spoilt(NUMBERS, (4_000, 1e300))},
        {},
        "column 'amount': 1 of 5,000 values is too large for float32; expected at most 3.4e38",
    ),
    "label missing": (
        {"label": spoilt([1.0] * COUNT, (0, None), (9, None))},
        {"label": "label"},
        "column 'label': 2 of 5,000 values are missing; expected a label in every row",
    ),
    "label infinite": (
        {"label": spoilt([1.0] * COUNT, (7, np.inf))},
        {"label": "label"},
        "column 'label': 1 of 5,000 values is infinite; expected classes",
    ),
    "label of a regression": (
        {"label": NUMBERS},
        {"label": "label"},
        "column 'label': more than 1,000 distinct labels in 5,000 rows (is it a regression target?)",
    ),
    "group missing": (
        {"when": spoilt(["x"] * COUNT, (9, None))},
        by_group,
        "column 'when': 1 of 5,000 values is missing; expected a group in every row",
    ),
    "whole group missing": (
        {"when": pd.Series(spoilt([5] * COUNT, (9, None)), dtype="Int64")},
        by_group,
        "column 'when': 1 of 5,000 values is missing; expected a group in every row",
    ),
    "moment missing": (
        {"when": spoilt([DAY] * COUNT, (9, None))},
        by_time,
        "column 'when': 1 of 5,000 values is missing; expected a time in every row",
    ),
    "time missing": (
        {"when": spoilt(NUMBERS, (9, None), (10, None))},
        by_time,
        "column 'when': 2 of 5,000 values are missing; expected a time in every row",
    ),
    "time infinite": (
        {"when": spoilt(NUMBERS, (9, np.inf))},
        by_time,
        "column 'when': 1 of 5,000 values is infinite; expected finite times",
    ),
    "time of words": (
        {"when": ["x"] * COUNT},
        by_time,
        "column 'when': got string, expected times or numbers for data.split.by time",
    ),
    "moment as a feature": (
        {"when": [DAY] * COUNT},
        {},
        "column 'when': got times (timestamp[",
    ),
    "day as a feature": (
        {"when": [datetime.date(2024, 1, 1)] * COUNT},
        {},
        "which are no feature; data.exclude: [when] leaves it out; data.split.column splits by it; ",
    ),
    "no such label": (
        {},
        {"label": "lable"},
        "no column (of data.label) 'lable'; expected one of amount, shop, label; did you mean 'label'?",
    ),
    "no such split column": (
        {},
        {"split": SplitConfig(by="group", column="chop")},
        "no column (of data.split.column) 'chop'; expected one of amount, shop, label; did you mean 'shop'?",
    ),
    "no such feature": (
        {},
        {"columns": ("shop", "amuont")},
        "no column (of data.columns) 'amuont'; expected one of amount, shop, label; did you mean 'amount'?",
    ),
    "no such category": (
        {},
        {"label": "label", "categories": CategoriesConfig(columns=("shops",))},
        "no feature (of data.categories.columns) 'shops'; expected one of amount, shop; did you mean 'shop'?",
    ),
    "label as a feature": (
        {},
        {"label": "label", "columns": ("amount", "label")},
        "column 'label': is in data.columns and is data.label too",
    ),
    "feature twice": ({}, {"columns": ("amount", "amount")}, "column 'amount': occurs 2 times in data.columns"),
    "no feature": ({}, {"columns": ()}, "no feature; got the columns 'amount', 'shop', 'label'"),
}


@every_kind
@pytest.mark.parametrize("case", REFUSED)
def test_a_table_that_cannot_serve_is_refused_with_its_name_column_and_count(kind, case, tmp_path):
    columns, config, says = REFUSED[case]
    source, path = write_frame(kind, frame(**columns), tmp_path)
    message = refusal(source, path, **config)
    assert message.startswith(f"{path or source}: ")
    assert says in message


@every_kind
def test_a_text_among_numbers_is_found_however_late_it_comes(kind, tmp_path):
    long = pd.DataFrame({"amount": [*map(str, range(70_000)), "n/a"], "shop": "a"})
    source, path = write_frame(kind, long, tmp_path)
    assert "column 'amount': 1 of 70,001 values is text such as 'n/a' (row 70,001)" in refusal(source, path)


def test_rows_that_come_or_go_while_they_are_read_are_refused():
    batch = pa.record_batch({"x": [1.0, 2.0]})
    for count in (1, 3):
        rows = Rows(where="t", schema=batch.schema, count=count, batches=lambda names: iter([batch]))
        with pytest.raises(UserError, match=rf"t: holds 2 rows, expected {count}; is it still being written"):
            build_table(rows, DataConfig(source="parquet"))


@every_kind
def test_ten_thousand_categories_are_read_and_one_more_is_an_identifier(kind, tmp_path):
    ids = pd.DataFrame({"id": [f"k{number}" for number in range(10_001)]})
    source, path = write_frame(kind, ids, tmp_path)
    says = (
        "column 'id': more than 10,000 distinct values in 10,001 rows; an identifier? data.exclude: [id] leaves it out"
    )
    assert says in refusal(source, path)
    source, path = write_frame(kind, ids[1:], tmp_path)
    assert len(read(source, path).categories[0]) == 10_000


@every_kind
def test_numbers_among_words_are_words_where_they_are_few_or_declared(kind, tmp_path):
    few = pd.DataFrame({"few": ["1", "x", "y"], "declared": ["1", "2", "x"]})
    source, path = write_frame(kind, few, tmp_path)
    table = read(source, path, categories=CategoriesConfig(columns=("declared",)))
    assert [words(table, name) for name in few] == [few[name].tolist() for name in few]


@every_kind
def test_text_that_reads_as_numbers_throughout_is_numbers_and_as_a_label_what_it_was_declared(kind, tmp_path):
    texts = pd.DataFrame({"x": ["1", " 2.5", None, "NA"], "y": ["0", "1", "1", "0"]})
    source, path = write_frame(kind, texts, tmp_path)
    table = read(source, path, label="y")
    np.testing.assert_array_equal(table.x_ND[:, 0], [1, 2.5, np.nan, np.nan])
    assert labels(table) == ([0, 1, 1, 0] if kind == "csv" else ["0", "1", "1", "0"])


@every_kind
@pytest.mark.parametrize("label", [None, "label"])
def test_a_table_without_rows_is_refused(kind, label, tmp_path):
    source, path = write_frame(kind, frame()[:0], tmp_path)
    assert "holds no rows; expected at least one" in refusal(source, path, label=label)


@pytest.mark.parametrize("values", [[1, 2], {"a": 1}, b"x"])
@pytest.mark.parametrize("kind", ["parquet", "python"])
def test_values_within_values_are_refused(kind, values, tmp_path):
    source, path = write_frame(kind, pd.DataFrame({"x": [1.0], "tags": [values]}), tmp_path)
    assert "column 'tags': got " in refusal(source, path)
    assert "expected labels" in refusal(source, path, label="tags")
    assert read(source, path, columns=("x",)).x_ND.tolist() == [[1]]
    if not isinstance(values, bytes):
        assert "plain values" in refusal(source, path, columns=("x",), split=SplitConfig(by="group", column="tags"))


def test_two_columns_of_one_name_are_refused(tmp_path):
    (tmp_path / "t.csv").write_text("a,b,a\n1,2,3\n")
    says = "column 'a': occurs 2 times in the table; expected each name once"
    assert says in refusal("csv", tmp_path / "t.csv")
    assert says in refusal(function(lambda: pd.DataFrame([[1, 2]], columns=["a", "a"])))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("0.5,1.5\n2,3\n", ":1: the first line holds values (0.5, 1.5, ...), expected the columns' names"),
        ("a,b\n1,2\n3\n", ":3: got 1 value ('3'), expected 2, as the first line has"),
    ],
)
def test_a_csv_of_another_shape_is_refused(text, says, tmp_path):
    (tmp_path / "t.csv").write_text(text)
    assert f"{tmp_path / 't.csv'}{says}" in refusal("csv", tmp_path / "t.csv")


def test_files_of_a_folder_that_do_not_fit_together_are_refused(tmp_path):
    folder = tmp_path / "parts"
    folder.mkdir()
    assert "a folder without a Parquet file" in refusal("parquet", folder)
    pd.DataFrame({"x": [1.0], "z": [1.0]}).to_parquet(folder / "0.parquet")
    pd.DataFrame({"x": [1.0]}).to_parquet(folder / "1.parquet")
    assert f"{folder / '1.parquet'}: column 'z': not in this file" in refusal("parquet", folder)
    assert read("parquet", folder, columns=("x",)).x_ND.tolist() == [[1], [1]]
    pd.DataFrame({"x": ["a"]}).to_parquet(folder / "1.parquet")
    assert f"{folder}: its files do not fit together (Unable to merge: Field x" in refusal("parquet", folder)

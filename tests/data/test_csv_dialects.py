"""CSV as it is written in the world: read as pandas reads it when told how, or refused with the line."""

import gzip
import io

import numpy as np
import pandas as pd
import pytest
from vae_study.config.data import CategoriesConfig, DataConfig
from vae_study.config.loading import load_config
from vae_study.data import Preprocessing, open_stream, prepare, read_table
from vae_study.errors import UserError

from .files import read, refusal, words

EUROPEAN, SPACED = {"decimal": ",", "thousands": "."}, {"decimal": ",", "thousands": " "}
PLAIN = "a,b,shop\n" + "".join(f"{row % 7},{row / 4},{'xy'[row % 2]}\n" for row in range(40))


def written(separator=",", decimal=".", before="", newline="\n") -> str:
    """The same table, written in another way."""
    rows = pd.read_csv(io.StringIO(PLAIN))
    return before + rows.to_csv(index=False, sep=separator, decimal=decimal, lineterminator=newline)


def found(data, tmp_path, **config):
    """What is read, and that scoring reads the same."""
    path = tmp_path / "t.csv"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    config = DataConfig(source="csv", path=str(path), **config)
    table = read_table(config)
    fitted = Preprocessing.fit(table, np.arange(len(table.x_ND)), config)
    scored_ND = np.concatenate([batch.x_ND for batch in open_stream(str(path), fitted, "csv")])
    np.testing.assert_array_equal(scored_ND, fitted.transform(table))
    return table


@pytest.mark.parametrize(
    ("data", "note"),
    [
        (written(";"), "read with the separator ';' (data.separator)"),
        (written("\t"), r"read with the separator '\t' (data.separator)"),
        (written("|"), "read with the separator '|' (data.separator)"),
        (written(";", ","), "a decimal comma (data.decimal)"),
        (written("\t", ","), "a decimal comma (data.decimal)"),
        (written(before="sep=,\n"), "declares the separator ','"),
        (written(";", before="sep=;\r\n", newline="\r\n"), "declares the separator ';'"),
        (written(before="# made by us, today\n# at noon\n"), "lines that begin with '#' are left out"),
        (written().replace("\n3,", "\n# a, remark\n3,", 1).replace("a,b", "# x\na,b"), "left out as comments"),
        (written().encode("utf-16"), "read as utf-16 (data.encoding)"),
        (written().encode("utf-16-le"), "read as utf-16-le (data.encoding)"),
        (b"\xef\xbb\xbf" + written().encode(), ""),
        (written(before="\n\n"), ""),
    ],
)
def test_a_table_that_is_written_in_another_way_is_the_same_table(data, note, tmp_path):
    expected = pd.read_csv(io.StringIO(PLAIN))
    table = found(data, tmp_path)
    np.testing.assert_array_equal(table.x_ND, expected[["a", "b"]].to_numpy())
    assert table.feature_names == ("a", "b")
    assert words(table, "shop") == expected["shop"].tolist()
    assert note in "\n".join(table.notes)
    assert bool(table.notes) == bool(note)


@pytest.mark.parametrize(
    ("text", "config", "pandas"),
    [
        ('a,b\n"1,000",2\n"12,345.5",4\n', {"thousands": ","}, {"thousands": ","}),
        ('a,b\n"0,5",2\n"12,25",4\n', {"decimal": ","}, {"decimal": ","}),
        ("a;b\n1.234,5;2\n2.000;4\n", EUROPEAN, {"sep": ";"} | EUROPEAN),
        ("a;b\n1 234,5;2\n2 000;4\n", SPACED, {"sep": ";"} | SPACED),
        ("a:b\n1:2\n3:4\n", {"separator": ":"}, {"sep": ":"}),
        ("a,b\n1,2\n% 3,3\n4,5\n", {"comment": "%"}, {"comment": "%"}),
    ],
)  # fmt: skip
def test_what_is_declared_is_read_as_pandas_reads_it(text, config, pandas, tmp_path):
    table = found(text, tmp_path, **config)
    np.testing.assert_array_equal(table.x_ND, pd.read_csv(io.StringIO(text), **pandas).to_numpy(np.float64))


MONEY = [("$1,234.50", 1234.5), ("-$3.10", -3.1), ("$-3.10", -3.1), ("(5.00)", -5.0), ("7.25-", -7.25), ("8", 8.0)]
EUROS = [("1.234,50 \u20ac", 1234.5), ("\u20ac 3,10", 3.1), ("-0,99 EUR", -0.99), ("12", 12.0)]
RATES = [("12%", 0.12), ("7.5 %", 0.075), ("-3%", -0.03), ("0.5", 0.5), ("2\u2030", 0.002)]


@pytest.mark.parametrize(
    ("values", "separator", "config"),
    [
        (MONEY, ",", {"signs": ("$", "()", "-"), "thousands": ","}),
        (EUROS, ";", {"signs": ("\u20ac", "EUR"), "thousands": ".", "decimal": ","}),
        (EUROS, ";", {"signs": ("\u20ac", "EUR")}),
        (RATES, ",", {"signs": ("%", "\u2030")}),
        ([("12 kg", 12.0), ("7.5kg", 7.5), ("1e3 kg", 1000.0)], "\t", {"signs": ("kg",)}),
    ],
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_signs_that_are_declared_are_read_in_every_kind_of_file(values, separator, config, kind, tmp_path):
    texts, numbers = zip(*values, strict=True)
    table = pd.DataFrame({"p": texts, "note": [f"n {text}" for text in texts]})
    path = tmp_path / f"t.{kind}"
    if kind == "csv":
        table.to_csv(path, index=False, sep=separator)
    else:
        table.to_parquet(path)
        config = {"decimal": ",", "thousands": "."} | config if values is EUROS else config
    table = read(kind, path, **config)
    # As pandas reads the plain text: 0.12 and not 12 * 0.01.
    plain = pd.read_csv(io.StringIO("p\n" + "\n".join(map(repr, numbers))))["p"]
    assert table.x_ND[:, 0].tolist() == plain.to_numpy(table.x_ND.dtype).tolist()
    assert words(table, "note") == [f"n {text}" for text in texts]
    fitted = Preprocessing.fit(table, np.arange(len(texts)), DataConfig(source=kind, path=str(path), **config))
    (batch,) = open_stream(str(path), fitted)
    np.testing.assert_array_equal(batch.x_ND, fitted.transform(table))


def test_text_that_is_no_number_keeps_the_signs(tmp_path):
    path = tmp_path / "t.csv"
    levels = ["12%", "high", "low", "5-", "mid"]
    pd.DataFrame({"x": range(5), "p": levels}).to_csv(path, index=False)
    assert words(read("csv", path, signs=("%", "-")), "p") == levels
    path.write_text("x,p\n1,12%\n2,13%\n3,high\n")
    assert "1 of 3 values is text such as 'high' (row 3)" in refusal("csv", path, signs=("%",))
    path.write_text("x,p\n1,0.5\n2,0.7\n3,12%\n")
    assert "1 of 3 values is text such as '12%' (row 3)" in refusal("csv", path)
    assert refusal("csv", path).endswith("; data.signs: ['%'] reads them")
    path.write_text("x,p\n1,12%\n2,013%\n")
    declared = CategoriesConfig(columns=("p",))
    assert words(read("csv", path, signs=("%",), categories=declared), "p") == ["12%", "013%"]


@pytest.mark.parametrize("sign", ["", "1", ".", ",", 5])
def test_what_belongs_to_numbers_is_no_sign(sign):
    with pytest.raises(ValueError, match="signs beside numbers, such as"):
        DataConfig(source="digits", signs=(sign,))


def test_a_comma_that_may_separate_thousands_is_not_taken_for_a_decimal_one(tmp_path):
    table = found("a;b\n1,000;2\n2,500;4\n", tmp_path)
    assert table.category_names == ("a",)


@pytest.mark.parametrize(
    "line", ["0,udp,http,672,0.75,normal", "5,1,1,1,2,1", "17.99,10.38,M", "0,5,0,3,0,2"]
)  # fmt: skip
def test_a_first_line_of_values_is_refused_and_read_where_it_is_declared(line, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(f"{line}\n{line}\n")
    message = refusal("csv", path)
    assert message.startswith(f"{path}:1: the first line holds values ({line.split(',')[0]}, ")
    assert message.endswith("expected the columns' names; data.header: false reads it as a row")
    table = read("csv", path, header=False)
    expected = pd.read_csv(path, header=None)
    assert len(table.x_ND) == 2
    assert table.x_ND.tolist() == expected.select_dtypes("number").to_numpy().tolist()
    assert table.feature_names[0] == "column 1"


def test_names_that_recur_as_values_are_warned_of(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("p,x,s\n" + "p,x,s\ne,y,s\n" * 20)
    assert any("looks like values and is read as the columns' names" in note for note in read("csv", path).notes)


def test_a_model_without_names_scores_a_file_without_names(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("".join(f"{row % 9},{row * 0.25}\n" for row in range(60)))
    data = prepare(DataConfig(source="csv", path=str(path), header=False))
    (batch,) = open_stream(str(path), data.preprocessing)
    assert len(batch.x_ND) == 60


@pytest.mark.parametrize("names", [("a", "a", "b"), (" a", "a ", "b")])
def test_a_name_may_occur_twice_among_columns_that_are_left_out(names, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(f"{','.join(names)}\n1,2,3\n4,5,6\n")
    assert read("csv", path, columns=("b",)).x_ND.tolist() == [[3], [6]]
    assert read("csv", path, exclude=("a",)).x_ND.tolist() == [[3], [6]]
    assert "column 'a': occurs 2 times in the table" in refusal("csv", path)


@pytest.mark.parametrize("size", [3 << 20, 40 << 20])
def test_a_line_may_be_many_mebibytes_long(size, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "1,x\n" * 1_000_000 + f"2,{'y' * size}\n" + "3,z\n" * 3)
    table = read("csv", path)
    assert table.x_ND[:, 0].tolist() == [1] * 1_000_000 + [2, 3, 3, 3]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("a,b\n1,2\n3\n", ":3: got 1 value ('3'), expected 2, as the first line has"),
        ('a,b\n1,"x\ny"\n3,4,5\n', ":4: got 3 values ('3,4,5'), expected 2, as the first line has"),
        ("a,b\n1,2\n# remark\n", ":3: got 1 value ('# remark'), expected 2, as the first line has; data.comment: '#'"),
        ("a,b\n1,2\n3,\xe9\n".encode("latin-1"), ":3: holds bytes that are not utf-8; data.encoding names another"),
        ("a,b\n1,2\n3,\xe9,4\n".encode("latin-1"), ":3: holds bytes that are not utf-8; data.encoding names another"),
        (gzip.compress(PLAIN.encode()), ": is compressed with gzip and its name does not end with .gz, expected text"),
        (b"PAR1\0\0", ": is a Parquet file (data.source: parquet), expected text"),
        ("", ": holds no line; expected the columns' names in the first one"),
        ('a,b\n1,x\n2,"y\n3,z\n', ":3: a quote is not closed, or text follows it; expected every quote closed"),
        ('# r\na,b\n1,"x\n2,"y"\n3,z\n', ":3: a quote is not closed, or text follows it; expected every quote closed"),
        ('a,b\n1,"x\ny"\n2,"', ":4: a quote is not closed, or text follows it; expected every quote closed"),
        ('a,b,c\n1,"x,2\n3,y,4\n', ":2: got 2 values ('1,x,2"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_what_cannot_be_read_is_refused_with_the_reason_and_the_line(data, says, tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    message = refusal("csv", path)
    assert message.startswith(f"{path}{says}")
    assert "torn" not in message
    assert ("a value goes on to line 3: is a quote not closed?" in message) == message.startswith(f"{path}:2: got 2")


@pytest.mark.parametrize("text", ['a,b\n1,5" pipe\n2,x\n', 'a,b\n1,"5"" pipe"\n2,"x\n\ny"\n', 'a,b\n1,o"k"\n2,"p"\n'])
def test_quotes_that_are_no_quotes_are_read_as_pandas_reads_them(text, tmp_path):
    table = found(text, tmp_path, categories=CategoriesConfig(columns=("b",), rare=0))
    assert words(table, "b") == pd.read_csv(io.StringIO(text))["b"].tolist()


def test_an_encoding_that_is_declared_is_used_or_named(tmp_path):
    table = found("a,shop\n1,é\n2,x\n".encode("cp1252"), tmp_path, encoding="cp1252")
    assert words(table, "shop") == ["é", "x"]
    given = {"study": "x", "data": {"source": "csv", "path": "t", "encoding": "utf-99"}}
    with pytest.raises(UserError, match=r"data\.encoding: got 'utf-99', expected an encoding such as utf-8"):
        load_config(given)


def test_a_truncated_archive_says_so(tmp_path):
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(PLAIN.encode())[:-20])
    assert refusal("csv", path) == f"{path}: cannot be read as CSV: Truncated compressed stream"

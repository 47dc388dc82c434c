"""A study whose labels are hidden asks for some, chooses by them, and goes back."""

import pandas as pd
import pytest
from click.testing import CliRunner
from vae_study.api import load_study, promote_model, score_rows
from vae_study.archive import export_study, import_study
from vae_study.cli import main
from vae_study.errors import UserError
from vae_study.labels import ask_labels, forget_labels, learn_labels, read_labels
from vae_study.paths import client_of
from vae_study.tracking.models import default_model

NAME = "digits"


@pytest.fixture(scope="module")
def truth(study):
    """Which rows are anomalies, by their index in the source."""
    rows = study.record.detectors
    return dict(zip(rows["row"], rows["anomaly"], strict=True))


@pytest.fixture(scope="module")
def home(study, tmp_path_factory):
    """The study on another machine, without its labels."""
    folder = tmp_path_factory.mktemp("unlabelled")
    home = folder / "home"
    import_study(export_study(NAME, folder / "digits.zip", home=study.home), home=home)
    hidden = [path for name in ("scores", "detectors") for path in home.rglob(f"{name}.parquet")]
    assert len(hidden) > 5
    for path in hidden:
        pd.read_parquet(path).assign(anomaly=False).to_parquet(path)
    return home


def invoke(home, *words):
    return CliRunner().invoke(main, [*map(str, words), "--home", str(home)])


def test_labels_of_asked_rows_choose_a_model_that_scores_until_they_are_forgotten(home, truth, tmp_path):
    path, client = tmp_path / "labels.csv", client_of(home, None)
    asked = invoke(home, "ask", NAME, "--rows", 40, "-o", path)
    assert asked.exit_code == 0, asked.output
    table = pd.read_csv(path)
    assert {*table["row"]} <= {*truth}
    assert table["row"].is_unique
    assert table["label"].isna().all()
    assert len(table) == 40
    # Rows that detectors rank highest: more anomalies than among all rows.
    labels = table["row"].map(truth)
    assert labels.mean() > pd.Series(truth).mean()
    table.assign(label=labels.astype(int).astype(object).mask(table.index == 39, "")).to_csv(path, index=False)

    before = default_model(client, NAME), load_study(NAME, home=home).promoted
    told = invoke(home, "learn", NAME, path)
    assert told.exit_code == 0, told.output
    anomalies = int(labels[:39].sum())
    assert f"39 rows: {anomalies} anomalies, {39 - anomalies} normal; 1 rows without a label" in told.output
    assert "no random sample" in told.output
    assert load_study(NAME, home=home).promoted == "learned"
    found = learn_labels(NAME, path, home=home)
    assert found.after == found.before
    assert found.after.auroc > 0.6
    assert found.more.value == 0
    scored = score_rows(NAME, "digits", output=tmp_path / "scores.parquet", home=home)
    assert scored.model == "learned"

    assert invoke(home, "learn", NAME, "--forget").exit_code == 0
    assert (default_model(client, NAME), load_study(NAME, home=home).promoted) == before
    with pytest.raises(UserError, match="--forget: no labels chose a model of 'digits'"):
        forget_labels(NAME, home=home)
    with pytest.raises(UserError, match=r"labels\.csv is there already"):
        ask_labels(NAME, output=path, home=home)


def test_a_model_that_a_user_promotes_after_the_labels_stays_when_they_are_forgotten(home, truth, tmp_path):
    path = tmp_path / "labels.csv"
    pd.DataFrame({"row": [*truth], "label": [int(one) for one in truth.values()]}).to_csv(path, index=False)
    learn_labels(NAME, path, home=home)
    promote_model(NAME, "without_model", home=home)
    assert forget_labels(NAME, home=home) == "without_model"
    assert load_study(NAME, home=home).promoted == "without_model"


def test_a_study_with_labels_is_not_asked_about(study):
    result = invoke(study.home, "ask", NAME)
    assert result.exit_code == 2
    assert "anomalies among its validation and test rows already" in result.stderr


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("row,label\n1,1\n5,0\n9,1\n", ":4: row: got 9, of which the study has no scores; expected one of its 4"),
        ("row,label\n1,1\n5,yes\n", ":3: label: got 'yes', expected 1 for an anomaly, 0 for a normal row"),
        ("row,label\n1,1\n5,0\n1,1\n", ":4: row: got 1 again, which line 2 has; expected each row once"),
        ("row,labels\n1,1\n", ": no column 'label', got row, labels; expected the columns row and label"),
        ("", ": no column 'row', got nothing"),
        ("row,label\n1,1\n5,1\n3,\n", ": all 2 labels are 1; expected anomalies (1) and normal rows (0)"),
        ("row,label\n1,\n", ": there is no label; expected"),
        ("row,label\n-1,1\n", ":2: row: got '-1', expected the index of a row"),
        ("row,label\n²,1\n", ":2: row: got '²', expected the index of a row"),
        ('row,label\n1,"1\n', ": is no CSV file"),
        (b"row,label\n\xff,1\n", ": is no CSV file"),
        (None, ": cannot be read"),
    ],
)
def test_a_wrong_file_of_labels_is_refused_with_its_line(tmp_path, text, says):
    path = tmp_path / "labels.csv"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as caught:
        read_labels(path, {1: 0, 3: 1, 5: 2, 12: 3})
    assert str(caught.value).startswith(str(path))
    assert says in str(caught.value)


def test_labels_are_read_as_spreadsheets_write_them(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_bytes('\ufefflabel,note,row\r\n1.0,"a, b",12\r\n0, ,3.0\r\n,,5\r\n'.encode())
    assert read_labels(path, {1: 0, 3: 1, 5: 2, 12: 3}) == ({3: True, 1: False}, 1)


def test_either_labels_or_forget(home, tmp_path):
    for words in ((), (tmp_path / "labels.csv", "--forget")):
        result = invoke(home, "learn", NAME, *words)
        assert result.exit_code == 2
        assert "expected either a FILE of labels, or --forget" in result.stderr

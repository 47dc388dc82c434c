"""The study file that `init` writes from a look at the data."""

import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from vae_study import check_study, draft_study
from vae_study.cli import main

ROWS = 400


def sensors(**columns):
    random = np.random.default_rng(0)
    load = random.normal(50, 10, ROWS)
    moments = pd.date_range("2026-01-01", periods=ROWS, freq="min").strftime("%Y-%m-%d %H:%M:%S")
    made = {"id": np.arange(ROWS) + 7000, "ts": moments, "line": random.choice(["A", "B"], ROWS), "load": load}
    faults = (np.arange(ROWS) % 40 == 9).astype(int)
    return pd.DataFrame({**made, "power": 2 * load + random.normal(size=ROWS), "fault": faults, **columns})


def drafted(table, tmp_path, **options):
    path = tmp_path / "sensors.csv"
    table.to_csv(path, index=False)
    name, text = draft_study(str(path), **options)
    return name, yaml.safe_load(text), text


def test_each_column_gets_its_role_and_each_setting_a_reason(tmp_path):
    random = np.random.default_rng(1)
    far = np.where(np.arange(ROWS) == 3, 1e6, random.normal(size=ROWS))
    gaps = np.where(np.arange(ROWS) < 5, np.nan, random.normal(size=ROWS))
    name, found, text = drafted(sensors(pressure=far, temperature=gaps), tmp_path)
    assert name == found["study"] == "sensors"
    assert found["data"] == {
        "source": "csv",
        "path": str(tmp_path / "sensors.csv"),
        "label": "fault",
        "anomaly_labels": [1],
        "split": {"by": "time", "column": "ts"},
        "exclude": ["id"],
        "missing": "median",
        "scale": "robust",
    }
    lines = [line for line in text.splitlines() if line.startswith("  ") and "search" not in line]
    reasons = [line for line in lines[2:8] if "  # " in line]
    assert len(reasons) == 6
    assert "the rarest value: 10 rows, 2.50%" in text
    assert "5 missing values" in text
    assert "column 'pressure' has values far from all others" in text


def test_without_labels_and_times_there_is_nothing_of_them(tmp_path):
    _, found, _ = drafted(sensors().drop(columns=["fault", "ts", "id"]), tmp_path)
    assert set(found["data"]) == {"source", "path", "scale"}
    assert found["data"]["scale"] == "standard"


def test_a_column_of_text_with_more_values_than_categories_may_have_is_left_out(tmp_path):
    rows = 10_500
    table = pd.DataFrame({"serial": [f"T{number}" for number in range(rows)], "load": np.arange(rows) % 97})
    _, found, _ = drafted(table.assign(heat=np.sqrt(np.arange(rows))), tmp_path)
    assert "serial" in found["data"]["exclude"]


def test_a_label_can_be_named_and_its_rarest_value_is_the_anomaly(tmp_path):
    state = np.where(np.arange(ROWS) % 50 == 0, "broken", "fine")
    name, found, _ = drafted(sensors(state=state).drop(columns="fault"), tmp_path, label="state", name="mine")
    assert name == found["study"] == "mine"
    assert (found["data"]["label"], found["data"]["anomaly_labels"]) == ("state", ["broken"])


def test_a_split_by_time_that_cannot_be_is_left_out(tmp_path):
    # The latest rows are all anomalous, so that there would be no normal row to test on.
    _, found, _ = drafted(sensors(fault=(np.arange(ROWS) >= 260).astype(int)), tmp_path)
    assert "split" not in found["data"]
    assert found["data"]["exclude"] == ["id", "ts"]
    assert found["data"]["label"] == "fault"


def test_images_get_a_convolutional_net(tmp_path):
    random = np.random.default_rng(0)
    for place in range(30):
        Image.fromarray(random.integers(0, 255, (16, 16), dtype=np.uint8)).save(tmp_path / f"{place}.png")
    _, text = draft_study(str(tmp_path))
    found = yaml.safe_load(text)
    assert found["data"] == {"source": "images", "path": str(tmp_path)}
    assert found["model"] == {"network": {"kind": "conv"}, "likelihood": "bernoulli"}


def test_folders_with_masks_keep_their_split_and_large_images_get_a_residual_net(tmp_path):
    random = np.random.default_rng(0)
    for folder, count in (("train/good", 30), ("test/good", 3), ("test/hole", 3), ("ground_truth/hole", 3)):
        (tmp_path / folder).mkdir(parents=True)
        for place in range(count):
            pixels = random.integers(0, 255, (100, 110), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / folder / f"{place}.png")
    _, text = draft_study(str(tmp_path))
    found = yaml.safe_load(text)
    split = {"by": "folder", "train": 0.8, "validation": 0.1, "test": 0.1}
    assert found["data"] == {"source": "images", "path": str(tmp_path), "layout": "mvtec", "split": split}
    assert found["model"]["network"]["kind"] == "residual"
    (tmp_path / "study.yaml").write_text(text)
    plan = check_study(tmp_path / "study.yaml", home=tmp_path)
    assert plan.data.splits["test"].is_anomaly_N.tolist() == [False] * 3 + [True] * 3
    assert plan.config.score == "map_maximum"


NAMES = st.lists(st.sampled_from(["x", "y", "label", "id", "when", "no: 1", "ü"]), min_size=1, unique=True)
column = st.one_of(
    st.lists(st.floats(-1e6, 1e6), min_size=60, max_size=60),
    st.lists(st.one_of(st.none(), st.integers(-3, 10**12)), min_size=60, max_size=60),
    st.lists(st.sampled_from(["a", "b", "c d", "1,5"]), min_size=60, max_size=60),
    st.lists(st.booleans(), min_size=60, max_size=60),
    st.lists(st.dates().map(str), min_size=60, max_size=60),
)


@settings(max_examples=25)
@given(
    names=st.lists(st.sampled_from(["x", "y", "label", "id", "when", "no: 1", "ü"]), min_size=1, unique=True),
    data=st.data(),
)
def test_whatever_is_drafted_passes_its_own_check(names, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("drafted")
    columns = {name: data.draw(column) for name in names}
    path = folder / "t.csv"
    # A column that varies, so that there is a feature.
    pd.DataFrame({**columns, "z": np.linspace(0, 1, 60) ** 2}).to_csv(path, index=False)
    name, text = draft_study(str(path))
    (folder / "study.yaml").write_text(text, encoding="utf-8")
    plan = check_study(folder / "study.yaml", home=folder)
    assert plan.name == name == "t"


def test_the_command_writes_a_new_file_only(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sensors().to_csv("sensors.csv", index=False)
    done = CliRunner().invoke(main, ["init", "sensors.csv"])
    assert done.exit_code == 0
    assert "check it   vae-study check sensors.yaml" in done.output
    written = (tmp_path / "sensors.yaml").read_text()
    assert written in done.output
    again = CliRunner().invoke(main, ["init", "sensors.csv"])
    assert (again.exit_code, again.output) == (
        2, "vae-study: --output: sensors.yaml is there already; expected a new file\n",
    )  # fmt: skip
    assert (tmp_path / "sensors.yaml").read_text() == written


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing.csv"], "nothing.csv"),
        (
            ["sensors.csv", "--label", "faults"],
            "--label: got 'faults', expected a column: id, load, ",
        ),
        (["sensors.csv", "--output", "no/such/folder.yaml"], "--output: no/such/folder.yaml cannot be written"),
    ],
)
def test_wrong_input_is_one_message(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    sensors().to_csv("sensors.csv", index=False)
    done = CliRunner().invoke(main, ["init", *words])
    assert done.exit_code == 2
    assert message in done.output
    assert len(done.output.splitlines()) == 1

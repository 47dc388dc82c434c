"""What a file of scores says of each row, and what is told of all of them."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import false_discovery_control
from vae_study.data import frame_features, open_stream
from vae_study.detector import score_file as module
from vae_study.detector.score_file import ScoredSummary, score_file
from vae_study.errors import UserError
from vae_study.terminal import scored_text

from tests.detector.score_files import ROWS, frame_of, left_in, parts_in


@pytest.mark.parametrize("explain", [False, True])
@pytest.mark.parametrize("bytes_per_group", [1, 16 << 20])
def test_the_file_says_of_each_row_what_the_detector_says_of_it(
    detector, explain, bytes_per_group, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "BYTES_PER_GROUP", bytes_per_group)
    frame = frame_of()
    stream = open_stream(parts_in(tmp_path / "data", frame), detector.preprocessing, keys=["card", "when"])
    done = []
    found = score_file(
        detector, stream, tmp_path / "out.parquet", explain, 0.3, lambda *numbers: done.append(numbers), "cards"
    )
    expected = detector.score(frame_features(frame, detector.preprocessing), explain=True)
    written = pq.read_table(tmp_path / "out.parquet")
    columns = ["a", "b", "c", "constant", "e", "kind"]
    parts = [*(detector.summands or ()), *(f"part/{name}" for name in columns)] if explain else []
    flags = ["above_p90", "above_p95", "above_p99"]
    assert written.column_names == ["row", "card", "when", "score", "p_value", "flag", *flags, *parts]
    assert written["row"].to_pylist() == list(range(ROWS))
    assert written["card"].to_pylist() == frame["card"].tolist()
    assert written.schema.field("when").type == pa.timestamp("us")
    np.testing.assert_allclose(written["score"], expected["score"], rtol=1e-9)
    for name in flags:
        assert written[name].to_pylist() == expected[name].tolist()
    for name in parts:
        np.testing.assert_allclose(written[name], expected[name], rtol=1e-5, atol=1e-5)
    assert written["p_value"].to_pylist() == expected["p_value"].tolist()
    flagged_N = false_discovery_control(expected["p_value"]) <= 0.3
    assert written["flag"].to_pylist() == flagged_N.tolist()
    assert found.flagged == flagged_N.sum() > 0
    assert (found.rows, found.above) == (ROWS, {name[7:]: int(expected[name].sum()) for name in flags})
    assert found.seconds > 0
    assert done == [(rows, ROWS) for rows in range(50, ROWS + 1, 50)]
    assert pq.ParquetFile(tmp_path / "out.parquet").num_row_groups == (6 if bytes_per_group == 1 else 1)
    about = {name.decode(): value.decode() for name, value in written.schema.metadata.items()}
    assert about["vae_study.study"] == "cards"
    assert about["vae_study.model"] == detector.description.name
    assert json.loads(about["vae_study.thresholds"]) == dict(detector.description.thresholds)
    assert about.get("vae_study.explanation", "") == found.explanation == (detector.explanation if explain else "")
    assert float(about["vae_study.fdr"]) == 0.3
    assert int(about["vae_study.calibration_rows"]) == found.calibration_rows == len(detector.calibration_M)
    assert about["vae_study.source"] == stream.where
    assert left_in(tmp_path) == ["out.parquet"]


def test_a_row_has_one_score_whatever_file_it_comes_in(detector, tmp_path):
    frame = frame_of()
    frame.to_csv(tmp_path / "t.csv", index=False)
    parts = parts_in(tmp_path / "data", frame)
    outputs = [tmp_path / "of_csv.parquet", tmp_path / "of_parquet.parquet"]
    for place, output in zip((str(tmp_path / "t.csv"), parts), outputs, strict=True):
        score_file(detector, open_stream(place, detector.preprocessing), output)
    first, second = (pd.read_parquet(output) for output in outputs)
    np.testing.assert_allclose(first["score"], second["score"], rtol=1e-9)
    assert "vae_study.study" not in pq.read_schema(outputs[0]).metadata


@pytest.mark.parametrize("earlier", [1, 50, 120])
def test_only_the_rows_behind_an_earlier_file_are_scored_and_told(detector, tmp_path, earlier):
    frame, places = frame_of(), {name: tmp_path / f"{name}.parquet" for name in ("all", "first", "rest")}
    source = parts_in(tmp_path / "parts", frame)
    start = tmp_path / "start.parquet"
    frame.iloc[:earlier].to_parquet(start)
    score_file(detector, open_stream(str(source), detector.preprocessing, keys=("card",)), places["all"])
    score_file(detector, open_stream(str(start), detector.preprocessing, keys=("card",)), places["first"])
    counts = []
    stream = open_stream(str(source), detector.preprocessing, keys=("card",))
    told = score_file(
        detector, stream, places["rest"], after=places["first"], progress=lambda *count: counts.append(count)
    )
    whole, rest = (pd.read_parquet(places[name]).drop(columns="flag") for name in ("all", "rest"))
    assert rest["row"].tolist() == [*range(earlier, ROWS)]
    pd.testing.assert_frame_equal(rest, whole[earlier:].reset_index(drop=True), rtol=1e-5)
    assert (told.rows, counts[-1]) == (ROWS - earlier, (ROWS - earlier, ROWS - earlier))
    assert min(row["row"] for row in told.top) >= earlier


def test_a_csv_file_says_what_the_parquet_file_says(detector, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BYTES_PER_GROUP", 1)
    place = parts_in(tmp_path / "data", frame_of())
    for name in ("out.parquet", "out.CSV"):
        stream = open_stream(place, detector.preprocessing, keys=["card", "when"])
        score_file(detector, stream, tmp_path / name, explain=True)
    expected = pd.read_parquet(tmp_path / "out.parquet")
    found = pd.read_csv(tmp_path / "out.CSV", parse_dates=["when"])
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, rtol=1e-6)
    assert found["above_p99"].dtype == bool
    assert left_in(tmp_path) == ["out.CSV", "out.parquet"]


def test_flags_are_those_of_all_rows_whatever_the_batches_and_the_kind_of_file(detector, tmp_path, monkeypatch):
    frame = frame_of()
    expected_N = detector.score(frame_features(frame, detector.preprocessing))["p_value"].to_numpy()
    for size, bytes_per_group in ((40, 1), (ROWS, 16 << 20)):
        monkeypatch.setattr(module, "BYTES_PER_GROUP", bytes_per_group)
        place = parts_in(tmp_path / f"data-{size}", frame, size)
        for name, read in (("out.parquet", pd.read_parquet), ("out.csv", pd.read_csv)):
            for level in (0.02, 0.3):
                stream = open_stream(place, detector.preprocessing, keys=["card"])
                found = score_file(detector, stream, tmp_path / name, fdr=level)
                written = read(tmp_path / name)
                assert written["flag"].tolist() == (false_discovery_control(expected_N) <= level).tolist()
                assert written["p_value"].to_numpy() == pytest.approx(expected_N, rel=1e-12)
                assert written["card"].tolist() == frame["card"].tolist()
                assert (found.flagged, found.fdr) == (written["flag"].sum(), level)
                assert found.highest == (expected_N == expected_N.min()).sum()
    assert score_file(detector, stream, tmp_path / "out.csv").fdr == detector.description.fdr == 0.1


@pytest.mark.parametrize("fdr", [0.0, 1.0, -1.0, float("nan")])
def test_a_false_discovery_rate_that_is_none_is_refused(detector, fdr, tmp_path):
    stream = open_stream(parts_in(tmp_path / "data", frame_of()), detector.preprocessing)
    with pytest.raises(UserError, match=r"fdr: got .*, expected a false discovery rate between 0 and 1"):
        score_file(detector, stream, tmp_path / "out.parquet", fdr=fdr)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    ("flagged", "highest", "said"),
    [
        (40, 35, "40 rows at a false discovery rate of 10 %"),
        (0, 0, "0 rows at a false discovery rate of 10 %: no row scores above all 799 normal validation rows"),
        (
            0,
            10,
            "0 rows at a false discovery rate of 10 %: 10 rows score above all 799 normal validation rows; "
            "to flag as few of 2,000 rows takes 1,999 normal validation rows",
        ),
    ],
)
def test_where_nothing_can_be_flagged_the_number_of_rows_that_it_takes_is_said(flagged, highest, said):
    rows = {"rows": 2000, "above": {"99": 30}, "flagged": flagged, "highest": highest, "calibration_rows": 799}
    numbers = {"model": "trial-0007", **rows}
    text = scored_text(ScoredSummary(**numbers, fdr=0.1, explanation="", seconds=2.0), Path("scores.csv"))
    assert text.splitlines() == [
        "scored     2,000 rows by trial-0007, 1,000 a second",
        f"flagged    {said}",
        "scores     30 above p99 (1.5%)",
        "written    scores.csv",
    ]


def test_the_highest_rows_are_those_of_the_file_equal_ones_in_its_order(detector, tmp_path):
    frame = pd.concat([frame_of()] * 2, ignore_index=True)
    output = tmp_path / "out.parquet"
    stream = open_stream(parts_in(tmp_path / "data", frame), detector.preprocessing, keys=["card"])
    found = score_file(detector, stream, output)
    columns = ["row", "card", "score", "p_value"]
    written = pq.read_table(output).to_pandas()[columns].sort_values("score", ascending=False, kind="stable")
    assert list(found.top) == written.head(5).to_dict("records")
    row, card = written[["row", "card"]].iloc[0]
    assert f"highest    row {row:.0f}, card {card:.0f}: score " in scored_text(found, output)


@pytest.mark.parametrize(
    ("keys", "dtype"),
    [
        (["3", "-1", "0", "9007199254740993"], pa.int64()),
        (["1", "2", "", "4"], pa.int64()),
        (["1", "2", "3", "0123"], pa.string()),
        (["1", "2", "3", "1.0"], pa.string()),
        (["1", "2", "3", "99999999999999999999"], pa.string()),
    ],
)
def test_the_key_of_a_csv_file_is_an_integer_where_all_of_it_is(detector, keys, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BYTES_PER_GROUP", 1)
    frame = frame_of()
    spelled = [keys[i % 3] for i in range(ROWS - 1)] + [keys[3]]
    frame.assign(card=spelled).to_csv(tmp_path / "t.csv", index=False)
    stream = open_stream(str(tmp_path / "t.csv"), detector.preprocessing, keys=["card"])
    score_file(detector, stream, tmp_path / "out.parquet")
    written = pq.read_table(tmp_path / "out.parquet")
    assert written.schema.field("card").type == dtype
    assert [str(key) for key in written["card"].to_pylist() if key not in (None, "")] == [key for key in spelled if key]
    assert written.schema.metadata[b"vae_study.source"]
    assert left_in(tmp_path) == ["out.parquet", "t.csv"]


@pytest.mark.parametrize("key", ["row", "score", "p_value", "flag", "above_p95", "part/a"])
def test_a_key_that_is_called_like_a_column_of_the_output_is_refused(detector, key, tmp_path):
    frame_of().rename(columns={"card": key}).to_parquet(tmp_path / "t.parquet")
    stream = open_stream(str(tmp_path / "t.parquet"), detector.preprocessing, keys=[key])
    said = f"t.parquet: the key '{key}' has the name of an output column; rename it"
    with pytest.raises(UserError, match=said):
        score_file(detector, stream, tmp_path / "out.parquet", explain=True)

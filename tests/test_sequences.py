"""What scores windows outside of a study: the server, and the detector of scikit-learn."""

import json

import numpy as np
import pandas as pd
import pytest
from vae_study import VAEDetector
from vae_study.data import frame_features, open_stream
from vae_study.detector.score_file import score_file
from vae_study.errors import UserError
from vae_study.server import Scorer

from tests.sequences import SEQUENCE, STEPS

JSON, CSV = "application/json", "text/csv"


def bodies(frame):
    """The rows as a client may send them."""
    text = frame.assign(ts=frame["ts"].dt.strftime("%Y-%m-%d %H:%M:%S"))
    split = {"columns": [*text], "data": text.to_numpy().tolist()}
    return [
        (JSON, json.dumps({"dataframe_records": text.to_dict("records")}).encode()),
        (JSON, json.dumps({"dataframe_split": split}).encode()),
        (CSV, text.to_csv(index=False).encode()),
    ]


def test_a_request_of_rows_in_time_has_a_score_for_each_and_knows_of_no_other_request(plant):
    new = plant.frame.drop(columns="fault").iloc[:100]
    other = new[new["machine"] == "south"].iloc[20:40]
    expected, of_other = (
        plant.detector.score(frame_features(one, plant.detector.preprocessing))["score"] for one in (new, other)
    )
    scorer = Scorer(plant.detector)
    answers = scorer.answers([*bodies(new), *bodies(other)])
    assert [answer.status for answer in answers] == [200] * 6
    found = [[row["score"] for row in json.loads(answer.content)["predictions"]] for answer in answers]
    for scores in found[:3]:
        np.testing.assert_allclose(scores, expected, rtol=1e-6)
    for scores in found[3:]:
        np.testing.assert_allclose(scores, of_other, rtol=1e-6)
    for rows, said in (
        (new.iloc[: 2 * STEPS - 2], f"expected at least {STEPS} rows in each"),
        (new.iloc[::-1], "expected the rows of a series in the order of their times"),
        (new.drop(columns="ts"), "no column (of data.sequence.time) 'ts'"),
    ):
        [answer] = scorer.answers([(CSV, rows.to_csv(index=False).encode())])
        assert answer.status == 400
        assert said in json.loads(answer.content)["message"]


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_rows_of_a_source_that_grows_are_scored_once_as_if_they_had_come_together(plant, tmp_path, suffix):
    """Three times: with a few rows, in the middle of a window, and with the second half."""
    frame, source = plant.frame.drop(columns="fault"), tmp_path / f"plant{suffix}"
    read = pd.read_parquet if suffix == ".parquet" else pd.read_csv

    def scored(rows, name, after=None):
        part = frame.iloc[:rows]
        part.to_parquet(source) if suffix == ".parquet" else part.to_csv(source, index=False)
        earlier = None if after is None else tmp_path / f"{after}{suffix}"
        output = tmp_path / f"{name}{suffix}"
        stream = open_stream(str(source), plant.detector.preprocessing)
        told = score_file(plant.detector, stream, output, after=earlier)
        return told, read(output).drop(columns="flag")

    _, first = scored(31, "a")
    told, second = scored(34, "b", after="a")
    assert told.rows == 3
    _, third = scored(300, "c", after="b")
    _, whole = scored(300, "whole")
    pd.testing.assert_frame_equal(pd.concat([first, second, third], ignore_index=True), whole, rtol=1e-5)
    with pytest.raises(UserError, match=r"holds no row behind the 300 that --after .*c\.(parquet|csv) has"):
        scored(300, "d", after="c")
    frame = frame.iloc[10:]
    with pytest.raises(UserError, match=r"row 299 has ts 2024-01-01 .*; expected the same source with more rows"):
        scored(320, "d", after="c")
    assert not (tmp_path / f"d{suffix}").exists()
    stream = open_stream(str(source), plant.detector.preprocessing)
    with pytest.raises(UserError, match=r"--after: .* is no file of scores"):
        score_file(plant.detector, stream, tmp_path / "d.csv", after=source)


def test_a_detector_of_windows_scores_each_row_of_a_frame(plant, tmp_path):
    frame = plant.frame[plant.frame["fault"] == 0].drop(columns="fault")[lambda rows: rows.index < 600]
    few = {"training.epochs": 2, "model.network.hidden": [8], "model.latent_dim": 2}
    detector = VAEDetector(sequence=SEQUENCE, settings=few, random_state=0).fit(frame)
    new = plant.frame.drop(columns="fault").iloc[600:700]
    scores = detector.score_samples(new)
    assert scores.shape == (100,)
    # By hand: the windows of one machine, the first rows with the first of them.
    rows = np.flatnonzero(new["machine"] == "north")
    windows = [new.iloc[rows[max(place - STEPS + 1, 0) :][:STEPS]] for place in range(len(rows))]
    alone = [detector.score_samples(one)[-1] for one in (windows[0], windows[20], windows[-1])]
    np.testing.assert_allclose(scores[rows[[0, 20, -1]]], alone, rtol=1e-6)
    assert {*detector.predict(new)} <= {-1, 1}
    test = detector.study_.champion.series
    assert sorted(test["row"]) == list(range(540, 600))
    assert {"time", "series", "score", "value/heat", "expected/heat"} <= {*test}
    assert "The series of test" in detector.report(tmp_path / "report").read_text(encoding="utf-8")
    detector.save(tmp_path / "detector")
    np.testing.assert_array_equal(VAEDetector.load(tmp_path / "detector").score_samples(new), scores)
    with pytest.raises(ValueError, match="got no data frame, expected one with the columns that sequence names"):
        VAEDetector(sequence=SEQUENCE).fit(np.zeros((50, 2)))
    with pytest.raises(ValueError, match="expected the rows of a series in the order of their times"):
        detector.score_samples(new.iloc[::-1])

"""A model that learned labels says the likeliest one of each row that it scores, wherever it scores."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from vae_study.config.loading import load_config
from vae_study.data import frame_features, open_stream, prepare
from vae_study.detector.detector import LABEL
from vae_study.detector.pyfunc import PackedModel
from vae_study.detector.score_file import score_file
from vae_study.server import Scorer
from vae_study.study.single import SingleModel

from tests.packed import packed

MODEL = {
    "family": "semi_supervised", "likelihood": "gaussian", "latent_dim": 2,
    "network": {"hidden": [16]}, "labels": {"share": 1},
}  # fmt: skip
CENTRES = {"calm": (0, 0), "warm": (4, 0), "wild": (0, 4)}


def rows(count, seed):
    """Three kinds of rows around their centres, and which."""
    random = np.random.default_rng(seed)
    kind_N = random.choice([*CENTRES], count)
    x_ND = np.array([CENTRES[kind] for kind in kind_N]) + random.normal(0, 0.5, (count, 2))
    return pd.DataFrame({"a": x_ND[:, 0], "b": x_ND[:, 1], "kind": kind_N})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model that is told the label of one row in ten."""
    path = tmp_path_factory.mktemp("data") / "rows.parquet"
    frame = rows(600, 0)
    frame["kind"] = frame["kind"].where(np.random.default_rng(1).random(len(frame)) < 0.1, "unknown")
    frame.to_parquet(path)
    data = {"source": "parquet", "path": str(path), "label": "kind", "anomaly_labels": [], "unlabelled": ["unknown"]}
    plain = {"study": "kinds", "data": {**data, "scale": "standard"}, "model": MODEL, "trials": 1}
    config = load_config({**plain, "training": {"epochs": 60, "batch_size": 32}, "diagnostics": {"iwae_draws": 0}})
    return SingleModel.train(config, prepare(config.data))


@pytest.fixture(scope="module")
def detector(trained, tmp_path_factory):
    return packed(trained, tmp_path_factory.mktemp("packed"))


def test_each_row_has_the_likeliest_label_of_those_that_train_had(trained, detector):
    new = rows(200, 2)
    found = detector.score(frame_features(new, detector.preprocessing))
    assert trained.data.classes == ("calm", "warm", "wild")
    model = detector.trials[0].rows.model
    x_1ND = torch.as_tensor(frame_features(new, detector.preprocessing))[None]
    logit_NC = model.label(model.classifier(x_1ND))[0, :, :3]
    assert found[LABEL].tolist() == [trained.data.classes[place] for place in logit_NC.argmax(dim=1)]
    assert (found[LABEL] == new["kind"]).mean() > 0.95
    # It does not depend on what else is scored.
    alone = detector.score(frame_features(new.iloc[[7]], detector.preprocessing))
    assert alone[LABEL].tolist() == [found[LABEL][7]]


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_file_of_scores_a_request_and_a_frame_of_mlflow_have_it(detector, tmp_path, suffix):
    new = rows(30, 3).drop(columns="kind")
    expected = detector.score(frame_features(new, detector.preprocessing))[LABEL].tolist()
    new.to_csv(tmp_path / "new.csv", index=False)
    stream = open_stream(str(tmp_path / "new.csv"), detector.preprocessing)
    score_file(detector, stream, tmp_path / f"scores{suffix}")
    read = pd.read_parquet if suffix == ".parquet" else pd.read_csv
    assert read(tmp_path / f"scores{suffix}")[LABEL].tolist() == expected
    assert PackedModel(detector).predict(new)[LABEL].tolist() == expected
    body = json.dumps({"dataframe_records": new.to_dict("records")}).encode()
    (answer,) = Scorer(detector).answers([("application/json", body)])
    assert [row[LABEL] for row in json.loads(answer.content)["predictions"]] == expected

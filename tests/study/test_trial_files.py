import os
import uuid

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from vae_study.storage import Folder
from vae_study.study.trial_files import (
    CODE,
    EXAMPLES,
    SCORER,
    SCORES,
    WEIGHTS,
    fetch,
    read_code,
    read_scores,
    write_code,
    write_outcome,
)
from vae_study.vae.outcome import Outcome

from tests.object_store import KINDS
from tests.small_disk import small_disk

ALL = (SCORES, EXAMPLES, WEIGHTS, SCORER)


@pytest.fixture(params=KINDS)
def folder(request, tmp_path) -> Folder:
    place = tmp_path / "home" if request.param == "local" else request.getfixturevalue("bucket")
    return Folder.at(place) / uuid.uuid4().hex / "trials" / "trial-0007"


def outcome(value: float, rows: int = 5) -> Outcome:
    scores = pd.DataFrame({"split": "test", "row": np.arange(rows), "label": "a", "anomaly": False, "elbo": value})
    arrays = {"samples": np.full((2, 3), value, np.float32), "latent_map": np.full((rows, 2), value)}
    weights, scorer = {"mean.bias": torch.full((3, 4), value).T}, {"latent_mean": torch.full((2,), value).double()}
    code = {"code": np.full((rows, 2), value, np.float32), "kl": np.array([value, np.inf], np.float32)}
    return Outcome(metrics={}, scores=scores, arrays=arrays, weights=weights, scorer=scorer, code=code)


def test_what_a_trial_leaves_is_read_again_and_replaced_whole(folder, tmp_path):
    for value in (1.0, 2.0):
        write_outcome(folder, outcome(value))
        assert folder.names() == sorted(ALL)
        pd.testing.assert_frame_equal(read_scores(folder), outcome(value).scores)
        scores, examples, weights, scorer = fetch(folder, ALL, tmp_path / "into")
        pd.testing.assert_frame_equal(pd.read_parquet(scores), outcome(value).scores)
        with np.load(examples, allow_pickle=False) as arrays:
            assert {name: array.tolist() for name, array in arrays.items()} == {
                name: array.tolist() for name, array in outcome(value).arrays.items()
            }
        assert torch.equal(load_file(weights)["mean.bias"], outcome(value).weights["mean.bias"])
        assert torch.equal(load_file(scorer)["latent_mean"], outcome(value).scorer["latent_mean"])
        assert [path.name for path in (scores, examples, weights, scorer)] == list(ALL)


def test_a_code_is_read_again_and_one_that_is_not_there_or_broken_is_none(folder):
    assert read_code(folder) is None
    write_code(folder, outcome(2.0))
    found = read_code(folder)
    assert found is not None
    assert found["code"].tolist() == outcome(2.0).code["code"].tolist()
    assert found["kl"].tolist() == [2.0, np.inf]
    for content in (b"no archive", folder.read(CODE)[:-30]):
        folder.write(CODE, content)
        assert read_code(folder) is None


def test_local_files_are_not_copied_and_others_are(folder, tmp_path):
    write_outcome(folder, outcome(1.0))
    paths = fetch(folder, [SCORES], tmp_path / "into")
    assert paths == [folder.local / SCORES if folder.local else tmp_path / "into" / SCORES]


def test_of_a_trial_without_scores_nothing_is_there(folder, tmp_path):
    write_outcome(folder, outcome(1.0))
    folder.remove(SCORES)
    with pytest.raises(FileNotFoundError):
        read_scores(folder)
    with pytest.raises(FileNotFoundError, match="no trial has left its files here"):
        fetch(folder, [WEIGHTS], tmp_path / "into")


def test_on_a_full_disk_a_trial_leaves_nothing_that_a_reader_takes_for_whole(tmp_path):
    with small_disk(tmp_path) as disk:
        folder = Folder.at(disk / "trial-0007")
        write_outcome(folder, outcome(1.0))
        for rows in (200_000, 60_000):
            with pytest.raises(OSError, match="No space left on device"):
                write_outcome(folder, outcome(2.0, rows))
            assert SCORES not in folder.names()
            assert not [name for name in os.listdir(folder.local) if name.startswith(".")]
        write_outcome(folder, outcome(3.0))
        assert set(read_scores(folder)["elbo"]) == {3.0}

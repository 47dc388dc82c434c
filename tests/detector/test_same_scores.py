"""A table has the same features and scores, whatever kind of file it is in: in training, and when `score` reads it."""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st
from vae_study.config.data import CategoriesConfig, DataConfig
from vae_study.data import build_dataset, open_stream, read_table
from vae_study.detector.score_file import score_file

from tests.data.files import write_frame
from tests.data.tables import frames
from tests.detector.builders import single, study
from tests.vae.builders import model_setup

SETUP = model_setup(1, likelihood="gaussian_learned", network__hidden=(8,), latent_dim=2, training__epochs=1)


def trained_and_scored(kind, frame, folder, **config):
    """Features and scores of the held-out rows in training, and scores of all rows in the file that `score` writes."""
    folder.mkdir()
    if kind == "npz":
        np.savez(folder / "t.npz", X=frame.to_numpy(np.float64))
        source, path = "npz", folder / "t.npz"
    elif kind == "csv":
        source, path = "csv", folder / "t.csv"
        frame.to_csv(path, index=False)
    else:
        source, path = write_frame(kind, frame, folder)
    made = DataConfig(source=source, path=None if path is None else str(path), missing="median", **config)
    trials = study(build_dataset(read_table(made), made), [SETUP], folder / "trials")
    detector = trials.packed(single(0, "elbo"), folder / "packed")
    score_file(detector, open_stream(str(path or source), detector.preprocessing), folder / "scores.parquet")
    return trials.held_out_ND, trials.scores(0), pd.read_parquet(folder / "scores.parquet")


def require_same(kinds, frame, **config):
    with tempfile.TemporaryDirectory() as folder:
        found = [trained_and_scored(kind, frame, Path(folder) / kind, **config) for kind in kinds]
    for x_ND, trained, scored in found:
        expected = trained.set_index("row")["elbo"]
        np.testing.assert_allclose(scored["score"][expected.index], expected, rtol=1e-5)
        np.testing.assert_array_equal(x_ND, found[0][0])
        pd.testing.assert_frame_equal(trained, found[0][1])
        pd.testing.assert_frame_equal(scored, found[0][2])


@settings(max_examples=6)
@given(frames(30, 60), st.sampled_from(["unit", "standard", "quantile"]))
def test_a_table_has_the_same_scores_from_every_kind_of_file_in_training_and_in_scoring(frame, scale):
    frame = frame.assign(always=np.arange(len(frame)))
    require_same(("parquet", "csv", "python"), frame, scale=scale, categories=CategoriesConfig(rare=0))
    require_same(("parquet", "csv", "npz"), frame.drop(columns="word"), scale=scale)

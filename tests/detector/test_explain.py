import numpy as np
import pandas as pd
import pytest

from pipeline.detector.pyfunc import _load_pyfunc
from pipeline.errors import UserError
from tests.detector.builders import ensemble, single, study
from tests.vae.builders import member

COLUMNS = ["a", "b", "c", "e", "kind"]


def test_what_the_columns_cost_adds_up_to_the_reconstruction_above_the_usual(small, tmp_path):
    detector = small.packed(single(0, "elbo"), tmp_path / "packed")
    scored = detector.score(small.held_out_ND, explain=True)
    nats = scored.filter(like="nats/")
    assert list(nats.columns) == [f"nats/{name}" for name in COLUMNS]
    usual = detector.trials[0].usual_D.sum()
    assert nats.sum(axis=1).to_numpy() == pytest.approx(scored["reconstruction"].to_numpy() - usual, rel=1e-4, abs=1e-4)
    train = detector.score(small.data.splits["train"].x_ND, explain=True)
    assert train.filter(like="nats/").mean().to_numpy() == pytest.approx(np.zeros(len(COLUMNS)), abs=1e-4)


def test_the_columns_cost_an_ensemble_what_they_cost_its_trials_on_average(small, tmp_path):
    x_ND = small.held_out_ND
    whole = small.packed(ensemble(0, 1), tmp_path / "both").score(x_ND, explain=True).filter(like="nats/")
    alone = [
        small.packed(single(trial, "elbo"), tmp_path / str(trial)).score(x_ND, explain=True).filter(like="nats/")
        for trial in (0, 1)
    ]
    assert whole.to_numpy() == pytest.approx((alone[0] + alone[1]).to_numpy() / 2)


def test_each_pixel_is_told_of_as_the_trials_own_explanation_has_it(digits, tmp_path):
    trials = study(digits, [member(5)], tmp_path / "trials")
    with np.load(tmp_path / "trials" / "0" / "examples.npz") as arrays:
        places, expected_TD = arrays["top_place"], arrays["top_contributions"]
    detector = trials.packed(single(0, "elbo"), tmp_path / "packed")
    found = detector.score(digits.splits["test"].x_ND[places], explain=True).filter(like="nats/")
    assert list(found.columns) == [f"nats/{name}" for name in digits.feature_names]
    assert found.to_numpy() == pytest.approx(expected_TD, rel=1e-4, abs=1e-4)


@pytest.fixture(scope="module")
def frame():
    """Rows as a user has them."""
    random = np.random.default_rng(3)
    numbers = {name: random.normal(size=40) for name in ("a", "b", "c", "constant", "e")}
    numbers["c"][::7] = np.nan
    return pd.DataFrame({**numbers, "kind": random.choice(["red", "green", "new"], 40)})


def test_a_frame_in_any_order_with_other_columns_scores_as_its_features_do(small, tmp_path, frame):
    detector = small.packed(ensemble(0, 2), tmp_path / "packed")
    model = _load_pyfunc(str(tmp_path / "packed"))
    found = model.predict(frame)
    mixed = frame[["kind", "e", "b", "a", "c", "constant"]].assign(id=[object() for _ in frame.index], late=1)
    assert found.equals(model.predict(mixed, params={}))
    assert list(found.columns[:4]) == ["score", "above_p90", "above_p95", "above_p99"]
    raw = detector.preprocessing.inverse(small.held_out_ND)
    back = model.predict(raw)
    assert back["score"].to_numpy() == pytest.approx(detector.score(small.held_out_ND)["score"].to_numpy(), rel=1e-3)


def test_a_frame_without_a_column_is_refused(small, tmp_path, frame):
    small.pack(single(0, "elbo"), tmp_path / "packed")
    with pytest.raises(UserError, match="'b'"):
        _load_pyfunc(str(tmp_path / "packed")).predict(frame.drop(columns="b"))

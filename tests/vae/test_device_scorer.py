"""The fitted scores on a device are those of the host up to rounding, also of odd rows; the way of a GPU uses them."""

import numpy as np
import pytest
import torch
from vae_study.anomaly import scores
from vae_study.anomaly.scores import FITTED, FULL_COVARIANCE, Parts, Scorer
from vae_study.vae.gpu import device_scorer
from vae_study.vae.gpu.device_scorer import DeviceScorer, brought_to_host

# Large enough for its maps to be smoothed over several pixels.
SMOOTHED = (3, 70, 48)
SHAPES = {
    "wide": (200, 40, 6),
    "few rows": (12, 30, 3),
    "fewer than neighbours": (3, 4, 2),
    "one feature": (50, 1, 1),
    "diagonal": (20, FULL_COVARIANCE + 1, 2),
    "long code": (40, 30, FULL_COVARIANCE + 1),
    "smoothed": (20, np.prod(SMOOTHED), 2),
}


def rows(count, features, latents, seed=0):
    random = np.random.default_rng(seed)
    residual = (random.normal(size=(count, features)) @ np.diag(random.uniform(0.1, 3, features))).astype(np.float32)
    return residual, random.normal(2, 3, size=(count, latents)).astype(np.float32)


def parts(residual, mean):
    none = np.zeros(len(mean))
    return Parts(
        reconstruction_N=none,
        kl_N=none,
        reconstruction_probability_N=None,
        squared_error_N=none,
        residual_ND=residual.astype(np.float64),
        mean_NZ=mean.astype(np.float64),
    )


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("is_constant", [False, True])
def test_scores_and_what_is_kept_of_the_fit_are_those_of_the_host(shape, is_constant, monkeypatch):
    # Of several parts.
    monkeypatch.setattr(device_scorer, "DISTANCES", 64)
    # Of a long code, some of the rows.
    monkeypatch.setattr(scores, "NEIGHBOUR_NUMBERS", 2**14)
    residual, mean = rows(*shape)
    if is_constant:
        residual[:, 0] = mean[:, 0] = 2.5
    image = SMOOTHED if shape[1] == np.prod(SMOOTHED) else (1, 1, shape[1])
    expected = Scorer.fit(parts(residual, mean), image)
    found = DeviceScorer.fit(torch.tensor(residual), torch.tensor(mean), image)
    [kept] = brought_to_host([found])
    for name, array in expected.arrays().items():
        np.testing.assert_allclose(kept.arrays()[name], array, rtol=1e-7, atol=1e-9 * np.abs(array).max(), err_msg=name)
    residual, mean = rows(30, *shape[1:], seed=1)
    residual[0], mean[0], mean[1], residual[2] = np.nan, np.inf, -np.inf, 1e30
    wanted = {name: formula(expected, parts(residual, mean)) for name, formula in FITTED.items()}
    fitted = device_scorer.fitted_scores(found, torch.tensor(residual), torch.tensor(mean), wanted)
    for (name, score_N), found_N in zip(wanted.items(), fitted, strict=True):
        np.testing.assert_allclose(found_N.numpy(), score_N, rtol=1e-6, atol=1e-9, err_msg=name)


def test_the_same_scores_are_fitted_on_a_device_and_brought_to_host():
    assert [*device_scorer.FITTED] == [*FITTED]

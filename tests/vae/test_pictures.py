"""Similarity, sharpness and distance of images against their definitions, and as what they are measured and trained."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance
from vae_study.config.loading import load_config
from vae_study.config.study import DiagnosticsConfig
from vae_study.errors import UserError
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.outcome import outcomes_of
from vae_study.vae.pictures import WEIGHTS, detail, ms_ssim, patch_distance, scales_of
from vae_study.vae.stacking import compatibility_key

from tests.vae.builders import model_setup, train


def slow_similarity(x_HW, y_HW):
    """Window by window, as Wang et al. 2004 define it: mean luminance, contrast and structure; and these two alone."""
    size = min(11, *x_HW.shape)
    size -= 1 - size % 2
    place = np.arange(size) - size // 2
    weight = np.exp(-(place[:, None] ** 2 + place[None] ** 2) / (2 * 1.5**2))
    weight /= weight.sum()
    both, without = [], []
    for row in range(x_HW.shape[0] - size + 1):
        for column in range(x_HW.shape[1] - size + 1):
            a, b = (one[row : row + size, column : column + size] for one in (x_HW, y_HW))
            mean_a, mean_b = (weight * a).sum(), (weight * b).sum()
            variance_a, variance_b = (weight * (a - mean_a) ** 2).sum(), (weight * (b - mean_b) ** 2).sum()
            covariance = (weight * (a - mean_a) * (b - mean_b)).sum()
            contrast = (2 * covariance + 0.03**2) / (variance_a + variance_b + 0.03**2)
            without.append(contrast)
            both.append(contrast * (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2))
    return np.mean(both), np.mean(without)


def slow_ms_ssim(x_HW, y_HW, scales):
    found = 1.0
    for scale in range(scales):
        both, without = slow_similarity(x_HW, y_HW)
        value = both if scale == scales - 1 else without
        found *= max(value, 1e-6) ** (WEIGHTS[scale] / sum(WEIGHTS[:scales]))
        height, width = (side // 2 * 2 for side in x_HW.shape)
        x_HW, y_HW = (
            one[:height, :width].reshape(height // 2, 2, width // 2, 2).mean(axis=(1, 3)) for one in (x_HW, y_HW)
        )
    return found


@pytest.mark.parametrize(("side", "scales"), [((5, 8), 1), ((8, 8), 1), ((28, 28), 2), ((23, 40), 2), ((44, 45), 3)])
def test_the_similarity_is_that_of_the_definition_window_by_window(side, scales):
    random = np.random.default_rng(0)
    x_NCHW = random.random((3, 2, *side))
    y_NCHW = np.clip(x_NCHW + random.normal(0, [[[[0.05]]], [[[0.3]]], [[[2.0]]]], x_NCHW.shape), 0, 1)
    found_N = ms_ssim(torch.as_tensor(x_NCHW), torch.as_tensor(y_NCHW))
    assert scales_of(*side) == scales
    for found, x_CHW, y_CHW in zip(found_N, x_NCHW, y_NCHW, strict=True):
        slow = np.mean([slow_ms_ssim(x_HW, y_HW, scales) for x_HW, y_HW in zip(x_CHW, y_CHW, strict=True)])
        assert float(found) == pytest.approx(slow, abs=1e-6)
    assert found_N.argsort(descending=True).tolist() == [0, 1, 2]
    torch.testing.assert_close(ms_ssim(torch.as_tensor(x_NCHW), torch.as_tensor(x_NCHW)), torch.ones(3).double())


def test_five_scales_need_images_of_176_pixels():
    assert [scales_of(side, 500) for side in (11, 21, 22, 44, 88, 175, 176, 900)] == [1, 1, 2, 3, 4, 4, 5, 5]


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_the_similarity_has_finite_gradients_also_of_flat_and_opposite_images(seed):
    random = torch.Generator().manual_seed(seed)
    x_NCHW = torch.rand(4, 1, 24, 24, generator=random).double()
    x_NCHW[1], y_NCHW = 0.3, x_NCHW.clone()
    y_NCHW[2:] = 1 - y_NCHW[2:]
    y_NCHW.requires_grad_()
    ms_ssim(x_NCHW, y_NCHW).sum().backward()
    assert y_NCHW.grad.isfinite().all()


def test_detail_is_the_energy_of_the_laplacian_and_a_blurred_image_has_less():
    x_NCHW = np.random.default_rng(0).random((2, 1, 6, 7))
    expected = [
        sum(
            (x_HW[i - 1, j] + x_HW[i + 1, j] + x_HW[i, j - 1] + x_HW[i, j + 1] - 4 * x_HW[i, j]) ** 2
            for i in range(1, 5)
            for j in range(1, 6)
        )
        for (x_HW,) in x_NCHW
    ]
    np.testing.assert_allclose(detail(torch.as_tensor(x_NCHW)), expected)
    blurred = torch.nn.functional.avg_pool2d(torch.as_tensor(x_NCHW), 3, stride=1, padding=1)
    assert (detail(blurred) < 0.3 * detail(torch.as_tensor(x_NCHW))).all()


def test_the_distance_of_single_pixels_is_wasserstein_s_and_further_images_are_further():
    random = np.random.default_rng(1)
    one, other = random.normal(size=(2, 50, 1, 1, 1))
    expected = wasserstein_distance(one.ravel() / other.std(), other.ravel() / other.std())
    assert patch_distance(one, other) == pytest.approx(expected)
    real, again = random.random((2, 40, 1, 24, 24))
    blurred = torch.nn.functional.avg_pool2d(torch.as_tensor(again), 3, stride=1, padding=1).numpy()
    near, far = patch_distance(again, real), patch_distance(blurred, real)
    assert patch_distance(real, real) == 0
    assert 3 * near < far
    assert patch_distance(again, real) == near


def measured(data, **values):
    setups = [model_setup(k, **{"latent_dim": 8, "training__epochs": 20, "beta": 0.3, **values}) for k in range(2)]
    batch = ModelBatch(setups, data)
    train(batch, 20)
    return [outcome.metrics for outcome in outcomes_of(batch, DiagnosticsConfig(iwae_draws=0))]


def test_a_loss_of_dissimilarity_makes_reconstructions_more_similar_and_sharper(digits):
    plain, similar = measured(digits), measured(digits, ms_ssim=0.5)
    for a, b in zip(plain, similar, strict=True):
        assert 0 < a["test/ms_ssim"] < b["test/ms_ssim"] <= 1
        assert 0 < a["test/sharpness"] < b["test/sharpness"]
        assert a["test/sample_distance"] > 1
        assert b["test/sample_distance"] > 1
        # The likelihood is what it was, and is measured as ever.
        assert math.isfinite(b["test/elbo"])


def test_the_metrics_are_of_the_normal_rows_reconstructions_at_the_mode(digits):
    batch = ModelBatch([model_setup(0, latent_dim=6)], digits)
    train(batch, 3)
    (outcome,) = outcomes_of(batch, DiagnosticsConfig(iwae_draws=0))
    test, model = digits.splits["test"], batch.model.eval()
    x_1ND = torch.as_tensor(test.x_ND[~test.is_anomaly_N])[None]
    got = model.likelihood.mean(model.decode(model.code(x_1ND, None, None).z_KBZ))
    own, got = (one.detach().reshape(-1, 1, 8, 8) for one in (x_1ND, got))
    assert outcome.metrics["test/ms_ssim"] == pytest.approx(float(ms_ssim(own, got).mean()), rel=1e-5)
    assert outcome.metrics["test/sharpness"] == pytest.approx(float(detail(got).sum() / detail(own).sum()), rel=1e-5)


def test_models_with_other_weights_are_trained_together_but_not_with_those_that_have_none():
    keys = [compatibility_key(model_setup(ms_ssim=weight).config) for weight in (0.0, 0.1, 2.0)]
    assert keys[0] != keys[1] == keys[2]


def test_what_has_no_pixels_in_the_unit_interval_has_no_similarity():
    plain = {"study": "s", "data": {"source": "digits"}, "search": {"beta": {"low": 0.1, "high": 1}}}
    said = r"data\.scale: got 'standard', expected 'unit', as model\.ms_ssim needs values in \[0, 1\]"
    for setting in ("model.ms_ssim=0.1", "search.ms_ssim={low: 0.1, high: 1}"):
        with pytest.raises(UserError, match=said):
            load_config(plain, ["data.scale=standard", "model.likelihood=gaussian", setting])
    with pytest.raises(UserError, match=r"model\.ms_ssim: got 0\.1, expected 0: the features of this data are no"):
        model_setup(ms_ssim=0.1).config.model.require_data(has_pixels=False, has_sequences=False)

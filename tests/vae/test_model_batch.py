import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vae_study.config.study import DiagnosticsConfig
from vae_study.metrics import SCORES
from vae_study.vae.diagnostics import usual_cost
from vae_study.vae.evaluation import iwae_nats, trade_off_reference
from vae_study.vae.inference import Examples
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.outcome import draw_noise, fit_scorer, outcomes_of

from tests.vae.builders import model_setup

SETUPS = [
    model_setup(1, latent_dim=2, beta=0.5),
    model_setup(2, latent_dim=7, beta=4.0, kl_annealing__schedule="linear", training__learning_rate=3e-3),
    model_setup(3, latent_dim=3, kl_annealing__schedule="cyclical", free_bits__kind="total", free_bits__nats=0.7),
    model_setup(4, latent_dim=5, kl_annealing__schedule="sigmoid", free_bits__kind="per_dimension"),
]


def trained(setups, data, dtype=torch.float32):
    model_batch = ModelBatch(setups, data, dtype=dtype)
    histories = [model_batch.train_epoch() for _ in range(model_batch.training.epochs)]
    return model_batch, [[epoch[k] for epoch in histories] for k in range(len(setups))]


def without_time(history):
    return [{name: value for name, value in epoch.items() if not name.startswith("time/")} for epoch in history]


def test_models_trained_together_match_models_trained_alone(digits):
    together, histories = trained(SETUPS, digits, torch.float64)
    for k, single in enumerate(SETUPS):
        alone, (history,) = trained([single], digits, torch.float64)
        for batch_epoch, own_epoch in zip(without_time(histories[k]), without_time(history), strict=True):
            assert batch_epoch == pytest.approx(own_epoch, rel=1e-6)
        latent = single.config.model.latent_dim
        for name, weight in alone.model.state_dict().items():
            in_batch = together.model.state_dict()[name][k]
            cut = in_batch[tuple(slice(0, size) for size in weight[0].shape)]
            assert torch.allclose(cut, weight[0], rtol=1e-6, atol=1e-9), (name, latent)


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(digits):
    (_, first), (_, second), (_, other) = (trained([model_setup(seed)], digits) for seed in (5, 5, 6))
    assert without_time(first[0]) == without_time(second[0])
    assert without_time(first[0]) != without_time(other[0])


def test_beta_reaches_the_gradient(digits):
    _, histories = trained([model_setup(0, beta=beta, training__epochs=8) for beta in (0.01, 0.1, 1.0, 10.0)], digits)
    kl = [history[-1]["val/kl"] for history in histories]
    assert kl[0] > kl[1] > kl[2] > kl[3]


def test_the_kl_weight_is_shown_and_changes_no_reported_quantity(digits):
    _, (history,) = trained(
        [model_setup(0, beta=3.0, kl_annealing__schedule="linear", kl_annealing__warmup=0.6)], digits
    )
    weights = [epoch["train/kl_weight"] for epoch in history]
    assert weights[0] < weights[1] < 1
    for epoch in history:
        assert epoch["val/elbo"] == pytest.approx(-(epoch["val/reconstruction"] + epoch["val/kl"]))
        assert epoch["train/loss"] < epoch["train/reconstruction"] + 3.0 * epoch["train/kl"] + 1e-6


def test_reported_terms_are_sums_over_dimensions_and_means_over_normal_examples(digits):
    model_batch, (history,) = trained([model_setup(0)], digits)
    split = digits.splits["validation"]
    (measured,) = model_batch.measure("validation")
    with torch.no_grad():
        mean, log_variance = model_batch.model.posterior(torch.as_tensor(split.normal_ND)[None], None)
        normal = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
        kl = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(dim=2).mean()
        logits = model_batch.model.decode(mean)
        x = torch.as_tensor(split.normal_ND)[None]
        at_mean = -(x * torch.nn.functional.logsigmoid(logits) + (1 - x) * torch.nn.functional.logsigmoid(-logits))
    assert history[-1]["val/kl"] == pytest.approx(float(kl), rel=1e-4)
    own = measured.reconstruction_N[~split.is_anomaly_N].mean()
    assert own == pytest.approx(float(at_mean.sum(dim=2).mean()), rel=1e-5)
    assert history[-1]["val/reconstruction"] >= own * 0.99


def test_one_epoch_lowers_the_loss(digits):
    _, (history,) = trained([model_setup(0)], digits)
    assert history[1]["train/loss"] < history[0]["train/loss"]


def test_a_model_that_diverges_harms_nobody(digits):
    wild = model_setup(9, training__learning_rate=10.0)
    _, (sane, broken) = trained([model_setup(1), wild], digits)
    _, (alone,) = trained([model_setup(1)], digits)
    assert not math.isfinite(broken[-1]["train/loss"])
    assert sane[-1]["val/elbo"] == pytest.approx(alone[-1]["val/elbo"], rel=1e-4)


def test_the_importance_weighted_bound_lies_above_the_elbo_and_rises_with_draws(digits):
    model_batch, _ = trained([model_setup(0, training__epochs=8)], digits)
    examples = Examples(torch.as_tensor(digits.splits["test"].normal_ND), None)
    bounds = []
    for draws in (1, 8, 64):
        generators = [model_batch.setups[0].generator("evaluation")]
        bounds.append(float(iwae_nats(model_batch.model, examples, generators, draws)[0]))
    assert bounds[0] < bounds[1] < bounds[2]
    assert outcomes_of(model_batch, DiagnosticsConfig())[0].metrics["test/elbo"] < bounds[1]


def test_a_collapsed_model_sits_at_the_reference_reconstruction(digits):
    collapsed = model_setup(0, beta=200.0, training__epochs=30, training__learning_rate=3e-3)
    _, (history,) = trained([collapsed], digits)
    reference = trade_off_reference(digits, [collapsed.config.model])
    assert history[-1]["val/active_units"] == 0
    assert history[-1]["val/reconstruction"] == pytest.approx(reference["val/reconstruction"], rel=0.01)


def test_an_outcome_holds_scores_for_every_row_and_only_the_models_own_weights(digits):
    model_batch, _ = trained(SETUPS[:2], digits)
    first, outcome = outcomes_of(model_batch, DiagnosticsConfig())
    alone = ModelBatch(SETUPS[:1], digits).model.state_dict()
    assert {name: weight.shape for name, weight in first.weights.items()} == {
        name: weight.shape[1:] for name, weight in alone.items()
    }
    assert (first.scorer["probability_noise"].shape, first.scorer["latent_mean"].shape) == ((10, 2), (2,))
    assert outcome.scores.groupby("split").size().to_dict() == {"test": 412, "validation": 411}
    assert np.isfinite(outcome.scores[["elbo", "reconstruction", "kl", "squared_error"]].to_numpy()).all()
    assert outcome.arrays["samples"].shape == (16, 64)
    assert outcome.arrays["inputs"].shape == outcome.arrays["reconstructions"].shape == (16, 64)
    assert outcome.arrays["traversals"].shape == (7, 9, 64)
    assert outcome.arrays["interpolations"].shape == (4, 9, 64)
    assert outcome.arrays["latent_map"].shape == (412, 2)
    assert outcome.arrays["kl_per_dimension"].sum() == pytest.approx(outcome.metrics["test/kl"], rel=1e-4)


def test_scores_are_those_of_the_measurement(digits):
    model_batch, _ = trained(SETUPS[:2], digits)
    every = fit_scorer(model_batch).scores(model_batch.examples["test"].x_ND)
    for scores, measured in zip(every, model_batch.measure("test"), strict=True):
        assert list(scores) == list(SCORES)
        for name, score_N in measured.scores().items():
            assert scores[name] == pytest.approx(score_N, rel=1e-5)


@pytest.mark.parametrize("factor", [1, 2, 16])
@given(start=st.integers(0, 411), rows=st.integers(1, 60), seed=st.integers(0, 1000))
@settings(max_examples=10)
def test_a_row_scores_the_same_in_any_company_order_and_pass(scored, factor, start, rows, seed):
    model_batch, scorer, whole = scored
    places = np.random.default_rng(seed).permutation(np.arange(start, min(start + rows, 412)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vae_study.vae.inference.MLP_FACTOR", factor)
        some = scorer.scores(model_batch.examples["test"].x_ND[places])
    for scores, every in zip(some, whole, strict=True):
        for name in SCORES:
            assert scores[name] == pytest.approx(every[name][places], rel=1e-6)


@pytest.fixture(scope="module")
def scored(digits):
    model_batch, _ = trained(SETUPS[:2], digits)
    scorer = fit_scorer(model_batch)
    return model_batch, scorer, scorer.scores(model_batch.examples["test"].x_ND)


def test_the_reconstruction_probability_is_a_mean_over_draws_that_all_rows_share(digits):
    model_batch, _ = trained([model_setup(0, training__epochs=8)], digits)
    scorer, x_ND = fit_scorer(model_batch), model_batch.examples["test"].x_ND
    by_draws = {}
    for draws in (1, 10, 400):
        rows = replace(scorer, noise_LKZ=draw_noise(model_batch, draws))
        by_draws[draws] = rows.scores(x_ND)[0]["reconstruction_probability"]
    sampled_N = model_batch.measure("test")[0].sampled_reconstruction_N
    assert by_draws[400].mean() == pytest.approx(sampled_N.mean(), rel=0.02)
    assert np.abs(by_draws[1] - by_draws[400]).mean() > 2 * np.abs(by_draws[10] - by_draws[400]).mean() > 0


def test_what_the_features_cost_adds_up_to_the_reconstruction_above_the_usual(digits):
    model_batch, _ = trained(SETUPS[:2], digits)
    outcome = outcomes_of(model_batch, DiagnosticsConfig())[1]
    test = outcome.scores[outcome.scores["split"] == "test"].reset_index(drop=True)
    usual = usual_cost(model_batch)[1].sum()
    reconstruction = test["reconstruction"].to_numpy()[outcome.arrays["top_place"]]
    assert outcome.arrays["top_contributions"].sum(axis=1) == pytest.approx(reconstruction - usual, rel=1e-3, abs=1e-3)
    error = ((outcome.arrays["top_inputs"] - outcome.arrays["top_reconstructions"]) ** 2).sum(axis=1)
    assert error == pytest.approx(test["squared_error"].to_numpy()[outcome.arrays["top_place"]], rel=1e-3)

"""A learned similarity: who is trained by what, what bounds it, what is logged, and what it is refused for."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call
from torch.nn import functional
from vae_study.config.study import DiagnosticsConfig
from vae_study.errors import UserError
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.objective import StepInputs
from vae_study.vae.outcome import outcomes_of
from vae_study.vae.stacking import compatibility_key

from tests.vae.builders import model_setup, train

ROWS = 16
CONV = {"network__kind": "conv", "network__channels": (4, 8), "network__hidden": (16,)}
WEIGHTS = [(1.0, 1.0, 1.0), (0.2, 3.0, 0.0), (0.5, 0.0, 7.0)]


def setups(weights=WEIGHTS, **values):
    names = ("gan__pixels", "gan__similarity", "gan__adversary")
    return [
        model_setup(k, **{"family": "vae_gan", "latent_dim": 3, **values, **dict(zip(names, one, strict=True))})
        for k, one in enumerate(weights)
    ]


def three_gradients(model, config, x_1BD, noise_1BZ):
    """The losses of encoder, decoder and discriminator of one model, each differentiated for its own parameters only.

    Written as algorithm 1 of Larsen et al. 2016 says, with singular values in place of power iteration.
    """
    gan = config.config.model.gan
    weights = dict(model.discriminator.named_parameters())
    for name, value in weights.items():
        if name.endswith(("weight_KIO", "weight_KOI33")):
            weights[name] = value / torch.linalg.matrix_norm(value.flatten(2), 2)

    def discriminate(image_1BD):
        return functional_call(model.discriminator, weights, (image_1BD,))

    mean_1BZ, log_variance_1BZ = model.posterior(x_1BD, None)
    z_1BZ = mean_1BZ + (0.5 * log_variance_1BZ).exp() * noise_1BZ
    decoded_1BE = model.decode(z_1BZ)
    image_1BD = model.likelihood.mean(decoded_1BE)
    sample_1BD = model.likelihood.mean(model.decode(noise_1BZ.roll(1, dims=1)))
    normal = torch.distributions.Normal(mean_1BZ, (0.5 * log_variance_1BZ).exp())
    rate = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(dim=2).mean()
    reconstruction = model.likelihood.negative_log(decoded_1BE, x_1BD).sum(dim=2).mean()
    (real_1BF, real_1B), (own_1BF, own_1B), (_, sample_1B) = map(discriminate, (x_1BD, image_1BD, sample_1BD))
    similarity = 0.5 * (real_1BF - own_1BF).square().sum(dim=2).mean()
    told = torch.full_like(real_1B, 0.9)
    told_wrong, told_right = torch.zeros_like(real_1B), torch.ones_like(real_1B)
    entropy = functional.binary_cross_entropy_with_logits
    discriminator = entropy(real_1B, told) + entropy(own_1B, told_wrong) + entropy(sample_1B, told_wrong)
    decoder = entropy(own_1B, told_right) + entropy(sample_1B, told_right)
    shared = gan.pixels * reconstruction + gan.similarity * similarity
    losses = {
        "encoder": shared + config.config.objective.beta * rate,
        "decoder": shared + gan.adversary * decoder,
        "discriminator": discriminator,
    }
    parts = {
        "encoder": ("encoder.", "mean.", "log_variance."),
        "decoder": ("decoder.", "likelihood."),
        "discriminator": ("discriminator.",),
    }
    found = {}
    for part, loss in losses.items():
        own = {name: value for name, value in model.named_parameters() if name.startswith(parts[part])}
        gradients = torch.autograd.grad(loss, [*own.values()], retain_graph=True, materialize_grads=True)
        found |= dict(zip(own, gradients, strict=True))
    return found, (similarity, discriminator, decoder)


@pytest.mark.parametrize("values", [{}, CONV, {"likelihood": "gaussian_learned", "learned_sigma": "per_example"}])
def test_one_step_gives_each_of_the_three_the_gradient_of_its_own_loss(digits, values):
    batch = ModelBatch(setups(beta=0.7, **values), digits, dtype=torch.float64)
    generators = [torch.Generator().manual_seed(k) for k in range(len(WEIGHTS))]
    noise_KBZ = batch.model.noise(1, ROWS, generators)[0]
    x_BD = batch.examples["train"].x_ND[:ROWS]
    x_KBD = x_BD.expand(len(WEIGHTS), -1, -1)
    batch.model.train()
    # Power iteration is at the singular values.
    for _ in range(2000):
        batch.model.discriminator.normalized()
    losses = batch.gradient_step(StepInputs(x_KBD, x_KBD, None, noise_KBZ, torch.ones(len(WEIGHTS)).double()))
    for k, setup in enumerate(batch.setups):
        alone = batch.alone(k).model.train()
        expected, terms = three_gradients(alone, setup, x_BD[None], noise_KBZ[k, None])
        names = [name for name, _ in batch.model.named_parameters()]
        assert {*names} == {*expected}
        for name, gradient in zip(names, batch.adam.gradients, strict=True):
            torch.testing.assert_close(gradient[k], expected[name][0], rtol=1e-5, atol=1e-8)
        torch.testing.assert_close(losses.own_KL[k], torch.stack(terms), rtol=1e-5, atol=1e-8)


def test_without_the_two_terms_a_model_is_the_plain_one(digits):
    (gan,) = train(ModelBatch(setups([(1.0, 0.0, 0.0)]), digits, dtype=torch.float64), 2)[1]
    (plain,) = train(ModelBatch([model_setup(0, latent_dim=3)], digits, dtype=torch.float64), 2)[1]
    own = {"train/similarity_loss", "train/discriminator_loss", "train/decoder_loss"}
    assert gan.keys() - plain.keys() == own
    for name in plain.keys() - {"train/loss"}:
        assert gan[name] == pytest.approx(plain[name], rel=1e-9), name
    assert gan["train/loss"] == pytest.approx(plain["train/loss"] + gan["train/discriminator_loss"])


@pytest.mark.parametrize("values", [{}, CONV])
def test_after_some_steps_no_layer_of_the_discriminator_lengthens_what_it_gets(digits, values):
    batch = ModelBatch(setups(training__epochs=2, **values), digits)
    train(batch, 2)
    for name, weight in batch.model.discriminator.normalized().items():
        if name.endswith(("weight_KIO", "weight_KOI33")):
            value_KS = torch.linalg.svdvals(weight.detach().flatten(2))
            assert (value_KS.max(dim=1).values < 1.25).all()
            assert (value_KS.max(dim=1).values > 0.9).all()


def test_images_that_are_made_are_told_from_real_ones_and_the_running_statistics_are_of_examples(digits):
    few = setups([(1.0, 1.0, 1.0)], network__batch_norm=True, training__epochs=12)
    batch = ModelBatch(few, digits)
    history = train(batch, 12)
    losses = [one[0]["train/discriminator_loss"] for one in history]
    # Of three guesses.
    assert losses[-1] < 0.95 * 3 * math.log(2)
    (trained,) = batch.measure("train")
    # Without its own batch a model says what it said with it, so that the statistics are those of decoded examples.
    assert trained.reconstruction_N.mean() < 1.1 * history[-1][0]["train/reconstruction"]


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    rate=st.floats(1e-4, 1e-2),
    weights=st.lists(st.floats(0.03, 30), min_size=3, max_size=3),
    kind=st.sampled_from([{}, CONV, {"network__batch_norm": True}, {"network__activation": "elu"}]),
    likelihood=st.sampled_from(["bernoulli", "gaussian", "gaussian_learned"]),
    beta=st.floats(0.05, 5),
)
def test_no_trial_within_the_usual_ranges_diverges(few, seed, rate, weights, kind, likelihood, beta):
    names = ("gan__pixels", "gan__similarity", "gan__adversary")
    values = {**dict(zip(names, weights, strict=True)), **kind, "likelihood": likelihood, "beta": beta}
    wild = model_setup(
        seed, family="vae_gan", training__learning_rate=rate, training__epochs=12, training__batch_size=16, **values
    )
    history = train(ModelBatch([wild], few), 12)
    assert all(math.isfinite(value) for (one,) in history for value in one.values())
    # The similarity is bounded, as images are.
    assert history[-1][0]["train/similarity_loss"] < few.splits["train"].x_ND.shape[1]


def test_its_terms_are_logged_and_its_pictures_are_measured(digits):
    batch = ModelBatch(setups(training__epochs=3), digits)
    train(batch, 3)
    for outcome in outcomes_of(batch, DiagnosticsConfig(iwae_draws=0)):
        for name in ("test/ms_ssim", "test/sharpness", "test/sample_distance", "test/elbo"):
            assert np.isfinite(outcome.metrics[name]), name


def test_models_with_other_weights_are_trained_together_and_what_has_no_pixels_is_refused():
    assert len({compatibility_key(one.config) for one in setups()}) == 1
    model = setups()[0].config.model
    for has_sequences in (False, True):
        with pytest.raises(UserError, match=r"model\.family: got 'vae_gan', which needs images"):
            model.require_data(has_pixels=False, has_sequences=has_sequences)

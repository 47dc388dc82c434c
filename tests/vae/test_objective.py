import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.spec.trial import ModelSpec, ObjectiveSpec
from pipeline.vae.likelihoods import LIKELIHOODS, make_likelihood
from pipeline.vae.objective import Objective, gaussian_kl


@given(mean=st.floats(-3, 3), log_variance=st.floats(-3, 2))
def test_kl_equals_that_of_torch_and_is_never_negative(mean, log_variance):
    kl = gaussian_kl(torch.tensor(mean, dtype=torch.float64), torch.tensor(log_variance, dtype=torch.float64))
    posterior = torch.distributions.Normal(mean, math.exp(0.5 * log_variance))
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0))
    assert kl >= 0
    assert float(kl) == pytest.approx(float(expected), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("mean", "log_variance"), [(0.0, 0.0), (1.5, -1.0), (-0.3, 0.8), (2.0, -3.0)])
def test_closed_form_kl_equals_a_monte_carlo_estimate(mean, log_variance):
    draws = 200_000
    noise = torch.randn(draws, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    z = mean + math.exp(0.5 * log_variance) * noise
    log_ratio = 0.5 * (z.square() - noise.square() - log_variance)
    standard_error = float(log_ratio.std()) / math.sqrt(draws)
    expected = gaussian_kl(torch.tensor(mean).double(), torch.tensor(log_variance).double())
    assert abs(float(log_ratio.mean()) - float(expected)) <= 5 * standard_error + 1e-12


def test_gaussian_likelihood_is_a_density():
    likelihood = make_likelihood([ModelSpec(likelihood="gaussian", sigma=0.3)]).double()
    x = torch.linspace(-8, 8, 160_001, dtype=torch.float64).view(1, -1, 1)
    density = torch.exp(-likelihood.negative_log(torch.full_like(x, 0.7), x))
    assert float(torch.trapezoid(density.flatten(), x.flatten())) == pytest.approx(1, abs=1e-9)


def test_bernoulli_likelihood_sums_to_one_over_zero_and_one():
    likelihood = make_likelihood([ModelSpec(likelihood="bernoulli")])
    x = torch.tensor([0.0, 1.0]).view(1, -1, 1)
    assert float(torch.exp(-likelihood.negative_log(torch.full_like(x, -1.3), x)).sum()) == pytest.approx(1)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_no_decoder_output_beats_the_one_whose_mean_is_x(name):
    likelihood = make_likelihood([ModelSpec(likelihood=name)]).double()
    x = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64).view(1, -1, 1)
    best = likelihood.inverse_mean(x)
    assert torch.allclose(likelihood.mean(best), x)
    for shift in (-0.5, 0.5):
        assert (likelihood.negative_log(best + shift, x) > likelihood.negative_log(best, x)).all()


def objective(*members: dict) -> Objective:
    specs = [ObjectiveSpec.model_validate({"free_bits": free_bits}) for free_bits in members]
    return Objective(specs, torch.zeros(1, dtype=torch.float64))


def test_free_bits_follow_hand_computed_values():
    kinds = [{"kind": "none", "nats": 0.5}, {"kind": "total", "nats": 1.5}, {"kind": "total", "nats": 0.5}]
    kinds += [{"kind": "per_dimension", "nats": 0.5}, {"kind": "per_dimension", "nats": 0.2}]
    kl_KZ = torch.tensor([[0.1, 0.9, 0.2]] * 5, dtype=torch.float64)
    penalized = objective(*kinds).penalized_kl(kl_KZ, torch.ones_like(kl_KZ))
    #  0.1+0.9+0.2; max(1.5, 1.2); max(0.5, 1.2); 0.5+0.9+0.5; 0.2+0.9+0.2
    assert penalized.tolist() == pytest.approx([1.2, 1.5, 1.2, 1.9, 1.3])


def test_free_bits_give_nothing_to_dimensions_that_a_member_does_not_have():
    kl_KZ = torch.tensor([[0.1, 0.9, 0.0]], dtype=torch.float64)
    mask_KZ = torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64)
    assert float(objective({"kind": "per_dimension", "nats": 0.5}).penalized_kl(kl_KZ, mask_KZ)) == pytest.approx(1.4)


def test_loss_weighs_the_kl_by_beta_and_schedule():
    specs = [ObjectiveSpec(beta=2.0), ObjectiveSpec(beta=0.5)]
    ten, weight = torch.tensor([10.0, 10.0]), torch.tensor([0.5, 1.0])
    loss = Objective(specs, ten).loss(ten, torch.tensor([3.0, 4.0]), weight)
    assert loss.tolist() == [10 + 2 * 0.5 * 3, 10 + 0.5 * 1 * 4]

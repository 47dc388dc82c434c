import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from vae_study.config.model import ModelConfig, ObjectiveConfig
from vae_study.vae.families.base import gaussian_kl
from vae_study.vae.likelihoods import SMALLEST_SIGMA, make_likelihood
from vae_study.vae.objective import Objective


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
    likelihood = make_likelihood([ModelConfig(likelihood="gaussian", sigma=0.3)], 1).double()
    x = torch.linspace(-8, 8, 160_001, dtype=torch.float64).view(1, -1, 1)
    density = torch.exp(-likelihood.negative_log(torch.full_like(x, 0.7), x))
    assert float(torch.trapezoid(density.flatten(), x.flatten())) == pytest.approx(1, abs=1e-9)


def test_bernoulli_likelihood_sums_to_one_over_zero_and_one():
    likelihood = make_likelihood([ModelConfig(likelihood="bernoulli")], 2)
    x = torch.tensor([0.0, 1.0]).view(1, -1, 1)
    assert float(torch.exp(-likelihood.negative_log(torch.full_like(x, -1.3), x)).sum()) == pytest.approx(1)


VARIANTS = [("bernoulli", "shared"), ("gaussian", "shared")]
VARIANTS += [("gaussian_learned", kind) for kind in ("shared", "per_feature", "per_example")]


@pytest.mark.parametrize(("name", "sigma"), VARIANTS)
def test_no_decoder_mean_beats_x_itself(name, sigma):
    likelihood = make_likelihood([ModelConfig(likelihood=name, learned_sigma=sigma)], 3).double()
    x = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64).view(1, 1, -1)
    best = likelihood.inverse_mean(x)
    assert best.shape[-1] == 3 * likelihood.outputs
    assert torch.allclose(likelihood.mean(best), x)
    for shift in (-0.5, 0.5):
        worse = best.clone()
        worse[..., :3] += shift
        assert (likelihood.negative_log(worse, x) > likelihood.negative_log(best, x)).all()


@pytest.mark.parametrize("sigma", ["shared", "per_feature"])
def test_a_learned_sigma_starts_where_asked_and_stays_bounded(sigma):
    likelihood = make_likelihood([ModelConfig(likelihood="gaussian_learned", sigma=0.4, learned_sigma=sigma)], 2)
    assert likelihood.sigma().shape == (1, 1, 1 if sigma == "shared" else 2)
    assert torch.allclose(likelihood.sigma(), torch.tensor(0.4))
    for raw in (-1e4, 0.0, 3.0):
        likelihood.raw_sigma_K1F.data.fill_(raw)
        assert (likelihood.sigma() >= SMALLEST_SIGMA).all()
        assert torch.isfinite(likelihood.negative_log(torch.zeros(1, 1, 2), torch.zeros(1, 1, 2))).all()


def test_a_decoded_sigma_stays_bounded():
    likelihood = make_likelihood([ModelConfig(likelihood="gaussian_learned", learned_sigma="per_example")], 1)
    exact = likelihood.negative_log(torch.tensor([[[0.3, -1e4]]]), torch.tensor([[[0.3]]]))
    assert float(exact) == pytest.approx(math.log(SMALLEST_SIGMA) + 0.5 * math.log(2 * math.pi))


def objective(*models: dict) -> Objective:
    configs = [ObjectiveConfig.model_validate({"free_bits": free_bits}) for free_bits in models]
    return Objective(configs, torch.zeros(1, dtype=torch.float64))


def test_free_bits_follow_hand_computed_values():
    kinds = [{"kind": "none", "nats": 0.5}, {"kind": "total", "nats": 1.5}, {"kind": "total", "nats": 0.5}]
    kinds += [{"kind": "per_dimension", "nats": 0.5}, {"kind": "per_dimension", "nats": 0.2}]
    kl_KZ = torch.tensor([[0.1, 0.9, 0.2]] * 5, dtype=torch.float64)
    penalized = objective(*kinds).penalized_kl(kl_KZ, torch.ones_like(kl_KZ))
    #  0.1+0.9+0.2; max(1.5, 1.2); max(0.5, 1.2); 0.5+0.9+0.5; 0.2+0.9+0.2
    assert penalized.tolist() == pytest.approx([1.2, 1.5, 1.2, 1.9, 1.3])


def test_free_bits_give_nothing_to_dimensions_that_a_model_does_not_have():
    kl_KZ = torch.tensor([[0.1, 0.9, 0.0]], dtype=torch.float64)
    mask_KZ = torch.tensor([[1.0, 1.0, 0.0]], dtype=torch.float64)
    assert float(objective({"kind": "per_dimension", "nats": 0.5}).penalized_kl(kl_KZ, mask_KZ)) == pytest.approx(1.4)


def test_the_penalty_weighs_the_kl_by_beta_and_schedule():
    configs = [ObjectiveConfig(beta=2.0), ObjectiveConfig(beta=0.5)]
    penalty = Objective(configs, torch.zeros(1)).penalty(torch.tensor([3.0, 4.0]), torch.tensor([0.5, 1.0]))
    assert penalty.tolist() == [2 * 0.5 * 3, 0.5 * 1 * 4]


def test_capacity_is_the_distance_to_a_rising_target():
    configs = [ObjectiveConfig(kind="capacity", gamma=10.0, capacity_nats=8.0)] * 2
    penalty = Objective(configs, torch.zeros(1)).penalty(torch.tensor([3.0, 9.0]), torch.tensor([0.5, 1.0]))
    assert penalty.tolist() == [10 * abs(3 - 4), 10 * abs(9 - 8)]


def test_a_constraint_that_holds_costs_nothing_and_one_that_does_not_pulls_harder_with_time():
    one = torch.ones(1)
    constraint = Objective([ObjectiveConfig(kind="constrained", delta_nats=5.0)], torch.zeros(1))
    assert float(constraint.penalty(torch.tensor([4.0]), one)) == 0
    constraint.ascend(torch.tensor([4.0]), one)
    assert float(constraint.multiplier_K) == 0
    pulls = []
    for _ in range(3):
        kl = torch.tensor([7.0], requires_grad=True)
        pulls.append(float(torch.autograd.grad(constraint.penalty(kl, one).sum(), kl)[0]))
        constraint.ascend(torch.tensor([7.0]), one)
    assert 0 < pulls[0] < pulls[1] < pulls[2]

"""What an objective says about the aggregate posterior, against its definition, computed slowly."""

import itertools
import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import norm
from vae_study.config.model import KlAnnealing, ObjectiveConfig
from vae_study.vae.families.base import Posteriors, gaussian_kl, size_mask
from vae_study.vae.model_batch import ModelBatch
from vae_study.vae.objective import Objective, kl_weights
from vae_study.vae.terms import TERMS, covariance_distance, total_correlation

from tests.vae.builders import model_setup, train


def posteriors(seed, rows, latents=(3, 2), draws=1):
    """Codes of models of these latent sizes, with draws of each row one behind the other."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (2, len(latents), rows, max(latents))
    mask_KZ = size_mask(latents).double()
    mean, log_variance = torch.randn(sizes, generator=generator, dtype=torch.float64) * mask_KZ[:, None]
    log_variance = 0.5 * log_variance - 1 * mask_KZ[:, None]
    mean, log_variance = (value.repeat_interleave(draws, dim=1) for value in (mean, log_variance))
    noise = torch.randn(mean.shape, generator=generator, dtype=torch.float64) * mask_KZ[:, None]
    return Posteriors(mean + (0.5 * log_variance).exp() * noise, mean, log_variance), mask_KZ


def log_densities(z_BZ, mean_BZ, log_variance_BZ):
    """Log q(z_j | x) of each draw under the posterior of each row, and in each dimension: (draws, rows, Z)."""
    return norm.logpdf(z_BZ[:, None], mean_BZ[None], np.exp(0.5 * log_variance_BZ)[None])


def slow_total_correlation(z_BZ, mean_BZ, log_variance_BZ, rows):
    """One draw, one dimension and one row after the other."""
    batch, latent = z_BZ.shape
    log_BBZ, found = log_densities(z_BZ, mean_BZ, log_variance_BZ), []
    for i in range(batch):
        share_B = np.full(batch, (rows - 1) / rows / max(batch - 1, 1))
        share_B[i] = 1 / rows
        joint = np.log(sum(share_B[j] * math.exp(log_BBZ[i, j].sum()) for j in range(batch)))
        each = [np.log(sum(share_B[j] * math.exp(log_BBZ[i, j, d]) for j in range(batch))) for d in range(latent)]
        found.append(joint - sum(each))
    return np.mean(found)


@given(st.integers(0, 99), st.integers(1, 6), st.integers(0, 40), st.lists(st.integers(1, 4), min_size=1, max_size=3))
@settings(max_examples=30, deadline=None)
def test_total_correlation_is_the_slow_one_for_any_rows_and_for_models_of_any_latent_size(seed, batch, more, latents):
    codes, mask_KZ = posteriors(seed, batch, latents)
    found_K = total_correlation(codes, mask_KZ, batch + more)
    for k, latent in enumerate(latents):
        own = (value[k, :, :latent].numpy() for value in codes)
        assert float(found_K[k]) == pytest.approx(slow_total_correlation(*own, batch + more), rel=1e-9, abs=1e-9)


def by_autograd(codes, mask_KZ, rows):
    """Total correlation as one formula that autograd differentiates."""
    normal = torch.distributions.Normal(codes.mean_KBZ[:, None], (0.5 * codes.log_variance_KBZ[:, None]).exp())
    log_KBBZ = normal.log_prob(codes.z_KBZ[:, :, None]) * mask_KZ[:, None, None]
    batch = log_KBBZ.shape[1]
    share_BB = torch.full((batch, batch), (rows - 1) / rows / max(batch - 1, 1), dtype=torch.float64)
    log_share_BB1 = share_BB.fill_diagonal_(1 / rows).log()[..., None]
    each_KBZ = (log_KBBZ + log_share_BB1).logsumexp(dim=2)
    joint_KB = (log_KBBZ.sum(dim=3) + log_share_BB1[..., 0]).logsumexp(dim=2)
    return (joint_KB - each_KBZ.sum(dim=2)).mean(dim=1)


@given(st.integers(0, 99), st.integers(1, 6), st.integers(1, 40), st.lists(st.integers(1, 4), min_size=1, max_size=3))
@settings(max_examples=30, deadline=None)
def test_the_gradients_of_total_correlation_are_those_of_autograd(seed, batch, more, latents):
    codes, mask_KZ = posteriors(seed, batch, latents)
    weight_K = torch.linspace(0.5, 2, len(latents), dtype=torch.float64)
    leaves = Posteriors._make(value.requires_grad_() for value in codes)
    found, expected = (
        torch.autograd.grad((weight_K * value(leaves, mask_KZ, batch + more)).sum(), leaves)
        for value in (total_correlation, by_autograd)
    )
    for own, other in zip(found, expected, strict=True):
        # Where a model has no dimension, its networks get no gradient.
        assert torch.allclose(own * mask_KZ[:, None], other * mask_KZ[:, None], rtol=1e-9, atol=1e-12)


def test_on_all_rows_the_kl_is_index_code_information_and_total_correlation_and_the_kl_of_each_dimension():
    """Chen et al. 2018, equation 2, by integrals over a grid that know nothing of draws."""
    rows, draws = 4, 4000
    codes, mask_KZ = posteriors(1, rows, (2,), draws)
    _, mean_BZ, log_variance_BZ = (value[0, ::draws].numpy() for value in codes)
    axis_G = np.linspace(-9, 9, 1201)
    cell = (axis_G[1] - axis_G[0]) ** 2
    log_GNZ = norm.logpdf(axis_G[:, None, None], mean_BZ, np.exp(0.5 * log_variance_BZ))
    log_own_NGG = log_GNZ[:, None, :, 0] + log_GNZ[None, :, :, 1]
    log_own_NGG = np.moveaxis(log_own_NGG, 2, 0)
    log_q_GG = logsumexp(log_own_NGG, axis=0) - math.log(rows)
    log_each_GZ = logsumexp(log_GNZ, axis=1) - math.log(rows)
    log_product_GG = log_each_GZ[:, None, 0] + log_each_GZ[None, :, 1]
    log_prior_G = norm.logpdf(axis_G)
    q_GG = np.exp(log_q_GG)
    information = np.mean([(np.exp(own_GG) * (own_GG - log_q_GG)).sum() * cell for own_GG in log_own_NGG])
    correlation = (q_GG * (log_q_GG - log_product_GG)).sum() * cell
    each = (q_GG * (log_product_GG - log_prior_G[:, None] - log_prior_G[None])).sum() * cell
    kl = gaussian_kl(*map(torch.as_tensor, (mean_BZ, log_variance_BZ))).sum(dim=1).mean()
    assert information + correlation + each == pytest.approx(float(kl), abs=1e-6)
    assert min(information, correlation, each) > 0.01
    # Each draw beside one of each other row: all rows, so that the estimate knows q(z) exactly.
    minibatches = [Posteriors._make(value[:, start::draws] for value in codes) for start in range(draws)]
    found = np.array([float(total_correlation(one, mask_KZ, rows)) for one in minibatches])
    assert found.mean() == pytest.approx(correlation, abs=5 * found.std() / math.sqrt(draws))


def shares_in_the_paper(batch, rows):
    """Of a draw's own row, the others and the last one (Chen et al. 2018, appendix C.2)."""
    return [1 / rows, *[1 / (batch - 1)] * (batch - 2), (rows - batch + 1) / (rows * (batch - 1))]


def test_what_stands_for_the_density_of_the_aggregate_posterior_is_unbiased():
    rows, batch = 7, 4
    density_N = np.random.default_rng(0).random(rows)
    own, others = density_N[0], density_N[1:]
    share = (rows - 1) / rows / (batch - 1)
    found = [own / rows + share * sum(chosen) for chosen in itertools.combinations(others, batch - 1)]
    assert np.mean(found) == pytest.approx(density_N.mean())
    first, *rest = shares_in_the_paper(batch, rows)
    assert first == 1 / rows
    # The paper's shares, averaged over which of the others is the last one.
    assert np.mean(rest) == pytest.approx(share)


@given(st.integers(0, 99), st.integers(2, 9), st.lists(st.integers(1, 4), min_size=1, max_size=3))
@settings(max_examples=30, deadline=None)
def test_the_covariance_distance_is_that_of_the_covariance_of_all_rows_draws(seed, batch, latents):
    codes, mask_KZ = posteriors(seed, batch, latents)
    found_K = covariance_distance(codes, mask_KZ, batch)
    for k, latent in enumerate(latents):
        _, mean_BZ, log_variance_BZ = (value[k, :, :latent].numpy() for value in codes)
        # The second moments of a mixture, less the square of its mean.
        each = zip(mean_BZ, np.exp(log_variance_BZ), strict=True)
        moments = [np.outer(mean_Z, mean_Z) + np.diag(variance_Z) for mean_Z, variance_Z in each]
        covariance = np.mean(moments, axis=0) - np.outer(mean_BZ.mean(axis=0), mean_BZ.mean(axis=0))
        assert float(found_K[k]) == pytest.approx(((covariance - np.eye(latent)) ** 2).sum(), rel=1e-9, abs=1e-12)


def test_a_code_that_says_nothing_has_neither_total_correlation_nor_a_covariance_distance():
    noise_KBZ = torch.randn(2, 5, 3, dtype=torch.float64)
    nothing = Posteriors(noise_KBZ, torch.zeros_like(noise_KBZ), torch.zeros_like(noise_KBZ))
    assert total_correlation(nothing, torch.ones(2, 3), 50).tolist() == pytest.approx([0, 0], abs=1e-12)
    assert covariance_distance(nothing, torch.ones(2, 3), 50).tolist() == [0, 0]


def test_terms_are_those_of_each_models_kind_weighted_by_its_own_weight_and_annealed():
    codes, mask_KZ = posteriors(0, 6, (3, 1, 2, 3))
    kinds = [{"kind": "beta"}, {"kind": "dip", "dip_weight": 2.0}, {"kind": "beta_tc", "beta": 0.5, "tc_weight": 4.0}]
    configs = [ObjectiveConfig.model_validate(one) for one in [*kinds, {"kind": "beta_tc", "tc_weight": 0.0}]]
    objective = Objective(configs, mask_KZ, rows=20)
    distance_K, correlation_K = (value(codes, mask_KZ, 20) for value in (covariance_distance, total_correlation))
    term_K = objective.term(codes, mask_KZ)
    expected_K = [0, float(distance_K[1]), float(correlation_K[2]), float(correlation_K[3])]
    assert term_K.tolist() == pytest.approx(expected_K, rel=1e-12)
    weight_K = torch.tensor([1, 0.25, 0.5, 1.0], dtype=torch.float64)
    factors = [0, 2 * 0.25, (4 - 0.5) * 0.5, -1]
    assert objective.weighted(term_K, weight_K).tolist() == pytest.approx(np.multiply(factors, expected_K), rel=1e-12)


def test_the_config_knows_which_kinds_have_a_term():
    kinds = get_args(ObjectiveConfig.model_fields["kind"].annotation)
    assert {kind for kind in kinds if ObjectiveConfig(kind=kind).compares_rows} == {*TERMS}


@pytest.mark.parametrize("kind", [{"kind": "beta_tc", "tc_weight": 0.7}, {"kind": "dip", "dip_weight": 0.0}])
def test_at_the_weight_at_which_a_term_adds_nothing_a_model_trains_as_one_of_kind_beta(few, kind):
    values = {"beta": 0.7, "kl_annealing__schedule": "linear", "training__batch_size": 16}
    values |= {"free_bits__kind": "per_dimension", "free_bits__nats": 0.05}
    kind = {"objective__kind": kind.pop("kind"), **kind}
    plain, with_term = (train(ModelBatch([model_setup(0, **values, **own)], few), 2)[1][0] for own in ({}, kind))
    metric = TERMS[kind["objective__kind"]].metric
    assert {**plain, metric: with_term[metric]} == pytest.approx(with_term, rel=1e-6)


def test_the_metric_of_a_term_belongs_to_the_models_that_have_it_and_is_part_of_their_loss(few):
    common = {"kl_annealing__schedule": "linear", "training__batch_size": 70, "training__epochs": 4}
    kinds = [{"beta": 0.5, "objective__kind": kind, "tc_weight": 3.0, "dip_weight": 2.0} for kind in ("beta", *TERMS)]
    setups = [model_setup(0, **common, **kind) for kind in kinds]
    batch = ModelBatch(setups, few, dtype=torch.float64)
    assert (batch.objective.rows, batch.steps_per_epoch) == (70, 1)
    for epoch in range(3):
        plain, tc, dip = train(batch, 1)[0]
        assert {*tc} - {*plain} == {"train/total_correlation"}
        assert {*dip} - {*plain} == {"train/covariance_distance"}
        weight = kl_weights(KlAnnealing(schedule="linear"), 4)[epoch]
        terms = 0, 2.5 * tc["train/total_correlation"], 2 * dip["train/covariance_distance"]
        for own, term in zip((plain, tc, dip), terms, strict=True):
            penalty = weight * (0.5 * own["train/kl"] + term)
            assert own["train/loss"] == pytest.approx(own["train/reconstruction"] + penalty, rel=1e-9)

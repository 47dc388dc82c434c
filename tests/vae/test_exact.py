"""Against what is known in closed form or from theory, on real data."""

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from vae_study.config.study import DataConfig
from vae_study.data import Dataset, prepare
from vae_study.vae.evaluation import iwae_nats
from vae_study.vae.inference import Examples
from vae_study.vae.model_batch import ModelBatch

from tests.vae.builders import model_setup

pytestmark = pytest.mark.thorough
LATENT = 4
LINEAR = {
    "network__hidden": (),
    "likelihood": "gaussian_learned",
    "learned_sigma": "shared",
    "latent_dim": LATENT,
    "training__learning_rate": 2e-2,
    "training__learning_rate_schedule": "cosine",
}


def trained(data: Dataset, *setups) -> tuple[ModelBatch, list[dict[str, float]]]:
    model_batch = ModelBatch(setups, data)
    for _ in range(model_batch.training.epochs):
        metrics = model_batch.train_epoch()
    return model_batch, metrics


@pytest.mark.parametrize(("source", "scale", "epochs"), [("breast_cancer", "standard", 600), ("digits", "unit", 600)])
def test_a_linear_vae_is_probabilistic_pca(source, scale, epochs):
    """Lucas et al. 2019: with one linear layer each way the ELBO's maximum is pPCA's log marginal likelihood."""
    data = prepare(DataConfig(source=source, scale=scale))
    x_ND = data.splits["train"].x_ND.astype(np.float64)
    # Centred as the models see it: a decoder's bias is the mean.
    exact = PCA(n_components=LATENT, svd_solver="full").fit(x_ND)
    spread_D = np.linalg.svd(x_ND - x_ND.mean(axis=0), compute_uv=False) ** 2 / len(x_ND)
    log_marginal = _ppca_log_likelihood(spread_D, x_ND.shape[1])
    model_batch, _ = trained(data, model_setup(0, **LINEAR, training__epochs=epochs))
    elbo = _elbo(model_batch, draws=200)
    bound = float(
        iwae_nats(model_batch.model, model_batch.examples["train"], model_batch.generators("evaluation"), 256)[0]
    )
    assert elbo == pytest.approx(log_marginal, rel=0.005)
    assert elbo <= bound <= log_marginal + 0.005 * abs(log_marginal)
    weight_DZ = model_batch.model.decoder.layers[0].weight_KIO[0].detach().double().numpy().T
    learned, _ = np.linalg.qr(weight_DZ)
    cosines = np.linalg.svd(exact.components_ @ learned, compute_uv=False)
    assert cosines.min() > 0.99


def _elbo(model_batch: ModelBatch, draws: int) -> float:
    return -sum(_parts(model_batch, draws))


@torch.no_grad()
def _parts(model_batch: ModelBatch, draws: int) -> tuple[float, float]:
    """Reconstruction and KL on the training rows, nats per example; one draw would leave some hundredths of noise."""
    x_1ND, generators = model_batch.examples["train"].x_ND[None], model_batch.generators("samples")
    reconstruction = rate = 0.0
    for _ in range(draws):
        code = model_batch.model.code(x_1ND, None, model_batch.model.noise(1, x_1ND.shape[1], generators)[0])
        negative_log = model_batch.model.likelihood.negative_log(model_batch.model.decode(code.z_KBZ), x_1ND).sum(dim=2)
        reconstruction += float(negative_log.double().mean())
        rate += float(code.rate_KBR.sum(dim=2).double().mean())
    return reconstruction / draws, rate / draws


def _ppca_log_likelihood(spread_D: np.ndarray, features: int) -> float:
    """Tipping and Bishop 1999, equations 4 and 8, at the maximum; nats per example."""
    spread_D = np.pad(spread_D, (0, features - len(spread_D)))
    noise = spread_D[LATENT:].mean()
    log_determinant = np.log(spread_D[:LATENT]).sum() + (features - LATENT) * np.log(noise)
    return float(-0.5 * (features * np.log(2 * np.pi) + log_determinant + features))


def test_a_sweep_of_a_linear_vae_comes_to_the_optimum_of_each_beta():
    """With a fixed sigma, each direction of PCA by itself (Lucas et al. 2019, with beta sigma^2 for the noise)."""
    data, sigma = prepare(DataConfig(source="breast_cancer", scale="standard")), 0.7
    x_ND = data.splits["train"].x_ND.astype(np.float64)
    spread_D = np.linalg.svd(x_ND - x_ND.mean(axis=0), compute_uv=False) ** 2 / len(x_ND)
    values = {"network__hidden": (), "likelihood": "gaussian", "sigma": sigma, "latent_dim": LATENT}
    # All rows at each step: without the noise of minibatches, what is left is how far a step lags behind its beta.
    values |= {"training__epochs": 3000, "training__batch_size": 512, "training__learning_rate": 1e-2}
    sweep = {"objective__kind": "sweep", "sweep__low": 0.1, "sweep__high": 20.0, "sweep__hold": 0.4}
    setup = model_setup(0, **values, **sweep, sweep__points=8)
    batch, ratios = ModelBatch([setup], data), []
    for epoch in range(1, batch.training.epochs + 1):
        batch.train_epoch()
        if (beta := setup.config.kept_betas().get(epoch)) is not None:
            reconstruction, kl = _parts(batch, draws=50)
            ratios.append((reconstruction + beta * kl) / _optimum(spread_D, beta, sigma))
    assert len(ratios) == 8
    assert max(ratios) < 1.01
    assert min(ratios) > 0.995


def _optimum(spread_D: np.ndarray, beta: float, sigma: float) -> float:
    """The least reconstruction + beta KL; nats per example."""
    noise = beta * sigma**2
    used_D = (np.arange(len(spread_D)) < LATENT) & (spread_D > noise)
    share_D = spread_D / noise
    cost_D = 0.5 * np.where(used_D, np.log(np.maximum(share_D, 1)) + 1, share_D)
    return float(0.5 * len(spread_D) * np.log(2 * np.pi * sigma**2) + beta * cost_D.sum())


@pytest.mark.parametrize("kind", ["constrained", "capacity"])
def test_the_kl_ends_where_it_was_asked_to(digits, kind):
    key = {"constrained": "delta_nats", "capacity": "capacity_nats"}[kind]
    common = {
        "network__hidden": (64, 32),
        "latent_dim": 24,
        "training__epochs": 150,
        "training__learning_rate_schedule": "cosine",
    }
    targets = (2.0, 5.0, 10.0, 20.0)
    _, metrics = trained(
        digits, *[model_setup(1, objective__kind=kind, **{key: target}, **common) for target in targets]
    )
    for target, one in zip(targets, metrics, strict=True):
        assert one["train/kl"] == pytest.approx(target, rel=0.02)


def test_free_bits_hold_the_kl_where_plain_training_collapses(digits):
    strong = {"beta": 8.0, "network__hidden": (256, 256), "latent_dim": 8, "training__epochs": 80}
    strong["training__learning_rate_schedule"] = "cosine"
    plain = model_setup(0, **strong)
    total = model_setup(0, **strong, free_bits__kind="total", free_bits__nats=2.0)
    each = model_setup(0, **strong, free_bits__kind="per_dimension", free_bits__nats=0.25)
    _, (without, whole, apart) = trained(digits, plain, total, each)
    assert without["val/collapsed"] == 1
    assert without["train/kl"] < 0.05
    # The floor holds for a batch's mean, which scatters: with a strong beta it settles that much below.
    assert whole["train/kl"] > 0.95 * 2.0
    assert apart["train/kl"] > 0.9 * 8 * 0.25


def test_an_autoencoder_and_a_vae_of_tiny_beta_reconstruct_alike(digits):
    common = {"network__hidden": (256, 128), "latent_dim": 8, "training__epochs": 40}
    _, points = trained(digits, *[model_setup(seed, family="autoencoder", **common) for seed in range(5)])
    _, noisy = trained(digits, *[model_setup(seed, beta=1e-5, **common) for seed in range(5)])
    first, second = (np.array([one["val/reconstruction"] for one in each]) for each in (points, noisy))
    standard_error = np.sqrt(first.var(ddof=1) / 5 + second.var(ddof=1) / 5)
    assert abs(first.mean() - second.mean()) < 3 * standard_error


def test_two_levels_are_no_worse_than_one_of_the_same_size(digits):
    common = {"network__hidden": (128, 64), "latent_dim": 8, "training__epochs": 40}
    _, flat = trained(digits, *[model_setup(seed, **common) for seed in range(3)])
    _, levels = trained(digits, *[model_setup(seed, family="hierarchical", **common) for seed in range(3)])
    assert np.mean([one["val/elbo"] for one in levels]) >= np.mean([one["val/elbo"] for one in flat])


@pytest.mark.parametrize("size", [32, 64])
def test_a_codebook_does_not_die(digits, size):
    common = {"family": "vector_quantized", "network__hidden": (64, 32), "latent_dim": 8, "training__epochs": 30}
    _, metrics = trained(digits, *[model_setup(seed, codebook__size=size, **common) for seed in range(3)])
    for one in metrics:
        assert size / 2 < one["val/perplexity"] <= size


def test_draws_are_streamed_in_constant_memory(digits):
    """The bound of many draws equals that of the same draws kept all at once."""
    model_batch, _ = trained(digits, model_setup(0, training__epochs=2))
    rows = 200  # one pass, so that both ways draw in the same order
    examples = Examples(model_batch.examples["test"].x_ND[:rows], None)
    streamed = float(iwae_nats(model_batch.model, examples, model_batch.generators("evaluation"), 16)[0])
    generators = model_batch.generators("evaluation")
    weights = []
    with torch.no_grad():
        for _ in range(16):
            code = model_batch.model.code(examples.x_ND[None], None, model_batch.model.noise(1, rows, generators)[0])
            decoded = model_batch.model.decode(code.z_KBZ)
            likelihood = -model_batch.model.likelihood.negative_log(decoded, examples.x_ND).sum(dim=2)
            weights.append((likelihood + code.log_ratio_KB)[0].double())
    kept = torch.logsumexp(torch.stack(weights), dim=0) - np.log(16)
    assert streamed == pytest.approx(float(kept.mean()), rel=1e-5)

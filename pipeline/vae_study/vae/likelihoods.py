"""The likelihoods p(x|z) as functions of the decoder's output: negative log densities with their constants, in nats."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from vae_study.config.model import ModelConfig

# A learned sigma stays above this, in the scaled data's units: without a bound the likelihood of a feature that is
# reconstructed exactly has no maximum (Rybkin et al. 2021, section 4).
SMALLEST_SIGMA = 0.01


class Likelihood(nn.Module):
    """The likelihood that K models share.

    Attributes:
        outputs: Numbers that the decoder gives for each feature.
        may_miss: Whether values of x may be missing (NaN), which cost nothing and have no gradient.
    """

    outputs = 1
    may_miss = False

    def negative_log(self, decoded_KBE: Tensor, x_KBD: Tensor) -> Tensor:
        """-log p(x_d|z) of each feature, nats, (K, B, D); E is `outputs` times D, x may be (B, D)."""
        if not self.may_miss:
            return self.of_values(decoded_KBE, x_KBD)
        is_missing = x_KBD.isnan()
        return torch.where(is_missing, 0.0, self.of_values(decoded_KBE, torch.where(is_missing, 0.0, x_KBD)))

    def of_values(self, decoded_KBE: Tensor, x_KBD: Tensor) -> Tensor:
        """The same where no value is missing."""
        raise NotImplementedError

    def residual(self, decoded_KBE: Tensor, x_KBD: Tensor) -> Tensor:
        """X - E[x|z], (K, B, D); 0 where x is missing."""
        residual_KBD = x_KBD - self.mean(decoded_KBE)
        return torch.where(residual_KBD.isnan() & x_KBD.isnan(), 0.0, residual_KBD) if self.may_miss else residual_KBD

    def mean(self, decoded_KBE: Tensor) -> Tensor:
        """E[x|z] in the scaled data's units, shape (K, B, D)."""
        raise NotImplementedError

    def inverse_mean(self, x: Tensor) -> Tensor:
        """The decoder output with E[x|z] = x, any shape."""
        return x

    def without_code(self, mean_D: Tensor, variance_D: Tensor, x_ND: Tensor) -> Tensor:
        """-log p(x) of the best decoder that ignores its code, nats, (N, D); of one model.

        Args:
            mean_D, variance_D: Of the training rows.
            x_ND: The rows asked about.
        """
        mean_1D = self.inverse_mean(mean_D[None])
        return self.negative_log(mean_1D.expand(1, *x_ND.shape), x_ND)[0]

    def perfect(self, x_ND: Tensor) -> Tensor:
        """-log p(x) of a decoder that gives x itself, nats, (N, D); no decoder is better."""
        return self.negative_log(self.inverse_mean(x_ND)[None], x_ND)[0]


class Bernoulli(Likelihood):
    """The decoder gives logits; x in [0, 1]. The negative log likelihood is the binary cross-entropy."""

    def of_values(self, decoded_KBE: Tensor, x_KBD: Tensor) -> Tensor:
        """Binary cross-entropy, nats, shape (K, B, D)."""
        x_KBD = x_KBD.expand_as(decoded_KBE)
        return functional.binary_cross_entropy_with_logits(decoded_KBE, x_KBD, reduction="none")

    def mean(self, decoded_KBE: Tensor) -> Tensor:
        """The probability of a 1, shape (K, B, D)."""
        return torch.sigmoid(decoded_KBE)

    def inverse_mean(self, x: Tensor) -> Tensor:
        """The logit, any shape; finite at 0 and 1."""
        return torch.logit(x, eps=1e-6)


class Gaussian(Likelihood):
    """The decoder gives the mean; the standard deviation is fixed for each model."""

    sigma_K11: Tensor

    def __init__(self, sigma_K: Sequence[float]):
        super().__init__()
        self.register_buffer("sigma_K11", torch.tensor(sigma_K).view(-1, 1, 1), persistent=False)

    def of_values(self, decoded_KBE: Tensor, x_KBD: Tensor) -> Tensor:
        """(x - mean)^2 / (2 sigma^2) + log sigma + log(2 pi) / 2, nats, shape (K, B, D)."""
        return gaussian_negative_log(decoded_KBE, self.sigma_K11.log(), x_KBD)

    def mean(self, decoded_KBE: Tensor) -> Tensor:
        """The mean itself, shape (K, B, D)."""
        return decoded_KBE


class LearnedGaussian(Gaussian):
    """As Gaussian, with a sigma that is a parameter: one for each model, or one for each of its features."""

    def __init__(self, sigma_K: Sequence[float], features: int):
        """Start at `sigma_K`; `features` is 1 where all features share a sigma."""
        super().__init__(sigma_K)
        start_K11 = torch.tensor(sigma_K).sub(SMALLEST_SIGMA).clamp(min=SMALLEST_SIGMA).expm1().log().view(-1, 1, 1)
        self.raw_sigma_K1F = nn.Parameter(start_K11.repeat(1, 1, features))

    def without_code(self, mean_D: Tensor, variance_D: Tensor, x_ND: Tensor) -> Tensor:
        """With the sigma that suits the training rows best."""
        variance = variance_D.mean() if self.raw_sigma_K1F.shape[2] == 1 else variance_D
        return gaussian_negative_log(mean_D, _log_bounded(variance), x_ND)

    def perfect(self, x_ND: Tensor) -> Tensor:
        """With the smallest sigma."""
        return gaussian_negative_log(x_ND, torch.full_like(x_ND, SMALLEST_SIGMA).log(), x_ND)

    def sigma(self) -> Tensor:
        """The standard deviation, shape (K, 1, features or 1)."""
        return bounded_sigma(self.raw_sigma_K1F)

    def of_values(self, decoded_KBE: Tensor, x_KBD: Tensor) -> Tensor:
        """As that of Gaussian, with the learned sigma."""
        return gaussian_negative_log(decoded_KBE, self.sigma().log(), x_KBD)


class DecodedGaussian(Likelihood):
    """The decoder gives the mean and behind it the unbounded sigma, which is then a function of the code."""

    outputs = 2

    def of_values(self, decoded_KBE: Tensor, x_KBD: Tensor) -> Tensor:
        """As that of Gaussian, with a sigma of each example and feature."""
        mean_KBD, raw_KBD = decoded_KBE.chunk(2, dim=-1)
        return gaussian_negative_log(mean_KBD, bounded_sigma(raw_KBD).log(), x_KBD)

    def mean(self, decoded_KBE: Tensor) -> Tensor:
        """The first half of the decoder's output, shape (K, B, D)."""
        return decoded_KBE.chunk(2, dim=-1)[0]

    def inverse_mean(self, x: Tensor) -> Tensor:
        """The mean itself, with the smallest sigma behind it."""
        return torch.cat([x, torch.full_like(x, -20.0)], dim=-1)

    def without_code(self, mean_D: Tensor, variance_D: Tensor, x_ND: Tensor) -> Tensor:
        """With the sigma of each feature that suits the training rows best."""
        return gaussian_negative_log(mean_D, _log_bounded(variance_D), x_ND)


def bounded_sigma(raw: Tensor) -> Tensor:
    """A positive standard deviation from any number: SMALLEST_SIGMA + softplus(raw)."""
    return SMALLEST_SIGMA + functional.softplus(raw)


def _log_bounded(variance: Tensor) -> Tensor:
    return variance.sqrt().clamp(min=SMALLEST_SIGMA).log()


def gaussian_negative_log(mean: Tensor, log_sigma: Tensor, x: Tensor) -> Tensor:
    """-log N(x; mean, exp(log_sigma)^2), nats, elementwise."""
    return 0.5 * ((x - mean) * (-log_sigma).exp()).square() + log_sigma + 0.5 * math.log(2 * math.pi)


def _learned(configs: Sequence[ModelConfig], features: int) -> Likelihood:
    if configs[0].learned_sigma == "per_example":
        return DecodedGaussian()
    shared = configs[0].learned_sigma == "shared"
    return LearnedGaussian([config.sigma for config in configs], 1 if shared else features)


LIKELIHOODS: Mapping[str, Callable[[Sequence[ModelConfig], int], Likelihood]] = {
    "bernoulli": lambda configs, features: Bernoulli(),
    "gaussian": lambda configs, features: Gaussian([config.sigma for config in configs]),
    "gaussian_learned": _learned,
}


def make_likelihood(configs: Sequence[ModelConfig], features: int, may_miss: bool = False) -> Likelihood:
    """The likelihood that K models share, on D features, of which values may be missing or not."""
    likelihood = LIKELIHOODS[configs[0].likelihood](configs, features)
    likelihood.may_miss = may_miss
    return likelihood

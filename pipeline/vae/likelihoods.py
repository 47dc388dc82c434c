"""p(x|z): what the decoder's output means. Each likelihood is a negative log density with its constants, in nats."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.spec.trial import ModelSpec


class Likelihood(nn.Module):
    """What the objective and the scores need of the likelihood that K members share."""

    def negative_log(self, decoded_KBD: Tensor, x_KBD: Tensor) -> Tensor:
        """-log p(x_d|z) of each feature, nats, shape (K, B, D); x may have the shape (B, D)."""
        raise NotImplementedError

    def mean(self, decoded_KBD: Tensor) -> Tensor:
        """E[x|z] in the scaled data's units, shape (K, B, D)."""
        raise NotImplementedError

    def inverse_mean(self, x: Tensor) -> Tensor:
        """What a decoder would have to give for E[x|z] = x, any shape."""
        raise NotImplementedError


class Bernoulli(Likelihood):
    """The decoder gives logits; x in [0, 1]. The negative log likelihood is the binary cross-entropy."""

    def negative_log(self, decoded_KBD: Tensor, x_KBD: Tensor) -> Tensor:
        """Binary cross-entropy, nats, shape (K, B, D)."""
        x_KBD = x_KBD.expand_as(decoded_KBD)
        return functional.binary_cross_entropy_with_logits(decoded_KBD, x_KBD, reduction="none")

    def mean(self, decoded_KBD: Tensor) -> Tensor:
        """The probability of a 1, shape (K, B, D)."""
        return torch.sigmoid(decoded_KBD)

    def inverse_mean(self, x: Tensor) -> Tensor:
        """The logit, any shape; finite at 0 and 1."""
        return torch.logit(x, eps=1e-6)


class Gaussian(Likelihood):
    """The decoder gives the mean; the standard deviation is fixed for each member."""

    sigma_K11: Tensor

    def __init__(self, sigma_K: Sequence[float]):
        super().__init__()
        self.register_buffer("sigma_K11", torch.tensor(sigma_K).view(-1, 1, 1), persistent=False)

    def negative_log(self, decoded_KBD: Tensor, x_KBD: Tensor) -> Tensor:
        """(x - mean)^2 / (2 sigma^2) + log sigma + log(2 pi) / 2, nats, shape (K, B, D)."""
        constant_K11 = torch.log(self.sigma_K11) + 0.5 * math.log(2 * math.pi)
        return 0.5 * ((x_KBD - decoded_KBD) / self.sigma_K11).square() + constant_K11

    def mean(self, decoded_KBD: Tensor) -> Tensor:
        """The mean itself, shape (K, B, D)."""
        return decoded_KBD

    def inverse_mean(self, x: Tensor) -> Tensor:
        """The mean itself, any shape."""
        return x


LIKELIHOODS: Mapping[str, Callable[[Sequence[ModelSpec]], Likelihood]] = {
    "bernoulli": lambda models: Bernoulli(),
    "gaussian": lambda models: Gaussian([model.sigma for model in models]),
}


def make_likelihood(models: Sequence[ModelSpec]) -> Likelihood:
    """The likelihood that K members share."""
    return LIKELIHOODS[models[0].likelihood](models)

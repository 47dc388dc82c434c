"""The likelihoods of `pipeline.vae.likelihoods` with their derivatives.

Each gives the negative log likelihood, nats per example averaged over the batch, (G,), and writes its gradient over the
decoder's output, from which it was computed.
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from pipeline.vae import likelihoods
from pipeline.vae.manual.part import Part

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
# Above this log(1 + exp(x)) is x in float64 too.
LINEAR_FROM = 40
Cost = Callable[[Tensor, Tensor], Tensor]


class Bernoulli:
    """Binary cross-entropy of logits: softplus(logit) - x logit."""

    def __init__(self, likelihood: likelihoods.Bernoulli, features: int, part: Part):
        self.cost_GBD = part.take(features)

    def __call__(self, decoded_GBE: Tensor, x_GBD: Tensor) -> Tensor:
        """The cost; its derivative is sigmoid(logit) - x."""
        rows = x_GBD.shape[1]
        torch.ops.aten.softplus.out(decoded_GBE, 1, LINEAR_FROM, out=self.cost_GBD)
        cost_G = self.cost_GBD.addcmul_(decoded_GBE, x_GBD, value=-1).sum(dim=(1, 2))
        decoded_GBE.sigmoid_().sub_(x_GBD).mul_(1 / rows)
        return cost_G.div_(rows)


class Gaussian:
    """With a fixed sigma."""

    def __init__(self, likelihood: likelihoods.Gaussian, features: int, part: Part):
        self.sigma_G11, self.square_GBD = likelihood.sigma_K11[part.members], part.take(features)

    def __call__(self, decoded_GBE: Tensor, x_GBD: Tensor) -> Tensor:
        """The cost."""
        _, rows, features = x_GBD.shape
        precision_G11 = self.sigma_G11**-2
        torch.square(decoded_GBE.sub_(x_GBD), out=self.square_GBD)
        squares_G = self.square_GBD.sum(dim=(1, 2)).mul_(0.5 / rows)
        decoded_GBE.mul_(precision_G11 / rows)
        return squares_G.mul_(precision_G11[:, 0, 0]) + features * (self.sigma_G11[:, 0, 0].log() + HALF_LOG_2PI)


class LearnedGaussian:
    """With a sigma that is a parameter, of all features together or of each."""

    def __init__(self, likelihood: likelihoods.LearnedGaussian, features: int, part: Part):
        self.raw_G1F, self.raw_gradient_G1F = part.own(likelihood.raw_sigma_K1F)
        self.square_GBD = part.take(features)

    def __call__(self, decoded_GBE: Tensor, x_GBD: Tensor) -> Tensor:
        """The cost; sigma's derivative goes where the parameters' do."""
        _, rows, features = x_GBD.shape
        sigma_G1F = likelihoods.bounded_sigma(self.raw_G1F)
        torch.square(decoded_GBE.sub_(x_GBD), out=self.square_GBD)
        mean_square_G1F = self._by_sigma(self.square_GBD.mean(dim=1, keepdim=True))
        decoded_GBE.mul_(sigma_G1F**-2 / rows)
        sharing = features / sigma_G1F.shape[2]
        slope_G1F = (sharing - mean_square_G1F * sigma_G1F**-2) / sigma_G1F
        torch.mul(slope_G1F, torch.sigmoid(self.raw_G1F), out=self.raw_gradient_G1F)
        cost_G1F = 0.5 * mean_square_G1F * sigma_G1F**-2 + sharing * (sigma_G1F.log() + HALF_LOG_2PI)
        return cost_G1F.sum(dim=(1, 2))

    def _by_sigma(self, value_G1D: Tensor) -> Tensor:
        """Summed over the features that share a sigma."""
        return value_G1D.sum(dim=2, keepdim=True) if self.raw_G1F.shape[2] == 1 else value_G1D


class DecodedGaussian:
    """With a sigma that the decoder gives."""

    def __init__(self, likelihood: likelihoods.DecodedGaussian, features: int, part: Part):
        self.scaled_GBD, self.sigma_GBD, self.slope_GBD = (part.take(features) for _ in range(3))

    def __call__(self, decoded_GBE: Tensor, x_GBD: Tensor) -> Tensor:
        """The cost."""
        rows = x_GBD.shape[1]
        mean_GBD, raw_GBD = decoded_GBE.chunk(2, dim=-1)
        torch.ops.aten.softplus.out(raw_GBD, 1, LINEAR_FROM, out=self.sigma_GBD).add_(likelihoods.SMALLEST_SIGMA)
        torch.div(mean_GBD.sub_(x_GBD), self.sigma_GBD, out=self.scaled_GBD)
        torch.div(self.scaled_GBD, self.sigma_GBD, out=mean_GBD).mul_(1 / rows)
        torch.square(self.scaled_GBD, out=self.slope_GBD)
        squares_G = self.slope_GBD.sum(dim=(1, 2)).mul_(0.5 / rows)
        raw_GBD.sigmoid_().mul_(self.slope_GBD.neg_().add_(1)).div_(self.sigma_GBD).mul_(1 / rows)
        logs_G = self.sigma_GBD.log_().sum(dim=(1, 2)).div_(rows)
        return squares_G.add_(logs_G).add_(x_GBD.shape[2] * HALF_LOG_2PI)


COSTS: Mapping[type[nn.Module], Callable[..., Cost]] = {
    likelihoods.Bernoulli: Bernoulli,
    likelihoods.Gaussian: Gaussian,
    likelihoods.LearnedGaussian: LearnedGaussian,
    likelihoods.DecodedGaussian: DecodedGaussian,
}

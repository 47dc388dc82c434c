"""What every family gives, so that training, measuring and reporting know none of them by name."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.spec.trial import ModelSpec
from pipeline.vae.coders import make_decoder
from pipeline.vae.likelihoods import make_likelihood
from pipeline.vae.networks import Generators
from pipeline.vae.shape import DataShape


class Code(NamedTuple):
    """What an encoder says of a batch, at one draw or at the most likely code.

    Attributes:
        z_KBZ: The code; 0 in dimensions that a member does not have.
        rate_KBR: What the code costs, nats for each of its R parts: the KL of each latent dimension, log(codebook size)
            of each discrete code, 0 where a family has no rate.
        log_ratio_KB: log p(z) - log q(z|x) at this draw, nats, for importance weighting; most likely codes may lack it.
        penalty_K: What the objective weighs in place of the mean rate; None for the rate itself.
        auxiliary_K: The family's own terms of the loss, added as they are; None for none.
    """

    z_KBZ: Tensor
    rate_KBR: Tensor
    log_ratio_KB: Tensor | None = None
    penalty_K: Tensor | None = None
    auxiliary_K: Tensor | None = None


# From standard normal noise a draw of a batch's codes; without noise the most likely ones.
Draw = Callable[[Tensor | None], Code]


class Family(nn.Module):
    """K models of one family with the same network and likelihood; latent sizes may differ.

    Attributes:
        noise_sizes_K: Standard normal numbers that a draw of one example's code takes.
        code_mask_KZ, rate_mask_KR: 1 where a member has the dimension of the code, or the part of the rate, else 0.
        has_rate: Whether the rate means anything; without one there is no KL and no ELBO.
        is_conditional: Whether encoder and decoder take a label beside x.
        corrupts: Whether `corrupt` changes its input.
    """

    code_mask_KZ: Tensor
    rate_mask_KR: Tensor
    is_conditional = False
    corrupts = False

    def __init__(
        self,
        models: Sequence[ModelSpec],
        shape: DataShape,
        generators_K: Generators,
        code_mask_KZ: Tensor,
        rate_mask_KR: Tensor | None = None,
    ):
        super().__init__()
        self.models, self.shape = list(models), shape
        self.network, self.has_rate = models[0].network, models[0].has_rate
        self.noise_sizes_K: list[int] = code_mask_KZ.sum(dim=1).int().tolist()
        self.register_buffer("code_mask_KZ", code_mask_KZ.float(), persistent=False)
        rate_mask_KR = code_mask_KZ if rate_mask_KR is None else rate_mask_KR
        self.register_buffer("rate_mask_KR", rate_mask_KR.float(), persistent=False)
        self.likelihood = make_likelihood(models, shape.features)

    def _add_decoder(self, generators_K: Generators) -> None:
        """Make the decoder; called last, so that a member's draws do not depend on what else a family has."""
        extra = self.shape.classes if self.is_conditional else 0
        inputs_K = [int(size) + extra for size in self.code_mask_KZ.sum(dim=1)]
        self.decoder = make_decoder(inputs_K, self.shape, self.likelihood.outputs, self.network, generators_K)

    def corrupt(self, x_KBD: Tensor, noise_KBD: Tensor) -> Tensor:
        """The input that training encodes in place of x, from standard normal noise."""
        return x_KBD

    def encode(self, x_KBD: Tensor, condition_KBC: Tensor | None) -> Draw:
        """Encode a batch, for as many draws of its codes as are wanted."""
        raise NotImplementedError

    def code(self, x_KBD: Tensor, condition_KBC: Tensor | None, noise_KBZ: Tensor | None) -> Code:
        """A single draw of a batch's codes, or the most likely ones where there is no noise."""
        return self.encode(x_KBD, condition_KBC)(noise_KBZ)

    def decode(self, z_KBZ: Tensor, condition_KBC: Tensor | None = None) -> Tensor:
        """What the likelihood takes for p(x|z), shape (K, B, E)."""
        decoded: Tensor = self.decoder(z_KBZ)
        return decoded

    def prior(self, noise_KBZ: Tensor) -> Tensor | None:
        """Codes drawn from the prior by standard normal noise, (K, B, Z); None for a family without a prior."""
        return noise_KBZ * self.code_mask_KZ[:, None]

    def noise(self, steps: int, rows: int, generators_K: Generators) -> Tensor:
        """Standard normal noise for draws of codes, (S, K, rows, Z); 0 where a member has no dimension."""
        return self._scatter(self.noise_sizes_K, steps, rows, generators_K)

    def prior_noise(self, rows: int, generators_K: Generators) -> Tensor:
        """Standard normal noise for draws from the prior, (K, rows, Z); 0 where a member has no dimension."""
        return self._scatter(self.code_mask_KZ.sum(dim=1).int().tolist(), 1, rows, generators_K)[0]

    def _scatter(self, sizes_K: Sequence[int], steps: int, rows: int, generators_K: Generators) -> Tensor:
        like = self.code_mask_KZ
        noise_SKBZ = like.new_zeros(steps, len(like), rows, like.shape[1])
        for k, (size, generator) in enumerate(zip(sizes_K, generators_K, strict=True)):
            if size:
                draws = torch.randn((steps, rows, size), generator=generator, device=like.device, dtype=like.dtype)
                noise_SKBZ[:, k][..., like[k].bool()] = draws
        return noise_SKBZ

    def split_metrics(self, member: int, z_NZ: NDArray[np.float64]) -> dict[str, float]:
        """Metrics of one member's most likely codes on a split that only this family has."""
        return {}


def size_mask(sizes_K: Sequence[int]) -> Tensor:
    """1 in the first sizes_K[k] of the largest size's columns, shape (K, Z)."""
    return (torch.arange(max(sizes_K)) < torch.tensor(sizes_K)[:, None]).float()


def log_normal_ratio(z_KBZ: Tensor, noise_KBZ: Tensor, log_variance_KBZ: Tensor) -> Tensor:
    """Log N(z; 0, 1) - log q(z) of z = mean + sigma * noise, nats, (K, B); 0 where noise, z and log variance are 0."""
    return 0.5 * (noise_KBZ.square() + log_variance_KBZ - z_KBZ.square()).sum(dim=2)

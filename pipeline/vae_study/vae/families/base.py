"""The base class of all families: what training, measuring and scoring need of one."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vae_study.config.model import ModelConfig
from vae_study.vae.likelihoods import make_likelihood
from vae_study.vae.networks import DataShape, make_decoder, map_sizes
from vae_study.vae.networks.layers import Generators
from vae_study.vae.pictures import ms_ssim
from vae_study.vae.sequence_networks import lengths_of


class Posteriors(NamedTuple):
    """The codes of a minibatch of K models whose q(z|x) is a normal distribution, 0 where one has no dimension.

    Attributes:
        z_KBZ: One draw of each example's code.
        mean_KBZ, log_variance_KBZ: Of the distributions that they were drawn from.
    """

    z_KBZ: Tensor
    mean_KBZ: Tensor
    log_variance_KBZ: Tensor


class Code(NamedTuple):
    """The encoder's output for a minibatch, at one draw or at the posterior mode.

    Attributes:
        z_KBZ: The code; 0 in dimensions that a model does not have.
        rate_KBR: What the code costs, nats for each of its R parts: the KL of each latent dimension, log(codebook size)
            of each discrete code, 0 where a family has no rate.
        log_ratio_KB: log p(z) - log q(z|x) at this draw, nats, for importance weighting; None is allowed at the mode.
        penalty_K: What the objective weighs in place of the mean rate; None for the rate itself.
        auxiliary_K: The family's own terms of the loss, added as they are; None for none.
        posteriors: This draw and what it is from, if q(z|x) is one normal distribution of the whole code.
    """

    z_KBZ: Tensor
    rate_KBR: Tensor
    log_ratio_KB: Tensor | None = None
    penalty_K: Tensor | None = None
    auxiliary_K: Tensor | None = None
    posteriors: Posteriors | None = None


class Decoded(NamedTuple):
    """A minibatch of K models in training: x, a draw of its codes by standard normal noise, and what is decoded."""

    x_KBD: Tensor
    z_KBZ: Tensor
    noise_KBZ: Tensor
    decoded_KBE: Tensor


# Takes standard normal noise and gives a draw of the codes; takes None and gives the posterior mode.
Draw = Callable[[Tensor | None], Code]


class Family(nn.Module):
    """K models of one family with the same network and likelihood; latent sizes may differ.

    Attributes:
        code_parts_K: Which dimensions of the code a model has.
        noise_sizes_K: Standard normal numbers that a draw of one example's code takes.
        code_mask_KZ, rate_mask_KR: 1 where a model has that dimension of the code or that part of the rate, else 0.
        has_rate: Whether the code has a rate; without one there is no KL and no ELBO.
        is_conditional: Whether encoder and decoder take a label beside x.
        corrupts: Whether `corrupt` changes its input.
        places: How many codes an example has: one for each step of a sequence or place of a map, else 1.
        is_by_place: Whether each of these has a code of its own.
        dissimilarity_K: What the loss has for a reconstruction that is not similar to x, nats; None where it has none.
        label_parts: How many dimensions of the code, the first ones, say which label an example has.
        own_terms: What `fit` measures beside the loss, by the names of its metrics.
    """

    code_mask_KZ: Tensor
    rate_mask_KR: Tensor
    dissimilarity_K: Tensor | None
    is_conditional = False
    corrupts = False
    label_parts = 0
    own_terms: tuple[str, ...] = ()

    def __init__(
        self,
        configs: Sequence[ModelConfig],
        shape: DataShape,
        generators_K: Generators,
        code_mask_KZ: Tensor,
        rate_mask_KR: Tensor | None = None,
    ):
        super().__init__()
        self.configs, self.shape = list(configs), shape
        self.network, self.has_rate = configs[0].network, configs[0].has_rate
        self.is_by_place, self.places = configs[0].is_by_place, places_of(configs, shape)
        # The host knows the masks, too: to ask a GPU for them would make it wait.
        self.code_parts_K = [_parts_of(mask_Z) for mask_Z in code_mask_KZ.tolist()]
        self.noise_sizes_K = [_size(parts) for parts in self.code_parts_K]
        self.register_buffer("code_mask_KZ", code_mask_KZ.float(), persistent=False)
        rate_mask_KR = code_mask_KZ if rate_mask_KR is None else rate_mask_KR
        self.register_buffer("rate_mask_KR", rate_mask_KR.float(), persistent=False)
        self.likelihood = make_likelihood(configs, shape.features, shape.may_miss)
        weights = torch.tensor([config.ms_ssim * shape.features for config in configs], dtype=torch.float64)
        self.register_buffer("dissimilarity_K", weights if configs[0].ms_ssim else None, persistent=False)

    def _add_decoder(self, generators_K: Generators) -> None:
        """Make the decoder. Call it last: the other layers take their initial weights first from each generator."""
        extra = self.shape.classes if self.is_conditional else 0
        inputs_K = [int(size) // self.places + extra for size in self.code_mask_KZ.sum(dim=1)]
        of_all = (self.shape, self.likelihood.outputs, self.network, generators_K)
        self.decoder = make_decoder(inputs_K, *of_all, extra if self.is_by_place else None)

    def _coded(self, value: Tensor, x_KBD: Tensor) -> Tensor:
        """The outputs of a linear layer on the encoder's, (K, B, Z); 0 in dimensions that a model does not have.

        By place, where the layer gives (K, B P, z), they are ordered by dimension and then by place, and 0 at the steps
        behind the end of a sequence.
        """
        mask_K1Z = self.code_mask_KZ[:, None]
        if not self.is_by_place:
            return value * mask_K1Z
        by_place_KBzP = value.view(*x_KBD.shape[:2], self.places, -1).mT
        if self.shape.may_miss and self.configs[0].latent == "step":
            step_T = torch.arange(self.places, device=x_KBD.device)
            sequence_KBTF = x_KBD[..., : self.shape.features].reshape(*x_KBD.shape[:2], self.places, -1)
            by_place_KBzP = by_place_KBzP * (step_T < lengths_of(sequence_KBTF)[:, :, None, None])
        return by_place_KBzP.flatten(2) * mask_K1Z

    def told(self, indicator_NC: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """What `encode` is told of the labels of training rows, (N, ...), and of no others; None for nothing.

        Args:
            indicator_NC: The labels' indicators.
        """
        return None

    def corrupt(self, x_KBD: Tensor, noise_KBD: Tensor) -> Tensor:
        """Corrupt x by standard normal noise; training encodes the result in place of x."""
        return x_KBD

    def encode(self, x_KBD: Tensor, condition_KBC: Tensor | None) -> Draw:
        """Encode a minibatch once; the result gives any number of draws of its codes."""
        raise NotImplementedError

    def code(self, x_KBD: Tensor, condition_KBC: Tensor | None, noise_KBZ: Tensor | None) -> Code:
        """One draw of a minibatch's codes, or the posterior mode if the noise is None."""
        return self.encode(x_KBD, condition_KBC)(noise_KBZ)

    def decode(self, z_KBZ: Tensor, condition_KBC: Tensor | None = None) -> Tensor:
        """The parameters of p(x|z) as the likelihood takes them, (K, B, E)."""
        decoded: Tensor = self.decoder(z_KBZ)
        return decoded

    def fit(self, reconstruction_K: Tensor, decoded: Decoded) -> tuple[Tensor, Tensor | None]:
        """What the loss has because a reconstruction is not x, nats per example, (K,): all of it but the code's part.

        Args:
            reconstruction_K: -log p(x|z), nats per example.
            decoded: The minibatch that it is of.

        Returns:
            The loss, and each of `own_terms`, (K, L); None for a family that has none.
        """
        if self.dissimilarity_K is None:
            return reconstruction_K, None
        assert self.shape.image is not None, "the config refuses it where there are no pixels"
        pair = (decoded.x_KBD, self.likelihood.mean(decoded.decoded_KBE))
        similarity_KB = ms_ssim(*(one.reshape(-1, *self.shape.image) for one in pair)).view(decoded.x_KBD.shape[:2])
        weighted_K = self.dissimilarity_K.to(similarity_KB) * (1 - similarity_KB).mean(dim=1)
        return reconstruction_K + weighted_K, None

    def prior(self, noise_KBZ: Tensor) -> Tensor | None:
        """Codes drawn from the prior by standard normal noise, (K, B, Z); None for a family without a prior."""
        return noise_KBZ * self.code_mask_KZ[:, None]

    def noise(self, steps: int, rows: int, generators_K: Generators) -> Tensor:
        """Standard normal noise for draws of codes, (S, K, rows, Z); 0 where a model has no dimension."""
        return self._scatter(self.noise_sizes_K, steps, rows, generators_K)

    def prior_noise(self, rows: int, generators_K: Generators) -> Tensor:
        """Standard normal noise for draws from the prior, (K, rows, Z); 0 where a model has no dimension."""
        return self._scatter([_size(parts) for parts in self.code_parts_K], 1, rows, generators_K)[0]

    def _scatter(self, sizes_K: Sequence[int], steps: int, rows: int, generators_K: Generators) -> Tensor:
        like = self.code_mask_KZ
        noise_SKBZ = like.new_zeros(steps, len(like), rows, like.shape[1])
        for k, (size, generator) in enumerate(zip(sizes_K, generators_K, strict=True)):
            if size:
                draws = torch.randn((steps, rows, size), generator=generator, device=like.device, dtype=like.dtype)
                start = 0
                for part in self.code_parts_K[k]:
                    end = start + part.stop - part.start
                    noise_SKBZ[:, k, :, part] = draws[..., start:end]
                    start = end
        return noise_SKBZ

    def parameters_to_measure(self) -> Tensor:
        """What `split_metrics` takes of the parameters, (K, ...); nothing by default."""
        return self.code_mask_KZ[:, :0]

    def split_metrics(self, z_NZ: NDArray[np.float64], own: NDArray[np.float64]) -> dict[str, float]:
        """Metrics that only this family has.

        Args:
            z_NZ: One model's posterior modes on a split.
            own: Its part of `parameters_to_measure`.
        """
        return {}


def places_of(configs: Sequence[ModelConfig], shape: DataShape) -> int:
    """How many codes an example has: one for each step, or each place of the smallest maps, else 1."""
    if configs[0].latent == "step" and shape.sequence is not None:
        return shape.sequence[0]
    if configs[0].latent == "map" and shape.image is not None:
        return math.prod(map_sizes(shape.image, configs[0].network)[-1])
    return 1


def _parts_of(mask_Z: Sequence[float]) -> tuple[slice, ...]:
    """The slices of a mask in which it is 1."""
    edges = np.flatnonzero(np.diff([0, *mask_Z, 0])).tolist()
    return tuple(slice(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True))


def _size(parts: Sequence[slice]) -> int:
    return sum(part.stop - part.start for part in parts)


def size_mask(sizes_K: Sequence[int]) -> Tensor:
    """1 in the first sizes_K[k] of the largest size's columns, shape (K, Z)."""
    return (torch.arange(max(sizes_K)) < torch.tensor(sizes_K)[:, None]).float()


def log_normal_ratio(z_KBZ: Tensor, noise_KBZ: Tensor, log_variance_KBZ: Tensor) -> Tensor:
    """Log N(z; 0, 1) - log q(z) of z = mean + sigma * noise, nats, (K, B); 0 where noise, z and log variance are 0."""
    return 0.5 * (noise_KBZ.square() + log_variance_KBZ - z_KBZ.square()).sum(dim=2)


def gaussian_kl(
    mean_KBZ: Tensor,
    log_variance_KBZ: Tensor,
    prior_mean: Tensor | float = 0.0,
    prior_log_variance: Tensor | float = 0.0,
) -> Tensor:
    """KL of one normal distribution to another, by default the standard one, for each latent dimension.

    Returns:
        0.5 ((mean - m)^2 / v + variance / v - log(variance / v) - 1), nats, shape (K, B, Z); never negative (Kingma and
        Welling 2014, appendix B, where m = 0 and v = 1).
    """
    log_ratio_KBZ = log_variance_KBZ - prior_log_variance
    scale = torch.exp(-torch.as_tensor(prior_log_variance))
    # expm1: where the two distributions are nearly one, exp(x) - x - 1 is rounding, and may be negative.
    return 0.5 * ((mean_KBZ - prior_mean).square() * scale + (torch.expm1(log_ratio_KBZ) - log_ratio_KBZ))

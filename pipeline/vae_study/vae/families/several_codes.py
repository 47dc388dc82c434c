"""Families whose code has several parts: two levels of latent variables, or discrete codes from a codebook."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vae_study.config.model import ModelConfig
from vae_study.vae.families.base import Code, Draw, Family, gaussian_kl, size_mask
from vae_study.vae.networks import DataShape, make_encoder
from vae_study.vae.networks.layers import Generators, StackedBatchNorm, StackedLinear, StackedMLP


class Normal(NamedTuple):
    """A diagonal normal distribution of K models, 0 in dimensions that a model does not have."""

    mean_KBZ: Tensor
    log_variance_KBZ: Tensor

    def at(self, noise_KBZ: Tensor) -> Tensor:
        """Mean + sigma * noise."""
        return self.mean_KBZ + (0.5 * self.log_variance_KBZ).exp() * noise_KBZ

    def log_density(self, z_KBZ: Tensor) -> Tensor:
        """The log density without its constant, nats, summed over dimensions: (K, B)."""
        scaled = (z_KBZ - self.mean_KBZ).square() * (-self.log_variance_KBZ).exp()
        return -0.5 * (scaled + self.log_variance_KBZ).sum(dim=2)

    def kl(self, prior: "Normal") -> Tensor:
        """KL to another, nats, (K, B, Z)."""
        return gaussian_kl(*self, *prior)


class NormalHead(torch.nn.Module):
    """Two linear layers that give a Normal."""

    mask_K1Z: Tensor

    def __init__(self, inputs_K: Sequence[int], latent_K: Sequence[int], generators_K: Generators):
        super().__init__()
        self.mean = StackedLinear(inputs_K, latent_K, generators_K)
        self.log_variance = StackedLinear(inputs_K, latent_K, generators_K)
        self.register_buffer("mask_K1Z", size_mask(latent_K)[:, None], persistent=False)

    def forward(self, x_KBI: Tensor) -> Normal:
        """The distribution whose parameters are computed from (K, B, I)."""
        return Normal(self.mean(x_KBI) * self.mask_K1Z, self.log_variance(x_KBI) * self.mask_K1Z)


class Hierarchical(Family):
    """z1 has half of the latent size, rounded up; z2 has the rest, at least 1. The rates of both add up."""

    order_K1Z: Tensor

    def __init__(self, configs: Sequence[ModelConfig], shape: DataShape, generators_K: Generators):
        first_K = [(config.latent_dim + 1) // 2 for config in configs]
        second_K = [max(1, config.latent_dim // 2) for config in configs]
        mask_KZ = torch.cat([size_mask(first_K), size_mask(second_K)], dim=1)
        super().__init__(configs, shape, generators_K, mask_KZ)
        self.first, models = max(first_K), len(configs)
        self.encoder, width = make_encoder(shape, 0, self.network, generators_K)
        self.first_posterior = NormalHead([width] * models, first_K, generators_K)
        joined_K = [width + size for size in first_K]
        self.second_hidden = StackedMLP([joined_K, [width] * models], self.network, generators_K, activate_last=True)
        self.second_posterior = NormalHead([width] * models, second_K, generators_K)
        self.prior_hidden = StackedMLP([first_K, [width] * models], self.network, generators_K, activate_last=True)
        self.second_prior = NormalHead([width] * models, second_K, generators_K)
        order_KZ = torch.argsort(mask_KZ, dim=1, descending=True, stable=True)
        self.register_buffer("order_K1Z", order_KZ[:, None], persistent=False)
        self._add_decoder(generators_K)

    def encode(self, x_KBD: Tensor, condition_KBC: Tensor | None) -> Draw:
        """Draws of both levels; the mode is the mean of z1, and the mean of z2 given that z1."""
        hidden = self.encoder(x_KBD)
        first = self.first_posterior(hidden)
        return lambda noise_KBZ: self._draw(hidden, first, noise_KBZ)

    def _draw(self, hidden: Tensor, first: Normal, noise_KBZ: Tensor | None) -> Code:
        if noise_KBZ is None:
            noise_KBZ = hidden.new_zeros(*hidden.shape[:2], self.code_mask_KZ.shape[1])
        z1_KBZ = first.at(noise_KBZ[..., : self.first])
        second = self.second_posterior(self.second_hidden(torch.cat([hidden, z1_KBZ], dim=2)))
        z2_KBZ = second.at(noise_KBZ[..., self.first :])
        prior = self.second_prior(self.prior_hidden(z1_KBZ))
        rate_KBZ = torch.cat([gaussian_kl(*first), second.kl(prior)], dim=2)
        posterior_KB = first.log_density(z1_KBZ) + second.log_density(z2_KBZ)
        prior_KB = -0.5 * z1_KBZ.square().sum(dim=2) + prior.log_density(z2_KBZ)
        return Code(torch.cat([z1_KBZ, z2_KBZ], dim=2), rate_KBZ, prior_KB - posterior_KB)

    def decode(self, z_KBZ: Tensor, condition_KBC: Tensor | None = None) -> Tensor:
        """The parameters of p(x|z1, z2) as the likelihood takes them, (K, B, E)."""
        # A model's own two codes go to the front, as its decoder expects them; the padding goes to the end.
        decoded: Tensor = self.decoder(torch.gather(z_KBZ, 2, self.order_K1Z.expand_as(z_KBZ)))
        return decoded

    def prior(self, noise_KBZ: Tensor) -> Tensor:
        """z1 from the standard normal distribution, z2 from p(z2|z1)."""
        z1_KBZ = noise_KBZ[..., : self.first]
        z2_KBZ = self.second_prior(self.prior_hidden(z1_KBZ)).at(noise_KBZ[..., self.first :])
        return torch.cat([z1_KBZ, z2_KBZ], dim=2)


class VectorQuantized(Family):
    """An example has `latent_dim` codes, each one of C entries of `codebook.dim` dimensions; all share one codebook.

    The prior is uniform, so the rate is log C nats for each code, whatever x. The gradient passes straight through.
    """

    def __init__(self, configs: Sequence[ModelConfig], shape: DataShape, generators_K: Generators):
        codes_K = [config.latent_dim for config in configs]
        book = configs[0].codebook
        self.entries, self.dim = book.size, book.dim
        rate_mask_KR = size_mask(codes_K)
        super().__init__(configs, shape, generators_K, rate_mask_KR.repeat_interleave(book.dim, dim=1), rate_mask_KR)
        self.noise_sizes_K = [0] * len(configs)
        self.encoder, width = make_encoder(shape, 0, self.network, generators_K)
        self.to_code = StackedLinear(
            [width] * len(configs), [codes * book.dim for codes in codes_K], generators_K, bias=False
        )
        # Codes of the codebook's own scale keep its entries in use (Łańcucki et al. 2020).
        self.norm = StackedBatchNorm(len(configs), max(codes_K) * book.dim, affine=False)
        entries = [torch.randn(book.size, book.dim, generator=generator) for generator in generators_K]
        self.codebook_KCd = nn.Parameter(torch.stack(entries))
        self._add_decoder(generators_K)

    def nearest(self, continuous_KBZ: Tensor) -> Tensor:
        """The entry nearest to each code, (K, B, R)."""
        models, rows, _ = continuous_KBZ.shape
        codes_KNd = continuous_KBZ.reshape(models, -1, self.dim)
        distance_KNC = torch.cdist(codes_KNd, self.codebook_KCd, compute_mode="donot_use_mm_for_euclid_dist")
        return distance_KNC.argmin(dim=2).view(models, rows, -1)

    def encode(self, x_KBD: Tensor, condition_KBC: Tensor | None) -> Draw:
        """The nearest entries, whatever the noise; in training also the codebook loss and the commitment loss."""
        # The nearest entry is told in full precision.
        own_KBZ = self.to_code(self.encoder(x_KBD)).to(x_KBD.dtype)
        continuous_KBZ = self.norm(own_KBZ.transpose(0, 1)).transpose(0, 1)
        index_KBR = self.nearest(continuous_KBZ.detach())
        model_K11 = torch.arange(len(index_KBR), device=index_KBR.device)[:, None, None]
        chosen_KBZ = self.codebook_KCd[model_K11, index_KBR].flatten(2)
        mask_K1Z, mask_K1R = self.code_mask_KZ[:, None], self.rate_mask_KR[:, None]
        commitment = self.configs[0].codebook.commitment
        book_KB = ((chosen_KBZ - continuous_KBZ.detach()).square() * mask_K1Z).sum(dim=2)
        commitment_KB = ((chosen_KBZ.detach() - continuous_KBZ).square() * mask_K1Z).sum(dim=2)
        straight_KBZ = continuous_KBZ + (chosen_KBZ - continuous_KBZ).detach()
        rate_KBR = (math.log(self.entries) * mask_K1R).expand(-1, x_KBD.shape[1], -1)
        code = Code(
            straight_KBZ * mask_K1Z,
            rate_KBR,
            -rate_KBR.sum(dim=2),
            auxiliary_K=(book_KB + commitment * commitment_KB).mean(dim=1),
        )
        return lambda noise_KBZ: code

    def prior(self, noise_KBZ: Tensor) -> Tensor:
        """Entries drawn uniformly: the rank of a normal number among all is uniform."""
        uniform_KBR = torch.special.ndtr(noise_KBZ[..., :: self.dim])
        index_KBR = (uniform_KBR * self.entries).long().clamp(max=self.entries - 1)
        model_K11 = torch.arange(len(index_KBR), device=index_KBR.device)[:, None, None]
        return self.codebook_KCd[model_K11, index_KBR].flatten(2) * self.code_mask_KZ[:, None]

    def parameters_to_measure(self) -> Tensor:
        """The codebooks."""
        return self.codebook_KCd.detach()

    def split_metrics(self, z_NZ: NDArray[np.float64], own: NDArray[np.float64]) -> dict[str, float]:
        """`perplexity`: exp of the entropy of the entries' usage, from 1 to the codebook's size."""
        codes_Nd, book_Cd = torch.as_tensor(z_NZ).reshape(-1, self.dim), torch.as_tensor(own)
        used_C = torch.bincount(torch.cdist(codes_Nd, book_Cd).argmin(dim=1), minlength=self.entries).double()
        share_C = used_C / used_C.sum()
        return {"perplexity": float(torch.exp(torch.special.entr(share_C).sum()))}

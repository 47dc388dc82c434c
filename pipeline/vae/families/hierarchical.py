"""Two levels of codes: z1 ~ p(z1), z2 ~ p(z2|z1), x ~ p(x|z1, z2) (as in Sønderby et al. 2016, with two levels)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.spec.trial import ModelSpec
from pipeline.vae.coders import make_encoder
from pipeline.vae.families.base import Code, Draw, Family, size_mask
from pipeline.vae.networks import Generators, StackedLinear, StackedMLP
from pipeline.vae.objective import gaussian_kl
from pipeline.vae.shape import DataShape


class Normal:
    """A diagonal normal distribution of K members, 0 in dimensions that a member does not have."""

    def __init__(self, mean_KBZ: Tensor, log_variance_KBZ: Tensor):
        self.mean_KBZ, self.log_variance_KBZ = mean_KBZ, log_variance_KBZ

    def at(self, noise_KBZ: Tensor) -> Tensor:
        """Mean + sigma * noise."""
        return self.mean_KBZ + (0.5 * self.log_variance_KBZ).exp() * noise_KBZ

    def log_density(self, z_KBZ: Tensor) -> Tensor:
        """The log density but for its constant, nats, summed over dimensions: (K, B)."""
        scaled = (z_KBZ - self.mean_KBZ).square() * (-self.log_variance_KBZ).exp()
        return -0.5 * (scaled + self.log_variance_KBZ).sum(dim=2)

    def kl(self, prior: "Normal") -> Tensor:
        """KL to another, nats, (K, B, Z)."""
        return gaussian_kl(self.mean_KBZ, self.log_variance_KBZ, prior.mean_KBZ, prior.log_variance_KBZ)


class NormalHead(torch.nn.Module):
    """Two linear layers that give a Normal."""

    mask_K1Z: Tensor

    def __init__(self, inputs_K: Sequence[int], latent_K: Sequence[int], generators_K: Generators):
        super().__init__()
        self.mean = StackedLinear(inputs_K, latent_K, generators_K)
        self.log_variance = StackedLinear(inputs_K, latent_K, generators_K)
        self.register_buffer("mask_K1Z", size_mask(latent_K)[:, None], persistent=False)

    def forward(self, x_KBI: Tensor) -> Normal:
        """The Normal that (K, B, I) stands for."""
        return Normal(self.mean(x_KBI) * self.mask_K1Z, self.log_variance(x_KBI) * self.mask_K1Z)


class Hierarchical(Family):
    """The latent size is shared out: half, rounded up, for z1, the rest (at least 1) for z2; rates add up."""

    order_K1Z: Tensor

    def __init__(self, models: Sequence[ModelSpec], shape: DataShape, generators_K: Generators):
        first_K = [(model.latent_dim + 1) // 2 for model in models]
        second_K = [max(1, model.latent_dim // 2) for model in models]
        mask_KZ = torch.cat([size_mask(first_K), size_mask(second_K)], dim=1)
        super().__init__(models, shape, generators_K, mask_KZ)
        self.first, members = max(first_K), len(models)
        self.encoder, width = make_encoder(shape, 0, self.network, generators_K)
        self.first_posterior = NormalHead([width] * members, first_K, generators_K)
        joined_K = [width + size for size in first_K]
        self.second_hidden = StackedMLP([joined_K, [width] * members], self.network, generators_K, activate_last=True)
        self.second_posterior = NormalHead([width] * members, second_K, generators_K)
        self.prior_hidden = StackedMLP([first_K, [width] * members], self.network, generators_K, activate_last=True)
        self.second_prior = NormalHead([width] * members, second_K, generators_K)
        order_KZ = torch.argsort(mask_KZ, dim=1, descending=True, stable=True)
        self.register_buffer("order_K1Z", order_KZ[:, None], persistent=False)
        self._add_decoder(generators_K)

    def encode(self, x_KBD: Tensor, condition_KBC: Tensor | None) -> Draw:
        """Draws of both levels, or the means: of z1, and of z2 given that z1."""
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
        rate_KBZ = torch.cat([gaussian_kl(first.mean_KBZ, first.log_variance_KBZ), second.kl(prior)], dim=2)
        posterior_KB = first.log_density(z1_KBZ) + second.log_density(z2_KBZ)
        prior_KB = -0.5 * z1_KBZ.square().sum(dim=2) + prior.log_density(z2_KBZ)
        return Code(torch.cat([z1_KBZ, z2_KBZ], dim=2), rate_KBZ, prior_KB - posterior_KB)

    def decode(self, z_KBZ: Tensor, condition_KBC: Tensor | None = None) -> Tensor:
        """What the likelihood takes for p(x|z1, z2), shape (K, B, E)."""
        # A member's own two codes go side by side to the front, as its decoder has them; padding goes behind.
        decoded: Tensor = self.decoder(torch.gather(z_KBZ, 2, self.order_K1Z.expand_as(z_KBZ)))
        return decoded

    def prior(self, noise_KBZ: Tensor) -> Tensor:
        """z1 from the standard normal distribution, z2 from p(z2|z1)."""
        z1_KBZ = noise_KBZ[..., : self.first]
        z2_KBZ = self.second_prior(self.prior_hidden(z1_KBZ)).at(noise_KBZ[..., self.first :])
        return torch.cat([z1_KBZ, z2_KBZ], dim=2)

"""Families with one code: the VAE and those that differ from it by an option."""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from pipeline.spec.trial import ModelSpec
from pipeline.vae.coders import make_encoder
from pipeline.vae.families.base import Code, Draw, Family, log_normal_ratio, size_mask
from pipeline.vae.networks import Generators, StackedLinear
from pipeline.vae.objective import gaussian_kl
from pipeline.vae.shape import DataShape


class VAE(Family):
    """q(z|x) is a diagonal normal distribution (Kingma and Welling 2014); beta other than 1: Higgins et al. 2017."""

    def __init__(self, models: Sequence[ModelSpec], shape: DataShape, generators_K: Generators):
        latent_K = [model.latent_dim for model in models]
        super().__init__(models, shape, generators_K, size_mask(latent_K))
        extra = shape.classes if self.is_conditional else 0
        self.encoder, width = make_encoder(shape, extra, self.network, generators_K)
        hidden_K = [width] * len(models)
        self.mean = StackedLinear(hidden_K, latent_K, generators_K)
        self.log_variance = StackedLinear(hidden_K, latent_K, generators_K)
        self._add_decoder(generators_K)

    def posterior(self, x_KBD: Tensor, condition_KBC: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z|x), each (K, B, Z); 0 in dimensions that a member does not have."""
        hidden = self.encoder(with_condition(x_KBD, condition_KBC))
        mask_K1Z = self.code_mask_KZ[:, None]
        return self.mean(hidden) * mask_K1Z, self.log_variance(hidden) * mask_K1Z

    def encode(self, x_KBD: Tensor, condition_KBC: Tensor | None) -> Draw:
        """Draws by the reparameterization trick, or the posterior mean."""
        mean_KBZ, log_variance_KBZ = self.posterior(x_KBD, condition_KBC)
        rate_KBZ = gaussian_kl(mean_KBZ, log_variance_KBZ)
        sigma_KBZ = cache(lambda: (0.5 * log_variance_KBZ).exp())

        def draw(noise_KBZ: Tensor | None) -> Code:
            if noise_KBZ is None:
                return Code(mean_KBZ, rate_KBZ)
            z_KBZ = mean_KBZ + sigma_KBZ() * noise_KBZ
            return Code(z_KBZ, rate_KBZ, log_normal_ratio(z_KBZ, noise_KBZ, log_variance_KBZ))

        return draw


class PointCode(Family):
    """A deterministic code: the autoencoder. A real number without noise has no rate, and there is no prior."""

    def __init__(self, models: Sequence[ModelSpec], shape: DataShape, generators_K: Generators):
        latent_K = [model.latent_dim for model in models]
        super().__init__(models, shape, generators_K, size_mask(latent_K))
        self.noise_sizes_K = [0] * len(models)
        self.encoder, width = make_encoder(shape, 0, self.network, generators_K)
        self.mean = StackedLinear([width] * len(models), latent_K, generators_K)
        self._add_decoder(generators_K)

    def encode(self, x_KBD: Tensor, condition_KBC: Tensor | None) -> Draw:
        """The code itself, whatever the noise."""
        z_KBZ = self.mean(self.encoder(x_KBD)) * self.code_mask_KZ[:, None]
        code = Code(z_KBZ, torch.zeros_like(z_KBZ), torch.zeros_like(z_KBZ[..., 0]))
        return lambda noise_KBZ: code

    def prior(self, noise_KBZ: Tensor) -> Tensor | None:
        """None: any code would be made up."""
        return None


class Conditional(VAE):
    """q(z|x, y) and p(x|z, y) with y the label (Sohn et al. 2015); a label unseen in training is no label at all."""

    is_conditional = True

    def decode(self, z_KBZ: Tensor, condition_KBC: Tensor | None = None) -> Tensor:
        """What the likelihood takes for p(x|z, y), shape (K, B, E)."""
        if condition_KBC is None:
            condition_KBC = z_KBZ.new_zeros(self.shape.classes)
        # The condition first: the padding of a smaller code has to stay behind.
        condition_KBC = condition_KBC.expand(*z_KBZ.shape[:2], -1)
        decoded: Tensor = self.decoder(torch.cat([condition_KBC, z_KBZ], dim=-1))
        return decoded


class _Denoising(Family):
    """Encodes a corrupted x and reconstructs the clean one (Vincent et al. 2008)."""

    corrupts = True

    def corrupt(self, x_KBD: Tensor, noise_KBD: Tensor) -> Tensor:
        """Mask a share of the features, or add normal noise."""
        level_K11 = x_KBD.new_tensor([model.corruption.level for model in self.models]).view(-1, 1, 1)
        if self.models[0].corruption.kind == "gaussian":
            return x_KBD + level_K11 * noise_KBD
        kept_KBD: Tensor = torch.special.ndtr(noise_KBD) >= level_K11
        return x_KBD * kept_KBD


class DenoisingVAE(_Denoising, VAE):
    """A denoising VAE (Im et al. 2017)."""


class DenoisingAutoencoder(_Denoising, PointCode):
    """A denoising autoencoder."""


def make_denoising(models: Sequence[ModelSpec], shape: DataShape, generators_K: Generators) -> Family:
    """The denoising family with the code that the spec asks for."""
    if models[0].code == "gaussian":
        return DenoisingVAE(models, shape, generators_K)
    return DenoisingAutoencoder(models, shape, generators_K)


def with_condition(x_KBD: Tensor, condition_KBC: Tensor | None) -> Tensor:
    """X and the condition side by side."""
    return x_KBD if condition_KBC is None else torch.cat([x_KBD, condition_KBC.expand(*x_KBD.shape[:2], -1)], dim=-1)

"""Families with one continuous code: VAE, conditional VAE, adversarial autoencoder, plain and denoising autoencoder."""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from vae_study.config.model import ModelConfig
from vae_study.vae.families.base import (
    Code,
    Draw,
    Family,
    Posteriors,
    gaussian_kl,
    log_normal_ratio,
    places_of,
    size_mask,
)
from vae_study.vae.networks import DataShape, make_encoder
from vae_study.vae.networks.layers import Generators, StackedLinear, StackedMLP


def _code_mask(configs: Sequence[ModelConfig], shape: DataShape) -> Tensor:
    places = places_of(configs, shape)
    return size_mask([config.latent_dim * places for config in configs])


class VAE(Family):
    """q(z|x) is a diagonal normal distribution (Kingma and Welling 2014); beta other than 1: Higgins et al. 2017."""

    def __init__(self, configs: Sequence[ModelConfig], shape: DataShape, generators_K: Generators):
        latent_K = [config.latent_dim for config in configs]
        super().__init__(configs, shape, generators_K, _code_mask(configs, shape))
        extra = shape.classes if self.is_conditional else 0
        self.encoder, width = make_encoder(shape, extra, self.network, generators_K, self.is_by_place)
        hidden_K = [width] * len(configs)
        self.mean = StackedLinear(hidden_K, latent_K, generators_K)
        self.log_variance = StackedLinear(hidden_K, latent_K, generators_K)
        self._add_decoder(generators_K)

    def posterior(self, x_KBD: Tensor, condition_KBC: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and log variance of q(z|x), each (K, B, Z); 0 in dimensions that a model does not have."""
        if condition_KBC is not None:
            x_KBD = torch.cat([x_KBD, condition_KBC.expand(*x_KBD.shape[:2], -1)], dim=-1)
        hidden = self.encoder(x_KBD)
        return self._coded(self.mean(hidden), x_KBD), self._coded(self.log_variance(hidden), x_KBD)

    def encode(self, x_KBD: Tensor, condition_KBC: Tensor | None) -> Draw:
        """Draws by the reparameterization trick; the mode is the mean."""
        mean_KBZ, log_variance_KBZ = self.posterior(x_KBD, condition_KBC)
        rate_KBZ = gaussian_kl(mean_KBZ, log_variance_KBZ)
        sigma_KBZ = cache(lambda: (0.5 * log_variance_KBZ).exp())

        def draw(noise_KBZ: Tensor | None) -> Code:
            if noise_KBZ is None:
                return Code(mean_KBZ, rate_KBZ)
            z_KBZ = mean_KBZ + sigma_KBZ() * noise_KBZ
            log_ratio_KB = log_normal_ratio(z_KBZ, noise_KBZ, log_variance_KBZ)
            posteriors = Posteriors(z_KBZ, mean_KBZ, log_variance_KBZ)
            return Code(z_KBZ, rate_KBZ, log_ratio_KB, posteriors=posteriors)

        return draw


class Autoencoder(Family):
    """A deterministic code. A real number without noise has no rate, and there is no prior."""

    def __init__(self, configs: Sequence[ModelConfig], shape: DataShape, generators_K: Generators):
        latent_K = [config.latent_dim for config in configs]
        super().__init__(configs, shape, generators_K, _code_mask(configs, shape))
        self.noise_sizes_K = [0] * len(configs)
        self.encoder, width = make_encoder(shape, 0, self.network, generators_K, self.is_by_place)
        self.mean = StackedLinear([width] * len(configs), latent_K, generators_K)
        self._add_decoder(generators_K)

    def encode(self, x_KBD: Tensor, condition_KBC: Tensor | None) -> Draw:
        """The code itself, whatever the noise."""
        z_KBZ = self._coded(self.mean(self.encoder(x_KBD)), x_KBD)
        code = Code(z_KBZ, torch.zeros_like(z_KBZ), torch.zeros_like(z_KBZ[..., 0]))
        return lambda noise_KBZ: code

    def prior(self, noise_KBZ: Tensor) -> Tensor | None:
        """None: the family has no prior."""
        return None


class Conditional(VAE):
    """q(z|x, y) and p(x|z, y) with y the label (Sohn et al. 2015); labels unseen in training count as no label."""

    is_conditional = True

    def decode(self, z_KBZ: Tensor, condition_KBC: Tensor | None = None) -> Tensor:
        """The parameters of p(x|z, y) as the likelihood takes them, (K, B, E)."""
        if condition_KBC is None:
            condition_KBC = z_KBZ.new_zeros(self.shape.classes)
        # The condition goes in front, so that the padding of a smaller code is at the end.
        condition_KBC = condition_KBC.expand(*z_KBZ.shape[:2], -1)
        decoded: Tensor = self.decoder(torch.cat([condition_KBC, z_KBZ], dim=-1))
        return decoded


class _Denoising(Family):
    """Encodes a corrupted x and reconstructs the clean one (Vincent et al. 2008)."""

    corrupts = True
    level_K11: Tensor

    def __init__(self, configs: Sequence[ModelConfig], shape: DataShape, generators_K: Generators):
        super().__init__(configs, shape, generators_K)  # type: ignore[call-arg]
        level_K = torch.tensor([config.corruption.level for config in configs], dtype=torch.float64)
        self.register_buffer("level_K11", level_K[:, None, None], persistent=False)

    def corrupt(self, x_KBD: Tensor, noise_KBD: Tensor) -> Tensor:
        """Set a share of the features to 0, or add normal noise."""
        if self.configs[0].corruption.kind == "gaussian":
            return x_KBD + self.level_K11 * noise_KBD
        kept_KBD: Tensor = torch.special.ndtr(noise_KBD) >= self.level_K11
        return x_KBD * kept_KBD


class DenoisingVAE(_Denoising, VAE):
    """A denoising VAE (Im et al. 2017)."""


class DenoisingAutoencoder(_Denoising, Autoencoder):
    """A denoising autoencoder."""


class Adversarial(VAE):
    """An adversarial autoencoder (Makhzani et al. 2015): a discriminator pulls the aggregate posterior to the prior.

    q(z|x) is that of the VAE. In the loss the discriminator takes the place of the KL, which is still measured.

    One step trains both sides: the discriminator to tell codes from draws of the prior, and the encoder, with beta as
    the weight, to have its codes taken for draws of the prior (the non-saturating loss of Goodfellow et al. 2014).
    """

    def __init__(self, configs: Sequence[ModelConfig], shape: DataShape, generators_K: Generators):
        super().__init__(configs, shape, generators_K)
        latent_K, width_K = [config.latent_dim * self.places for config in configs], [128] * len(configs)
        network = self.network.model_copy(update={"batch_norm": False})
        # One output would do, but products with fewer than four are rounded in another way for a model alone.
        widths = [latent_K, width_K, width_K, [4] * len(configs)]
        self.discriminator = StackedMLP(widths, network, generators_K)

    def encode(self, x_KBD: Tensor, condition_KBC: Tensor | None) -> Draw:
        """The codes of the VAE; in training with the encoder's loss as penalty and the discriminator's as auxiliary."""
        draw = super().encode(x_KBD, condition_KBC)
        return lambda noise_KBZ: self._with_discriminator(draw(noise_KBZ), noise_KBZ)

    def _with_discriminator(self, code: Code, noise_KBZ: Tensor | None) -> Code:
        if noise_KBZ is None or not self.training:
            return code
        # The batch's own noise in another order is as good a draw from the prior as fresh noise.
        prior_KBZ = noise_KBZ.roll(1, dims=1)
        real_KB = functional.softplus(-self.discriminator(prior_KBZ)[..., 0].to(prior_KBZ.dtype))
        fake_KB = functional.softplus(self.discriminator(code.z_KBZ.detach())[..., 0].to(prior_KBZ.dtype))
        # The encoder's loss must not train the discriminator.
        fixed = {name: value.detach() for name, value in self.discriminator.named_parameters()}
        seen: Tensor = torch.func.functional_call(self.discriminator, fixed, (code.z_KBZ,))
        penalty_K = functional.softplus(-seen[..., 0].to(prior_KBZ.dtype)).mean(dim=1)
        return code._replace(penalty_K=penalty_K, auxiliary_K=(real_KB + fake_KB).mean(dim=1))

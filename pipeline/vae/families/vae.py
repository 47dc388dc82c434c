"""The variational autoencoder (Kingma and Welling 2014); with beta other than 1 the beta-VAE (Higgins et al. 2017)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.spec.trial import ModelSpec
from pipeline.vae.likelihoods import make_likelihood
from pipeline.vae.networks import StackedLinear, StackedMLP
from pipeline.vae.objective import gaussian_kl


class Posterior(NamedTuple):
    """q(z|x) = N(mean, exp(log_variance)); zero in dimensions that a member does not have."""

    mean_KBZ: Tensor
    log_variance_KBZ: Tensor

    def sample(self, noise_KBZ: Tensor) -> Tensor:
        """Mean + sigma * noise (the reparameterization trick), shape (K, B, Z)."""
        return self.mean_KBZ + (0.5 * self.log_variance_KBZ).exp() * noise_KBZ

    def kl(self) -> Tensor:
        """KL to the prior of each dimension, nats, shape (K, B, Z); 0 in dimensions that a member does not have."""
        return gaussian_kl(self.mean_KBZ, self.log_variance_KBZ)


class VAE(nn.Module):
    """K variational autoencoders with the same hidden widths and likelihood; latent sizes may differ.

    Attributes:
        latent_mask_KZ: 1 where a member has the latent dimension, else 0.
    """

    latent_mask_KZ: Tensor

    def __init__(self, models: Sequence[ModelSpec], features: int, generators_K: Sequence[torch.Generator]):
        super().__init__()
        network, members = models[0].network, len(models)
        latent_K = [model.latent_dim for model in models]
        hidden = [[width] * members for width in network.hidden]
        inputs_K = [features] * members
        self.encoder = StackedMLP([inputs_K, *hidden], network.activation, generators_K, activate_last=True)
        self.mean = StackedLinear(hidden[-1], latent_K, generators_K)
        self.log_variance = StackedLinear(hidden[-1], latent_K, generators_K)
        self.decoder = StackedMLP([latent_K, *hidden[::-1], inputs_K], network.activation, generators_K)
        dimension_Z = torch.arange(max(latent_K))
        mask_KZ = (dimension_Z < torch.tensor(latent_K)[:, None]).to(self.mean.weight_KIO.dtype)
        self.register_buffer("latent_mask_KZ", mask_KZ, persistent=False)
        self.likelihood = make_likelihood(models)

    def encode(self, x_KBD: Tensor) -> Posterior:
        """q(z|x) of a batch (K, B, D)."""
        hidden = self.encoder(x_KBD)
        mask_K1Z = self.latent_mask_KZ[:, None]
        return Posterior(self.mean(hidden) * mask_K1Z, self.log_variance(hidden) * mask_K1Z)

    def decode(self, z_KBZ: Tensor) -> Tensor:
        """What the likelihood takes for p(x|z), shape (K, B, D)."""
        decoded: Tensor = self.decoder(z_KBZ)
        return decoded

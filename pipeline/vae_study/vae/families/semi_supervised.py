"""A family that learns labels, of which it is told some: model M2 of Kingma et al. 2014."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vae_study.config.model import ModelConfig
from vae_study.vae.families.base import Code, Draw, Family, gaussian_kl, log_normal_ratio, size_mask
from vae_study.vae.networks import DataShape, make_encoder
from vae_study.vae.networks.layers import Generators, StackedLinear

# Of a label that is drawn in training. The lower, the closer to one label, and the noisier its gradient.
TEMPERATURE = 0.67
SMALLEST = 1e-6


class SemiSupervised(Family):
    """p(x|y, z) with a label y and a normal z; q(y|x) is a classifier, q(z|x, y) a normal distribution.

    The code is y, as C indicators, and then z. Its rate is the KL of q(y|x) to the uniform distribution, and that of
    each dimension of z. Of a training row whose label is told, y is that label, with a rate of log C, and the loss has
    -log q(y|x) as well. Of all others y is drawn: in training from the relaxed distribution, so that there is a
    gradient without a sum over all labels (Jang et al. 2017), else one whole label. The mode is the likeliest label.

    Measuring and scoring are told no label.
    """

    share_K1: Tensor
    weight_K: Tensor

    def __init__(self, configs: Sequence[ModelConfig], shape: DataShape, generators_K: Generators):
        latent_K, models = [config.latent_dim for config in configs], len(configs)
        mask_KZ = torch.cat([torch.ones(models, shape.classes), size_mask(latent_K)], dim=1)
        rate_mask_KR = torch.cat([torch.ones(models, 1), size_mask(latent_K)], dim=1)
        super().__init__(configs, shape, generators_K, mask_KZ, rate_mask_KR)
        self.classes = self.label_parts = shape.classes
        self.classifier, of_label = make_encoder(shape, 0, self.network, generators_K)
        # More outputs than labels: a number of them that no four divide is rounded in another way for a model alone.
        self.label = StackedLinear([of_label] * models, [-(-self.classes // 4) * 4] * models, generators_K)
        self.encoder, width = make_encoder(shape, self.classes, self.network, generators_K)
        self.mean = StackedLinear([width] * models, latent_K, generators_K)
        self.log_variance = StackedLinear([width] * models, latent_K, generators_K)
        self._add_decoder(generators_K)
        share_K = torch.tensor([config.labels.share for config in configs], dtype=torch.float64)
        self.register_buffer("share_K1", share_K[:, None], persistent=False)
        weight_K = torch.tensor([config.labels.weight for config in configs], dtype=torch.float64)
        self.register_buffer("weight_K", weight_K, persistent=False)

    def told(self, indicator_NC: NDArray[np.float32]) -> NDArray[np.float32]:
        """The labels of training rows as `encode` takes them, (N, C + 1): `label_order` in the last column."""
        return np.column_stack([indicator_NC, label_order(indicator_NC)]).astype(np.float32)

    def encode(self, x_KBD: Tensor, condition_KBC: Tensor | None) -> Draw:
        """Draws of the label and then of z; the mode is the mean of z with the likeliest label.

        Args:
            x_KBD: The minibatch.
            condition_KBC: In training what `told` gives of it; else None.
        """
        logit_KBC = self.label(self.classifier(x_KBD))[..., : self.classes].to(x_KBD.dtype)
        log_label_KBC = logit_KBC.log_softmax(dim=2)

        def draw(noise_KBZ: Tensor | None) -> Code:
            if noise_KBZ is None:
                return self._coded_with(x_KBD, self._likeliest(log_label_KBC), log_label_KBC, None)
            noisy_KBC = log_label_KBC + _gumbel(noise_KBZ[..., : self.classes])
            if not self.training:
                return self._coded_with(x_KBD, self._likeliest(noisy_KBC), log_label_KBC, noise_KBZ)
            label_KBC = (noisy_KBC / TEMPERATURE).softmax(dim=2)
            if condition_KBC is None:
                return self._coded_with(x_KBD, label_KBC, log_label_KBC, noise_KBZ)
            own_KBC, order_KB = condition_KBC[..., :-1], condition_KBC[..., -1]
            is_told_KB = (order_KB < self.share_K1) & (own_KBC.sum(dim=2) > 0)
            label_KBC = torch.where(is_told_KB[..., None], own_KBC, label_KBC)
            code = self._coded_with(x_KBD, label_KBC, log_label_KBC, noise_KBZ)
            rate_KB1 = torch.where(is_told_KB[..., None], math.log(self.classes), code.rate_KBR[..., :1])
            missed_KB = -(own_KBC * log_label_KBC).sum(dim=2) * is_told_KB
            missed_K = missed_KB.sum(dim=1) / is_told_KB.sum(dim=1).clamp(min=1)
            rate_KBR = torch.cat([rate_KB1, code.rate_KBR[..., 1:]], dim=2)
            return code._replace(rate_KBR=rate_KBR, auxiliary_K=self.weight_K * missed_K)

        return draw

    def _coded_with(self, x_KBD: Tensor, label_KBC: Tensor, log_label_KBC: Tensor, noise_KBZ: Tensor | None) -> Code:
        """The code with this label, and its rate; without noise, z is its mean."""
        hidden = self.encoder(torch.cat([x_KBD, label_KBC], dim=2))
        mask_K1Z = self.code_mask_KZ[:, None, self.classes :]
        mean_KBZ, log_variance_KBZ = self.mean(hidden) * mask_K1Z, self.log_variance(hidden) * mask_K1Z
        label_rate_KB1 = math.log(self.classes) + (log_label_KBC.exp() * log_label_KBC).sum(dim=2, keepdim=True)
        # Rounding may leave a little less than 0.
        rate_KBR = torch.cat([label_rate_KB1.clamp(min=0), gaussian_kl(mean_KBZ, log_variance_KBZ)], dim=2)
        if noise_KBZ is None:
            return Code(torch.cat([label_KBC, mean_KBZ], dim=2), rate_KBR)
        own_KBZ = noise_KBZ[..., self.classes :]
        z_KBZ = mean_KBZ + (0.5 * log_variance_KBZ).exp() * own_KBZ
        label_ratio_KB = -math.log(self.classes) - (label_KBC * log_label_KBC).sum(dim=2)
        log_ratio_KB = label_ratio_KB + log_normal_ratio(z_KBZ, own_KBZ, log_variance_KBZ)
        return Code(torch.cat([label_KBC, z_KBZ], dim=2), rate_KBR, log_ratio_KB)

    def _likeliest(self, value_KBC: Tensor) -> Tensor:
        """1 for the label with the largest value, else 0."""
        places_C = torch.arange(self.classes, device=value_KBC.device)
        return (value_KBC.argmax(dim=2, keepdim=True) == places_C).to(value_KBC.dtype)

    def prior(self, noise_KBZ: Tensor) -> Tensor | None:
        """Each label as likely as any other, and z from the standard normal distribution."""
        label_KBC = self._likeliest(_gumbel(noise_KBZ[..., : self.classes]))
        z_KBZ = noise_KBZ[..., self.classes :] * self.code_mask_KZ[:, None, self.classes :]
        return torch.cat([label_KBC, z_KBZ], dim=2)


def label_order(indicator_NC: NDArray[np.float32]) -> NDArray[np.float64]:
    """Where each row comes among those of its label, in a random order that is always the same: from 0 to below 1.

    Rows below a share are told: this share of each label and one of it at least. Those of a smaller share are among
    those of a larger one.
    """
    order_N = np.random.default_rng(0).permutation(len(indicator_NC))
    found_N = np.ones(len(indicator_NC))
    for label_N in indicator_NC.T:
        own = order_N[label_N[order_N] > 0]
        found_N[own] = np.arange(len(own)) / max(len(own), 1)
    return found_N


def _gumbel(noise_KBC: Tensor) -> Tensor:
    """Numbers of the standard Gumbel distribution, by way of their ranks among standard normal ones."""
    uniform_KBC: Tensor = torch.special.ndtr(noise_KBC).clamp(SMALLEST, 1 - SMALLEST)
    return -(-uniform_KBC.log()).log()

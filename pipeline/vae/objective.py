"""The loss that training minimizes. All terms are nats per example: summed over dimensions, averaged over examples."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.spec.trial import ObjectiveSpec


def gaussian_kl(mean_KBZ: Tensor, log_variance_KBZ: Tensor) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)) of each latent dimension (Kingma and Welling 2014, appendix B).

    Returns:
        0.5 (mean^2 + variance - log variance - 1), nats, shape (K, B, Z); never negative.
    """
    return 0.5 * (mean_KBZ.square() + log_variance_KBZ.exp() - log_variance_KBZ - 1)


class Objective:
    """beta and free bits of K members, ready to be applied to all of them at once."""

    def __init__(self, members: Sequence[ObjectiveSpec], like: Tensor):
        kinds = [member.free_bits.kind for member in members]
        self.beta_K = like.new_tensor([member.beta for member in members])
        self.nats_K = like.new_tensor([member.free_bits.nats for member in members])
        self.floors_total_K = torch.tensor([kind == "total" for kind in kinds], device=like.device)
        self.floors_each_K = torch.tensor([kind == "per_dimension" for kind in kinds], device=like.device)

    def penalized_kl(self, kl_KZ: Tensor, latent_mask_KZ: Tensor) -> Tensor:
        """KL' with free bits (Kingma et al. 2016, appendix C8), nats per example, shape (K,).

        `none`: the KL. `total`: max(nats, KL). `per_dimension`: the sum over dimensions of max(nats, KL_j). A floor
        holds for the mean over the batch, so that single examples may stay below it.

        Args:
            kl_KZ: KL of each latent dimension averaged over the batch; 0 where a member has no such dimension.
            latent_mask_KZ: 1 where a member has the dimension, else 0.
        """
        total_K = kl_KZ.sum(dim=1)
        each_K = (torch.maximum(kl_KZ, self.nats_K[:, None]) * latent_mask_KZ).sum(dim=1)
        floored_K = torch.where(self.floors_total_K, torch.maximum(total_K, self.nats_K), total_K)
        return torch.where(self.floors_each_K, each_K, floored_K)

    def loss(self, reconstruction_K: Tensor, penalized_kl_K: Tensor, weight_K: Tensor) -> Tensor:
        """Reconstruction + beta * weight(t) * KL' of each member, nats per example, shape (K,)."""
        return reconstruction_K + self.beta_K * weight_K * penalized_kl_K

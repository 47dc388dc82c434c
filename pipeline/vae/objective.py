"""The loss that training minimizes. All terms are nats per example: summed over dimensions, averaged over examples."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.spec.trial import ObjectiveSpec

# Of the augmented Lagrangian: how fast the multiplier follows the violation, and how stiff the spring beside it is.
ASCENT_PER_NAT, STIFFNESS_PER_NAT = 0.02, 0.5


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


class Objective:
    """beta, free bits, constraints and capacities of K members, applied to all of them at once.

    Attributes:
        multiplier_K: The Lagrange multipliers of constrained members; the others' are not used.
    """

    def __init__(self, members: Sequence[ObjectiveSpec], like: Tensor, multiplier_K: Tensor | None = None):
        """Members' own numbers, on the device and in the dtype of `like`; multipliers begin at 0."""

        def numbers(values: Sequence[float]) -> Tensor:
            return like.new_tensor(values)

        def flags(values: Sequence[bool]) -> Tensor:
            return torch.tensor(values, device=like.device)

        self.beta_K = numbers([member.beta for member in members])
        self.nats_K = numbers([member.free_bits.nats for member in members])
        self.delta_K = numbers([member.delta_nats for member in members])
        self.gamma_K = numbers([member.gamma for member in members])
        self.capacity_K = numbers([member.capacity_nats for member in members])
        # A constraint or a capacity says itself how much KL is free.
        free = [member.free_bits.kind if member.kind == "beta" else "none" for member in members]
        self.floors_total_K = flags([kind == "total" for kind in free])
        self.floors_each_K = flags([kind == "per_dimension" for kind in free])
        self.is_constrained_K = flags([member.kind == "constrained" for member in members])
        self.is_capacity_K = flags([member.kind == "capacity" for member in members])
        self.multiplier_K = torch.zeros_like(self.beta_K) if multiplier_K is None else multiplier_K

    def of(self, members: slice) -> "Objective":
        """The same for some of the members; their multipliers stay these."""
        part = copy.copy(self)
        vars(part).update({name: value_K[members] for name, value_K in vars(self).items()})
        return part

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

    def penalty(self, penalized_kl_K: Tensor, weight_K: Tensor) -> Tensor:
        """What is added to the reconstruction, by each member's kind of objective; nats per example, shape (K,).

        Args:
            penalized_kl_K: KL', or what a family has in its place.
            weight_K: The annealing's weight at this step.
        """
        beta_K = self.beta_K * weight_K * penalized_kl_K
        capacity_K = self.gamma_K * (penalized_kl_K - weight_K * self.capacity_K).abs()
        constrained_K = weight_K * self._augmented(penalized_kl_K - self.delta_K)
        return torch.where(self.is_constrained_K, constrained_K, torch.where(self.is_capacity_K, capacity_K, beta_K))

    def _augmented(self, violation_K: Tensor) -> Tensor:
        """The augmented Lagrangian's term for violation <= 0 (Nocedal and Wright 2006, equation 17.65), nats, (K,)."""
        pull_K = self.multiplier_K + STIFFNESS_PER_NAT * violation_K
        return (pull_K.clamp(min=0).square() - self.multiplier_K.square()) / (2 * STIFFNESS_PER_NAT)

    @torch.no_grad()
    def ascend(self, kl_K: Tensor, weight_K: Tensor) -> None:
        """Move the multipliers of constrained members by dual ascent: up where the KL exceeds delta, else down to 0."""
        step_K = ASCENT_PER_NAT * weight_K * (kl_K - self.delta_K)
        self.multiplier_K.add_(step_K).clamp_(min=0)

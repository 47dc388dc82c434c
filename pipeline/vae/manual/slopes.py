"""What a member's objective adds to its loss, and how that changes with each dimension's KL."""

import copy

import torch
from torch import Tensor

from pipeline.vae.objective import Objective


class Penalty:
    """The penalties of some members.

    Where all of them weigh their whole KL by beta the derivative is beta. Else it is autograd's of the Objective, on as
    few numbers as there are dimensions: one place says what an objective is.
    """

    def __init__(self, objective: Objective, members: slice, mask_GR: Tensor):
        self.objective, self.members, self.mask_GR = objective, members, mask_GR
        kinds = (objective.floors_total_K, objective.floors_each_K, objective.is_constrained_K, objective.is_capacity_K)
        self.is_plain = not any(bool(flags_K[members].any()) for flags_K in kinds)

    def __call__(self, kl_GR: Tensor, weight_G: Tensor) -> tuple[Tensor, Tensor]:
        """What is added to the loss, nats per example, (G,), and its derivative by each KL, (G, R)."""
        if self.is_plain:
            slope_G = self.objective.beta_K[self.members] * weight_G
            return kl_GR.sum(dim=1).mul_(slope_G), slope_G[:, None].expand_as(kl_GR)
        own = self._own()
        with torch.enable_grad():
            leaf_GR = kl_GR.requires_grad_()
            penalty_G = own.penalty(own.penalized_kl(leaf_GR, self.mask_GR), weight_G)
            (slope_GR,) = torch.autograd.grad(penalty_G.sum(), leaf_GR)
        return penalty_G.detach(), slope_GR

    def _own(self) -> Objective:
        """The objective of these members, as it is now."""
        own = copy.copy(self.objective)
        for name, value_K in vars(self.objective).items():
            setattr(own, name, value_K[self.members])
        return own

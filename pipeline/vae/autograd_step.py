"""A training step's gradients by autograd, of whatever family and network, slice by slice."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.vae.families import Family
from pipeline.vae.objective import Objective
from pipeline.vae.slices import Slice


class AutogradStep:
    """As ManualStep, for the models that it does not cover."""

    def __init__(self, slices: Sequence[Slice], objective: Objective, gradients: Sequence[Tensor]):
        """Args: as ManualStep's, with the model in slices."""
        self.parts = [_Part(model, objective.of(own), [one[own] for one in gradients]) for own, model in slices]
        self.members = [part.members for part in slices]

    def __call__(
        self, seen_KBD: Tensor, x_KBD: Tensor, condition_KBC: Tensor | None, noise_KBZ: Tensor, weight_K: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As ManualStep."""
        terms = []
        for own, part in zip(self.members, self.parts, strict=True):
            condition_GBC = None if condition_KBC is None else condition_KBC[own]
            terms.append(part(seen_KBD[own], x_KBD[own], condition_GBC, noise_KBZ[own], weight_K[own]))
        loss_K, reconstruction_K, kl_K = (torch.cat(values) for values in zip(*terms, strict=True))
        return loss_K, reconstruction_K, kl_K


class _Part:
    def __init__(self, model: Family, objective: Objective, gradients: Sequence[Tensor]):
        self.model, self.objective, self.gradients = model, objective, list(gradients)
        self.parameters = list(model.parameters())

    def __call__(
        self, seen_GBD: Tensor, x_GBD: Tensor, condition_GBC: Tensor | None, noise_GBZ: Tensor, weight_G: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        code = self.model.code(seen_GBD, condition_GBC, noise_GBZ)
        decoded_GBE = self.model.decode(code.z_KBZ, condition_GBC)
        reconstruction_G = self.model.likelihood.negative_log(decoded_GBE, x_GBD).sum(dim=2).mean(dim=1)
        kl_GR = code.rate_KBR.mean(dim=1)
        penalized_G = code.penalty_K
        if penalized_G is None:
            penalized_G = self.objective.penalized_kl(kl_GR, self.model.rate_mask_KR)
        loss_G = reconstruction_G + self.objective.penalty(penalized_G, weight_G)
        if code.auxiliary_K is not None:
            loss_G = loss_G + code.auxiliary_K
        torch._foreach_copy_(self.gradients, torch.autograd.grad(loss_G.sum(), self.parameters, materialize_grads=True))
        return loss_G.detach(), reconstruction_G.detach(), kl_GR.detach().sum(dim=1)

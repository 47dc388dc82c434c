"""A training step's gradients for every member of a pack, block by block."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from pipeline.vae.families import Family
from pipeline.vae.families.gaussian import VAE, Conditional, DenoisingAutoencoder, DenoisingVAE, PointCode
from pipeline.vae.kernels import is_wide
from pipeline.vae.manual.activations import ACTIVATIONS
from pipeline.vae.manual.codes import Gaussian, Point
from pipeline.vae.manual.layers import MLP
from pipeline.vae.manual.likelihoods import COSTS
from pipeline.vae.manual.part import Part
from pipeline.vae.manual.scratch import Scratch
from pipeline.vae.manual.slopes import Penalty
from pipeline.vae.networks import StackedLinear, StackedMLP
from pipeline.vae.objective import Objective
from pipeline.vae.slices import even_slices, widest

FAMILIES = (VAE, DenoisingVAE, Conditional, PointCode, DenoisingAutoencoder)
# Numbers of a block's widest activations: what a core's own cache holds of them beside the rest.
BLOCK_NUMBERS = 2**17


def covers(model: Family) -> bool:
    """Whether there is a hand-written step for the model: one code, a plain MLP on each side of it, on a CPU."""
    network = model.network
    is_plain = type(model) in FAMILIES and network.kind == "mlp" and not network.batch_norm
    return is_plain and type(model.likelihood) in COSTS and model.code_mask_KZ.device.type == "cpu"


class Block:
    """Some members of a pack: one pass forward and one backward."""

    def __init__(self, model: Family, objective: Objective, part: Part):
        assert isinstance(model, VAE | PointCode)
        activation = ACTIVATIONS[model.network.activation]
        features, latent = model.shape.features, model.code_mask_KZ.shape[1]
        self.members, self.condition = part.members, model.shape.classes if model.is_conditional else 0
        self.encoder, self.decoder = (
            MLP(cast(StackedMLP, coder), activation, part) for coder in (model.encoder, model.decoder)
        )
        self.code = Gaussian(model, part) if isinstance(model, VAE) else Point(model, part)
        self.cost = COSTS[type(model.likelihood)](model.likelihood, features, part)
        self.penalty = Penalty(objective, part.members, model.rate_mask_KR[part.members])
        self.beside = part.take(features + self.condition) if self.condition else None
        self.code_GZB, self.code_gradient_GZB = (part.take_code(self.condition + latent) for _ in range(2))
        deepest = model.mean.weight_KIO.shape[1]
        self.hidden_gradient = part.lend(len(self.encoder.layers), deepest) if self.encoder.layers else None

    def __call__(
        self, seen_GBD: Tensor, x_GBD: Tensor, condition_GBC: Tensor | None, noise_GBZ: Tensor, weight_G: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Write the gradients; gives loss, reconstruction and KL, nats per example, each (G,)."""
        hidden_GBI = self.encoder.forward(self._with_condition(seen_GBD, condition_GBC))
        kl_GR = self.code.forward(hidden_GBI, noise_GBZ, self.code_GZB[:, self.condition :])
        decoded_GBE = self.decoder.forward(self.code_GZB.mT)
        reconstruction_G = self.cost(decoded_GBE, x_GBD)
        penalty_G, slope_GR = self.penalty(kl_GR, weight_G)
        self._backward(decoded_GBE, slope_GR)
        return reconstruction_G + penalty_G, reconstruction_G, kl_GR.detach().sum(dim=1)

    def _backward(self, gradient_GBE: Tensor, slope_GR: Tensor) -> None:
        first_GBO = self.decoder.backward(gradient_GBE)
        self.decoder.layers[0].code_gradient(first_GBO, self.code_gradient_GZB)
        self.code.backward(self.code_gradient_GZB[:, self.condition :], slope_GR, self.hidden_gradient)
        if self.hidden_gradient is not None:
            self.encoder.backward(self.hidden_gradient)

    def _with_condition(self, seen_GBD: Tensor, condition_GBC: Tensor | None) -> Tensor:
        """What the encoder sees; the condition goes in front of the code, too."""
        if self.beside is None or condition_GBC is None:
            return seen_GBD
        self.code_GZB[:, : self.condition].copy_(condition_GBC.mT)
        return torch.cat([seen_GBD, condition_GBC], dim=2, out=self.beside)


class ManualStep:
    """The step of K members of a model that `covers` has said yes to.

    It holds views of the parameters and of their gradients: when members join or leave, another one has to be made.
    """

    def __init__(self, model: Family, objective: Objective, gradients: Sequence[Tensor], rows: int):
        """Lay out the memory.

        Args:
            model: Its parameters are read where they are at each step.
            objective: Of the same members.
            gradients: Where each parameter's gradient goes, in the parameters' order and shapes.
            rows: Examples of a batch.
        """
        scratch = Scratch(gradients[0])
        by_parameter = dict(zip(model.parameters(), gradients, strict=True))
        self.blocks = list[Block]()
        for members in _blocks(model, rows):
            scratch.rewind()
            part = Part(members=members, rows=rows, gradients=by_parameter, scratch=scratch)
            if not self.blocks:
                scratch.reserve(part.count * rows * widest(model))
            self.blocks.append(Block(model, objective, part))

    @torch.no_grad()
    def __call__(
        self, seen_KBD: Tensor, x_KBD: Tensor, condition_KBC: Tensor | None, noise_KBZ: Tensor, weight_K: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Write the gradients of every member's loss.

        Args:
            seen_KBD: What the encoder sees of the batch: x, or for a denoising family what is left of it.
            x_KBD: The batch.
            condition_KBC: Its labels' indicators for a conditional family.
            noise_KBZ: Standard normal noise of the draws.
            weight_K: The annealing's weight of the KL.

        Returns:
            Loss, reconstruction and KL, nats per example, each (K,).
        """
        parts = []
        for block in self.blocks:
            own = block.members
            condition = None if condition_KBC is None else condition_KBC[own]
            parts.append(block(seen_KBD[own], x_KBD[own], condition, noise_KBZ[own], weight_K[own]))
        loss_K, reconstruction_K, kl_K = (torch.cat(values) for values in zip(*parts, strict=True))
        return loss_K, reconstruction_K, kl_K


def _blocks(model: Family, rows: int) -> list[slice]:
    """Members in blocks of nearly the same size; one by one where a layer is one for oneDNN."""
    layers = [module for module in model.modules() if isinstance(module, StackedLinear)]
    if any(is_wide(layer.weight_KIO, rows) for layer in layers):
        return even_slices(len(model.models), 1)
    return even_slices(len(model.models), max(1, BLOCK_NUMBERS // (rows * widest(model))))

"""Adam over the flat parameters of K members, each with settings of its own."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.spec.trial import TrainingSpec
from pipeline.vae.schedules import learning_rate_factors

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


class StackedAdam:
    """Adam (Kingma and Ba 2015, algorithm 1) with decoupled weight decay, in a few passes over one buffer (K, P).

    The model's parameters become views of the buffer: the optimizer is elementwise, so that a vector of learning rates
    is all that K members need, and a member is one row.
    """

    def __init__(self, model: nn.Module, settings: Sequence[TrainingSpec], steps: int):
        """Take over a model's parameters for a budget of optimizer steps."""
        self.parameters = list(model.parameters())
        self.parameters_KP = _flatten(self.parameters)
        self.gradient_KP = torch.zeros_like(self.parameters_KP)
        self.mean_KP = torch.zeros_like(self.parameters_KP)
        self.square_KP = torch.zeros_like(self.parameters_KP)
        rates_TK = [one.learning_rate * learning_rate_factors(one.learning_rate_schedule, steps) for one in settings]
        self.rate_TK1 = self.parameters_KP.new_tensor(np.stack(rates_TK, axis=1))[..., None]
        self.decay_K1 = self._column([one.weight_decay for one in settings])
        self.clip_K1 = self._column([one.gradient_clip or float("inf") for one in settings])
        self.decays = any(one.weight_decay for one in settings)
        self.clips = any(one.gradient_clip for one in settings)
        self.steps = 0

    def _column(self, values: Sequence[float]) -> Tensor:
        return self.parameters_KP.new_tensor(values)[:, None]

    def moments(self) -> list[tuple[Tensor, Tensor]]:
        """Each parameter's running means, of the gradient and of its square, as views in the parameter's shape."""
        means, squares = (_views(flat_KP, self.parameters) for flat_KP in (self.mean_KP, self.square_KP))
        return list(zip(means, squares, strict=True))

    def minimize(self, loss: Tensor) -> None:
        """Move every member's parameters once, down the gradient of a scalar: the sum of the members' losses."""
        gradients = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
        torch.cat([gradient.flatten(1) for gradient in gradients], dim=1, out=self.gradient_KP)
        self._step()

    @torch.no_grad()
    def _step(self) -> None:
        rate_K1 = self.rate_TK1[self.steps]
        self.steps += 1
        if self.clips:
            norm_K1 = self.gradient_KP.norm(dim=1, keepdim=True)
            self.gradient_KP.mul_((self.clip_K1 / norm_K1.clamp(min=EPSILON)).clamp(max=1))
        if self.decays:
            self.parameters_KP.mul_(1 - rate_K1 * self.decay_K1)
        self.mean_KP.lerp_(self.gradient_KP, 1 - BETA_1)
        self.square_KP.mul_(BETA_2).addcmul_(self.gradient_KP, self.gradient_KP, value=1 - BETA_2)
        scale = (1 - BETA_2**self.steps) ** 0.5
        denominator_KP = self.square_KP.sqrt().add_(EPSILON * scale)
        self.parameters_KP.sub_((self.mean_KP / denominator_KP).mul_(rate_K1 * (scale / (1 - BETA_1**self.steps))))


def _flatten(parameters: list[nn.Parameter]) -> Tensor:
    """Move parameters of shape (K, ...) into one buffer (K, P), of which they become views."""
    flat_KP = torch.cat([parameter.detach().flatten(1) for parameter in parameters], dim=1)
    for parameter, view in zip(parameters, _views(flat_KP, parameters), strict=True):
        parameter.data = view
    return flat_KP


def _views(flat_KP: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
    """The parts of a buffer (K, P) that belong to each parameter, in its shape."""
    parts = torch.split(flat_KP, [parameter[0].numel() for parameter in parameters], dim=1)
    return [part.view(parameter.shape) for part, parameter in zip(parts, parameters, strict=True)]

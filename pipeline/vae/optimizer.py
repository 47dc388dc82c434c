"""Adam over the flat parameters of K members, each with a learning rate of its own."""

import torch
from torch import Tensor, nn

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


class StackedAdam:
    """Adam (Kingma and Ba 2015, algorithm 1) in a few passes over one buffer of shape (K, P).

    The model's parameters become views of the buffer: the optimizer is elementwise, so that a vector of learning rates
    is all that K members need, and a member is one row.
    """

    def __init__(self, model: nn.Module, learning_rate_K: Tensor):
        self.learning_rate_K1 = learning_rate_K[:, None]
        self.parameters = list(model.parameters())
        self.parameters_KP = _flatten(self.parameters)
        self.gradient_KP = torch.zeros_like(self.parameters_KP)
        self.mean_KP = torch.zeros_like(self.parameters_KP)
        self.square_KP = torch.zeros_like(self.parameters_KP)
        self.steps = 0

    def minimize(self, loss: Tensor) -> None:
        """Move every member's parameters once, down the gradient of a scalar: the sum of the members' losses."""
        gradients = torch.autograd.grad(loss, self.parameters)
        torch.cat([gradient.flatten(1) for gradient in gradients], dim=1, out=self.gradient_KP)
        self._step()

    @torch.no_grad()
    def _step(self) -> None:
        self.steps += 1
        self.mean_KP.lerp_(self.gradient_KP, 1 - BETA_1)
        self.square_KP.mul_(BETA_2).addcmul_(self.gradient_KP, self.gradient_KP, value=1 - BETA_2)
        scale = (1 - BETA_2**self.steps) ** 0.5
        rate_K1 = self.learning_rate_K1 * (scale / (1 - BETA_1**self.steps))
        denominator_KP = self.square_KP.sqrt().add_(EPSILON * scale)
        self.parameters_KP.sub_((self.mean_KP / denominator_KP).mul_(rate_K1))


def _flatten(parameters: list[nn.Parameter]) -> Tensor:
    """Move parameters of shape (K, ...) into one buffer (K, P), of which they become views."""
    flat_KP = torch.cat([parameter.detach().flatten(1) for parameter in parameters], dim=1)
    start = 0
    for parameter in parameters:
        stop = start + parameter[0].numel()
        parameter.data = flat_KP[:, start:stop].view(parameter.shape)
        start = stop
    return flat_KP

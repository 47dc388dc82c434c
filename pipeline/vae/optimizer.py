"""Adam over the flat parameters of K members, each with settings and a step counter of its own."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.spec.trial import TrainingSpec

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
# Numbers that a parameter's place and a row's length are multiples of: a CPU's widest vectors, two at a time. Products
# written to places that begin no vector round in another way, so that a member's bits would depend on its row.
ALIGNMENT = 32


class StackedAdam:
    """Adam (Kingma and Ba 2015, algorithm 1) with decoupled weight decay over buffers (K, P), a row a member.

    The model's parameters become views of one buffer. P counts their numbers and the gaps that align them; those
    stay 0.

    Attributes:
        gradients: Views of the gradient's buffer in the parameters' shapes and order: what computes the gradients of a
            step writes them there.
        is_fused: Whether a row is moved in one pass, as a CPU does best, or all rows at once in several.
    """

    def __init__(self, model: nn.Module, settings: Sequence[TrainingSpec]):
        """Take over a model's parameters."""
        self.parameters = list(model.parameters())
        self.widths = [_aligned(parameter[0].numel()) for parameter in self.parameters]
        flat_KP = self._flat(self.parameters)
        self.is_fused = flat_KP.device.type == "cpu"
        self._adopt(settings, flat_KP, torch.zeros_like(flat_KP), torch.zeros_like(flat_KP))

    def _flat(self, parameters: Sequence[Tensor]) -> Tensor:
        """A copy of parameters of shapes (K, ...) in one buffer (K, P)."""
        flat_KP = parameters[0].new_zeros(len(parameters[0]), sum(self.widths))
        for view, parameter in zip(self._views(flat_KP), parameters, strict=True):
            view.copy_(parameter.detach())
        return flat_KP

    def _views(self, flat_KP: Tensor) -> list[Tensor]:
        """The parts of a buffer (K, P) that belong to each parameter, in its shape."""
        shapes = [parameter.shape[1:] for parameter in self.parameters]
        parts = torch.split(flat_KP, self.widths, dim=1)
        rows = len(flat_KP)
        return [part[:, : shape.numel()].view(rows, *shape) for part, shape in zip(parts, shapes, strict=True)]

    def _adopt(
        self, settings: Sequence[TrainingSpec], parameters_KP: Tensor, mean_KP: Tensor, square_KP: Tensor
    ) -> None:
        """Make these the members' rows."""
        self.gradient_KP = torch.zeros_like(parameters_KP)
        self.parameters_KP, self.mean_KP, self.square_KP = parameters_KP, mean_KP, square_KP
        self.settings = list(settings)
        for parameter, view in zip(self.parameters, self._views(parameters_KP), strict=True):
            parameter.data = view
        self.gradients = self._views(self.gradient_KP)
        self.clip_K1 = parameters_KP.new_tensor([one.gradient_clip or float("inf") for one in settings])[:, None]
        self.decay_K1 = parameters_KP.new_tensor([one.weight_decay for one in settings])[:, None]
        self.clips = any(one.gradient_clip for one in settings)
        self.rows = list(zip(*map(list, (parameters_KP, self.gradient_KP, mean_KP, square_KP)), strict=True))

    def keep(self, rows: Sequence[int]) -> None:
        """Keep some members in this order; the others' memory is free again."""
        kept = [buffer_KP[list(rows)] for buffer_KP in (self.parameters_KP, self.mean_KP, self.square_KP)]
        self._adopt([self.settings[row] for row in rows], *kept)

    def append(self, model: nn.Module, settings: Sequence[TrainingSpec]) -> None:
        """Put another model's members behind, before their first step."""
        flat_KP = self._flat(list(model.parameters()))
        nothing_KP = torch.zeros_like(flat_KP)
        pairs = ((self.parameters_KP, flat_KP), (self.mean_KP, nothing_KP), (self.square_KP, nothing_KP))
        self._adopt([*self.settings, *settings], *(torch.cat(pair) for pair in pairs))

    def moments(self) -> list[tuple[Tensor, Tensor]]:
        """Each parameter's running means, of the gradient and of its square, as views in the parameter's shape."""
        return list(zip(self._views(self.mean_KP), self._views(self.square_KP), strict=True))

    def begin(self, steps_K: Sequence[int], rate_SK: NDArray[np.float64]) -> None:
        """Get ready for S steps.

        Args:
            steps_K: Steps that each member has done so far.
            rate_SK: Each member's learning rate at each of the steps to come.
        """
        self.steps_K = self.parameters_KP.new_tensor(steps_K, dtype=torch.float32)
        self.rates_SK: list[list[float]] = rate_SK.tolist()
        step_SK = np.asarray(steps_K) + np.arange(1, len(rate_SK) + 1)[:, None]
        scale_SK = np.sqrt(1 - BETA_2**step_SK)
        columns = (rate_SK * scale_SK / (1 - BETA_1**step_SK), EPSILON * scale_SK, rate_SK)
        self.columns_3SK1 = self.parameters_KP.new_tensor(np.stack(columns))[..., None]

    @torch.no_grad()
    def step(self, step: int, members: slice = slice(None)) -> None:
        """Move members' parameters once, down the gradients.

        Args:
            step: Which of the steps that `begin` has prepared.
            members: Whose; by default all.
        """
        if self.clips:
            gradient_KP = self.gradient_KP[members]
            norm_K1 = gradient_KP.norm(dim=1, keepdim=True)
            gradient_KP.mul_((self.clip_K1[members] / norm_K1.clamp(min=EPSILON)).clamp(max=1))
        if self.is_fused:
            self._step_rows(step, members)
        else:
            self._step_all(step, members)

    def _step_rows(self, step: int, members: slice) -> None:
        self.steps_K[members].add_(1)
        own = (self.rows[members], self.steps_K[members], self.rates_SK[step][members], self.settings[members])
        for row, count, rate, one in zip(*own, strict=True):
            parameters, gradient, mean, square = row
            torch._fused_adamw_(
                [parameters],
                [gradient],
                [mean],
                [square],
                [],
                [count],
                lr=rate,
                beta1=BETA_1,
                beta2=BETA_2,
                weight_decay=one.weight_decay,
                eps=EPSILON,
                amsgrad=False,
                maximize=False,
            )

    def _step_all(self, step: int, members: slice) -> None:
        stride_K1, epsilon_K1, rate_K1 = self.columns_3SK1[:, step, members]
        parameters_KP, gradient_KP, mean_KP, square_KP = (
            buffer_KP[members] for buffer_KP in (self.parameters_KP, self.gradient_KP, self.mean_KP, self.square_KP)
        )
        parameters_KP.mul_(1 - rate_K1 * self.decay_K1[members])
        mean_KP.lerp_(gradient_KP, 1 - BETA_1)
        square_KP.mul_(BETA_2).addcmul_(gradient_KP, gradient_KP, value=1 - BETA_2)
        denominator_KP = square_KP.sqrt().add_(epsilon_K1)
        parameters_KP.sub_((mean_KP / denominator_KP).mul_(stride_K1))


def _aligned(numbers: int) -> int:
    return -(-numbers // ALIGNMENT) * ALIGNMENT

"""An optimizer step of K models: gradients by autograd, and Adam with each model's own settings and step count."""

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vae_study.config.model import TrainingConfig
from vae_study.vae import kernels
from vae_study.vae.device import is_out_of_memory
from vae_study.vae.families.base import Decoded, Family
from vae_study.vae.objective import GradientStep, Losses, Objective, StepInputs
from vae_study.vae.stacking import Chunk

logger = logging.getLogger(__name__)

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
ADAM = {"beta1": BETA_1, "beta2": BETA_2, "eps": EPSILON, "amsgrad": False, "maximize": False}
# The offsets of parameters in a row, and the row's length, are multiples of this: two of a CPU's widest vectors.
# Products written to unaligned memory are rounded in another way: a model's bits would depend on its row.
ALIGNMENT = 32


def learning_rate_factors(kind: str, steps: int) -> NDArray[np.float64]:
    """What a model's learning rate is multiplied by at each step of its budget, shape (T,)."""
    time_T = np.arange(steps) / steps
    return np.ones(steps) if kind == "constant" else np.asarray(0.5 * (1 + np.cos(np.pi * time_T)))


class AutogradPart:
    """The gradients of some models by autograd, of whatever family and network."""

    def __init__(self, model: Family, objective: Objective, gradients: list[Tensor], precision: str):
        self.model, self.objective, self.gradients = model, objective, gradients
        self.parameters, self.is_bf16 = list(model.parameters()), precision == "bf16"

    def __call__(self, inputs: StepInputs) -> Losses:
        """Write the gradients."""
        with self._precision(inputs.x_KBD):
            code = self.model.code(inputs.seen_KBD, inputs.condition_KBC, inputs.noise_KBZ)
            decoded_KBE = self.model.decode(code.z_KBZ, inputs.condition_KBC)
        decoded_KBE = decoded_KBE.to(inputs.x_KBD.dtype)
        reconstruction_K = self.model.likelihood.negative_log(decoded_KBE, inputs.x_KBD).sum(dim=2).mean(dim=1)
        kl_KR = code.rate_KBR.mean(dim=1)
        penalized_K = code.penalty_K
        if penalized_K is None:
            penalized_K = self.objective.penalized_kl(kl_KR, self.model.rate_mask_KR)
        decoded = Decoded(inputs.x_KBD, code.z_KBZ, inputs.noise_KBZ, decoded_KBE)
        with self._precision(inputs.x_KBD):
            fit_K, own_KL = self.model.fit(reconstruction_K, decoded)
        loss_K = fit_K + self.objective.penalty(penalized_K, inputs.weight_K)
        term_K = self.objective.term(code.posteriors, self.model.code_mask_KZ)
        if self.objective.terms:
            loss_K = loss_K + self.objective.weighted(term_K, inputs.weight_K)
        if code.auxiliary_K is not None:
            loss_K = loss_K + code.auxiliary_K
        gradients = torch.autograd.grad(loss_K.sum(), self.parameters, materialize_grads=True)
        kernels.copy_all(self.gradients, gradients)
        own_KL = None if own_KL is None else own_KL.detach()
        return Losses(loss_K.detach(), reconstruction_K.detach(), kl_KR.detach().sum(dim=1), term_K.detach(), own_KL)

    def _precision(self, x_KBD: Tensor) -> AbstractContextManager[object]:
        if not self.is_bf16:
            return nullcontext()
        # Without the cache: a graph of kernels would keep the first step's weights.
        return torch.autocast(x_KBD.device.type, torch.bfloat16, cache_enabled=False)


def autograd_step(
    chunks: Sequence[Chunk], objective: Objective, gradients: Sequence[Tensor], precision: str
) -> GradientStep:
    """A step by autograd, chunk by chunk.

    Args:
        chunks: Of the models.
        objective: Of all of them.
        gradients: Where each parameter's gradient goes, (K, ...), in the parameters' order.
        precision: Of the networks' products, as in the config.
    """
    parts = []
    for models, model in chunks:
        own = [one[models] for one in gradients]
        parts.append((models, AutogradPart(model, objective.of(models), own, precision)))
    return GradientStep(parts)


# Parameters, their gradient, and the running means of the gradient and of its square, each (K, P).
Buffers = tuple[Tensor, Tensor, Tensor, Tensor]


def step_in_passes(buffers: Buffers, columns_3K1: Tensor, scale_K1: Tensor | None, decays: bool = True) -> None:
    """Move all models once by Adam: six kernels that read or write a buffer sixteen times.

    Args:
        buffers: What changes.
        columns_3K1: The step's entries of `StackedAdam.columns_3SK1`.
        scale_K1: What each model's gradient is multiplied by first, if anything; that is two times more.
        decays: Whether any model's weights decay; that is two times more.
    """
    parameters_KP, gradient_KP, mean_KP, square_KP = buffers
    per_stride_K1, epsilon_K1, shrink_K1 = columns_3K1
    if scale_K1 is not None:
        gradient_KP.mul_(scale_K1)
    if decays:
        parameters_KP.mul_(shrink_K1)
    mean_KP.lerp_(gradient_KP, 1 - BETA_1)
    square_KP.mul_(BETA_2).addcmul_(gradient_KP, gradient_KP, value=1 - BETA_2)
    # The length and the sign of the step are in the denominator: no pass of their own.
    parameters_KP.addcdiv_(mean_KP, torch.addcmul(epsilon_K1, square_KP.sqrt(), per_stride_K1))


# As `step_in_passes`, except that it may leave the gradient as it is.
OnePass = Callable[[Buffers, Tensor, Tensor | None], None]


def _triton_step() -> OnePass:
    # Half a second, and only torch for CUDA on Linux comes with Triton.
    from vae_study.vae.gpu import triton_adam

    return partial(triton_adam.step, betas=(BETA_1, BETA_2))


# By the type of device: what reads the four buffers and writes three of them, once each.
KERNELS: dict[str, Callable[[], OnePass]] = {"cuda": _triton_step}


@cache
def one_pass(device: str) -> OnePass | None:
    """Adam's kernel for a type of device; None if there is none, or if it fails where it is tried first.

    Then there is one warning, and this process takes Adam's steps in several passes.
    """
    if device not in KERNELS:
        return None
    try:
        kernel = KERNELS[device]()
        if all(_agrees(kernel, device, clips) for clips in (False, True)):
            return kernel
        why = "its numbers differ from those of several passes"
    except Exception as error:
        if is_out_of_memory(error) or isinstance(error, torch.AcceleratorError):
            raise
        why = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
    logger.warning("Adam takes several passes over memory in place of one, which takes longer: %s", why)
    return None


@torch.no_grad()
def _agrees(kernel: OnePass, device: str, clips: bool) -> bool:
    """Whether a kernel moves three models as `step_in_passes` does."""
    start = torch.randn(4, 3, 2**12 + ALIGNMENT, generator=torch.Generator().manual_seed(0))
    start[3].square_()
    # Rates from 0.1 to 10, other denominators and decays: each of them moves parameters far.
    columns = torch.tensor([[-0.1, -1, -10], [-1e-3, -0.1, -1], [1, 0.9, 0.5]])[..., None].to(device)
    scale_K1 = torch.tensor([[1.0], [0.5], [0.1]]).to(device) if clips else None

    def buffers() -> Buffers:
        parameters, gradient, mean, square = start.to(device, copy=True)
        return parameters, gradient, mean, square

    found, expected = buffers(), buffers()
    kernel(found, columns, scale_K1)
    step_in_passes(expected, columns, scale_K1)
    is_close = partial(torch.allclose, rtol=1e-4, atol=1e-5)
    return all(is_close(found[i], expected[i]) for i in (0, 2, 3))


class StackedAdam:
    """Adam (Kingma and Ba 2015, algorithm 1) with decoupled weight decay over buffers (K, P), one row per model.

    The model's parameters become views of one buffer. P counts the parameters and the gaps between them, which align
    them and stay 0.

    Attributes:
        gradients: Views of the gradient's buffer in the parameters' shapes and order. A `GradientStep` writes there.
        columns_3SK1: What each prepared step multiplies by, from each model's rate, decay and count of steps.
        is_fused: Whether each row is updated by a kernel of torch (fastest on a CPU), or all rows at once.
        one_pass: What updates all rows at once in one pass over memory; by default this takes several.
    """

    def __init__(self, model: nn.Module, settings: Sequence[TrainingConfig]):
        """Take over a model's parameters."""
        self.parameters = list(model.parameters())
        self.widths = [-(-parameter[0].numel() // ALIGNMENT) * ALIGNMENT for parameter in self.parameters]
        flat_KP = self._flat(self.parameters)
        self.is_fused = flat_KP.device.type == "cpu" and kernels.FUSED_ADAMW is not None
        self.one_pass = one_pass(flat_KP.device.type) if flat_KP.dtype == torch.float32 else None
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
        self, settings: Sequence[TrainingConfig], parameters_KP: Tensor, mean_KP: Tensor, square_KP: Tensor
    ) -> None:
        """Take these buffers as the models' rows."""
        self.gradient_KP = torch.zeros_like(parameters_KP)
        self.parameters_KP, self.mean_KP, self.square_KP = parameters_KP, mean_KP, square_KP
        self.settings = list(settings)
        for parameter, view in zip(self.parameters, self._views(parameters_KP), strict=True):
            parameter.data = view
        self.gradients = self._views(self.gradient_KP)
        self.clip_K1 = parameters_KP.new_tensor([one.gradient_clip or float("inf") for one in settings])[:, None]
        self.clips = any(one.gradient_clip for one in settings)
        self.decays = any(one.weight_decay for one in settings)
        self.buffers: Buffers = parameters_KP, self.gradient_KP, mean_KP, square_KP
        self.rows = list(zip(*map(list, self.buffers), strict=True))

    def keep(self, rows: Sequence[int]) -> None:
        """Keep some models in this order; free the memory of the others."""
        kept = [buffer_KP[list(rows)] for buffer_KP in (self.parameters_KP, self.mean_KP, self.square_KP)]
        self._adopt([self.settings[row] for row in rows], *kept)

    def append(self, model: nn.Module, settings: Sequence[TrainingConfig]) -> None:
        """Append the models of another stacked model, before their first step."""
        flat_KP = self._flat(list(model.parameters()))
        nothing_KP = torch.zeros_like(flat_KP)
        pairs = ((self.parameters_KP, flat_KP), (self.mean_KP, nothing_KP), (self.square_KP, nothing_KP))
        self._adopt([*self.settings, *settings], *(torch.cat(pair) for pair in pairs))

    def moments(self) -> list[tuple[Tensor, Tensor]]:
        """Each parameter's running means, of the gradient and of its square, as views in the parameter's shape."""
        return list(zip(self._views(self.mean_KP), self._views(self.square_KP), strict=True))

    def begin(self, steps_K: Sequence[int], rate_SK: NDArray[np.float64], *others_SK: NDArray[np.float64]) -> Tensor:
        """Prepare S steps.

        Args:
            steps_K: Steps that each model has done so far.
            rate_SK: Each model's learning rate at each of the steps to come.
            others_SK: What else the steps take; it goes to the device in the same copy.

        Returns:
            The others, there.
        """
        if self.is_fused:
            self.steps_K = self.parameters_KP.new_tensor(steps_K, dtype=torch.float32)
        self.rates_SK: list[list[float]] = rate_SK.tolist()
        step_SK = np.asarray(steps_K) + np.arange(1, len(rate_SK) + 1)[:, None]
        scale_SK = np.sqrt(1 - BETA_2**step_SK)
        decay_K = np.array([one.weight_decay for one in self.settings])
        per_stride_SK = (BETA_1**step_SK - 1) / (rate_SK * scale_SK)
        columns = (per_stride_SK, EPSILON * scale_SK * per_stride_SK, 1 - rate_SK * decay_K)
        there = self.parameters_KP.new_tensor(np.stack([*columns, *others_SK]))
        self.columns_3SK1 = there[:3, ..., None]
        return there[3:]

    @torch.no_grad()
    def step(self, step: int) -> None:
        """Move all parameters once, down the gradients; `step` is one of those that `begin` has prepared."""
        if self.is_fused:
            if (scale_K1 := self._scale_K1()) is not None:
                self.gradient_KP.mul_(scale_K1)
            self._step_rows(step)
        else:
            self.step_by(self.columns_3SK1[:, step])

    def _step_rows(self, step: int) -> None:
        self.steps_K.add_(1)
        for row, count, rate, one in zip(self.rows, self.steps_K, self.rates_SK[step], self.settings, strict=True):
            buffers = [[buffer] for buffer in row]
            kernels.FUSED_ADAMW(*buffers, [], [count], lr=rate, weight_decay=one.weight_decay, **ADAM)

    def _scale_K1(self) -> Tensor | None:
        """What shortens each model's gradient to its `gradient_clip`; None if no model has one."""
        if not self.clips:
            return None
        norm_K1: Tensor = self.gradient_KP.norm(dim=1, keepdim=True)
        return (self.clip_K1 / norm_K1.clamp(min=EPSILON)).clamp(max=1)

    @torch.no_grad()
    def step_by(self, columns_3K1: Tensor) -> None:
        """As `step`, for all models at once, by the step's entries of `columns_3SK1`."""
        if self.one_pass is not None:
            self.one_pass(self.buffers, columns_3K1, self._scale_K1())
        else:
            step_in_passes(self.buffers, columns_3K1, self._scale_K1(), self.decays)

"""A training step on a GPU as a CUDA graph: recorded once, then replayed by one launch in place of a hundred.

A graph repeats kernels on the memory that they had, with the numbers that Python had when it was recorded. So the step
is a function of buffers on the device alone, and one of them says which step it is. Everything random is drawn outside.

The first replays are compared with the same steps taken one kernel at a time. If they differ, or if the step cannot be
recorded, there is one warning, and this process takes every step so.
"""

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vae_study.vae.device import is_gpu_lost, is_out_of_memory
from vae_study.vae.objective import Losses
from vae_study.vae.optimizer import StackedAdam

logger = logging.getLogger(__name__)

# Takes minibatch rows, noise, KL weight, corruption and what moves the parameters; the same as a ModelBatch's step.
Step = Callable[[Tensor, Tensor, Tensor, Tensor | None, Callable[[], None]], Losses]
Replay = Callable[[], None]

# A graph pays if it is replayed about so often.
FEWEST_STEPS = 200
# Of a model's parameters, their way in the compared steps; of its gradients and losses, their size. Kernels that add
# in any order differ by rounding, and another minibatch by more than this.
TOLERANCE = 0.01
COMPARED_STEPS = 2


def record_on_cuda(step: Callable[[], None]) -> Replay:
    """Record the kernels of a step without running them."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


# By the type of device; on others, steps are never recorded.
RECORDERS: dict[str, Callable[[Callable[[], None]], Replay]] = {"cuda": record_on_cuda}
# Types of device on which a graph failed in this process.
REFUSED: set[str] = set()


def pays(device: torch.device, steps: int, steps_per_epoch: int) -> bool:
    """Whether to record a step of which this many are to come, if no model leaves early or joins."""
    is_possible = device.type in RECORDERS and device.type not in REFUSED
    return is_possible and steps >= FEWEST_STEPS and steps_per_epoch >= COMPARED_STEPS


class CapturedStep:
    """A step of a batch's models at fixed places in memory: when models join or leave, another one has to be made.

    Attributes:
        sums_MK: What `Losses.beside` gives, summed over the epoch's steps so far.
    """

    def __init__(
        self,
        step: Step,
        adam: StackedAdam,
        others: Sequence[Tensor],
        rows_SKB: Tensor,
        weight_SK: Tensor,
        noise_TKBZ: Tensor,
        sums_MK: Tensor,
    ):
        """Set the buffers up; nothing is recorded before the first step.

        Args:
            step: One step of all models.
            adam: Their optimizer.
            others: What a step changes beside the optimizer's buffers.
            rows_SKB, weight_SK, noise_TKBZ: Of an epoch, for their shapes; noise comes for T steps at a time.
            sums_MK: What the terms of the losses are summed up in, for its shape.
        """
        self._step, self._adam = step, adam
        self._at = torch.zeros(1, dtype=torch.long, device=rows_SKB.device)
        self._rows_SKB, self._weight_SK, self._noise_TKBZ = map(torch.empty_like, (rows_SKB, weight_SK, noise_TKBZ))
        self._columns_3SK1 = torch.empty_like(adam.columns_3SK1)
        self._corruption_KBD: Tensor | None = None
        self.sums_MK = torch.zeros_like(sums_MK)
        self._compared = (adam.parameters_KP, adam.gradient_KP, self.sums_MK)
        self._changed = [*self._compared, adam.mean_KP, adam.square_KP, *others, self._at]
        self._replay: Replay | None = None

    def begin(self, rows_SKB: Tensor, weight_SK: Tensor) -> None:
        """Take an epoch's minibatches and schedules, after the optimizer has its own."""
        self._rows_SKB.copy_(rows_SKB)
        self._weight_SK.copy_(weight_SK)
        self._columns_3SK1.copy_(self._adam.columns_3SK1)
        self._at.zero_()
        self.sums_MK.zero_()

    def take_noise(self, noise_TKBZ: Tensor) -> None:
        """Take the noise of the next T steps, or of fewer at the end of an epoch."""
        self._noise_TKBZ[: len(noise_TKBZ)].copy_(noise_TKBZ)

    def __call__(self, corruption_KBD: Tensor | None) -> None:
        """Take the epoch's next step; a family that corrupts its inputs needs noise for that."""
        if corruption_KBD is not None:
            if self._corruption_KBD is None:
                self._corruption_KBD = torch.empty_like(corruption_KBD)
            self._corruption_KBD.copy_(corruption_KBD)
        if self._replay is None:
            self._replay = self._recorded()
        self._replay()

    def _run(self) -> None:
        """A step as a function of buffers alone."""
        rows_KB, weight_K = (values.index_select(0, self._at)[0] for values in (self._rows_SKB, self._weight_SK))
        noise_KBZ = self._noise_TKBZ.index_select(0, self._at % len(self._noise_TKBZ))[0]
        columns_3K1 = self._columns_3SK1.index_select(1, self._at)[:, 0]
        losses = self._step(rows_KB, noise_KBZ, weight_K, self._corruption_KBD, lambda: self._adam.step_by(columns_3K1))
        self.sums_MK += losses.beside(weight_K)
        self._at += 1

    def _recorded(self) -> Replay:
        """The replay of the step, if it does what the step does; else the step itself."""
        device = self._at.device.type
        if device in REFUSED:
            return self._run
        before = [one.clone() for one in self._changed]
        try:
            expected = self._after(self._run, before)
            replay = RECORDERS[device](self._run)
            self._restore(before)
            found = self._after(replay, before)
            if all(map(_is_near, found, expected, before)):
                return replay
            why = "its first steps differ from the same steps without it"
        except RuntimeError as error:
            if is_out_of_memory(error) or is_gpu_lost(error):
                raise
            self._restore(before)
            why = str(error).splitlines()[0]
        REFUSED.add(device)
        logger.warning("training without a CUDA graph, which takes longer: %s", why)
        return self._run

    def _after(self, step: Callable[[], None], before: Sequence[Tensor]) -> list[Tensor]:
        """What is compared, after some steps; then all is as before."""
        for _ in range(COMPARED_STEPS):
            step()
        after = [one.clone() for one in self._compared]
        self._restore(before)
        return after

    @torch.no_grad()
    def _restore(self, before: Sequence[Tensor]) -> None:
        for one, value in zip(self._changed, before, strict=True):
            one.copy_(value)


def _is_near(found: Tensor, expected: Tensor, before: Tensor) -> bool:
    """Whether each row is as expected, up to TOLERANCE of its way from before; what is no number is none in both."""
    way, off = (expected - before).nan_to_num(), (found - expected).nan_to_num()
    is_close = off.norm(dim=1) <= TOLERANCE * way.norm(dim=1) + 1e-12
    return bool((is_close.all() & (found.isfinite() == expected.isfinite()).all()).item())

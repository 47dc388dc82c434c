"""A pack of K models trained at once as one tensor program; K = 1 is the plain case."""

import copy
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data import Dataset
from pipeline.vae.autograd_step import AutogradStep
from pipeline.vae.evaluation import Measurement, measure, metrics_of
from pipeline.vae.families import Family
from pipeline.vae.manual import ManualStep, covers
from pipeline.vae.members import LASTING_STREAMS, Member, Progress
from pipeline.vae.objective import Objective
from pipeline.vae.optimizer import StackedAdam
from pipeline.vae.passes import Examples
from pipeline.vae.rows import append_rows, keep_rows, latent_columns, make_rows
from pipeline.vae.schedules import schedule_of
from pipeline.vae.shape import shape_of
from pipeline.vae.sharing import shape_key
from pipeline.vae.slices import slices_of
from pipeline.vae.snapshot import member_state, restore_member

__all__ = ["Losses", "Member", "Population"]

# Steps whose noise is drawn in one call: few calls, and memory that does not grow with the data.
STEPS_PER_DRAW = 64
TRAIN_METRICS = ("train/loss", "train/reconstruction", "train/kl", "train/kl_weight")


class Losses(NamedTuple):
    """Terms of one step of every member, nats per example, each of shape (K,)."""

    loss_K: Tensor
    reconstruction_K: Tensor
    kl_K: Tensor


class Population:
    """K members on one data set. Members share nothing but the instructions: none of them can change another's numbers.

    They must agree in what shapes the program (`shape_key`); latent size, objective, optimizer settings, budget and
    seed are each member's own, and so is the epoch: between two epochs members join and leave. An empty population
    trains and measures nothing, at no cost.

    On a CPU with one thread a member's weights, metrics and scores are the same bits alone and in any company, at any
    place, whoever came and left, if the latent sizes are padded to the same `latent_capacity`, the batch is a multiple
    of 32 examples and the hidden widths are multiples of 4, with batch normalization of 16. Otherwise, and for grouped
    convolutions, which have other kernels on a CPU for one member than for several, only rounding differs. Padding
    costs a small member alone the latent layers of the largest, and nothing where that is it.
    """

    def __init__(
        self,
        members: Sequence[Member],
        data: Dataset,
        score: str = "elbo",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        latent_capacity: int | None = None,
    ):
        """Put data, parameters and schedules on the device.

        Args:
            members: The first K configurations, one at least.
            data: Shared by all members; it stays on the device.
            score: The anomaly score whose AUROC is measured.
            device: Where to train.
            dtype: Of data, parameters and noise.
            latent_capacity: The largest latent size that a member may ever have; by default that of the first members.

        Raises:
            ValueError: The members do not fit together.
        """
        self.data, self.score, self.device, self.dtype = data, score, torch.device(device), dtype
        self.training, self.key = members[0].spec.training, shape_key(members[0].spec)
        self.latent_capacity = latent_columns(latent_capacity, [member.spec.model for member in members])
        for member in members:
            self._require_fits(member)
        rows = len(data.splits["train"].x_ND)
        self.batch_size = min(self.training.batch_size, rows)
        self.steps_per_epoch = rows // self.batch_size
        self._start(members)
        self.examples = {name: self._examples(name) for name in data.splits}

    def _start(self, members: Sequence[Member]) -> None:
        """Begin with these members and no others."""
        self.members: list[Member] = []
        self.progress_K: list[Progress] = []
        self.model = self._rows(members)
        self.adam = StackedAdam(self.model, [member.spec.training for member in members])
        self.objective = Objective([], self.tensor([]))
        self._seat(members)

    @property
    def epochs_K(self) -> list[int]:
        """How many epochs each member has done."""
        return [progress.epoch for progress in self.progress_K]

    @property
    def epoch(self) -> int:
        """The epochs done, of members that are at the same epoch."""
        (epoch,) = set(self.epochs_K)
        return epoch

    def join(self, member: Member, state: Mapping[str, Tensor] | None = None) -> None:
        """Add a member behind the others; only between two epochs.

        Args:
            member: Of the population's shape and with no more latent dimensions than its capacity.
            state: What `member_state` gave of it, in whatever company; without one it begins.

        Raises:
            ValueError: It does not fit, or the state is not its own; the population is as it was.
        """
        self._require_fits(member)
        rows = self._rows([member])
        # The optimizer first: where its memory does not suffice, nothing has changed.
        self.adam.append(rows, [member.spec.training])
        append_rows(self.model, rows)
        self._seat([member])
        try:
            if state is not None:
                restore_member(self, len(self.members) - 1, state)
        except ValueError:
            self.leave(len(self.members) - 1)
            raise

    def leave(self, k: int) -> None:
        """Take a member out, whatever its numbers; those behind it move up. Only between two epochs."""
        stay = [other for other in range(len(self.members)) if other != k]
        keep_rows(self.model, stay)
        self.adam.keep(stay)
        self.members = [self.members[other] for other in stay]
        self.progress_K = [self.progress_K[other] for other in stay]
        self._lay_out(self.objective.multiplier_K[stay])

    def alone(self, k: int) -> "Population":
        """A copy of one member as a population of its own on the same rows, to measure or train apart from the pack."""
        apart = copy.copy(self)
        apart._start([self.members[k]])
        restore_member(apart, 0, member_state(self, k))
        return apart

    def _require_fits(self, member: Member) -> None:
        latent = member.spec.model.latent_dim
        if latent > self.latent_capacity:
            raise ValueError(f"{latent} latent dimensions, where the population is made for {self.latent_capacity}")
        if shape_key(member.spec) != self.key:
            raise ValueError(f"a member of another shape: {shape_key(member.spec)}, expected {self.key}")

    def _rows(self, members: Sequence[Member]) -> Family:
        models, weights = [one.spec.model for one in members], [one.generator("weights") for one in members]
        rows = make_rows(models, shape_of(self.data), weights, self.latent_capacity)
        return rows.to(self.device, self.dtype)

    def _seat(self, members: Sequence[Member]) -> None:
        """Put new members, whose rows are there already, at their beginning."""
        for member in members:
            generators = {stream: member.generator(stream, self.device) for stream in LASTING_STREAMS}
            self.progress_K.append(Progress(schedule_of(member.spec, self.steps_per_epoch), generators))
        self.members = [*self.members, *members]
        self._lay_out(torch.cat([self.objective.multiplier_K, self.tensor([0.0] * len(members))]))

    def _lay_out(self, multiplier_K: Tensor) -> None:
        """Make all that holds views of the members' rows, whenever other members are there."""
        specs = [member.spec.objective for member in self.members]
        self.objective = Objective(specs, multiplier_K, multiplier_K)
        self.slices = slices_of(self.model, self.batch_size)
        self.gradients_of_step = self._gradients_of_step() if self.members else None

    def _gradients_of_step(self) -> ManualStep | AutogradStep:
        """The hand-written step where there is one for the model, else autograd."""
        if covers(self.model):
            return ManualStep(self.model, self.objective, self.adam.gradients, self.batch_size)
        return AutogradStep(self.slices, self.objective, self.adam.gradients)

    def tensor(self, values: object) -> Tensor:
        """Values on the population's device, in its dtype."""
        return torch.as_tensor(np.asarray(values), dtype=self.dtype, device=self.device)

    def index(self, places: NDArray[Any]) -> Tensor:
        """Places, or a mask, on the population's device, to pick rows with."""
        return torch.as_tensor(places, device=self.device)

    def generators(self, stream: str) -> list[torch.Generator]:
        """Every member's generator of one stream, at its beginning."""
        return [member.generator(stream, self.device) for member in self.members]

    def _examples(self, split: str) -> Examples:
        condition_NC = self.tensor(self.data.condition(split)) if self.model.is_conditional else None
        return Examples(self.tensor(self.data.splits[split].x_ND), condition_NC)

    def train_epoch(self) -> list[dict[str, float]]:
        """Train every member for one epoch and measure it on the validation rows.

        Returns:
            The epoch's metrics of each member: `train/...` averaged over the epoch's batches, `val/...` after it, all
            in nats per example; `time/epoch_seconds`, its share of the pack's time.
            A member that diverged has values that are not finite.
        """
        if not self.members:
            return []
        started = time.perf_counter()
        for part in self.slices:
            part.model.train()
        weight_SK, rows_SKB = self._begin_epoch(), self._batches()
        batch_generators = self._lasting("batches")
        sums_4K = weight_SK.new_zeros(len(TRAIN_METRICS), len(self.members))
        for step in range(self.steps_per_epoch):
            if step % STEPS_PER_DRAW == 0:
                draws = min(STEPS_PER_DRAW, self.steps_per_epoch - step)
                noise_SKBZ = self.model.noise(draws, self.batch_size, batch_generators)
            losses = self._step(step, rows_SKB[step], noise_SKBZ[step % STEPS_PER_DRAW], weight_SK[step])
            # Step by step: how a sum over steps is rounded depends on how many members stand side by side.
            sums_4K += torch.stack([*losses, weight_SK[step]])
        for progress in self.progress_K:
            progress.epoch += 1
        means_4K = (sums_4K / self.steps_per_epoch).double().cpu().numpy()
        measured = [metrics_of(measurement, "val", self.score) for measurement in self.measure("validation")]
        seconds = (time.perf_counter() - started) / len(self.members)
        return [self._epoch_metrics(means_4K[:, k], measured[k], seconds) for k in range(len(self.members))]

    def _begin_epoch(self) -> Tensor:
        """Hand the optimizer each member's rates of the epoch, and give its KL weights, (S, K)."""
        budgets_K = [member.spec.training.epochs for member in self.members]
        assert all(np.less(self.epochs_K, budgets_K)), "a member has spent its budget: it has to leave first"
        steps_K = [epoch * self.steps_per_epoch for epoch in self.epochs_K]
        cuts_K = [
            progress.schedule.cut(done, self.steps_per_epoch)
            for progress, done in zip(self.progress_K, steps_K, strict=True)
        ]
        weight_SK, rate_SK = np.stack(cuts_K, axis=2)
        self.adam.begin(steps_K, rate_SK)
        return self.tensor(weight_SK)

    def _lasting(self, stream: str) -> list[torch.Generator]:
        """Every member's generator of one stream, where its training has brought it."""
        return [progress.generators[stream] for progress in self.progress_K]

    def _batches(self) -> Tensor:
        """The places of each member's training rows in an order of its own, batch by batch, (S, K, B)."""
        order_KN = torch.stack([self._permutation(generator) for generator in self._lasting("batches")])
        used_KN = order_KN[:, : self.steps_per_epoch * self.batch_size].contiguous()
        return used_KN.view(-1, self.steps_per_epoch, self.batch_size).transpose(0, 1).contiguous()

    def _permutation(self, generator: torch.Generator) -> Tensor:
        return torch.randperm(len(self.examples["train"].x_ND), generator=generator, device=self.device)

    def _epoch_metrics(
        self, trained_4: np.ndarray[tuple[int], np.dtype[np.float64]], measured: dict[str, float], seconds: float
    ) -> dict[str, float]:
        trained = dict(zip(TRAIN_METRICS, trained_4.tolist(), strict=True))
        if not self.model.has_rate:
            del trained["train/kl"]
        return {**trained, **measured, "time/epoch_seconds": seconds}

    def _step(self, step: int, rows_KB: Tensor, noise_KBZ: Tensor, weight_K: Tensor) -> Losses:
        """One optimizer step of every member, the epoch's number `step`."""
        x_KBD, condition_KBC = self.examples["train"].at(rows_KB)
        assert self.gradients_of_step is not None
        terms = self.gradients_of_step(self._corrupted(x_KBD), x_KBD, condition_KBC, noise_KBZ, weight_K)
        losses = Losses(*terms)
        self.adam.step(step)
        self.objective.ascend(losses.kl_K, weight_K)
        return losses

    def _corrupted(self, x_KBD: Tensor) -> Tensor:
        if not self.model.corrupts:
            return x_KBD
        noise = [
            torch.randn(x_KBD.shape[1:], generator=generator, device=self.device, dtype=self.dtype)
            for generator in self._lasting("corruption")
        ]
        return self.model.corrupt(x_KBD, torch.stack(noise))

    def measure(self, split: str) -> list[Measurement]:
        """Every member's parts per example on one split, in float64 on the host."""
        if not self.members:
            return []
        rows, generators_K = (self.examples[split], self.data.splits[split].is_anomaly_N), self.generators("evaluation")
        return [one for own, model in self.slices for one in measure(model, *rows, generators_K[own])]

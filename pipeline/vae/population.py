"""A pack of K models trained at once as one tensor program; K = 1 is the plain case."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.data import Dataset
from pipeline.spec.trial import TrialSpec
from pipeline.vae.evaluation import Examples, Measurement, measure, metrics_of
from pipeline.vae.families import make_family
from pipeline.vae.objective import Objective
from pipeline.vae.optimizer import StackedAdam
from pipeline.vae.schedules import kl_weights
from pipeline.vae.shape import shape_of

# Steps whose noise is drawn in one call: few calls, and memory that does not grow with the data.
STEPS_PER_DRAW = 64
STREAMS = ("weights", "batches", "evaluation", "samples", "corruption", "probability")
TRAIN_METRICS = ("train/loss", "train/reconstruction", "train/kl", "train/kl_weight")


@dataclass(frozen=True, kw_only=True)
class Member:
    """One configuration and the seed of everything random in it."""

    spec: TrialSpec
    seed: int

    def generator(self, stream: str, device: torch.device | str = "cpu") -> torch.Generator:
        """A generator of its own for each use, so that one use more never shifts the others."""
        words = np.random.SeedSequence([self.seed, STREAMS.index(stream)]).generate_state(2, np.uint32)
        return torch.Generator(device).manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)


class Population:
    """K members on one data set. Members share nothing but the instructions: none of them can change another's numbers.

    They must agree in what shapes the program (family, network, likelihood, epochs, batch size); latent size,
    objective, optimizer settings and seed are each member's own.
    """

    def __init__(
        self,
        members: Sequence[Member],
        data: Dataset,
        score: str = "elbo",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        """Put data, parameters and schedules on the device.

        Args:
            members: The K configurations.
            data: Shared by all members; it stays on the device.
            score: The anomaly score whose AUROC is measured.
            device: Where to train.
            dtype: Of data, parameters and noise.
        """
        self.members, self.data, self.score = list(members), data, score
        self.device, self.dtype = torch.device(device), dtype
        self.training = members[0].spec.training
        specs = [member.spec for member in members]
        weights = [member.generator("weights") for member in members]
        self.model = make_family([spec.model for spec in specs], shape_of(data), weights).to(self.device, dtype)
        self.examples = {name: self._examples(name) for name in data.splits}
        train_ND = self.examples["train"].x_ND
        self.batch_size = min(self.training.batch_size, len(train_ND))
        self.steps_per_epoch = len(train_ND) // self.batch_size
        steps = self.training.epochs * self.steps_per_epoch
        self.objective = Objective([spec.objective for spec in specs], train_ND)
        self.adam = StackedAdam(self.model, [spec.training for spec in specs], steps)
        annealings = [spec.objective.kl_annealing for spec in specs]
        self.kl_weight_TK = self.tensor(np.stack([kl_weights(annealing, steps) for annealing in annealings], axis=1))
        self.batch_generators = self.generators("batches")
        self.corruption_generators = self.generators("corruption")
        self.epoch = 0

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
        started = time.perf_counter()
        self.model.train()
        order_KN = torch.stack([self._permutation(generator) for generator in self.batch_generators])
        sums_4K = self.objective.beta_K.new_zeros(len(TRAIN_METRICS), len(self.members))
        for step in range(self.steps_per_epoch):
            if step % STEPS_PER_DRAW == 0:
                draws = min(STEPS_PER_DRAW, self.steps_per_epoch - step)
                noise_SKBZ = self.model.noise(draws, self.batch_size, self.batch_generators)
            rows_KB = order_KN[:, step * self.batch_size : (step + 1) * self.batch_size]
            sums_4K += self._step(rows_KB, noise_SKBZ[step % STEPS_PER_DRAW])
        self.epoch += 1
        means_4K = (sums_4K / self.steps_per_epoch).double().cpu().numpy()
        measured = [metrics_of(measurement, "val", self.score) for measurement in self.measure("validation")]
        seconds = (time.perf_counter() - started) / len(self.members)
        return [self._epoch_metrics(means_4K[:, k], measured[k], seconds) for k in range(len(self.members))]

    def _permutation(self, generator: torch.Generator) -> Tensor:
        return torch.randperm(len(self.examples["train"].x_ND), generator=generator, device=self.device)

    def _epoch_metrics(
        self, trained_4: np.ndarray[tuple[int], np.dtype[np.float64]], measured: dict[str, float], seconds: float
    ) -> dict[str, float]:
        trained = dict(zip(TRAIN_METRICS, trained_4.tolist(), strict=True))
        if not self.model.has_rate:
            del trained["train/kl"]
        return {**trained, **measured, "time/epoch_seconds": seconds}

    def _step(self, rows_KB: Tensor, noise_KBZ: Tensor) -> Tensor:
        """One optimizer step of every member; gives what TRAIN_METRICS names, shape (4, K)."""
        weight_K = self.kl_weight_TK[self.adam.steps]
        x_KBD, condition_KBC = self.examples["train"].at(rows_KB)
        code = self.model.code(self._corrupted(x_KBD), condition_KBC, noise_KBZ)
        decoded_KBE = self.model.decode(code.z_KBZ, condition_KBC)
        reconstruction_K = self.model.likelihood.negative_log(decoded_KBE, x_KBD).sum(dim=2).mean(dim=1)
        kl_KR = code.rate_KBR.mean(dim=1)
        penalized_K = code.penalty_K
        if penalized_K is None:
            penalized_K = self.objective.penalized_kl(kl_KR, self.model.rate_mask_KR)
        loss_K = reconstruction_K + self.objective.penalty(penalized_K, weight_K)
        if code.auxiliary_K is not None:
            loss_K = loss_K + code.auxiliary_K
        self.adam.minimize(loss_K.sum())
        kl_K = kl_KR.detach().sum(dim=1)
        self.objective.ascend(kl_K, weight_K)
        return torch.stack([loss_K.detach(), reconstruction_K.detach(), kl_K, weight_K])

    def _corrupted(self, x_KBD: Tensor) -> Tensor:
        if not self.model.corrupts:
            return x_KBD
        noise = [
            torch.randn(x_KBD.shape[1:], generator=generator, device=self.device, dtype=self.dtype)
            for generator in self.corruption_generators
        ]
        return self.model.corrupt(x_KBD, torch.stack(noise))

    def measure(self, split: str) -> list[Measurement]:
        """Every member's parts per example on one split, in float64 on the host."""
        is_anomaly_N = self.data.splits[split].is_anomaly_N
        return measure(self.model, self.examples[split], is_anomaly_N, self.generators("evaluation"))

"""A pack of K models trained at once as one tensor program; K = 1 is the plain case."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pipeline.data import Dataset
from pipeline.spec.trial import TrialSpec
from pipeline.vae.evaluation import Measurement, metrics_of, split_measurement
from pipeline.vae.families.vae import VAE
from pipeline.vae.objective import Objective
from pipeline.vae.optimizer import StackedAdam
from pipeline.vae.schedules import kl_weights

# Steps whose noise is drawn in one call: few calls, and memory that does not grow with the data.
STEPS_PER_DRAW = 64
STREAMS = ("weights", "batches", "evaluation", "samples")


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

    They must agree in what shapes the program (network, likelihood, epochs, batch size); latent size, objective,
    learning rate and seed are each member's own.
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
        self.train_ND = self.tensor(data.splits["train"].x_ND)
        self.batch_size = min(self.training.batch_size, len(self.train_ND))
        self.steps_per_epoch = len(self.train_ND) // self.batch_size
        specs = [member.spec for member in members]
        weights = [member.generator("weights") for member in members]
        self.model = VAE([spec.model for spec in specs], self.train_ND.shape[1], weights).to(self.device, dtype)
        self.objective = Objective([spec.objective for spec in specs], self.train_ND)
        self.adam = StackedAdam(self.model, self.tensor([spec.training.learning_rate for spec in specs]))
        self.kl_weight_TK = self._schedules()
        self.batch_generators = [member.generator("batches", self.device) for member in members]
        self.epoch = 0

    def tensor(self, values: object) -> Tensor:
        """Values on the population's device, in its dtype."""
        return torch.as_tensor(np.asarray(values), dtype=self.dtype, device=self.device)

    def _schedules(self) -> Tensor:
        steps = self.training.epochs * self.steps_per_epoch
        weights = [kl_weights(member.spec.objective.kl_annealing, steps) for member in self.members]
        return self.tensor(np.stack(weights, axis=1))

    def train_epoch(self) -> list[dict[str, float]]:
        """Train every member for one epoch and measure it on the validation rows.

        Returns:
            The epoch's metrics of each member: `train/...` averaged over the epoch's batches, `val/...` after it, all
            in nats per example; `time/epoch_seconds`. A member that diverged has values that are not finite.
        """
        started = time.perf_counter()
        self.model.train()
        order_KN = torch.stack([self._permutation(generator) for generator in self.batch_generators])
        sums_4K = self.train_ND.new_zeros(4, len(self.members))
        for step in range(self.steps_per_epoch):
            if step % STEPS_PER_DRAW == 0:
                noise_SKBZ = self._noise(min(STEPS_PER_DRAW, self.steps_per_epoch - step))
            rows_KB = order_KN[:, step * self.batch_size : (step + 1) * self.batch_size]
            sums_4K += self._step(self.train_ND[rows_KB], noise_SKBZ[step % STEPS_PER_DRAW])
        self.epoch += 1
        trained = dict(zip(TRAIN_METRICS, (sums_4K / self.steps_per_epoch).cpu().double().numpy(), strict=True))
        measured = [metrics_of(measurement, "val", self.score) for measurement in self.measure("validation")]
        seconds = time.perf_counter() - started
        return [
            {name: float(value_K[k]) for name, value_K in trained.items()}
            | measured[k]
            | {"time/epoch_seconds": seconds}
            for k in range(len(self.members))
        ]

    def _permutation(self, generator: torch.Generator) -> Tensor:
        return torch.randperm(len(self.train_ND), generator=generator, device=self.device)

    def _noise(self, steps: int) -> Tensor:
        """Standard normal noise for some steps, (S, K, B, Z): 0 in dimensions that a member does not have."""
        mask_KZ = self.model.latent_mask_KZ
        noise_SKBZ = mask_KZ.new_zeros(steps, len(mask_KZ), self.batch_size, mask_KZ.shape[1])
        for k, (member, generator) in enumerate(zip(self.members, self.batch_generators, strict=True)):
            latent = member.spec.model.latent_dim
            shape = (steps, self.batch_size, latent)
            noise_SKBZ[:, k, :, :latent] = torch.randn(shape, generator=generator, device=self.device, dtype=self.dtype)
        return noise_SKBZ

    def _step(self, x_KBD: Tensor, noise_KBZ: Tensor) -> Tensor:
        """One optimizer step of every member; gives what TRAIN_METRICS names, shape (4, K)."""
        weight_K = self.kl_weight_TK[self.adam.steps]
        posterior = self.model.encode(x_KBD)
        decoded_KBD = self.model.decode(posterior.sample(noise_KBZ))
        reconstruction_K = self.model.likelihood.negative_log(decoded_KBD, x_KBD).sum(dim=2).mean(dim=1)
        kl_KZ = posterior.kl().mean(dim=1)
        penalized_K = self.objective.penalized_kl(kl_KZ, self.model.latent_mask_KZ)
        loss_K = self.objective.loss(reconstruction_K, penalized_K, weight_K)
        self.adam.minimize(loss_K.sum())
        return torch.stack([loss_K, reconstruction_K, kl_KZ.sum(dim=1), weight_K]).detach()

    def measure(self, split: str) -> list[Measurement]:
        """Every member's parts per example on one split, in float64 on the host."""
        generators = [member.generator("evaluation", self.device) for member in self.members]
        return split_measurement(self.model, self.data.splits[split], generators, self.train_ND)


TRAIN_METRICS = ("train/loss", "train/reconstruction", "train/kl", "train/kl_weight")

"""The loss that training minimizes: the annealing of the KL, the penalty on it, and what a training step computes.

All terms are nats per example: summed over dimensions, averaged over examples.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vae_study.config.model import KlAnnealing, ObjectiveConfig
from vae_study.vae.families.base import Posteriors
from vae_study.vae.terms import TERMS

# Of the augmented Lagrangian: step size of the dual ascent, and coefficient of the quadratic penalty; per nat.
ASCENT_PER_NAT, STIFFNESS_PER_NAT = 0.02, 0.5
Floats = NDArray[np.float64]
# How steep the sigmoid is: before it is rescaled it goes from sigmoid(-STEEPNESS) to sigmoid(STEEPNESS).
STEEPNESS = 6.0
# Numbers of the largest tensor of a term, (G, Z, B, B), for as many models at a time as a GPU computes one for.
TERM_NUMBERS = 2**26


def _sigmoid(time_T: Floats, annealing: KlAnnealing) -> Floats:
    position_T = np.minimum(1.0, time_T / annealing.warmup)

    def raw(position: Floats | float) -> Floats:
        return np.asarray(1 / (1 + np.exp(-STEEPNESS * (2 * np.asarray(position) - 1))))

    return np.asarray((raw(position_T) - raw(0.0)) / (raw(1.0) - raw(0.0)))


SCHEDULES: Mapping[str, Callable[[Floats, KlAnnealing], Floats]] = {
    "none": lambda time_T, annealing: np.ones_like(time_T),
    "linear": lambda time_T, annealing: np.minimum(1.0, time_T / annealing.warmup),
    "cosine": lambda time_T, annealing: 0.5 * (1 - np.cos(np.pi * np.minimum(1.0, time_T / annealing.warmup))),
    "sigmoid": _sigmoid,
    # Fu et al. 2019, equations 6 and 7.
    "cyclical": lambda time_T, annealing: np.minimum(1.0, (time_T * annealing.cycles) % 1.0 / annealing.ramp),
}


def kl_weights(annealing: KlAnnealing, steps: int) -> Floats:
    """The KL weight of each optimizer step of a budget.

    Args:
        annealing: The schedule; its times are fractions of the budget.
        steps: Optimizer steps of the whole budget, T. Step t is at time t / T.

    Returns:
        Weights from 0 to 1, shape (T,).
    """
    return SCHEDULES[annealing.schedule](np.arange(steps) / steps, annealing)


def penalty_weights(config: ObjectiveConfig, steps: int) -> Floats:
    """The weight of the penalty at each step of a budget, shape (T,): the annealing's, or of a sweep beta / high."""
    if config.kind != "sweep":
        return kl_weights(config.kl_annealing, steps)
    return np.array([config.sweep.beta_at(step / steps) for step in range(steps)]) / config.sweep.high


class Objective:
    """beta, free bits, constraints, capacities and terms of K models, applied to all of them at once.

    Attributes:
        multiplier_K: The Lagrange multipliers of constrained models; the others' are not used.
        is_beta_alone: Whether every model's penalty is beta times its whole KL, and a term if its kind has one.
        no_term_K: The terms if no model has one.
    """

    def __init__(
        self,
        configs: Sequence[ObjectiveConfig],
        like: Tensor,
        multiplier_K: Tensor | None = None,
        rows: int | None = None,
    ):
        """Put each model's own numbers on the device.

        Args:
            configs: Of the models.
            like: Has the device and the dtype of the numbers.
            multiplier_K: Multipliers that change in place; by default they begin at 0.
            rows: Rows of the training data; by default those of a minibatch.
        """
        self.configs, self.rows = list(configs), rows

        def numbers(values: Sequence[float]) -> Tensor:
            return like.new_tensor(values)

        def flags(values: Sequence[bool]) -> Tensor:
            return torch.tensor(values, device=like.device)

        self.beta_K = numbers([config.sweep.high if config.kind == "sweep" else config.beta for config in configs])
        self.nats_K = numbers([config.free_bits.nats for config in configs])
        self.delta_K = numbers([config.delta_nats for config in configs])
        self.gamma_K = numbers([config.gamma for config in configs])
        self.capacity_K = numbers([config.capacity_nats for config in configs])
        # A constraint and a capacity set the KL themselves.
        targets = ("constrained", "capacity")
        free = ["none" if config.kind in targets else config.free_bits.kind for config in configs]
        self.floors_total_K = flags([kind == "total" for kind in free])
        self.floors_each_K = flags([kind == "per_dimension" for kind in free])
        self.is_constrained_K = flags([config.kind == "constrained" for config in configs])
        self.is_capacity_K = flags([config.kind == "capacity" for config in configs])
        self.multiplier_K = torch.zeros_like(self.beta_K) if multiplier_K is None else multiplier_K
        self.is_beta_alone = all(kind == "none" for kind in free) and not any(one.kind in targets for one in configs)
        weights = [TERMS[one.kind].weight(one) if one.kind in TERMS else 0.0 for one in configs]
        self.term_weight_K, self.no_term_K = numbers(weights), torch.zeros_like(self.beta_K)
        own = [(term, [k for k, one in enumerate(configs) if one.kind == kind]) for kind, term in TERMS.items()]
        self.terms = [(term, torch.tensor(models, device=like.device)) for term, models in own if models]

    def of(self, models: slice) -> "Objective":
        """The objective of some of the models, with views of the same multipliers."""
        multiplier_K = self.multiplier_K[models]
        return Objective(self.configs[models], multiplier_K, multiplier_K, self.rows)

    def penalized_kl(self, kl_KZ: Tensor, latent_mask_KZ: Tensor) -> Tensor:
        """KL' with free bits (Kingma et al. 2016, appendix C8), nats per example, shape (K,).

        `none`: the KL. `total`: max(nats, KL). `per_dimension`: the sum over dimensions of max(nats, KL_j). A floor
        holds for the mean over the batch, so that single examples may stay below it.

        Args:
            kl_KZ: KL of each latent dimension averaged over the batch; 0 where a model has no such dimension.
            latent_mask_KZ: 1 where a model has the dimension, else 0.
        """
        total_K = kl_KZ.sum(dim=1)
        each_K = (torch.maximum(kl_KZ, self.nats_K[:, None]) * latent_mask_KZ).sum(dim=1)
        floored_K = torch.where(self.floors_total_K, torch.maximum(total_K, self.nats_K), total_K)
        return torch.where(self.floors_each_K, each_K, floored_K)

    def penalty(self, penalized_kl_K: Tensor, weight_K: Tensor) -> Tensor:
        """The term that is added to the reconstruction, by each model's kind of objective; nats per example, (K,).

        Args:
            penalized_kl_K: KL', or the family's own penalty in its place.
            weight_K: The annealing's weight at this step.
        """
        beta_K = self.beta_K * weight_K * penalized_kl_K
        capacity_K = self.gamma_K * (penalized_kl_K - weight_K * self.capacity_K).abs()
        constrained_K = weight_K * self._augmented(penalized_kl_K - self.delta_K)
        return torch.where(self.is_constrained_K, constrained_K, torch.where(self.is_capacity_K, capacity_K, beta_K))

    def _augmented(self, violation_K: Tensor) -> Tensor:
        """The augmented Lagrangian's term for violation <= 0 (Nocedal and Wright 2006, equation 17.65), nats, (K,)."""
        pull_K = self.multiplier_K + STIFFNESS_PER_NAT * violation_K
        return (pull_K.clamp(min=0).square() - self.multiplier_K.square()) / (2 * STIFFNESS_PER_NAT)

    def penalty_with_gradient(self, kl_KZ: Tensor, latent_mask_KZ: Tensor, weight_K: Tensor) -> tuple[Tensor, Tensor]:
        """The penalty of `penalized_kl`, nats per example, (K,), and its gradient by each dimension's KL, (K, Z).

        The gradient is beta where the penalty is beta times the KL. Else it is autograd's, on as few numbers as there
        are dimensions, so that one place says what an objective is.
        """
        if self.is_beta_alone:
            gradient_K = self.beta_K * weight_K
            return kl_KZ.sum(dim=1).mul_(gradient_K), gradient_K[:, None].expand_as(kl_KZ)
        with torch.enable_grad():
            leaf_KZ = kl_KZ.requires_grad_()
            penalty_K = self.penalty(self.penalized_kl(leaf_KZ, latent_mask_KZ), weight_K)
            (gradient_KZ,) = torch.autograd.grad(penalty_K.sum(), leaf_KZ)
        return penalty_K.detach(), gradient_KZ

    def term(self, posteriors: Posteriors | None, mask_KZ: Tensor) -> Tensor:
        """Each model's term without its weight, (K,); 0 of a kind that has none.

        Args:
            posteriors: Of the minibatch; None of a family whose q(z|x) is no normal distribution, if no model's kind
                has a term.
            mask_KZ: 1 where a model has the dimension, else 0.
        """
        found_K = self.no_term_K
        for term, models_G in self.terms:
            assert posteriors is not None, "the config refuses such kinds for such families"
            for part_G in torch.split(models_G, self._at_once(posteriors.z_KBZ)):
                own = Posteriors._make(value.index_select(0, part_G) for value in posteriors)
                value_G = term.value(own, mask_KZ[part_G], self.rows or own.z_KBZ.shape[1])
                found_K = found_K.index_copy(0, part_G, value_G)
        return found_K

    def _at_once(self, z_KBZ: Tensor) -> int:
        """Models that a term is computed for at a time: on a CPU one, which fits the cache and has its bits alone."""
        _, batch, latent = z_KBZ.shape
        return max(1, TERM_NUMBERS // (batch * batch * latent)) if z_KBZ.device.type != "cpu" else 1

    def term_with_gradient(
        self, posteriors: Posteriors | None, mask_KZ: Tensor, weight_K: Tensor
    ) -> tuple[Tensor, Posteriors | None]:
        """As `term`, and the gradients of the weighted terms' sum by each part of the posteriors, if there is a term.

        They are autograd's, so that one place says what a term is.
        """
        if posteriors is None or not self.terms:
            return self.no_term_K, None
        with torch.enable_grad():
            leaves = Posteriors._make(value.detach().requires_grad_() for value in posteriors)
            term_K = self.term(leaves, mask_KZ)
            loss = self.weighted(term_K, weight_K).sum()
            gradients = torch.autograd.grad(loss, leaves, materialize_grads=True)
        return term_K.detach(), Posteriors._make(gradients)

    def weighted(self, term_K: Tensor, weight_K: Tensor) -> Tensor:
        """The terms as they are added to the loss, annealed as the KL is, (K,)."""
        return weight_K * self.term_weight_K * term_K

    @torch.no_grad()
    def ascend(self, kl_K: Tensor, weight_K: Tensor) -> None:
        """Move the multipliers of constrained models by dual ascent: up where the KL exceeds delta, else down to 0."""
        step_K = ASCENT_PER_NAT * weight_K * (kl_K - self.delta_K)
        self.multiplier_K.add_(step_K).clamp_(min=0)


class StepInputs(NamedTuple):
    """What one training step of K models takes.

    Attributes:
        seen_KBD: What the encoder sees of the minibatch: x, or for a denoising family what is left of it.
        x_KBD: The minibatch.
        condition_KBC: Its labels' indicators for a conditional family.
        noise_KBZ: Standard normal noise of the draws.
        weight_K: The annealing's weight of the KL.
    """

    seen_KBD: Tensor
    x_KBD: Tensor
    condition_KBC: Tensor | None
    noise_KBZ: Tensor
    weight_K: Tensor

    def of(self, models: slice) -> "StepInputs":
        """The inputs of some of the models."""
        return StepInputs._make(None if value is None else value[models] for value in self)


class Losses(NamedTuple):
    """Terms of one step of every model, nats per example.

    Attributes:
        loss_K, reconstruction_K, kl_K: As they are called.
        term_K: As of `Objective.term`.
        own_KL: The family's `own_terms`; None for none.
    """

    loss_K: Tensor
    reconstruction_K: Tensor
    kl_K: Tensor
    term_K: Tensor
    own_KL: Tensor | None = None

    @classmethod
    def measured(cls, own_terms: Sequence[str]) -> int:
        """M, how many rows `beside` gives for a family with these terms."""
        # The weight is in the place of `own_KL`.
        return len(cls._fields) + len(own_terms)

    def beside(self, weight_K: Tensor) -> Tensor:
        """All of them and the KL weight, (M, K): loss, reconstruction, KL, term, weight, and the family's terms."""
        *plain, own_KL = self
        found_MK = torch.stack([*plain, weight_K])
        return found_MK if own_KL is None else torch.cat([found_MK, own_KL.T])


def train_metrics(
    config: ObjectiveConfig, means_M: Sequence[float], has_rate: bool, own_terms: Sequence[str]
) -> dict[str, float]:
    """An epoch's metrics of a model's training, by name.

    Args:
        config: Its objective.
        means_M: Means over the epoch's steps of what `Losses.beside` gives.
        has_rate: Whether its code has a KL.
        own_terms: Its family's.
    """
    loss, reconstruction, kl, term, weight, *own = means_M
    metrics = {"train/loss": loss, "train/reconstruction": reconstruction, **({"train/kl": kl} if has_rate else {})}
    if config.kind in TERMS:
        metrics[TERMS[config.kind].metric] = term
    metrics |= {f"train/{name}": value for name, value in zip(own_terms, own, strict=True)}
    return {**metrics, "train/kl_weight": weight}


class GradientStep:
    """Writes the gradients of every model's loss, some models after the others.

    Its parts hold views of the parameters and of the places of their gradients: when models join or leave, another one
    has to be made.
    """

    def __init__(self, parts: Sequence[tuple[slice, Callable[[StepInputs], Losses]]]):
        """Args: parts: which models, and what writes the gradients of these."""
        self.parts = parts

    def __call__(self, inputs: StepInputs) -> Losses:
        """Write the gradients, and give the terms of the losses."""
        losses = [part(inputs.of(models)) for models, part in self.parts]
        if len(losses) == 1:
            return losses[0]
        terms = zip(*losses, strict=True)
        return Losses._make(None if parts[0] is None else torch.cat(parts) for parts in terms)

"""The part of a spec that one trial is made from. Every leaf of it can be fixed or searched."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from pipeline.spec.base import Count, Fraction, FromList, NotNegative, Positive, SpecPart


def _inside_budget(fraction: float) -> float:
    if not 0 < fraction < 1:
        raise ValueError("a fraction of the budget above 0 and below 1, so that the warm-up ends inside the budget")
    return fraction


class KlAnnealing(SpecPart):
    """How the KL weight rises to 1 during training; times are fractions of the trial's whole budget of steps.

    Attributes:
        schedule: `none` (always 1), `linear`, `sigmoid` or `cyclical` (Fu et al. 2019).
        warmup: Fraction of the budget after which `linear` and `sigmoid` reach 1.
        cycles: Number of times that `cyclical` starts again at 0.
        ramp: Fraction of each cycle that rises; the rest of it stays at 1.
    """

    schedule: Literal["none", "linear", "sigmoid", "cyclical"] = "none"
    warmup: Annotated[float, AfterValidator(_inside_budget)] = 0.3
    cycles: Count = 4
    ramp: Fraction = 0.5


class FreeBits(SpecPart):
    """The share of the KL that is not penalized (Kingma et al. 2016).

    Attributes:
        kind: `none`, `total` (one floor for the whole KL) or `per_dimension`.
        nats: The floor, in nats per example (`total`) or nats per latent dimension (`per_dimension`).
    """

    kind: Literal["none", "total", "per_dimension"] = "none"
    nats: NotNegative = 0.1


class ObjectiveSpec(SpecPart):
    """loss = reconstruction + beta * weight(t) * KL', in nats per example."""

    beta: NotNegative = 1.0
    kl_annealing: KlAnnealing = KlAnnealing()
    free_bits: FreeBits = FreeBits()


class NetworkSpec(SpecPart):
    """Encoder widths; the decoder has them reversed."""

    kind: Literal["mlp"] = "mlp"
    hidden: Annotated[tuple[Count, ...], FromList, Field(min_length=1)] = (256, 128)
    activation: Literal["relu", "elu", "gelu", "silu", "tanh"] = "relu"


class ModelSpec(SpecPart):
    """What is trained.

    Attributes:
        latent_dim: Number of latent dimensions.
        likelihood: `bernoulli` for data in [0, 1]; `gaussian` with a fixed `sigma`.
        sigma: Standard deviation of the gaussian likelihood, in the units of the scaled data.
    """

    family: Literal["vae"] = "vae"
    network: NetworkSpec = NetworkSpec()
    latent_dim: Count = 8
    likelihood: Literal["bernoulli", "gaussian"] = "gaussian"
    sigma: Positive = 0.7071


class TrainingSpec(SpecPart):
    """How it is trained, by Adam; `learning_rate` is per step."""

    epochs: Count = 60
    batch_size: Count = 128
    learning_rate: Positive = 1e-3


class TrialSpec(SpecPart):
    """One configuration, complete: what a trial is trained from, besides data and seed."""

    model: ModelSpec = ModelSpec()
    objective: ObjectiveSpec = ObjectiveSpec()
    training: TrainingSpec = TrainingSpec()

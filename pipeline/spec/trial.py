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
        schedule: `none` (always 1), `linear`, `cosine`, `sigmoid` or `cyclical` (Fu et al. 2019).
        warmup: Fraction of the budget after which `linear`, `cosine` and `sigmoid` reach 1.
        cycles: Number of times that `cyclical` starts again at 0.
        ramp: Fraction of each cycle that rises; the rest of it stays at 1.
    """

    schedule: Literal["none", "linear", "cosine", "sigmoid", "cyclical"] = "none"
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
    """What is added to the reconstruction, in nats per example; w(t) is the annealing's weight.

    Attributes:
        kind: `beta` adds beta * w(t) * KL'. `constrained` holds the KL at most at `delta_nats` by a Lagrange multiplier
            in place of beta. `capacity` adds gamma * |KL - w(t) * capacity_nats| (Burgess et al. 2018).
        beta: Weight of the KL.
        delta_nats: The most KL that `constrained` allows, nats per example.
        gamma: Weight of the distance to the capacity.
        capacity_nats: The KL that `capacity` ends at, nats per example.
    """

    kind: Literal["beta", "constrained", "capacity"] = "beta"
    beta: NotNegative = 1.0
    delta_nats: Positive = 10.0
    gamma: Positive = 2.0
    capacity_nats: Positive = 10.0
    kl_annealing: KlAnnealing = KlAnnealing()
    free_bits: FreeBits = FreeBits()


class NetworkSpec(SpecPart):
    """The encoder; the decoder is its mirror image.

    Attributes:
        kind: `mlp`, or `conv` for images.
        hidden: Widths of the hidden layers, after the convolutions if there are any; none makes an `mlp` linear.
        channels: Channels of the convolutions of `conv`, each of which halves height and width.
        activation: After each hidden layer.
        batch_norm: Normalize before each activation.
    """

    kind: Literal["mlp", "conv"] = "mlp"
    hidden: Annotated[tuple[Count, ...], FromList] = (256, 128)
    channels: Annotated[tuple[Count, ...], FromList, Field(min_length=1)] = (32, 64)
    activation: Literal["relu", "elu", "gelu", "silu", "tanh"] = "relu"
    batch_norm: bool = False


class CorruptionSpec(SpecPart):
    """What `denoising` does to its input (Vincent et al. 2008).

    Attributes:
        kind: `masking` sets a share of the features to 0, `gaussian` adds noise.
        level: That share, or the noise's standard deviation in the scaled data's units.
    """

    kind: Literal["masking", "gaussian"] = "masking"
    level: Fraction = 0.3


class CodebookSpec(SpecPart):
    """The codebook of `vector_quantized` (van den Oord et al. 2017); an example has `latent_dim` codes.

    Attributes:
        size: Number of entries.
        dim: Dimensions of an entry.
        commitment: Weight of the commitment loss.
    """

    size: Annotated[int, Field(ge=2)] = 32
    dim: Count = 4
    commitment: NotNegative = 0.25


class ModelSpec(SpecPart):
    """What is trained.

    Attributes:
        family: What kind of autoencoder.
        latent_dim: Number of latent dimensions; `hierarchical` shares them between its two levels.
        likelihood: `bernoulli` for data in [0, 1]; `gaussian` with a fixed `sigma`; `gaussian_learned`.
        sigma: Standard deviation of `gaussian`, and where a shared or per-feature one of `gaussian_learned` starts, in
            the scaled data's units.
        learned_sigma: What `gaussian_learned` learns: one sigma (`shared`), one for each feature, or a function of the
            code (`per_example`).
        code: Whether `denoising` has a `gaussian` posterior, as a VAE, or a `point` code, as an autoencoder.
        corruption: Of `denoising`.
        codebook: Of `vector_quantized`.
    """

    family: Literal[
        "vae", "autoencoder", "denoising", "conditional", "hierarchical", "vector_quantized", "adversarial"
    ] = "vae"
    network: NetworkSpec = NetworkSpec()
    latent_dim: Count = 8
    likelihood: Literal["bernoulli", "gaussian", "gaussian_learned"] = "gaussian"
    sigma: Positive = 0.7071
    learned_sigma: Literal["shared", "per_feature", "per_example"] = "shared"
    code: Literal["gaussian", "point"] = "gaussian"
    corruption: CorruptionSpec = CorruptionSpec()
    codebook: CodebookSpec = CodebookSpec()

    @property
    def is_trained_by_kl(self) -> bool:
        """Whether the loss has the KL in it: that of a codebook is constant, `adversarial` has a game in its place."""
        return self.has_rate and self.family not in ("vector_quantized", "adversarial")

    @property
    def has_rate(self) -> bool:
        """Whether the code costs nats; a point code, a real number without noise, has no KL and no ELBO."""
        return not (self.family == "autoencoder" or (self.family == "denoising" and self.code == "point"))


class TrainingSpec(SpecPart):
    """How it is trained, by Adam.

    Attributes:
        learning_rate: Per step.
        learning_rate_schedule: `constant`, or `cosine` down to 0 at the end of the budget.
        weight_decay: Decoupled (Loshchilov and Hutter 2019); 0 for none.
        gradient_clip: Largest norm of a member's gradient; 0 for no limit.
    """

    epochs: Count = 60
    batch_size: Count = 128
    learning_rate: Positive = 1e-3
    learning_rate_schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: NotNegative = 0.0
    gradient_clip: NotNegative = 0.0


class TrialSpec(SpecPart):
    """One configuration, complete: what a trial is trained from, besides data and seed."""

    model: ModelSpec = ModelSpec()
    objective: ObjectiveSpec = ObjectiveSpec()
    training: TrainingSpec = TrainingSpec()

"""The sections model, objective and training: the configuration of one trial. Every key can be fixed or searched."""

from itertools import pairwise
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from vae_study.config.base import (
    MOST_LAYERS,
    ConfigPart,
    Count,
    Fraction,
    FromList,
    NotNegative,
    Positive,
    Width,
    at_most,
)
from vae_study.errors import UserError


def _inside_budget(fraction: float) -> float:
    if not 0 < fraction < 1:
        raise ValueError("a fraction of the budget above 0 and below 1, so that the warm-up ends inside the budget")
    return fraction


class KlAnnealing(ConfigPart):
    """How the KL weight rises to 1 during training. Times are fractions of the trial's training steps.

    Attributes:
        schedule: `none` (always 1), `linear`, `cosine`, `sigmoid` or `cyclical` (Fu et al. 2019).
        warmup: Fraction of the budget after which `linear`, `cosine` and `sigmoid` reach 1.
        cycles: How many times `cyclical` rises from 0.
        ramp: Fraction of each cycle in which the weight rises; for the rest it is 1.
    """

    schedule: Literal["none", "linear", "cosine", "sigmoid", "cyclical"] = "none"
    warmup: Annotated[float, AfterValidator(_inside_budget)] = 0.3
    cycles: Count = 4
    ramp: Fraction = 0.5


class FreeBits(ConfigPart):
    """A floor of the KL, below which it is not penalized (Kingma et al. 2016).

    Attributes:
        kind: `none`, `total` (one floor for the whole KL) or `per_dimension`.
        nats: The floor, in nats per example (`total`) or nats per latent dimension (`per_dimension`).
    """

    kind: Literal["none", "total", "per_dimension"] = "none"
    nats: NotNegative = 0.1


class SweepConfig(ConfigPart):
    """The path of beta in a trial of kind `sweep`: at `low` at first, then up to `high` at a constant relative rate.

    Attributes:
        low: The first beta.
        high: The last beta, at the end of the budget.
        hold: Fraction of the budget that is trained at `low`.
        points: How many models of a trial are kept along the path, at equal ratios of beta; fewer with few epochs.
        retrain: How many of the kept models are trained again after all sweeps, each as a trial of its own at its beta
            from beginning to end: the best by the champion's rule.
    """

    low: Positive = 0.05
    high: Positive = 5.0
    hold: Annotated[float, Field(ge=0, lt=1)] = 0.3
    points: Annotated[int, Field(ge=2, le=200)] = 24
    retrain: Annotated[int, Field(ge=0, le=200)] = 3

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low below high, got low {self.low:g} and high {self.high:g}")
        return self

    def beta_at(self, time: float) -> float:
        """Beta at a time, which is a fraction of the budget."""
        risen = max(0.0, time - self.hold) / (1 - self.hold)
        return float(self.low * (self.high / self.low) ** risen)

    def kept(self, epochs: int) -> dict[int, float]:
        """The epochs of a budget after which a model is kept, and its beta; the last epoch is one of them."""
        times = (self.hold + (1 - self.hold) * point / (self.points - 1) for point in range(self.points))
        return {epoch: self.beta_at(epoch / epochs) for epoch in sorted({max(1, round(t * epochs)) for t in times})}


class ObjectiveConfig(ConfigPart):
    """The term that is added to the reconstruction loss, in nats per example. w(t) is the annealing weight.

    Attributes:
        kind: `beta` adds beta * w(t) * KL', with KL' the KL after free bits. `sweep` does the same with the betas of
            `sweep`, one after the other and without annealing; it gives a model of each, so that one trial is a whole
            frontier. `constrained` keeps the KL at or below `delta_nats` by a Lagrange multiplier in place of beta.
            `capacity` adds gamma * |KL - w(t) * capacity_nats| (Burgess et al. 2018). `beta_tc` weighs the total
            correlation of the code by itself: w(t) * (beta * KL' + (tc_weight - beta) * TC) (Chen et al. 2018). `dip`
            adds w(t) * dip_weight * |Cov - I|^2 to `beta`, with Cov the covariance of the code (DIP-VAE-II, Kumar et
            al. 2018).
        beta: Weight of the KL; of `beta_tc`, of what is left of the KL beside the total correlation.
        delta_nats: The most KL that `constrained` allows, nats per example.
        gamma: Weight of the distance to the capacity.
        capacity_nats: The KL that `capacity` ends at, nats per example.
        tc_weight: Weight of the total correlation; equal to beta, it makes `beta_tc` the same as `beta`.
        dip_weight: Weight of the squared distance of the code's covariance from the identity.
    """

    kind: Literal["beta", "sweep", "constrained", "capacity", "beta_tc", "dip"] = "beta"
    beta: NotNegative = 1.0
    sweep: SweepConfig = SweepConfig()
    delta_nats: Positive = 10.0
    gamma: Positive = 2.0
    capacity_nats: Positive = 10.0
    tc_weight: NotNegative = 6.0
    dip_weight: NotNegative = 10.0
    kl_annealing: KlAnnealing = KlAnnealing()
    free_bits: FreeBits = FreeBits()

    @property
    def compares_rows(self) -> bool:
        """Whether the loss has a term that compares the codes of a minibatch with each other."""
        return self.kind in ("beta_tc", "dip")


class NetworkConfig(ConfigPart):
    """The encoder; the decoder is its mirror image.

    Attributes:
        kind: `mlp`; for images `conv`, or for large ones `residual` of blocks with group normalization; for sequences
            `recurrent`, whose encoder reads them forwards and backwards, or `temporal_conv` of dilated causal
            convolutions. Their decoders get the code at each step.
        hidden: Widths of the hidden layers, after the convolutions if there are any; none makes an `mlp` linear. Of
            `recurrent`, those of its recurrent layers.
        channels: Channels of the convolutions: of `conv` each halves height and width, as does each block of
            `residual` but the first, which reads patches that are the larger, the larger the image and the fewer the
            blocks; of `temporal_conv` each takes three steps that are twice as far apart as those of the one before.
        cell: Of `recurrent`: gated recurrent units (Cho et al. 2014) or long short-term memory (Hochreiter and
            Schmidhuber 1997).
        activation: After each hidden layer and each convolution.
        batch_norm: Normalize before each activation but those of `temporal_conv`'s convolutions; not of `residual`.
    """

    kind: Literal["mlp", "conv", "residual", "recurrent", "temporal_conv"] = "mlp"
    hidden: Annotated[tuple[Width, ...], FromList, Field(max_length=MOST_LAYERS)] = (256, 128)
    channels: Annotated[tuple[Width, ...], FromList, Field(min_length=1, max_length=MOST_LAYERS)] = (32, 64)
    cell: Literal["gru", "lstm"] = "gru"
    activation: Literal["relu", "elu", "gelu", "silu", "tanh"] = "relu"
    batch_norm: bool = False


class CorruptionConfig(ConfigPart):
    """The corruption of the input of `denoising` (Vincent et al. 2008).

    `masking` sets the share `level` of the features to 0; `gaussian` adds noise with this standard deviation, in the
    scaled data's units.
    """

    kind: Literal["masking", "gaussian"] = "masking"
    level: Fraction = 0.3


class CodebookConfig(ConfigPart):
    """The codebook of `vector_quantized` (van den Oord et al. 2017): `size` entries of `dim` dimensions.

    An example has `latent_dim` codes. `commitment` is the weight of the commitment loss.
    """

    size: Annotated[Count, Field(ge=2)] = 32
    dim: Count = 4
    commitment: NotNegative = 0.25


class LabelsConfig(ConfigPart):
    """The labels that `semi_supervised` is told in training (Kingma et al. 2014).

    `share` is the share of the training rows of each label, one row at least; `weight` is that of -log q(y|x) of these
    in the loss.
    """

    share: Annotated[float, Field(gt=0, le=1)] = 0.1
    weight: NotNegative = 10.0


class GanConfig(ConfigPart):
    """The weights of the terms in the loss of `vae_gan` (Larsen et al. 2016), for images.

    Attributes:
        pixels: Of the reconstruction, the likelihood's.
        similarity: Of half the squared distance between an image and its reconstruction in the discriminator's last
            hidden layer.
        adversary: Of the decoder's loss where the discriminator tells its images from real ones.
    """

    pixels: Positive = 1.0
    similarity: NotNegative = 1.0
    adversary: NotNegative = 1.0


class ModelConfig(ConfigPart):
    """The model.

    Attributes:
        latent_dim: Number of latent dimensions; `hierarchical` shares them between its two levels.
        latent: Whether an example has one code (`window`) or several, of `latent_dim` dimensions each: of a sequence
            each step (`step`, for `recurrent` and `temporal_conv`), of an image each place of the encoder's smallest
            maps (`map`, for `conv` and `residual`; of `hierarchical` the second level has the maps of the stage before,
            for `residual`). The KL of all is summed: nats per example.
        likelihood: `bernoulli` for data in [0, 1]; `gaussian` with a fixed `sigma`; `gaussian_learned`.
        sigma: Standard deviation of `gaussian`, and initial value of the shared or per-feature one of
            `gaussian_learned`, in the scaled data's units.
        learned_sigma: What `gaussian_learned` learns: one sigma (`shared`), one for each feature, or a function of the
            code (`per_example`).
        ms_ssim: Of images, what is added to the loss for a reconstruction whose multi-scale structural similarity to x
            is 0, nats per pixel; nothing for one of 1. The likelihood, and what is measured, stay as they are.
        code: Whether `denoising` has a `gaussian` posterior, as a VAE, or a `deterministic` code, as an autoencoder.
    """

    family: Literal[
        "vae",
        "autoencoder",
        "denoising",
        "conditional",
        "hierarchical",
        "vector_quantized",
        "adversarial",
        "semi_supervised",
        "vae_gan",
    ] = "vae"
    network: NetworkConfig = NetworkConfig()
    latent_dim: Width = 8
    latent: Literal["window", "step", "map"] = "window"
    likelihood: Literal["bernoulli", "gaussian", "gaussian_learned"] = "gaussian"
    sigma: Positive = 0.7071
    learned_sigma: Literal["shared", "per_feature", "per_example"] = "shared"
    ms_ssim: NotNegative = 0.0
    code: Literal["gaussian", "deterministic"] = "gaussian"
    corruption: CorruptionConfig = CorruptionConfig()
    codebook: CodebookConfig = CodebookConfig()
    labels: LabelsConfig = LabelsConfig()
    gan: GanConfig = GanConfig()

    @property
    def is_trained_by_kl(self) -> bool:
        """Whether the KL is part of the loss. The KL of a codebook is constant; `adversarial` has a discriminator."""
        return self.has_rate and self.family not in ("vector_quantized", "adversarial")

    @property
    def is_by_place(self) -> bool:
        """Whether an example has several codes: one for each step of a sequence, or for each place of a map."""
        return self.latent != "window"

    @property
    def has_normal_code(self) -> bool:
        """Whether q(z|x) is one normal distribution of the whole code, and the KL to N(0, I) is part of the loss."""
        has_parts = self.family in ("hierarchical", "semi_supervised")
        return self.is_trained_by_kl and not has_parts and not self.is_by_place

    @property
    def has_rate(self) -> bool:
        """Whether the code has a KL (a rate). A deterministic code has no KL and no ELBO."""
        return not (self.family == "autoencoder" or (self.family == "denoising" and self.code == "deterministic"))

    def require_data(self, has_pixels: bool, has_sequences: bool) -> None:
        """Raise UserError if the model is for images or sequences and the data has none, or its parts do not fit."""
        kind = self.network.kind
        got, reads_steps = f"model.network.kind: got {kind!r}, expected 'mlp'", kind in ("recurrent", "temporal_conv")
        if kind in ("conv", "residual") and not has_pixels:
            raise UserError(f"{got}: the features of this data are no pixels")
        if self.family == "vae_gan" and not has_pixels:
            raise UserError("model.family: got 'vae_gan', which needs images: the features of this data are no pixels")
        if self.ms_ssim and not has_pixels:
            raise UserError(f"model.ms_ssim: got {self.ms_ssim:g}, expected 0: the features of this data are no pixels")
        if reads_steps and not has_sequences:
            raise UserError(f"{got}: this data has no sequences; data.sequence or data.layout: series makes them")
        if kind == "residual" and self.network.batch_norm:
            of_groups = "for network.kind residual, which normalizes by groups of channels"
            raise UserError(f"model.network.batch_norm: got true, expected false {of_groups}")
        if kind == "recurrent" and not self.network.hidden:
            raise UserError("model.network.hidden: got none, expected a width for each recurrent layer")
        self._require_places()

    def _require_places(self) -> None:
        """Raise UserError if a code for each step or place is asked for, and the network or the family has none."""
        kind, channels = self.network.kind, len(self.network.channels)
        one_each = f"model.latent: got {self.latent!r}, expected 'window'"
        if self.latent == "step" and kind not in ("recurrent", "temporal_conv"):
            raise UserError(f"{one_each} for network.kind {kind}, which does not read step by step")
        if self.latent == "map" and kind not in ("conv", "residual"):
            raise UserError(f"{one_each} for network.kind {kind}, which has no maps; conv and residual have")
        has_levels, of_maps = self.family == "hierarchical", "for family hierarchical with latent map"
        of_parts = has_levels or self.family in ("vector_quantized", "semi_supervised")
        if of_parts and self.is_by_place and not (has_levels and self.latent == "map"):
            raise UserError(f"{one_each} for family {self.family}, whose code has several parts")
        if has_levels and self.latent == "map" and kind != "residual":
            raise UserError(f"model.network.kind: got {kind!r}, expected 'residual' {of_maps}")
        if has_levels and self.latent == "map" and channels < 2:
            of_stages = f"{of_maps}, whose levels are maps of two stages"
            raise UserError(f"model.network.channels: got {channels}, expected at least 2 {of_stages}")

    def least_weights(self, features: int) -> int:
        """How many weights it has at least: those between its layers, in encoder and decoder, and its codebook."""
        network, code = self.network, max(1, self.latent_dim // 2)
        codebook = self.codebook.size * self.codebook.dim if self.family == "vector_quantized" else 0
        if network.kind == "recurrent":
            # A step has at least one feature; a layer at least three gates, which see its own states, too.
            widths = (1, *network.hidden)
            recurrent = 3 * sum(own * (one + own) for one, own in pairwise(widths))
            return 2 * (recurrent + widths[-1] * code) + codebook
        is_mlp = network.kind == "mlp"
        # Convolutions leave at least one value of each channel; a level of `hierarchical` has half of the code.
        inputs = features if is_mlp else network.channels[-1]
        linear = sum(one * other for one, other in pairwise((inputs, *network.hidden, code)))
        taps = {"mlp": 0, "conv": 9, "residual": 4, "temporal_conv": 3}[network.kind]
        convolved = taps * sum(one * other for one, other in pairwise((1, *network.channels)))
        blocks = 18 * sum(one * one for one in network.channels) if network.kind == "residual" else 0
        return 2 * (linear + convolved + blocks) + codebook


LearningRate = Annotated[float, Field(gt=0), at_most(10, "since each step of Adam moves a weight by about as much")]


class TrainingConfig(ConfigPart):
    """Training with Adam.

    Attributes:
        epochs: Passes over the training rows; the budget of a trial.
        batch_size: Rows of a minibatch.
        learning_rate: Initial learning rate of Adam.
        learning_rate_schedule: `constant`, or `cosine` down to 0 at the end of the budget.
        weight_decay: Decoupled (Loshchilov and Hutter 2019); 0 for none.
        gradient_clip: Largest norm of a model's gradient; 0 for no limit.
        precision: Of the products of a training step: `tf32` (a GPU's) and `bf16` round the factors to 10 and 7 binary
            places, `bf16` activations too. Weights, optimizer, losses, measuring and scoring are in float32.
    """

    epochs: Count = 60
    batch_size: Count = 128
    learning_rate: LearningRate = 1e-3
    learning_rate_schedule: Literal["constant", "cosine"] = "constant"
    weight_decay: NotNegative = 0.0
    gradient_clip: NotNegative = 0.0
    precision: Literal["float32", "tf32", "bf16"] = "float32"


class TrialConfig(ConfigPart):
    """The complete configuration of one trial, without its data and seed."""

    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    training: TrainingConfig = TrainingConfig()

    def kept_betas(self) -> dict[int, float]:
        """The epochs after which a model is kept, each with its beta, the last epoch's last; none but of a sweep."""
        return self.objective.sweep.kept(self.training.epochs) if self.objective.kind == "sweep" else {}

    def with_beta(self, beta: float) -> Self:
        """The same trial with a fixed beta, as the model of a sweep that was kept at this beta is described."""
        return self.model_copy(update={"objective": self.objective.model_copy(update={"kind": "beta", "beta": beta})})

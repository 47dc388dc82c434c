"""The training step of families with one code, by hand: no graph, no allocation, gradients straight into one buffer.

It computes the same as autograd, faster, for blocks of models at a time; tests compare the two.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from vae_study.vae import likelihoods
from vae_study.vae.families.base import Family, Posteriors
from vae_study.vae.families.gaussian import VAE, Autoencoder, Conditional, DenoisingAutoencoder, DenoisingVAE
from vae_study.vae.fast_step import convolutions
from vae_study.vae.fast_step.layers import MLP, Head, Workspace
from vae_study.vae.kernels import DERIVATIVES, is_wide, softplus
from vae_study.vae.networks import ConvDecoder, ConvEncoder
from vae_study.vae.networks.layers import StackedLinear, StackedMLP
from vae_study.vae.objective import GradientStep, Losses, Objective, StepInputs
from vae_study.vae.stacking import even_chunks, widest

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
# Above this log(1 + exp(x)) is x in float64 too.
LINEAR_FROM = 40
Cost = Callable[[Tensor, Tensor], Tensor]


class BernoulliCost:
    """Binary cross-entropy of logits: softplus(logit) - x logit."""

    def __init__(self, likelihood: likelihoods.Bernoulli, features: int, workspace: Workspace):
        self.cost_GBD = workspace.take_rows(features)

    def __call__(self, decoded_GBE: Tensor, x_GBD: Tensor) -> Tensor:
        """The cost; its derivative is sigmoid(logit) - x."""
        rows = x_GBD.shape[1]
        softplus(decoded_GBE, LINEAR_FROM, out=self.cost_GBD)
        cost_G = self.cost_GBD.addcmul_(decoded_GBE, x_GBD, value=-1).sum(dim=(1, 2))
        decoded_GBE.sigmoid_().sub_(x_GBD).mul_(1 / rows)
        return cost_G.div_(rows)


class GaussianCost:
    """The Gaussian likelihood with a fixed sigma."""

    def __init__(self, likelihood: likelihoods.Gaussian, features: int, workspace: Workspace):
        self.sigma_G11, self.square_GBD = likelihood.sigma_K11[workspace.models], workspace.take_rows(features)

    def __call__(self, decoded_GBE: Tensor, x_GBD: Tensor) -> Tensor:
        """The cost."""
        _, rows, features = x_GBD.shape
        precision_G11 = self.sigma_G11**-2
        torch.square(decoded_GBE.sub_(x_GBD), out=self.square_GBD)
        squares_G = self.square_GBD.sum(dim=(1, 2)).mul_(0.5 / rows)
        decoded_GBE.mul_(precision_G11 / rows)
        return squares_G.mul_(precision_G11[:, 0, 0]) + features * (self.sigma_G11[:, 0, 0].log() + HALF_LOG_2PI)


class LearnedGaussianCost:
    """The Gaussian likelihood with a sigma that is a parameter: one for all features, or one for each."""

    def __init__(self, likelihood: likelihoods.LearnedGaussian, features: int, workspace: Workspace):
        self.raw_G1F, self.raw_gradient_G1F = workspace.own(likelihood.raw_sigma_K1F)
        self.square_GBD = workspace.take_rows(features)

    def __call__(self, decoded_GBE: Tensor, x_GBD: Tensor) -> Tensor:
        """The cost; also writes the gradient of sigma."""
        _, rows, features = x_GBD.shape
        sigma_G1F = likelihoods.bounded_sigma(self.raw_G1F)
        torch.square(decoded_GBE.sub_(x_GBD), out=self.square_GBD)
        mean_square_G1F = self.square_GBD.mean(dim=1, keepdim=True)
        if sigma_G1F.shape[2] == 1:
            mean_square_G1F = mean_square_G1F.sum(dim=2, keepdim=True)
        decoded_GBE.mul_(sigma_G1F**-2 / rows)
        sharing = features / sigma_G1F.shape[2]
        gradient_G1F = (sharing - mean_square_G1F * sigma_G1F**-2) / sigma_G1F
        torch.mul(gradient_G1F, torch.sigmoid(self.raw_G1F), out=self.raw_gradient_G1F)
        cost_G1F = 0.5 * mean_square_G1F * sigma_G1F**-2 + sharing * (sigma_G1F.log() + HALF_LOG_2PI)
        return cost_G1F.sum(dim=(1, 2))


class DecodedGaussianCost:
    """The Gaussian likelihood with a sigma from the decoder."""

    def __init__(self, likelihood: likelihoods.DecodedGaussian, features: int, workspace: Workspace):
        self.scaled_GBD, self.sigma_GBD, self.gradient_GBD = (workspace.take_rows(features) for _ in range(3))

    def __call__(self, decoded_GBE: Tensor, x_GBD: Tensor) -> Tensor:
        """The cost."""
        rows = x_GBD.shape[1]
        mean_GBD, raw_GBD = decoded_GBE.chunk(2, dim=-1)
        softplus(raw_GBD, LINEAR_FROM, out=self.sigma_GBD).add_(likelihoods.SMALLEST_SIGMA)
        torch.div(mean_GBD.sub_(x_GBD), self.sigma_GBD, out=self.scaled_GBD)
        torch.div(self.scaled_GBD, self.sigma_GBD, out=mean_GBD).mul_(1 / rows)
        torch.square(self.scaled_GBD, out=self.gradient_GBD)
        squares_G = self.gradient_GBD.sum(dim=(1, 2)).mul_(0.5 / rows)
        raw_GBD.sigmoid_().mul_(self.gradient_GBD.neg_().add_(1)).div_(self.sigma_GBD).mul_(1 / rows)
        logs_G = self.sigma_GBD.log_().sum(dim=(1, 2)).div_(rows)
        return squares_G.add_(logs_G).add_(x_GBD.shape[2] * HALF_LOG_2PI)


COSTS: Mapping[type[nn.Module], Callable[..., Cost]] = {
    likelihoods.Bernoulli: BernoulliCost,
    likelihoods.Gaussian: GaussianCost,
    likelihoods.LearnedGaussian: LearnedGaussianCost,
    likelihoods.DecodedGaussian: DecodedGaussianCost,
}


FAMILIES = (VAE, DenoisingVAE, Conditional, Autoencoder, DenoisingAutoencoder)
# Numbers of a block's widest activations that fit, with all else, into the cache of one core.
BLOCK_NUMBERS = 2**17


def covers(model: Family) -> bool:
    """Whether there is a hand-written step for the model.

    It has one code, a plain MLP on each side of it, no value missing, and no loss but of likelihood and code. On a CPU
    also convolutions that halve and double whole sizes. Its activation's and its likelihood's derivatives have to be
    known, too.
    """
    network, decoder = model.network, model.decoder
    if isinstance(decoder, ConvDecoder):
        is_cpu = model.code_mask_KZ.device.type == "cpu"
        if not is_cpu or any(2 * a != b for size in pairwise(decoder.sizes) for a, b in zip(*size, strict=True)):
            return False
    if network.kind not in ("mlp", "conv") or model.shape.may_miss or model.dissimilarity_K is not None:
        return False
    is_plain = type(model) in FAMILIES and not network.batch_norm and not model.is_by_place
    return is_plain and network.activation in DERIVATIVES and type(model.likelihood) in COSTS


class Gaussian:
    """q(z|x) of G models: a normal distribution, drawn from by the reparameterization trick."""

    def __init__(self, model: VAE, workspace: Workspace):
        self.of_mean, self.of_log_variance = (Head(head, workspace) for head in (model.mean, model.log_variance))
        mask_GZ1 = model.code_mask_KZ[workspace.models, :, None]
        # None if all models have all dimensions.
        self.mask_GZ1 = None if bool(mask_GZ1.all()) else mask_GZ1
        latent = mask_GZ1.shape[1]
        self.noise, self.sigma, self.growth, self.kl = (workspace.take_code(latent) for _ in range(4))

    def forward(self, hidden_GBI: Tensor, noise_GBZ: Tensor, z_GZB: Tensor) -> Tensor:
        """Write a draw to `z_GZB`; gives the KL of each dimension averaged over the batch, nats, (G, Z)."""
        self.hidden = hidden_GBI
        self.mean = self._masked(self.of_mean.forward(hidden_GBI))
        log_variance = self._masked(self.of_log_variance.forward(hidden_GBI))
        torch.mul(log_variance, 0.5, out=self.sigma).exp_()
        self.noise.copy_(noise_GBZ.mT)
        torch.addcmul(self.mean, self.sigma, self.noise, out=z_GZB)
        self.posteriors = Posteriors(z_GZB.mT, self.mean.mT, log_variance.mT)
        # As gaussian_kl: expm1, since exp(x) - x - 1 is rounding where x is small.
        torch.expm1(log_variance, out=self.growth)
        torch.sub(self.growth, log_variance, out=self.kl).addcmul_(self.mean, self.mean)
        return self.kl.mean(dim=2).mul_(0.5)

    def backward(
        self, gradient_GZB: Tensor, kl_gradient_GZ: Tensor, term_gradient: Posteriors | None, out_GBI: Tensor | None
    ) -> None:
        """Write the parameters' gradients, and that of the hidden layer to `out_GBI`.

        Args:
            gradient_GZB: Of the draw.
            kl_gradient_GZ: Of the KL of each dimension averaged over the batch.
            term_gradient: Of the objective's terms, if there are any.
            out_GBI: None if it is not wanted.
        """
        kl_gradient_GZ1 = (kl_gradient_GZ / gradient_GZB.shape[2])[:, :, None]
        if term_gradient is not None:
            gradient_GZB = gradient_GZB + term_gradient.z_KBZ.mT
        spread = self.sigma.mul_(self.noise).mul_(gradient_GZB)
        log_variance_gradient = self.growth.mul_(kl_gradient_GZ1).add_(spread).mul_(0.5)
        mean_gradient = self.mean.mul_(kl_gradient_GZ1).add_(gradient_GZB)
        if term_gradient is not None:
            log_variance_gradient.add_(term_gradient.log_variance_KBZ.mT)
            mean_gradient.add_(term_gradient.mean_KBZ.mT)
        log_variance_gradient, mean_gradient = self._masked(log_variance_gradient), self._masked(mean_gradient)
        self.of_mean.backward(self.hidden, mean_gradient)
        self.of_log_variance.backward(self.hidden, log_variance_gradient)
        if out_GBI is not None:
            self.of_mean.input_gradient(mean_gradient, out_GBI)
            self.of_log_variance.add_input_gradient(log_variance_gradient, out_GBI)

    def _masked(self, value_GZB: Tensor) -> Tensor:
        return value_GZB if self.mask_GZ1 is None else value_GZB.mul_(self.mask_GZ1)


class Deterministic:
    """A deterministic code without a rate."""

    posteriors = None

    def __init__(self, model: Autoencoder, workspace: Workspace):
        self.head, self.mask_GZ1 = Head(model.mean, workspace), model.code_mask_KZ[workspace.models, :, None]

    def forward(self, hidden_GBI: Tensor, noise_GBZ: Tensor, z_GZB: Tensor) -> Tensor:
        """Write the code to `z_GZB`, whatever the noise; gives its rate, zeros, (G, Z)."""
        self.hidden = hidden_GBI
        torch.mul(self.head.forward(hidden_GBI), self.mask_GZ1, out=z_GZB)
        return torch.zeros_like(self.mask_GZ1[..., 0])

    def backward(
        self, gradient_GZB: Tensor, kl_gradient_GZ: Tensor, term_gradient: Posteriors | None, out_GBI: Tensor | None
    ) -> None:
        """As Gaussian.backward; the rate is always 0 and has no gradient, and there are no terms."""
        masked_GZB = gradient_GZB * self.mask_GZ1
        self.head.backward(self.hidden, masked_GZB)
        if out_GBI is not None:
            self.head.input_gradient(masked_GZB, out_GBI)


class Block:
    """Some models of a batch: one pass forward and one backward."""

    def __init__(self, model: Family, objective: Objective, workspace: Workspace):
        assert isinstance(model, VAE | Autoencoder)
        activation = DERIVATIVES[model.network.activation]
        features, latent = model.shape.features, model.code_mask_KZ.shape[1]
        self.condition = model.shape.classes if model.is_conditional else 0
        kinds = {StackedMLP: MLP, ConvEncoder: convolutions.Encoder, ConvDecoder: convolutions.Decoder}
        self.encoder, self.decoder = (
            kinds[type(network)](network, activation, workspace) for network in (model.encoder, model.decoder)
        )
        self.code = Gaussian(model, workspace) if isinstance(model, VAE) else Deterministic(model, workspace)
        self.cost = COSTS[type(model.likelihood)](model.likelihood, features, workspace)
        self.objective, self.mask_GZ = objective.of(workspace.models), model.code_mask_KZ[workspace.models]
        self.beside = workspace.take_rows(features + self.condition) if self.condition else None
        self.code_GZB, self.code_gradient_GZB = (workspace.take_code(self.condition + latent) for _ in range(2))
        deepest = model.mean.weight_KIO.shape[1]
        has_layers = model.network.kind == "conv" or self.encoder.layers
        self.hidden_gradient = workspace.lend_rows(len(self.encoder.layers), deepest) if has_layers else None

    @torch.no_grad()
    def __call__(self, inputs: StepInputs) -> Losses:
        """Write the gradients."""
        hidden_GBI = self.encoder.forward(self._with_condition(inputs.seen_KBD, inputs.condition_KBC))
        kl_GR = self.code.forward(hidden_GBI, inputs.noise_KBZ, self.code_GZB[:, self.condition :])
        decoded_GBE = self.decoder.forward(self.code_GZB.mT)
        reconstruction_G = self.cost(decoded_GBE, inputs.x_KBD)
        objective, weight_G = self.objective, inputs.weight_K
        term_G, term_gradient = objective.term_with_gradient(self.code.posteriors, self.mask_GZ, weight_G)
        penalty_G, kl_gradient_GR = objective.penalty_with_gradient(kl_GR, self.mask_GZ, weight_G)
        self._backward(decoded_GBE, kl_gradient_GR, term_gradient)
        loss_G = reconstruction_G + penalty_G
        if objective.terms:
            loss_G += objective.weighted(term_G, weight_G)
        return Losses(loss_G, reconstruction_G, kl_GR.detach().sum(dim=1), term_G)

    def _backward(self, gradient_GBE: Tensor, kl_gradient_GR: Tensor, term_gradient: Posteriors | None) -> None:
        first_GBO = self.decoder.backward(gradient_GBE)
        self.decoder.layers[0].code_gradient(first_GBO, self.code_gradient_GZB)
        gradient_GZB = self.code_gradient_GZB[:, self.condition :]
        self.code.backward(gradient_GZB, kl_gradient_GR, term_gradient, self.hidden_gradient)
        if self.hidden_gradient is not None:
            self.encoder.backward(self.hidden_gradient)

    def _with_condition(self, seen_GBD: Tensor, condition_GBC: Tensor | None) -> Tensor:
        """What the encoder sees; the condition goes in front of the code, too."""
        if self.beside is None or condition_GBC is None:
            return seen_GBD
        self.code_GZB[:, : self.condition].copy_(condition_GBC.mT)
        return torch.cat([seen_GBD, condition_GBC], dim=2, out=self.beside)


def fast_step(model: Family, objective: Objective, gradients: Sequence[Tensor], rows: int) -> GradientStep:
    """A training step of models that `covers` accepts, block by block. It allocates its memory once.

    Args:
        model: Its parameters are read where they are at each step.
        objective: Of the same models.
        gradients: Where each parameter's gradient goes, (K, ...), in the parameters' order.
        rows: Examples of a minibatch.
    """
    workspace = Workspace(dict(zip(model.parameters(), gradients, strict=True)), rows, widest(model))
    parts = []
    for models in _blocks(model, rows):
        workspace.begin(models)
        parts.append((models, Block(model, objective, workspace)))
    return GradientStep(parts)


def _blocks(model: Family, rows: int) -> list[slice]:
    """Models in blocks of nearly the same size, one by one if oneDNN computes a layer; on a GPU one block."""
    if model.code_mask_KZ.device.type != "cpu":
        return [slice(0, len(model.configs))]
    layers = [module for module in model.modules() if isinstance(module, StackedLinear)]
    if any(is_wide(layer.weight_KIO, rows) for layer in layers):
        return even_chunks(len(model.configs), 1)
    return even_chunks(len(model.configs), max(1, BLOCK_NUMBERS // (rows * widest(model))))

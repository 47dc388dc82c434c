"""A family whose similarity of images is learned by a discriminator: the VAE/GAN of Larsen et al. 2016."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from vae_study.config.model import ModelConfig, NetworkConfig
from vae_study.vae.families.base import Decoded
from vae_study.vae.families.gaussian import VAE
from vae_study.vae.networks import DataShape, make_encoder
from vae_study.vae.networks.layers import Generators, StackedLinear

# What the discriminator is told of a real image, in place of 1, so that it is never sure (Salimans et al. 2016, 3.4).
REAL = 0.9
# A largest singular value is taken for no less than this.
SMALLEST = 1e-6


class Discriminator(nn.Module):
    """Tells real images from decoded ones, by a network as the encoder's without batch normalization."""

    def __init__(self, shape: DataShape, network: NetworkConfig, generators_K: Generators):
        super().__init__()
        plain = network.model_copy(update={"batch_norm": False})
        self.hidden, width = make_encoder(shape, 0, plain, generators_K)
        # One output would do, but products with fewer than four are rounded in another way for a model alone.
        models = len(generators_K)
        self.logit = StackedLinear([width] * models, [4] * models, generators_K)
        for name, weight_KIO in self._matrices():
            size = weight_KIO.shape[2]
            start = [torch.randn(size, generator=generator) for generator in generators_K]
            self.register_buffer(_direction_of(name), functional.normalize(torch.stack(start), dim=1))

    def _matrices(self) -> Iterator[tuple[str, Tensor]]:
        """The parameters that are no vectors as matrices, by name."""
        for name, parameter in self.named_parameters():
            if parameter.dim() > 2 and min((matrix_KIO := parameter.flatten(2)).shape[1:]) > 1:
                yield name, matrix_KIO

    def normalized(self) -> dict[str, Tensor]:
        """All parameters, with each layer's weights divided by their largest singular value (Miyato et al. 2018).

        So no layer makes two images differ by more than they do, up to how convolutions overlap: neither the similarity
        nor the decoder's gradient can grow without bound. One step of power iteration at a time follows the value.
        """
        found: dict[str, Tensor] = dict(self.named_parameters())
        for name, weight_KIO in self._matrices():
            direction_KO = self.get_buffer(_direction_of(name))
            with torch.no_grad():
                # Sums, not products with one column, which are rounded in another way for a model alone.
                other_KI = functional.normalize((weight_KIO * direction_KO[:, None]).sum(dim=2), dim=1)
                direction_KO.copy_(functional.normalize((weight_KIO * other_KI[:, :, None]).sum(dim=1), dim=1))
                outer_KIO = other_KI[:, :, None] * direction_KO[:, None]
            largest_K = (weight_KIO * outer_KIO).sum(dim=(1, 2)).clamp(min=SMALLEST)
            found[name] = found[name] / largest_K.view(-1, *[1] * (found[name].dim() - 1))
        return found

    def forward(self, x_KBD: Tensor) -> tuple[Tensor, Tensor]:
        """The last hidden layer, (K, B, F), and the logit that an image is real, (K, B)."""
        hidden_KBF = self.hidden(x_KBD)
        return hidden_KBF.to(x_KBD.dtype), self.logit(hidden_KBF)[..., 0].to(x_KBD.dtype)


def _direction_of(name: str) -> str:
    return f"direction_{name.replace('.', '_')}"


class VaeGan(VAE):
    """A VAE whose loss has a learned similarity beside the likelihood, and whose decoder deceives a discriminator.

    The discriminator tells images from reconstructions and from decoded draws of the prior (Larsen et al. 2016,
    equation 10). The similarity is half the squared distance between an image and its reconstruction in its last hidden
    layer (equation 8, without the constant). One step trains all three, each by its own part of the loss (algorithm 1):

    - encoder: rate, likelihood and similarity;
    - decoder: likelihood, similarity, and the non-saturating loss of Goodfellow et al. 2014;
    - discriminator: telling images apart, and nothing else.

    The paper has no likelihood of pixels. Here it stays, with a weight: reconstruction, rate and ELBO are measured by
    it, as those of a VAE.
    """

    own_terms = ("similarity_loss", "discriminator_loss", "decoder_loss")
    weights_K3: Tensor

    def __init__(self, configs: Sequence[ModelConfig], shape: DataShape, generators_K: Generators):
        super().__init__(configs, shape, generators_K)
        self.discriminator = Discriminator(shape, self.network, generators_K)
        weights = [[one.gan.pixels, one.gan.similarity, one.gan.adversary] for one in configs]
        self.register_buffer("weights_K3", torch.tensor(weights, dtype=torch.float64), persistent=False)

    def fit(self, reconstruction_K: Tensor, decoded: Decoded) -> tuple[Tensor, Tensor]:
        """The weighted likelihood, similarity and decoder's loss, and the discriminator's loss as it is."""
        x_KBD, rows = decoded.x_KBD, decoded.x_KBD.shape[1]
        pixels_K, similarity_K, adversary_K = self.weights_K3.unbind(dim=1)
        plain_K, _ = super().fit(pixels_K * reconstruction_K, decoded)
        reconstructed_KBD = self._image(decoded.decoded_KBE, x_KBD)
        # What the discriminator says of these must not train the encoder, which gets no gradient of their codes. The
        # batch's own noise in another order is as good a draw from the prior as fresh noise.
        z_KBZ = torch.cat([decoded.z_KBZ.detach(), decoded.noise_KBZ.roll(1, dims=1)], dim=1)
        # With copies of the running statistics, as those are of codes of examples.
        statistics = {name: value.clone() for name, value in self.decoder.named_buffers()}
        made_KBD = self._image(functional_call(self.decoder, statistics, (z_KBZ,)), x_KBD.repeat(1, 2, 1))

        weights = self.discriminator.normalized()
        shown_KBD = torch.cat([x_KBD, made_KBD.detach()], dim=1)
        real_KBF, logit_KB = functional_call(self.discriminator, weights, (shown_KBD,))
        real_KB, fake_KB = logit_KB[:, :rows], logit_KB[:, rows:]
        of_real_KB = REAL * functional.softplus(-real_KB) + (1 - REAL) * functional.softplus(real_KB)
        discriminator_K = (of_real_KB.sum(dim=1) + functional.softplus(fake_KB).sum(dim=1)) / rows

        # The losses of encoder and decoder must not train the discriminator.
        fixed = {name: value.detach() for name, value in weights.items()}
        seen_KBD = torch.cat([reconstructed_KBD, made_KBD], dim=1)
        seen_KBF, logit_KB = functional_call(self.discriminator, fixed, (seen_KBD,))
        apart_KBF = seen_KBF[:, :rows] - real_KBF[:, :rows].detach()
        apart_K = 0.5 * apart_KBF.square().sum(dim=2).mean(dim=1)
        decoder_K = functional.softplus(-logit_KB[:, rows:]).sum(dim=1) / rows

        loss_K = plain_K + similarity_K * apart_K + adversary_K * decoder_K + discriminator_K
        return loss_K, torch.stack([apart_K, discriminator_K, decoder_K], dim=1)

    def _image(self, decoded_KBE: Tensor, x_KBD: Tensor) -> Tensor:
        """E[x|z] of what was decoded; where x has no value it is 0, as the discriminator sees it."""
        mean_KBD = self.likelihood.mean(decoded_KBE).to(x_KBD.dtype)
        return torch.where(x_KBD.isnan(), 0.0, mean_KBD) if self.shape.may_miss else mean_KBD
